"""From image to record: each README lists the files that an image passes in a stage, at most eight, and the others."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.soak.smoke_copy import checkout
from tests.test_floor_plan import MOVED
from tests.test_layout import ROOT

MOST = 8
STAGES = {  # what the smoke command of stage 1 and of stage 2 contains
    "class2str_tf": ("train_fc_classifier.py", "train_rnn_classifer_mnist.py"),
    "subclass_torch": ("--stage identify", "--stage train"),
    "finegrained_torch": ("--stage coarse", "--stage sub"),
    "triplet_tf": ("--train_mode vanilla", "--train_mode semi_hard"),
    "hierarchy_cnn_torch": ("--arm A0", "--arm A1"),
}
SHORTER = {  # what loads no file and takes long: more epochs, updates, views, kinds of labels
    "finegrained_torch": "--max_epochs 1 --min_epochs 1 --n_aug 1 --controls random",
    "triplet_tf": "--train_iters 1 --test_interval 1 --logging_threshold 1",
}
AT_EXIT = """import atexit, os, sys
def write():
    names = [m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
    with open(os.environ["LOADED"], "a", encoding="utf-8") as file:
        file.writelines(name + "\\n" for name in names)
atexit.register(write)
"""


def listed(text: str, stage: int) -> list[str]:
    """The files of a stage in the README, in reading order."""
    part = re.search(rf"^### Stage {stage}\n(.*?)(?=^###? |^Also loaded:|\Z)", text, re.M | re.S)
    assert part, f"no heading '### Stage {stage}'"
    return re.findall(r"^\d+\. `([\w/.]+\.py)`: \S", part.group(1), re.M)


def also_loaded(text: str) -> set[str]:
    """Other files that a stage loads, each named with a reason."""
    line = re.search(r"^Also loaded: (.*?)(?=\n\n|\n#|\Z)", text, re.M | re.S)
    return set(re.findall(r"`([\w/.]+\.py)` \(\S[^()]*\)", line.group(1))) if line else set()


def loaded(root: Path, paper: str, command: str, names: Path) -> set[str]:
    """Runs one stage; returns the paper's modules that it loaded, relative to the paper's folder."""
    words = shlex.split(command.strip())
    threads, words = words[0], words[1:]
    hook = names.parent / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(AT_EXIT, encoding="utf-8")
    environment = {**os.environ, "LOADED": str(names), "PYTHONPATH": str(hook), "OMP_NUM_THREADS": threads[-1]}
    done = subprocess.run([sys.executable, *words[1:]], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder, script = root.resolve() / paper, (root / words[1]).resolve()
    files = {Path(line) for line in names.read_text(encoding="utf-8").splitlines()}
    ours = {file for file in files if file.is_relative_to(folder) and file != script}
    return {file.relative_to(folder).as_posix() for file in ours if file.name != "__init__.py"}


@cache
def readme(paper: str) -> str:
    """The README's section, without the rest."""
    text = (ROOT / paper / "README.md").read_text(encoding="utf-8")
    part = re.search(r"^## From image to record\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert part, f"{paper}/README.md: no section 'From image to record'"
    return part.group(1)


@pytest.mark.parametrize("paper", MOVED)
def test_the_readme_lists_the_files_that_an_image_passes(paper, tmp_path):
    text, root = readme(paper), checkout(tmp_path / "copy")
    plan = [sys.executable, "-m", f"{paper}.reproduce", "--plan", "--profile", "smoke", "--seeds", "0"]
    planned = subprocess.run(
        [*plan, "--device", "cpu", "--dataset", ""], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    flags = {"flags.py"} | {f"config/{path.name}" for path in (ROOT / paper / "config").glob("*.py")}
    for stage, part in enumerate(STAGES[paper], 1):
        command = next(line for line in planned.splitlines() if part in line and " python " in line)
        command = re.sub(r" --beside \S+", "", command)  # a finished run without subclasses, for the plots
        command += f" {SHORTER.get(paper, '')}"
        files = listed(text, stage)
        assert 0 < len(files) <= MOST and len(set(files)) == len(files)
        really = loaded(root, paper, command, tmp_path / f"stage{stage}") - flags
        assert set(files) <= really, f"stage {stage} does not load {set(files) - really}"
        assert really <= set(files) | also_loaded(text), f"stage {stage} loads {really - set(files)}, not in the README"


def test_a_readme_is_read_as_it_is_written():
    text = "### Stage 1\n1. `data/images.py`: reads\n2. `training/loop.py`: trains\n### Stage 2\n1. `a.py`: b\n"
    text += "\nAlso loaded: `plots.py` (draws afterwards), `deviations.py` (names them).\n\nMore `x.py` (no).\n"
    assert listed(text, 1) == ["data/images.py", "training/loop.py"] and listed(text, 2) == ["a.py"]
    assert also_loaded(text) == {"plots.py", "deviations.py"}
