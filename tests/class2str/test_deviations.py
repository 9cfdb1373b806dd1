"""The ids of deviations agree between code, table and records; the flags that the pages name exist."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from class2str_tf import deviations
from class2str_tf.flags import fc_parser, parse_rnn, rnn_parser

ROOT = Path(__file__).parents[2]
PAGE, TABLE = ROOT / "docs/papers/class2str.md", ROOT / "docs/deviations/class2str.md"
DIGITS = {"dataset": "mnist", "lstm_units": [10], "mu": 1.0, "pixels": "unit"}
ID, FLAG = re.compile(r"C2S-D\d+"), re.compile(r"`(--[a-zA-Z][\w-]*)")
HEAD = ["id", "paper says", "authors' code does", "we do", "flag that switches", "expected effect", "measured effect"]


def rows():
    """Cells of each line of the table, by id."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == HEAD and all(len(row) == len(HEAD) for row in cells)
    return {row[0]: row for row in cells[2:]}


def ids_in(paths):
    return {found for path in paths for found in ID.findall(path.read_text())}


def code():
    return [path for folder in ("class2str_tf", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


def unmarked():
    """Ids that the table declares to have no place in the code."""
    (line,) = re.findall(r"^Nothing is left in the code to mark for (.*)\.$", TABLE.read_text(), re.MULTILINE)
    return set(ID.findall(line))


def flags():
    """Our flags and the authors', in their first spelling, of both stages."""
    parsers = [
        fc_parser("a"),
        rnn_parser("b", "cifar10", "vgg16"),
        rnn_parser("c", "mnist", "lenet", flavour="mnist"),
        rnn_parser("d", "imagenet", "vgg", flavour="imagenet"),
    ]
    actions = [action for parser in parsers for action in parser._actions]
    return {action.option_strings[-1 if action.dest == "help" else 0] for action in actions}


def test_the_table_has_every_id_once_and_every_cell_says_something():
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| C2S")]
    assert len(lines) == len(rows()) and list(rows()) == [f"C2S-D{i:02d}" for i in range(1, 33)]
    assert all(cell for row in rows().values() for cell in row)


def test_code_and_table_use_the_same_ids():
    marked = ids_in(code())
    assert marked - set(rows()) == set()
    assert set(rows()) - marked == unmarked()


def test_the_other_pages_use_no_other_ids():
    pages = [PAGE, *(ROOT / "class2str_tf").glob("*.md")]
    assert ids_in(pages) <= set(rows())


def test_records_use_the_ids_of_the_table():
    committed = sorted((ROOT / "reproduction/results/class2str").rglob("*.json"))
    for path in committed:
        assert set(json.loads(path.read_text())["deviations"]) <= set(rows()), path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"C2S-D01", "C2S-D03", "C2S-D15"}),
        ({"label_grad": "stop"}, {"C2S-D03", "C2S-D15"}),
        ({"finetune": "all"}, {"C2S-D01", "C2S-D02", "C2S-D03", "C2S-D15"}),
        ({"features": "released8192", "legacy_batches": True}, {"C2S-D01"}),
        ({"finetune": "bn"}, {"C2S-D01", "C2S-D03", "C2S-D15", "C2S-D31"}),
        ({"model": "lenet"}, {"C2S-D01", "C2S-D15"}),
        ({"model": "lenet", "lenet": "poster"}, {"C2S-D01", "C2S-D11", "C2S-D15"}),
        ({"model": "lenet", "lenet_relu": True}, {"C2S-D01", "C2S-D11", "C2S-D15"}),
        ({"pixels": "centred"}, {"C2S-D01", "C2S-D03", "C2S-D15", "C2S-D26"}),
        (DIGITS, {"C2S-D01", "C2S-D03", "C2S-D13", "C2S-D14", "C2S-D15", "C2S-D30", "C2S-D31"}),
        (
            DIGITS | {"train_images": "first:50000", "finetune": "bn"},
            {"C2S-D01", "C2S-D03", "C2S-D13", "C2S-D14", "C2S-D15"},
        ),
        (
            DIGITS | {"dataset": "mnist5k", "finetune": "bn", "pixels": "raw"},
            {"C2S-D01", "C2S-D03", "C2S-D13", "C2S-D15", "C2S-D26"},
        ),
        ({"dataset": "imagenet", "lstm_units": [2000, 2000], "mu": 1.0}, {"C2S-D01"}),
        ({"dataset": "imagenet", "lstm_units": [2000, 2000], "mu": 0.9}, {"C2S-D01", "C2S-D04"}),
        ({"amp": "auto"}, {"C2S-D01", "C2S-D03", "C2S-D15", "C2S-D32"}),
        ({"xla": True}, {"C2S-D01", "C2S-D03", "C2S-D15", "C2S-D32"}),
        ({"lstm_units": [32, 32], "retry_collisions": 3}, {"C2S-D01", "C2S-D03", "C2S-D15", "C2S-D23", "C2S-D28"}),
    ],
)
def test_what_a_run_writes_into_its_record(change, expected):
    """The ids that depend on flags; each that a run can write stands in the table."""
    frozen = ["--name", "nobody", "--finetune", "none"]
    config = replace(parse_rnn(rnn_parser("s", "cifar10", "vgg16"), frozen), **change)
    active = deviations.active(config)
    assert len(active) == len(set(active)) and set(active) <= set(rows())
    switched = {name for table in (deviations.BOTH_STAGES, deviations.STAGE2) for name, when in table.items() if when}
    undefined = {"C2S-D04"} if config.dataset == "cifar10" else set()  # whatever mu is
    of_imagenet = {"C2S-D25", "C2S-D29"} if config.dataset == "imagenet" else set()
    assert set(active) & switched == expected | undefined | of_imagenet | {"C2S-D10"}


def test_every_flag_that_the_pages_name_exists():
    named = {flag for path in (PAGE, TABLE) for flag in FLAG.findall(path.read_text())}
    assert named - flags() == set()


def test_every_flag_of_ours_is_on_the_page():
    common = {"--data-dir", "--runs-dir", "--device", "--eval", "--row", "--overwrite", "--accept-unverified",
              "--print-config", "--help", "--gpu", "--w_inv_loss", "--restore"}  # fmt: skip
    assert flags() - common - set(FLAG.findall(PAGE.read_text())) == set()


def test_flags_that_switch_a_deviation_name_its_id_in_their_help_or_code():
    marked = ids_in(code())
    for number, row in rows().items():
        if FLAG.findall(row[4]) and number not in unmarked():
            assert number in marked
