"""Ids in the code, in docs/deviations/finegrained.md and in records are the same."""

import re

from finegrained_torch import deviations, flags

from .conftest import ROOT

DOC = ROOT / "docs" / "deviations" / "finegrained.md"


def rows():
    cells = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in DOC.read_text().splitlines()
        if line.startswith("| FGL-")
    ]
    return {row[0]: row for row in cells}


def test_code_table_and_list_hold_the_same_ids():
    assert set(deviations.ALL) == set(rows()) and len(deviations.ALL) == 34
    code = "\n".join(path.read_text() for path in (ROOT / "finegrained_torch").rglob("*.py"))
    marked = set(re.findall(r"DEVIATION (FGL-D\d\d): \S", code))
    assert set(deviations.ALL) - marked == set(), "no comment in the code"
    assert set(re.findall(r"FGL-D\d\d", code)) <= set(deviations.ALL)


def test_every_row_is_complete():
    for name, row in rows().items():
        assert len(row) == 7 and all(row), name


def test_switches_exist_and_turn_their_id_on_or_off():
    def active(*argv):
        return set(deviations.active(flags.parse_pipeline(list(argv))))

    known = flags.pipeline_parser()._option_string_actions
    switched = {name for name, test in deviations.ALL.items() if test is not None}
    for name, row in rows().items():
        words = re.findall(r"`(--[\w-]+)", row[4])
        assert bool(words) == (name in switched) and all(word in known for word in words), name
        assert words or row[4] == "-", name
    default = active()
    assert default == set(deviations.ALL) - {f"FGL-D{n:02d}" for n in (2, 26, 27, 28, 33, 34)}  # CIFAR-10
    assert active("--split", "legacy") == default - {"FGL-D04"}
    assert active("--freeze") == default | {"FGL-D26"}  # no call of the release freezes
    assert active("--head", "plain") == default  # pipeline.py's
    for heads in (["deep_layer"], ["keep_sub_head"], ["plain", "deep_layer"]):
        assert active("--head", *heads) == default | {"FGL-D27"}
    assert active("--dataset", "mnist") == default | {"FGL-D02"}
    assert active("--dataset", "pathmnist") == default | {"FGL-D28", "FGL-D34"}
    for fast in (["--channels-last"], ["--precision", "tf32"], ["--precision", "auto"], ["--compile"]):
        assert active(*fast) == default | {"FGL-D33"}
