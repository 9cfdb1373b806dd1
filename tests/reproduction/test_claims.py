"""Claims: the interval against a slow one, and every verdict."""

from __future__ import annotations

import json
import random

import pytest

from reproduction.compare import claims as c
from reproduction.compare.collect import collect
from reproduction.compare.tables import Claim, paper_of


def claim(**changes) -> Claim:
    base = {"id": "X-C1", "text": "t", "source": "s", "a": {"metric": "a"}, "unit": "ratio"}
    return Claim.model_validate(base | changes)


def test_interval_against_known_values():
    """n = 3, values 1, 2, 3: 2 +- 4.302653 / sqrt(3)."""
    low, high = c.interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert c.interval([1.0]) is None


def test_interval_covers_the_mean_in_95_percent():
    draw = random.Random(3)
    hits = 0
    for _ in range(4000):
        low, high = c.interval([draw.gauss(1.0, 2.0) for _ in range(4)])
        hits += low <= 1.0 <= high
    assert 0.94 < hits / 4000 < 0.96


def slow_decide(margin, low, high):
    """By points of a fine grid over the interval, its ends included."""
    points = [low, *(low + (high - low) * k / 997 for k in range(1, 997)), high]
    flags = {c.inside(margin, point) for point in points}
    return {frozenset({True}): "supported", frozenset({False}): "not supported"}.get(frozenset(flags), "inconclusive")


def test_decide_against_a_grid():
    draw = random.Random(5)
    seen = set()
    for _ in range(600):
        bounds = [{"above": 0.0}, {"least": -1.5}, {"below": 0.5}, {"most": 1.0}, {"least": -1.0, "most": 1.0}]
        margin = claim(**draw.choice(bounds))
        ends = sorted(draw.choice([draw.uniform(-3, 3), 0.0, -1.5, 0.5, 1.0]) for _ in range(2))
        got = c.decide(margin, *ends)
        assert got == slow_decide(margin, *ends), (margin, ends)
        seen.add(got)
    assert seen == {"supported", "not supported", "inconclusive"}


def run_pairs(make, tmp_path, pairs, row="mnist5k-cpu", **changes):
    for seed, (lh, fc) in enumerate(pairs):
        metrics = {"lh_accuracy": make.metric(lh), "fc_accuracy": make.metric(fc)}
        metrics |= changes.pop("more", {})
        make.put(tmp_path, make.record(metrics, row=row, seed=seed, **changes))


def results(tmp_path, paper="class2str"):
    found = collect(runs=tmp_path, results=tmp_path / "none")
    return {(result.claim.id, result.row): result for result in c.check_claims(paper_of(paper), found)}


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ([-0.002, -0.001, -0.003], "supported, indicative"),
        ([-0.002, -0.001, -0.003, -0.002, -0.0015], "supported"),
        ([-0.030, -0.031, -0.029], "not supported, indicative"),
        ([-0.000, -0.020, -0.010], "inconclusive, indicative"),
        ([-0.001], "inconclusive, indicative"),
    ],
)
def test_lh_recovers_fc(make, tmp_path, gaps, verdict):
    run_pairs(make, tmp_path, [(0.965 + gap, 0.965) for gap in gaps])
    result = results(tmp_path)["C2S-C1", "mnist5k-cpu"]
    assert result.verdict == verdict
    assert result.effect == pytest.approx(100 * sum(gaps) / len(gaps))


def test_pairing_is_by_seed(make, tmp_path):
    """Seeds differ by ten points, the pairs by exactly one: only the paired interval is narrow."""
    run_pairs(make, tmp_path, [(0.79, 0.80), (0.89, 0.90), (0.94, 0.95)])
    result = results(tmp_path)["C2S-C1", "mnist5k-cpu"]
    assert result.low == pytest.approx(-1.0) and result.high == pytest.approx(-1.0)


def put_strings(make, tmp_path, attempts, row="mnist5k-cpu", **metrics):
    """A run of each seed; `attempts`: distinct strings of its initialisations."""
    for seed, counts in enumerate(attempts):
        found = {"distinct_codes": make.metric(counts[-1]), "classes": make.metric(10)}
        found |= {name: make.metric(values[seed]) for name, values in metrics.items()}
        details = {"distinct_of_each_attempt": counts}
        make.put(tmp_path, make.record(found, row=row, seed=seed, details=details))


def test_counts_need_every_seed_and_the_first_initialisation_is_judged(make, tmp_path):
    put_strings(make, tmp_path, [[10], [10], [9, 10]])
    found = results(tmp_path)
    assert found["C2S-C4", "mnist5k-cpu"].values == (0, 0, -1)
    assert found["C2S-C4", "mnist5k-cpu"].verdict == "not supported"
    assert found["C2S-C4b", "mnist5k-cpu"].verdict == "supported"


