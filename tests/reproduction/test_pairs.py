"""Pairing method and baseline: by seed, on the same test images, in one precision."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reproduction.runtime.outcomes import outcomes_of
from tests.reproduction.toy_claims import LABELS, check, claim, paper_with, put, right_of


def test_pairing_is_by_seed(make, tmp_path):
    """Seeds differ by ten points, the pairs by exactly one: only the paired interval is narrow."""
    put(make, tmp_path, "cifar10-matched", [0.81, 0.91, 0.96])
    put(make, tmp_path, "cifar10-matched-plain", [0.80, 0.90, 0.95, 0.99])
    result = check(tmp_path, paper_with(claim()))[0]["X-C1", "cifar10-matched"]
    assert result.seeds == (0, 1, 2) and result.effect.by_seed == pytest.approx((1, 1, 1))
    assert result.effect.interval() == pytest.approx((1, 1)) and result.baseline == pytest.approx(88.333, abs=1e-3)
    assert result.verdict.text == "supported (few seeds)"


def test_outcomes_enter_the_interval(make, tmp_path):
    rng = np.random.default_rng(0)
    ours, theirs = ([right_of(rng, share) for _ in range(5)] for share in (0.9, 0.8))
    put(make, tmp_path, "cifar10-matched", [right.mean() for right in ours], ours)
    put(make, tmp_path, "cifar10-matched-plain", [right.mean() for right in theirs], theirs)
    result = check(tmp_path, paper_with(claim()))[0]["X-C1", "cifar10-matched"]
    differences = np.stack(ours).astype(int) - np.stack(theirs)
    assert result.effect.images == 1000 and result.missing == ""
    v = max(0.0, differences.mean(0).var(ddof=1) - differences.var(0, ddof=1).mean() / 5)
    assert result.effect.image_variance == pytest.approx(100**2 * v)


def test_without_outcomes_the_missing_term_is_named(make, tmp_path):
    put(make, tmp_path, "cifar10-matched", [0.9] * 3, [np.ones(1000, bool)] * 3)
    put(make, tmp_path, "cifar10-matched-plain", [0.8] * 3)
    result = check(tmp_path, paper_with(claim()))[0]["X-C1", "cifar10-matched"]
    assert result.effect.image_variance is None
    assert result.missing == "seeds only: no outcomes of test images in the records"


def test_other_orders_of_the_test_images_are_never_paired(make, tmp_path):
    right = [np.ones(1000, bool)] * 3
    put(make, tmp_path, "cifar10-matched", [0.9] * 3, right)
    put(make, tmp_path, "cifar10-matched-plain", [0.8] * 3, right, LABELS[::-1])
    results, found = check(tmp_path, paper_with(claim()))
    refused = results["X-C1", "cifar10-matched"]
    assert refused.effect is None and refused.seeds == ()
    assert refused.verdict.text.startswith(
        "not testable: no seed could be paired, the order digests of the test images"
    )
    assert len(found.problems) == 3
    assert all("not paired, the order digests of the test images differ" in line for line in found.problems)
    assert found.problems[0].startswith("class2str cifar10-matched, X-C1, seed 0:") and "json" in found.problems[0]


def test_outcomes_of_another_length_are_never_paired_and_name_their_file(make, tmp_path):
    right, names = [np.ones(1000, bool)] * 3, ("cifar10-matched", "cifar10-matched-plain")
    for name, accuracy in zip(names, (0.9, 0.8), strict=True):
        put(make, tmp_path, name, [accuracy] * 3, right)
    [first, *_] = sorted(tmp_path.rglob("*matched/**/*.json"))
    record = json.loads(first.read_text())
    record["outcomes"]["acc"]["count"] = 999  # as many bytes
    first.write_text(json.dumps(record))
    results, found = check(tmp_path, paper_with(claim()))
    assert results["X-C1", "cifar10-matched"].seeds == (1, 2)
    [line] = found.problems
    assert "of 1,000, " in line and "of 999)" in line and line.endswith(first.name)
    record["outcomes"] = {}
    first.write_text(json.dumps(record))
    results, found = check(tmp_path, paper_with(claim()))
    assert results["X-C1", "cifar10-matched"].missing.startswith("seeds only")
    [line] = found.problems
    assert "seed 0: no outcomes.acc of test images" in line


def test_precisions_differ_between_seeds_but_not_inside_one(make, tmp_path):
    for row, accuracy, fast in (("cifar10-matched", 0.9, (1, 2)), ("cifar10-matched-plain", 0.8, (2,))):
        for seed in range(3):
            values = {"acc": make.metric(accuracy + 0.01 * seed)}
            precision = "bfloat16 autocast" if seed in fast else "float32"
            make.put(tmp_path, make.record(values, row=row, seed=seed, precision=precision))
    results, found = check(tmp_path, paper_with(claim()))
    result = results["X-C1", "cifar10-matched"]
    assert result.seeds == (0, 2) and result.on == "cifar10-matched (two precisions)"
    [line] = found.problems
    assert "seed 1: not paired, one computed in bfloat16 autocast and the other in float32" in line


def test_two_precisions_are_those_of_the_paired_seeds(make, tmp_path):
    for row, accuracy, seeds in (("cifar10-matched", 0.9, range(3)), ("cifar10-matched-plain", 0.8, (1, 2))):
        for seed in seeds:
            values = {"acc": make.metric(accuracy + 0.01 * seed)}
            precision = "bfloat16 autocast" if seed else "float32"
            make.put(tmp_path, make.record(values, row=row, seed=seed, precision=precision))
    result = check(tmp_path, paper_with(claim()))[0]["X-C1", "cifar10-matched"]
    assert result.seeds == (1, 2) and result.on == "cifar10-matched"


def test_variants_of_a_seed_that_come_from_two_devices_are_not_paired(make, tmp_path):
    for row, accuracy, on_gpu in (("cifar10-matched", 0.9, (1, 2)), ("cifar10-matched-plain", 0.8, (2,))):
        for seed in range(3):
            record = make.record({"acc": make.metric(accuracy + 0.01 * seed)}, row=row, seed=seed)
            if seed in on_gpu:
                record = record.model_copy(
                    update={"machine": record.machine.model_copy(update={"gpu": "NVIDIA Card 1"})}
                )
            make.put(tmp_path, record)
    results, found = check(tmp_path, paper_with(claim()))
    assert results["X-C1", "cifar10-matched"].seeds == (0, 2)
    [line] = found.problems
    assert "seed 1: not paired, one computed in float32 and the other in float32 on NVIDIA Card 1" in line


def test_differences_of_two_metrics_are_not_paired_across_devices_either(make, tmp_path):
    for row, card in (("cifar10-matched", None), ("cifar10-matched-plain", "NVIDIA Card 1")):
        for seed in range(3):
            record = make.record({"acc": make.metric(0.9), "loss": make.metric(0.1)}, row=row, seed=seed)
            machine = record.machine.model_copy(update={"gpu": card if seed == 1 else None})
            make.put(tmp_path, record.model_copy(update={"machine": machine}))
    gap = {"metric": "acc - loss"}
    asked = claim(method=gap, baseline=gap | {"variant": "plain"})
    results, found = check(tmp_path, paper_with(asked))
    assert results["X-C1", "cifar10-matched"].seeds == (0, 2)
    [line] = found.problems
    assert "seed 1: not paired, one computed in float32 and the other in float32 on NVIDIA Card 1" in line


def test_outcomes_of_another_length_have_another_digest():
    assert (
        outcomes_of(np.ones(9, bool), np.zeros(9, int)).order != outcomes_of(np.ones(8, bool), np.zeros(8, int)).order
    )
