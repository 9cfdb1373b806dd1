"""The flags of every paper profile are those that the papers' pages list with their sources."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import io
import json
import re
from typing import Any

import pytest

from reproduction.launch.pipeline import Command, Request
from reproduction.runtime.flags import finish_parsing
from reproduction.runtime.run_folder import REPO_ROOT

SETS = {
    "class2str": ("mnist", "cifar10", "cifar100"),
    "subclass": ("cifar10", "cifar100", "svhn"),
    "finegrained": ("cifar10", "cifar100", "pathmnist"),
    "triplet": ("aircrafts", "cars", "flowers", "dogs", "birds"),
    "hierarchy": ("cifar10", "cifar100"),
}
FOLDERS = {
    "class2str": "class2str_tf",
    "subclass": "subclass_torch",
    "finegrained": "finegrained_torch",
    "triplet": "triplet_tf",
    "hierarchy": "hierarchy_cnn_torch",
}


def resolved(paper: str, command: Command) -> dict[str, Any]:
    """What --print-config prints for a command."""
    argv, out = [*command.flags, "--print-config"], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        if paper == "class2str":
            from class2str_tf import flags as c2s

            if "train_fc" in command.script:
                c2s.parse_fc(c2s.fc_parser("x"), argv)
            else:
                flavour = "mnist" if "mnist" in command.script else ""
                c2s.parse_rnn(c2s.rnn_parser("x", "cifar10", "vgg16", flavour=flavour), argv)
        elif paper == "triplet":
            from triplet_tf.config import base_config

            base_config.parse(base_config.training_parser(), argv)
        elif paper == "hierarchy":
            from hierarchy_cnn_torch import flags as hcn

            finish_parsing(hcn.train_parser(), hcn.resolve_train, argv)
        elif paper == "finegrained":
            importlib.import_module("finegrained_torch.flags").parse_pipeline(argv)
        else:
            importlib.import_module("subclass_torch.flags").parse(argv)
    return json.loads(out.getvalue())


def written(value: Any) -> str:
    """A value as the pages print it."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "on", False: "off"}[value]
    if isinstance(value, list):
        return " ".join(map(written, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def listed(paper: str) -> list[tuple[list[str], list[str], str, list[str]]]:
    """Rows of the page's table: row patterns, flags, stage (or ""), values."""
    text = (REPO_ROOT / "docs" / "papers" / f"{paper}.md").read_text(encoding="utf-8")
    section = re.split(r"^##+ ", text.split("### Flags of the paper profile\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and "--" in cells[1] and cells[0] != "---":
            assert all(cells), line
            stage = re.search(r"of (stage \d)", cells[1])
            patterns = re.findall(r"`([\w*-]+)`", cells[0]) or ["*"]
            flags = re.findall(r"`(--[\w-]+)`", cells[1])
            rows.append((patterns, flags, stage[1] if stage else "", cells[2].split(", ")))
    return rows


@pytest.mark.parametrize("paper", SETS)
def test_a_page_lists_the_flags_of_its_paper_profile(paper):
    reproduce = importlib.import_module(f"{FOLDERS[paper]}.reproduce")
    seed = 42 if paper == "finegrained" else 0
    commands = [
        command
        for dataset in SETS[paper]
        for command in reproduce.commands_of(Request("paper", dataset, (seed,)))
        if "analyze" not in command.script and "label study" not in command.stage
    ]
    configs = [(command, resolved(paper, command)) for command in commands]
    rows = listed(paper)
    assert len(rows) > 5
    for patterns, flags, stage, values in rows:
        assert len(flags) == len(values), (flags, values)
        matching = [
            (command, config)
            for command, config in configs
            if any(fnmatch.fnmatch(command.row, pattern) for pattern in patterns) and stage in command.stage
        ]
        assert matching, (patterns, stage)
        for command, config in matching:
            for flag, value in zip(flags, values, strict=True):
                key = flag.removeprefix("--").replace("-", "_")
                if key not in config and paper == "class2str" and "stage 1" in command.stage:
                    continue  # a flag of stage 2 on a row that both stages share
                value_used = not config[key[3:]] if key.startswith("no_") and key not in config else config[key]
                assert written(value_used) == value, (command.row, command.stage, flag)
