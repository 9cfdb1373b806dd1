"""Records for the tests of this folder: made through the real `make_record`, then set to what a test needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reproduction.compare.collect import Collection, collect
from reproduction.compare.comparison import Comparison, compare
from reproduction.compare.tables import load_tables
from reproduction.runtime.record import Record, make_record, profile_of


def metric(last: float | None, best_on_test: float | None = None) -> dict[str, float | None]:
    return {"last": last, "best_on_val": None, "best_on_test": best_on_test}


@cache
def template() -> Record:
    """One real record; making it asks git, so it is made once."""
    made = make_record(
        paper="class2str",
        row="mnist-paper",
        stage="lh",
        seed=0,
        argv=["train.py", "--lr", "0.1"],
        config={"lr": 0.1},
        metrics={},
        seconds=12.0,
        data={"train.gz": "00" * 32},
        data_verified=True,
        deviations=[],
        versions={"python": "3.11"},
        deterministic=True,
    )
    return made.model_copy(update={"dirty": False, "commit": "0" * 40, "date": "2026-11-22 04:00 UTC"})


def record(
    metrics: Mapping[str, Mapping[str, float | None]], row: str = "mnist-paper", seed: int = 0, **changes: Any
) -> Record:
    """A clean, verified record of Class2Str; `changes` are fields of the record."""
    fields = {"metrics": metrics, "row": row, "seed": seed, "config": {"lr": 0.1, "seed": seed}}
    return Record.model_validate(template().model_dump() | {"profile": profile_of(row)} | fields | changes)


def put(folder: Path, made: Record) -> Path:
    """Writes a record where a run would: <folder>/<paper>/<row>/seed<k>/<stage>/record.json."""
    path = folder / made.paper / made.row / f"seed{made.seed}" / made.stage / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made.model_dump(mode="json")))
    return path


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """`make.record`, `make.metric`, `make.put`."""
    return SimpleNamespace(record=record, metric=metric, put=put)


@pytest.fixture(scope="session")
def committed() -> tuple[list[Comparison], Collection]:
    """All papers compared with the committed records, and these records; no test may change them."""
    found = collect(committed_only=True)
    return compare(list(load_tables().values()), found), found
