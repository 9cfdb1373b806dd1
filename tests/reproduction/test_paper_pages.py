"""What a reader acts on: the papers' pages with the hours that the plan prints, and the command of every row."""

from __future__ import annotations

import importlib
import math
import re
import shlex

import pytest

from reproduction.compare.collect import RESULTS
from reproduction.compare.tables import load_tables
from reproduction.launch.pipeline import Request, next_steps
from reproduction.runtime.run_folder import REPO_ROOT

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
def test_a_page_opens_with_claim_finding_command_and_picture(name):
    first = PAGES[name].splitlines()[1:12]
    bullets = ("**It claims**", "**We found**", "**How sure**", "**Results** go to `runs/", "**The loss** is")
    for part in (*bullets, f"`make reproduce-{name}`", "DATASET=folder:", f"](../images/{name}.png)"):
        assert any(part in line for line in first), part
    assert (REPO_ROOT / "docs" / "images" / f"{name}.png").is_file()


@pytest.mark.parametrize("name", PAPERS)
def test_a_page_goes_from_method_to_results_to_differences_and_ends_with_sources(name):
    heads = re.findall(r"^## (.*)$", PAGES[name], re.MULTILINE)
    order = ["Method", "Published results, and ours", "What differs", "How to read the output", "Profiles"]
    assert [head for head in heads if head in order] == order and heads[0] == order[0]
    assert heads[-1] == "What we could read"
    parts = [f"<!-- generated: {block} {name} -->" for block in ("published", "charts", "claims", "table")]
    places = [PAGES[name].index(part) for part in ("\n## Published", *parts, "\n## What differs")]
    assert places == sorted(places)  # the long table of all rows comes after what it answers


@pytest.mark.parametrize("name", PAPERS)
def test_a_page_gives_the_hours_of_the_matched_profile_that_a_run_prints(name):
    module = importlib.import_module(f"{PAPERS[name].paper.folder}.reproduce")
    request = Request("cpu", "mnist5k", (0,), "cpu")
    steps = next_steps(module.REPRODUCTION, request)
    (hours,) = re.findall(r"about \d+ hours? on two cores", "\n".join(steps))
    assert f"judge the claims, {hours}" in PAGES[name]


@pytest.mark.parametrize("name", PAPERS)
def test_hours_of_a_page_are_those_of_the_plan(name):
    module = importlib.import_module(f"{PAPERS[name].paper.folder}.reproduce")
    rows = HOURS.findall(PAGES[name])
    assert rows
    for paper, dataset, hours in rows:
        commands = module.commands_of(Request("paper", dataset, (0, 1, 2), "cpu"))
        assert paper == name
        assert hours == f"{math.fsum(command.gpu_hours for command in commands):.1f}", f"{name} {dataset}"


# Rows that a command of another row's name writes as well: several heads, both alphas, all that learns true labels.
WRITTEN_TOO = {"ft-deep": "ft", "ft-keep": "ft", "mh09": "mh01", "mh01-true": "ft-true", "mh09-true": "ft-true"}


@pytest.mark.parametrize("name", PAPERS)
def test_the_command_of_a_row_runs_that_row(name):
    paper = PAPERS[name]
    module = importlib.import_module(f"{paper.paper.folder}.reproduce")
    for row in paper.row:
        program, *words = shlex.split(row.command)
        if program != "make":  # a script run by hand names its row itself
            assert f"--row {row.row}" in row.command
            continue
        assert words[0] == f"reproduce-{name}"
        given = dict(word.split("=", 1) for word in words[1:])
        assert set(given) <= {"PROFILE", "DATASET", "DEVICE", "SEEDS", "ARGS", "COPY", "ROWS"}, row.command
        dataset = given.get("DATASET") or module.DATASETS[given["PROFILE"]]
        extra = tuple(shlex.split(given.get("ARGS", "")))
        copy = given.get("COPY", "")
        rows = {"all": {"all_rows": True}, "settings": {"settings": True}}.get(given.get("ROWS", ""), {})
        asked = Request(given["PROFILE"], dataset, (0,), "cpu", extra, copy=copy, **rows)
        commands = module.commands_of(asked)
        runs = {c.row for c in commands}
        variant = next((v for v in WRITTEN_TOO if row.row.endswith(f"-{v}")), None)
        also = f"{row.row.removesuffix(variant)}{WRITTEN_TOO[variant]}" if variant else row.row
        assert row.row in runs or also in runs, f"{row.command} runs {sorted(runs)}, not {row.row}"
        seeds = given.get("SEEDS", "").split() or module.REPRODUCTION.seeds[given["PROFILE"]]
        own = {c.flags[c.flags.index("--seed") + 1] for c in commands if c.row == row.row and "--seed" in c.flags}
        files = (RESULTS / name / row.row).glob("seed*.json")
        recorded = {re.fullmatch(r"seed(\d+)(-.*)?\.json", file.name)[1] for file in files}
        assert recorded <= own | set(map(str, seeds)), (
            f"{row.command} runs seeds {seeds}, the records are of {recorded}"
        )
