"""What `make` asks becomes a request: seeds, data sets, copies of them; every paper's commands follow it."""

from __future__ import annotations

import importlib
from argparse import Namespace

import pytest

from reproduction.launch import pipeline
from reproduction.launch.pipeline import Request, request_of
from reproduction.launch.sweep import FOLDERS
from reproduction.runtime.run_folder import UserError

ASKED = {"profile": "cpu", "dataset": "cifar100", "seeds": "", "device": "cpu", "args": "", "force": False}


def asked(**changed: str) -> Request:
    return request_of(Namespace(**{**ASKED, "data_dir": "", "copy": "", "rows": "core", **changed}), {"cpu": "mnist5k"})


@pytest.mark.parametrize("paper", FOLDERS)
def test_a_named_copy_of_the_data_is_accepted_by_every_training_and_names_its_rows(paper):
    module = importlib.import_module(f"{FOLDERS[paper]}.reproduce")
    official, copy = (module.commands_of(asked(copy=name)) for name in ("", "q90"))
    assert not any("--accept-unverified" in command.flags for command in official)
    assert all("--accept-unverified" in command.flags for command in copy if "--summary" not in command.flags)
    assert [c.row.replace("cifar100-q90-", "cifar100-") for c in copy] == [c.row for c in official]
    assert all("cifar100-q90-cpu" in str(c.folder) for c in copy)
    assert not {c.folder for c in copy} & {c.folder for c in official}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"copy": "a/b"}, "--copy: 'a/b' is not a name"),
        ({"copy": "my copy"}, "--copy: 'my copy' is not a name"),
        ({"seeds": "0 0"}, "--seeds: '0 0' is not a list of different"),
        ({"seeds": "-1"}, "--seeds: '-1' is not a list of different"),
        ({"seeds": "x"}, "--seeds: 'x' is not a list of different"),
        ({"args": "--margin '0.3"}, "--args: .* cannot be split into flags .No closing quotation"),
        ({"dataset": "cifar11"}, "--dataset: .*cifar11"),
    ],
)
def test_what_cannot_be_is_one_line(wrong, said):
    with pytest.raises(UserError, match=said):
        asked(**wrong)


def test_seeds_and_places():
    assert asked(seeds="3, 1").seeds == (3, 1) and asked().seeds == (0, 1, 2)
    assert asked(data_dir="there").shared_flags("r")[-2:] == ("--data-dir", "there")


def test_after_a_run_its_own_rows_are_shown_and_the_way_to_the_others(make, tmp_path, monkeypatch, capfd):
    metrics = {"fc_accuracy": make.metric(0.96), "lh_accuracy": make.metric(0.95)}
    make.put(tmp_path / "class2str", make.record(metrics, row="mnist5k-cpu"))
    monkeypatch.setattr(pipeline, "RUNS_ROOT", tmp_path)
    assert pipeline.compare_runs("class2str") == 0
    said = capfd.readouterr().out
    assert "96.00 (1)" in said and "make compare PAPER=class2str" in said
    assert "cifar10-cpu" not in said and "mnist-paper" not in said  # committed rows, and rows that were not run
