"""Records on their way into the repository: names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reproduction.runs import UserError
from reproduction.take_results import take


def put(runs: Path, where: str, **fields) -> None:
    record = {
        "paper": "p",
        "row": "r-cpu",
        "seed": 0,
        "stage": "one",
        "profile": "cpu",
        "dirty": False,
        "commit": "abc",
    }
    (runs / where).mkdir(parents=True)
    (runs / where / "record.json").write_text(json.dumps({**record, **fields}))


def test_names(tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    put(runs, "a")
    put(runs, "b", seed=1)
    put(runs, "c", seed=1, stage="two")
    put(runs, "d", row="x-smoke", profile="smoke")
    (results / "p" / "r-cpu").mkdir(parents=True)
    for old, stage in (("seed1.json", "one"), ("seed10.json", "one"), ("seed0-three.json", "three")):
        (results / "p" / "r-cpu" / old).write_text(json.dumps({"stage": stage}))
    names = sorted(str(path.relative_to(results)) for path in take(runs, results))
    assert names == ["p/r-cpu/seed0.json", "p/r-cpu/seed1-one.json", "p/r-cpu/seed1-two.json"]
    left = {path.name for path in (results / "p/r-cpu").iterdir()}  # of another seed, of a stage that was not run
    assert "seed1.json" not in left and {"seed10.json", "seed0-three.json"} <= left
    assert json.loads((results / names[2]).read_text())["stage"] == "two"


@pytest.mark.parametrize("fields", [{"dirty": True}, {"commit": "unknown"}])
def test_a_run_that_nobody_can_repeat_is_refused_and_nothing_is_taken(tmp_path, fields):
    put(tmp_path / "runs", "a")
    put(tmp_path / "runs", "b", seed=1, **fields)
    with pytest.raises(UserError, match="p r-cpu seed 1"):
        take(tmp_path / "runs", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_nothing_to_take(tmp_path):
    with pytest.raises(UserError, match="no record"):
        take(tmp_path, tmp_path / "results")