def test_seeds_with_a_shared_string_or_a_second_initialisation_are_left_out(make, tmp_path):
    attempts = [[10], [9, 10], [10], [10], [9]]
    accuracies = [0.9, 0.9, 0.9, 0.9, 1.0]
    figures = {"lh_accuracy": accuracies, "fc_accuracy": [0.9] * 5, "spearman_features": [0.1] * 5}
    put_strings(make, tmp_path, attempts, **figures)
    put_strings(make, tmp_path, [[10]] * 5, row="mnist5k-cpu-stop", **figures | {"spearman_features": [0.2] * 5})
    found = results(tmp_path)
    assert found["C2S-C1", "mnist5k-cpu"].seeds == (0, 1, 2, 3)  # two strings the same: a match says less
    assert found["C2S-C6", "mnist5k-cpu"].seeds == (0, 2, 3)  # the same initialisation


def test_two_seeds_make_no_interval(make, tmp_path):
    run_pairs(make, tmp_path, [(0.90, 0.90), (0.90, 0.90)])
    assert results(tmp_path)["C2S-C1", "mnist5k-cpu"].verdict == "inconclusive, indicative"


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ([112000], "supported, indicative"),  # seen once
        ([112000, 112000], "supported"),  # a count comes out the same
        ([112000, 112001, 112000], "supported, indicative"),
        ([112000] * 4 + [112001], "supported"),
        ([200000], "not supported"),  # one seed refutes "every seed"
    ],
)
def test_ratio_of_parameters(make, tmp_path, counts, verdict):
    for seed, count in enumerate(counts):
        metrics = {"lh_parameters": make.metric(count), "fc_parameters": make.metric(266610)}
        make.put(tmp_path, make.record(metrics, row="mnist5k-cpu", seed=seed))
    result = results(tmp_path)["C2S-C2", "mnist5k-cpu"]
    assert result.verdict == verdict
    assert result.effect == pytest.approx(sum(counts) / len(counts) / 266610)


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(0.3, 0.01), (0.2, 0.04), (0.25, 0.02)], "supported, indicative"),
        ([(0.3, 0.01), (0.2, 0.04), (0.25, 0.051)], "inconclusive, indicative"),  # in every seed, or not at all
        ([(0.05, 0.4), (-0.1, 0.8), (0.02, 0.5)], "inconclusive, indicative"),  # a large p is no evidence against
        ([(-0.3, 0.01), (-0.2, 0.04), (-0.25, 0.02)], "not supported, indicative"),  # the interval lies outside
        ([(0.3, 0.4)], "inconclusive, indicative"),
        ([(0.3, 0.01), (0.2, 0.01)], "inconclusive, indicative"),  # too few seeds, whatever their p
        ([(0.3, 0.01), (0.2, 0.01), (0.25, None)], "inconclusive, indicative"),  # one seed has none
    ],
)
def test_permutation(make, tmp_path, pairs, verdict):
    for seed, (rho, p) in enumerate(pairs):
        metrics = {"spearman_features": make.metric(rho)}
        metrics |= {} if p is None else {"spearman_features_p": make.metric(p)}
        make.put(tmp_path, make.record(metrics, row="mnist5k-cpu", seed=seed))
    result = results(tmp_path)["C2S-C3", "mnist5k-cpu"]
    assert result.verdict == verdict
    every = [p for _, p in pairs]
    assert result.p_value == (None if None in every else max(every))


def put_subclass(make, tmp_path, seed, gains):
    """A run with subclasses and its baseline; the neglected classes are 3 and 8."""
    base = {3: 0.80, 8: 0.85, 5: 0.99}
    plain = {f"class_accuracy/{k}": make.metric(v) for k, v in base.items()}
    better = {f"class_accuracy/{k}": make.metric(v + gains.get(k, -0.5)) for k, v in base.items()}
    row = "mnist5k-cpu"
    common = {"paper": "subclass", "seed": seed, "stage": "train"}
    make.put(tmp_path, make.record(better, row=row, details={"neglected": [3, 8]}, **common))
    make.put(tmp_path, make.record(plain, row=f"{row}-baseline", **common))


def test_neglected_classes_are_paired_per_seed_and_class(make, tmp_path):
    gains = [{3: 0.04, 8: 0.02}, {3: 0.03, 8: 0.03}, {3: 0.05, 8: 0.01}]
    for seed, gain in enumerate(gains):
        put_subclass(make, tmp_path, seed, gain)
    result = results(tmp_path, "subclass")["SDN-C1", "mnist5k-cpu"]
    assert result.values == pytest.approx((4, 2, 3, 3, 5, 1))
    assert result.labels[1] == "seed 0, class 8"
    assert result.seeds == (0, 1, 2)
    assert (result.low, result.high) == pytest.approx((3, 3)) and result.verdict == "supported, indicative"


def test_classes_of_one_seed_are_no_independent_draws(make, tmp_path):
    """Six effects, four of them large; what the three seeds say differs too much."""
    gains = [{3: 0.01, 8: 0.01}, {3: 0.08, 8: 0.08}, {3: 0.06, 8: 0.06}]
    for seed, gain in enumerate(gains):
        put_subclass(make, tmp_path, seed, gain)
    result = results(tmp_path, "subclass")["SDN-C1", "mnist5k-cpu"]
    assert result.effect == pytest.approx(5) and (result.low, result.high) == pytest.approx(c.interval([1, 8, 6]))
    assert c.interval(result.values)[0] > 0 > result.low and result.verdict == "inconclusive, indicative"


