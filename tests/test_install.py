"""`pip install PATH`: the methods are usable from any folder, and nobody's `datasets` is overwritten."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.soak.smoke_copy import checkout
from tests.test_layout import PAPERS, ROOT

# whoever installed this has no `datasets` of ours, perhaps another one
RUN = (
    "import sys; sys.modules['datasets'] = None; import {paper}; assert {paper}.__file__.startswith({target!r})\n{code}"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel's files in a folder of their own, without dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    source = checkout(folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    made = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "wheel", *made, str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)], check=True
    )
    shutil.rmtree(source)
    return folder / "site"


def test_only_packages_of_ours_are_installed(installed):
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {*PAPERS, "reproduction"}
    (wheel,) = installed.parent.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = subprocess.run(["git", "ls-files", *names], cwd=ROOT, capture_output=True, text=True).stdout.split()
    wanted = {name for name in files if Path(name).suffix in (".py", ".toml", ".css", ".js", ".html", ".j2")}
    assert wanted <= packed, sorted(wanted - packed)[:5]


@pytest.mark.parametrize("paper", PAPERS)
def test_the_readmes_example_runs_from_any_folder(paper, installed, tmp_path):
    text = (ROOT / paper / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    program = RUN.format(paper=paper, target=str(installed), code=code)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_python_of_another_version_is_named(tmp_path):
    for name, version in (("python3", "3.10"), ("python3.13", "")):
        program = f'#!/bin/sh\n[ "$2" = "import venv, ensurepip" ] && exit 0\necho {version}\nexit 1\n'
        if version:
            (tmp_path / name).write_text(program)
            (tmp_path / name).chmod(0o755)
    for tool in ("sh", "cat", "cksum", "tr"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        [ROOT / ".ci" / "install", "base"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path), "VENV": str(tmp_path / "venv")},
    )
    assert (
        done.returncode == 1 and "needs Python 3.11, 3.12 or 3.13" in done.stderr and not (tmp_path / "venv").exists()
    )
