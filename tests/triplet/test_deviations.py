"""Ids of deviations agree between code, page and records; the flags that the pages name exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from triplet_tf import deviations
from triplet_tf.config.base_config import parse, training_parser

ROOT = Path(__file__).resolve().parents[2]
TABLE, PAGE = ROOT / "docs/deviations/triplet.md", ROOT / "docs/papers/triplet.md"
ID, FLAG = re.compile(r"STL-D\d\d"), re.compile(r"`(--[a-zA-Z][\w-]*)")


def rows() -> dict[str, list[str]]:
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| STL-")]
    return {row[0]: row for row in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


def code() -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / "triplet_tf").rglob("*.py")))


def test_every_row_of_the_papers_ledger_is_there_once_and_complete():
    assert list(rows()) == [f"STL-D{i:02d}" for i in range(1, 27)]
    assert all(len(row) == 7 and all(row) for row in rows().values())


def test_code_and_page_use_the_same_ids():
    (line,) = re.findall(r"^Nothing is left in the code to mark for (.*)\.$", TABLE.read_text(), re.MULTILINE)
    assert set(ID.findall(code())) == set(rows()) - set(ID.findall(line))
    for page in (PAGE, ROOT / "triplet_tf" / "README.md"):
        assert set(ID.findall(page.read_text())) <= set(rows())


def test_flags_that_the_pages_name_exist():
    known = {word for action in training_parser()._actions for word in action.option_strings} | {"--root"}
    for page in (TABLE, PAGE):
        assert set(FLAG.findall(page.read_text())) - known == set(), page.name


@pytest.mark.parametrize(
    ("flags", "on", "off"),
    [
        ("--train_mode vanilla", {"STL-D08", "STL-D13"}, {"STL-D01", "STL-D02", "STL-D03", "STL-D06", "STL-D17"}),
        ("--train_mode cntr --aug_style img", {"STL-D01"}, {"STL-D08", "STL-D13", "STL-D17"}),
        ("--aug_style img --frame_size 350", {"STL-D17"}, {"STL-D08", "STL-D13"}),
        ("--train_mode cntr --center_update off", set(), {"STL-D01"}),
        ("--weight_decay on --caffe_iter_size 2", {"STL-D02", "STL-D03"}, set()),
        ("--train_mode hard_awtl", {"STL-D04"}, set()),
        ("--db_name cars --eval_split val", {"STL-D04", "STL-D06"}, set()),
        ("--train_mode vanilla --vanilla-batches grouped", {"STL-D22"}, {"STL-D21"}),
        ("--train_mode hard --first-third lambda", {"STL-D21"}, {"STL-D22"}),
        ("--train_mode hard", set(), {"STL-D21", "STL-D22", "STL-D23", "STL-D24", "STL-D25"}),
        ("--amp tf32", {"STL-D25"}, set()),
        ("--xla", {"STL-D25"}, set()),
        ("--train_mode hard --distance euclidean --aug_style img --image-cache", {"STL-D23", "STL-D24"}, {"STL-D21"}),
        ("--net inc4 --tap Mixed_7d", {"STL-D07"}, set()),
        ("--net densenet161 --aug_style img", {"STL-D12"}, set()),
    ],
)
def test_what_a_run_writes_into_its_record(flags, on, off):
    active = deviations.active(parse(training_parser(), flags.split()))
    assert on <= set(active) <= set(rows()) and not off & set(active)
    assert len(active) == len(set(active))


def test_records_use_the_ids_of_the_page():
    for path in sorted((ROOT / "reproduction/results/triplet").rglob("*.json")):
        assert set(json.loads(path.read_text())["deviations"]) <= set(rows()), path
