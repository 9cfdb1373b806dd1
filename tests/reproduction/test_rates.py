"""`ROWS=settings` of PROFILE=matched: the baseline at three learning rates on four fifths of the training images."""

import importlib

import numpy as np
import pytest

import datasets
from reproduction.compare.claims import check_claims
from reproduction.compare.collect import collect
from reproduction.compare.extras import extras_of
from reproduction.compare.tables import RATE, load_tables
from reproduction.launch.pipeline import Request, rates_around
from reproduction.runtime.record import load_record
from tests.reproduction.toy_claims import check, claim, paper_with, put
from tests.scripts import run

PAPERS = load_tables()
# paper -> rates, and what makes a training of the profile a small one
SMALL = {
    "class2str": (("0.0033", "0.01", "0.03"), "--dataset mnist5k --epochs 1 --max-steps 2 --train-images 300"),
    "subclass": (("0.033", "0.1", "0.3"), "--dataset mnist5k --epochs 1 --max-steps 2 --subset 240 --holdout 60"),
    "finegrained": (("0.033", "0.1", "0.3"), "--dataset mnist5k --max_epochs 1 --limit_train 300"),
}


def commands(paper):
    module = importlib.import_module(f"{PAPERS[paper].paper.folder}.reproduce")
    dataset = module.DATASETS["matched"]
    return dataset, module.commands_of(Request("matched", dataset, (3, 4), "cpu", settings=True))


def test_the_rates_are_a_third_one_and_three_times_the_usual_one():
    assert rates_around(0.1) == ("0.033", "0.1", "0.3") and rates_around(0.001) == ("0.00033", "0.001", "0.003")


def test_the_same_stratified_part_is_held_out_and_the_rest_is_left():
    whole = datasets.load("mnist5k")
    parts = [datasets.hold_out(whole, 1000) for _ in range(2)]
    assert np.array_equal(parts[0].test_images, parts[1].test_images)
    both = np.concatenate([parts[0].train_images, parts[0].test_images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, whole.train_images))
    share = np.bincount(parts[0].test_labels) / np.bincount(whole.train_labels)
    assert share == pytest.approx(1000 / len(whole.train_labels), abs=0.003)
    for count in (0, len(whole.train_labels)):
        with pytest.raises(datasets.DatasetError, match="cannot hold out"):
            datasets.hold_out(whole, count)


def test_no_claim_is_tested_on_a_row_of_rates_even_if_it_has_all_metrics(make, tmp_path):
    for row in ("cifar10-matched", "cifar10-matched-rate-0.1"):
        put(make, tmp_path, row, [0.9] * 3)
        put(make, tmp_path, f"{row}-plain", [0.8] * 3)
    asked = paper_with(claim(), claim(id="X-F1", group="fact", margin=None, baseline=None))
    tested = set(check(tmp_path, asked)[0])
    assert {("X-C1", "cifar10-matched"), ("X-F1", "cifar10-matched")} <= tested
    assert not [row for _, row in tested if RATE in row]


@pytest.mark.parametrize("paper", SMALL)
def test_one_seed_trains_the_baseline_at_three_rates_that_differ_in_nothing_else(paper):
    dataset, made = commands(paper)
    rates = SMALL[paper][0]
    assert [command.row for command in made] == [f"{dataset}-matched-rate-{rate}" for rate in rates]
    assert len({command.worker for command in made}) == 3 and all("seed3" in str(command.folder) for command in made)
    for words in zip(*(command.flags for command in made), strict=True):
        assert len(set(words)) == 1 or all(rate in word for rate, word in zip(rates, words, strict=True))
    assert all({"--hold-out", "--holdout"} & set(command.flags) for command in made)


@pytest.mark.parametrize("paper", SMALL)
def test_a_small_run_stands_in_the_table_of_rates_and_tests_no_claim(paper, tmp_path):
    made = commands(paper)[1][0]
    package, script = made.script.split("/")
    runs = tmp_path / "runs"
    words = [*made.flags, *SMALL[paper][1].split()]
    run(package, script, *words, "--runs-dir", runs, "--row", made.row, fresh=package.endswith("_tf"))
    [path] = runs.rglob("record.json")
    record = load_record(path)
    assert (record.row, record.profile, record.seed) == (made.row, "matched", 3)
    assert record.details["training_images"] in (240, 216)  # fine-grained labels: nine tenths of them
    assert max(outcomes.count for outcomes in record.outcomes.values()) == 60  # the others: of some classes
    found = collect(runs=runs, results=tmp_path / "none")
    [table] = extras_of(PAPERS[paper], found, only_rates=True)
    assert RATE in made.row and [row[0] for row in table.rows] == [made.row]
    assert "held-out" in table.head[1] and table.rows[0][1] != "-"
    assert not [result for result in check_claims(PAPERS[paper], found) if result.effect is not None or result.seeds]