def test_a_seed_without_its_baseline_is_not_paired(make, tmp_path):
    put_subclass(make, tmp_path, 0, {3: 0.04, 8: 0.02})
    lonely = make.record({"class_accuracy/3": make.metric(0.9)}, paper="subclass", row="mnist5k-cpu", seed=1)
    make.put(tmp_path, lonely.model_copy(update={"details": {"neglected": [3]}}))
    assert results(tmp_path, "subclass")["SDN-C1", "mnist5k-cpu"].seeds == (0,)


@pytest.mark.parametrize("neglected", [None, "3", [True], [[3]], {"3": 1}])
def test_odd_details_give_no_effect_and_no_crash(make, tmp_path, neglected):
    common = {"paper": "subclass", "stage": "train"}
    metrics = {"class_accuracy/3": make.metric(0.9)}
    make.put(tmp_path, make.record(metrics, row="mnist5k-cpu", details={"neglected": neglected}, **common))
    make.put(tmp_path, make.record(metrics, row="mnist5k-cpu-baseline", **common))
    assert results(tmp_path, "subclass")["SDN-C1", ""].verdict == "not run"


def test_unverified_data_are_named_where_claims_are_tested(make, tmp_path):
    run_pairs(make, tmp_path, [(0.6, 0.6)] * 3, row="cifar100-cpu", data_verified=False)
    assert results(tmp_path)["C2S-C1", "cifar100-cpu"].on == "cifar100-cpu (unverified data)"


def test_custom_and_smoke_runs_test_no_claim(make, tmp_path):
    run_pairs(make, tmp_path, [(0.6, 0.6)] * 3, row="mnist5k-smoke", profile="smoke")
    assert results(tmp_path)["C2S-C1", ""].verdict == "not run"


def test_what_cannot_be_tested_says_why(tmp_path):
    assert results(tmp_path)["C2S-C5", ""].verdict.startswith("not testable here: needs ImageNet")


def test_two_variants_are_compared_without_a_base_row(make, tmp_path):
    """Arms of one experiment, none of which is the row itself."""
    sides = {"a": {"metric": "acc", "variant": "aware"}, "b": {"metric": "acc", "variant": "random"}}
    both = claim(**sides, combine="difference", unit="points", above=0.0)
    paper = paper_of("class2str").model_copy(update={"claim": (both,)})
    for arm, base in (("aware", 0.5), ("random", 0.48)):
        for seed in range(5):
            accuracy = make.metric(base + seed / 100 + (0.001 * (seed % 2) if arm == "aware" else 0))
            make.put(tmp_path, make.record({"acc": accuracy}, row=f"cifar10-cpu-{arm}", seed=seed))
    found = collect(runs=tmp_path, results=tmp_path / "none")
    [result] = c.check_claims(paper, found)
    assert (result.on, result.verdict) == ("cifar10-cpu", "supported")
    assert result.values == pytest.approx((2.0, 2.1, 2.0, 2.1, 2.0))


def test_a_blemish_of_either_side_is_named(make, tmp_path):
    for seed in range(2):
        make.put(tmp_path, make.record({"ccr": make.metric(0.9)}, paper="subclass", row="mnist5k-cpu", seed=seed))
        plain = make.record(
            {"ccr": make.metric(0.8)}, paper="subclass", row="mnist5k-cpu-baseline", seed=seed, dirty=True
        )
        make.put(tmp_path, plain)
    assert results(tmp_path, "subclass")["SDN-C2", "mnist5k-cpu"].on == "mnist5k-cpu (uncommitted changes)"


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"ratio": 1 / 1.015, "ratio_low": 1 / 1.029, "ratio_high": 1 / 1.006}, "supported"),
        ({"ratio": 1 / 1.015, "ratio_low": 1 / 1.033, "ratio_high": 1 / 1.006}, "inconclusive"),
        ({"ratio": 1 / 1.13, "ratio_low": 1 / 1.14, "ratio_high": 1 / 1.12}, "not supported"),
        ({"ratio": 0, "ratio_low": 0, "ratio_high": 1}, "not run"),
        ({"ratio": 1.0}, "not run"),
        ({}, "not run"),
    ],
)
def test_a_claim_about_time_is_held_against_the_benchmark(tmp_path, entry, word):
    path = tmp_path / "benchmarks.json"
    path.write_text(json.dumps([{"name": "another"}, 7, {"name": "step: hard", **entry}]))
    result = c.check_benchmark("triplet", claim(a=None, bench="step: hard", unit="percent", most=3.0), path)
    assert result.word == word
    if word != "not run":
        assert (
            result.effect == pytest.approx(100 * (1 / entry["ratio"] - 1)) and result.low < result.effect < result.high
        )
    assert c.check_benchmark("triplet", result.claim, tmp_path / "none").word == "not run"


def test_the_benchmarks_that_claims_name_exist():
    names = {one.bench for one in paper_of("triplet").claim if one.bench}
    assert names == {
        f"training step, resnet50 at 224, batch 32: {m} against softmax alone" for m in ("cntr", "semi_hard", "hard")
    }
