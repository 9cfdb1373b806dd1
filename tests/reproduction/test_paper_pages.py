"""The papers' pages: each says what a reader looks for, and gives the hours that the plan prints."""

from __future__ import annotations

import importlib
import re

import pytest

from reproduction.pipeline import Request
from reproduction.runs import REPO_ROOT
from reproduction.tables import load_tables

PAPERS = load_tables()
PAGES = {name: (REPO_ROOT / "docs" / "papers" / f"{name}.md").read_text() for name in PAPERS}
HOURS = re.compile(
    r"^\| `make reproduce-(\w+) PROFILE=paper DATASET=(\w+)`[^|]*\|[^|]*\| ([\d.]+) GPU hours \|$", re.MULTILINE
)


@pytest.mark.parametrize("name", PAPERS)
def test_a_page_has_method_hours_differences_reading_and_tables(name):
    heads = " / ".join(re.findall(r"^##+ (.*)$", PAGES[name], re.MULTILINE)).lower()
    for part in ("method", "expected time on one gpu", "what differs", "how to read the output", "published results"):
        assert part in heads, f"{name}: no section on {part}"
    for block in (f"table {name}", f"claims {name}"):
        assert f"<!-- generated: {block} -->" in PAGES[name]
    assert f"deviations/{name}.md" in PAGES[name] and (REPO_ROOT / "docs" / "deviations" / f"{name}.md").is_file()


@pytest.mark.parametrize("name", PAPERS)
def test_hours_of_a_page_are_those_of_the_plan(name):
    module = importlib.import_module(f"{PAPERS[name].paper.folder}.reproduce")
    rows = HOURS.findall(PAGES[name])
    assert rows
    for paper, dataset, hours in rows:
        commands = module.commands_of(Request("paper", dataset, (0, 1, 2), "cpu", (), False, None))
        assert paper == name
        assert hours == f"{sum(command.gpu_hours for command in commands):.1f}", f"{name} {dataset}"
