"""The pages docs/deviations/*.md are complete, and name what code, records and other pages name: ids and flags."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import pytest

import class2str_tf.deviations
import finegrained_torch.deviations
import hierarchy_cnn_torch.deviations
import subclass_torch.deviations
import subclass_torch.yt8m.flags
import triplet_tf.deviations
from class2str_tf.flags import fc_parser, rnn_parser
from finegrained_torch.flags import main_parser, pipeline_parser
from hierarchy_cnn_torch.flags import analyze_parser, train_parser
from subclass_torch.flags import make_parser
from tests.test_layout import ROOT
from triplet_tf.config.base_config import training_parser

FLAG = re.compile(r"`(--[a-zA-Z][\w-]*)")


class Paper(NamedTuple):
    """What a paper's page has to agree with.

    Attributes:
      package: folder of its code.
      ids: of its deviations, in the order of the page.
      listed: the ids in deviations.py.
      parsers: of its scripts.
      columns: headings of what is differed from.
      every: deviations.py has every id, and so has a comment `DEVIATION id: why`; else a mention is enough, and the
        page names the ids that have none.
      first_spelling: pages name a flag by the first of its spellings.
    """

    package: str
    ids: list[str]
    listed: Iterable[str]
    parsers: list[ArgumentParser]
    columns: tuple[str, str] = ("paper", "authors' code")
    every: bool = True
    first_spelling: bool = True


def numbered(letters: str, count: int) -> list[str]:
    return [f"{letters}{number:02d}" for number in range(1, count + 1)]


PAPERS = {
    "class2str": Paper(
        "class2str_tf",
        numbered("C2S-D", 32),
        {**class2str_tf.deviations.BOTH_STAGES, **class2str_tf.deviations.STAGE2},
        [
            fc_parser("a"),
            rnn_parser("b", "cifar10", "vgg16"),
            rnn_parser("c", "mnist", "lenet", flavour="mnist"),
            rnn_parser("d", "imagenet", "vgg", flavour="imagenet"),
        ],
        columns=("paper says", "authors' code does"),
        every=False,
    ),
    "subclass": Paper(
        "subclass_torch",
        [*numbered("SDN-D", 28), *numbered("SDN-Y", 11)],
        {**subclass_torch.deviations.IMAGES, **subclass_torch.deviations.VIDEOS},
        [make_parser(), subclass_torch.yt8m.flags.make_parser()],
    ),
    "finegrained": Paper(
        "finegrained_torch",
        numbered("FGL-D", 34),
        finegrained_torch.deviations.ALL,
        [pipeline_parser(), main_parser()],
        columns=("method", "authors' code"),
        first_spelling=False,
    ),
    "triplet": Paper(
        "triplet_tf",
        numbered("STL-D", 26),
        triplet_tf.deviations.TABLE,
        [training_parser()],
        every=False,
        first_spelling=False,
    ),
    "hierarchy": Paper(
        "hierarchy_cnn_torch",
        numbered("HCN-D", 11),
        hierarchy_cnn_torch.deviations.TABLE,
        [train_parser(), analyze_parser()],
    ),
}
papers = pytest.mark.parametrize("paper", PAPERS)


@cache
def page(paper: str, folder: str = "deviations") -> str:
    return (ROOT / "docs" / folder / f"{paper}.md").read_text(encoding="utf-8")


def cells(paper: str) -> list[list[str]]:
    """Cells of each line of the page's tables."""
    lines = [line for line in page(paper).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def rows(paper: str) -> dict[str, list[str]]:
    """Cells of each deviation, by id."""
    return {row[0]: row for row in cells(paper) if ids_in(paper, row[0])}


def flags(paper: str) -> set[str]:
    """The flags of one paper's scripts as its pages may spell them."""
    actions = [action for parser in PAPERS[paper].parsers for action in parser._actions if action.option_strings]
    if PAPERS[paper].first_spelling:
        return {action.option_strings[-1 if action.dest == "help" else 0] for action in actions}
    return {word for action in actions for word in action.option_strings}


def ids_in(paper: str, text: str) -> set[str]:
    return set(re.findall(rf"{PAPERS[paper].ids[0][:4]}[DY]\d+", text))


@papers
def test_every_id_has_one_row_and_every_cell_says_something(paper):
    head = ["id", *PAPERS[paper].columns, "we do", "flag that switches", "expected effect", "measured effect"]
    found = [row for row in cells(paper) if row != head and set(row) != {"---"}]
    assert [row[0] for row in found] == PAPERS[paper].ids and head in cells(paper)
    assert all(len(row) == len(head) and all(row) for row in found)


@papers
def test_code_and_page_use_the_same_ids(paper):
    package, every, listed = PAPERS[paper].package, PAPERS[paper].every, set(PAPERS[paper].listed)
    code = {
        name: "\n".join(file.read_text() for file in (ROOT / name).rglob("*.py")) for name in (package, "benchmarks")
    }
    assert ids_in(paper, code[package]) | ids_in(paper, code["benchmarks"]) | listed <= set(rows(paper))
    unmarked = re.findall(r"^Nothing is left in the code to mark for (.*)\.$", page(paper), re.MULTILINE)
    comments = re.findall(r"DEVIATION [A-Z0-9]+-[DY]\d+: \S", code[package])
    marked = ids_in(paper, "\n".join(comments) if every else code[package])
    assert set(rows(paper)) - marked == ids_in(paper, "\n".join(unmarked))
    assert not every or listed == set(rows(paper))


@papers
def test_other_pages_and_records_use_no_other_ids(paper):
    readmes = "\n".join(file.read_text() for file in (ROOT / PAPERS[paper].package).glob("*.md"))
    assert ids_in(paper, page(paper, "papers") + readmes) <= set(rows(paper))
    for path in (ROOT / "reproduction" / "results" / paper).rglob("*.json"):
        assert set(json.loads(path.read_text())["deviations"]) <= set(rows(paper)), path


@papers
@pytest.mark.parametrize("folder", ["deviations", "papers"])
def test_flags_that_the_pages_name_exist(paper, folder):
    assert set(FLAG.findall(page(paper, folder))) - flags(paper) == set()
