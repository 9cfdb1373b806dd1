"""Claims on records: gates, degenerate runs, controls, families, facts. Pairing: test_pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reproduction.compare import claims as c
from reproduction.compare.claim_language import Gate, Health
from reproduction.compare.collect import collect
from reproduction.compare.tables import load_tables, paper_of
from tests.reproduction.toy_claims import check, claim, paper_with, put


@pytest.mark.parametrize("variant", ["", "-plain", "-doubled"])
def test_paired_seeds_of_different_flags_are_not_one_experiment(make, tmp_path, variant):
    for row, accuracy in (("", 0.9), ("-plain", 0.8), ("-doubled", 0.8)):
        put(make, tmp_path, f"cifar10-matched{row}", [accuracy] * 4)
    control = claim(control={"metric": "acc", "variant": "doubled", "name": "doubling"})
    row = f"cifar10-matched{variant}"
    for seed, says in (
        (7, "supported (few seeds)"),
        (2, "not testable: seeds ran with different flags: epochs and lr"),
    ):
        config = {"lr": 0.2, "epochs": 5, "seed": seed}  # seed 7 has no partner in the other rows
        make.put(tmp_path, make.record({"acc": make.metric(0.9)}, row=row, seed=seed, config=config))
        result = check(tmp_path, paper_with(control))[0]["X-C1", "cifar10-matched"]
        assert result.verdict.text == says and result.seeds == (0, 1, 2, 3) and result.effect is not None


@pytest.mark.parametrize("key", ["method", "baseline", "control"])
@pytest.mark.parametrize(("epochs", "count"), [([3.0] * 4, 0), ([3.0, None, 3.0, 4.0], 1), ([None] * 4, 4)])
def test_a_value_that_does_not_exist_is_counted_and_the_other_seeds_are_not_chosen(make, tmp_path, key, epochs, count):
    sides = {side: {"metric": "acc"} for side in ("method", "baseline", "control")}
    sides[key] = {"metric": "goal"}
    sides["control"]["name"] = "chance"
    put(make, tmp_path, "cifar10-matched", [0.9] * 4, goal=epochs)
    put(make, tmp_path, "cifar10-matched-plain", [0.9] * 4)
    old = make.record({"acc": make.metric(0.9)}, row="cifar10-matched", seed=4)  # its code left such values out
    make.put(tmp_path, old)
    results, found = check(tmp_path, paper_with(claim(**sides, unit="count")))
    text = results["X-C1", "cifar10-matched"].verdict.text
    assert ("goal has no value" in text) == bool(count)
    assert count == 0 or text == f"not testable: goal has no value in {count} of 5 seeds"
    assert c.unknown_metrics(paper_with(claim(**sides)), found) == []
    sides[key]["may_lack"] = "the curve does not rise"
    text = check(tmp_path, paper_with(claim(**sides, unit="count")))[0]["X-C1", "cifar10-matched"].verdict.text
    assert text == f"not testable: goal has no value in {count + 1} of 5 seeds: the curve does not rise"


def test_a_metric_that_every_record_may_lack_is_no_misspelt_one(make, tmp_path):
    for row in ("cifar10-matched", "cifar10-matched-plain"):
        put(make, tmp_path, row, [0.9] * 3)
    sides = {"method": {"metric": "goal"}, "baseline": {"metric": "acc"}}
    found = collect(runs=tmp_path, results=tmp_path / "none")
    line = "tables/class2str.toml: X-C1: method: no record has 'goal'"
    assert c.unknown_metrics(paper_with(claim(**sides)), found) == [line]
    sides["method"]["may_lack"] = "the curve does not rise"
    results, found = check(tmp_path, paper_with(claim(**sides)))
    assert c.unknown_metrics(paper_with(claim(**sides)), found) == []
    result = results["X-C1", "cifar10-matched"]
    assert result.verdict.text == "not testable: goal has no value in 3 of 3 seeds: the curve does not rise"
    assert result.effect is None


def test_the_gate_stops_a_verdict_and_the_effect_is_still_shown(make, tmp_path):
    put(make, tmp_path, "cifar10-cpu", [0.55] * 5)
    put(make, tmp_path, "cifar10-cpu-plain", [0.45] * 5)
    result = check(tmp_path, paper_with(claim()))[0]["X-C1", "cifar10-cpu"]
    assert result.verdict.text == "not testable: baseline 45.00, needs 50" and result.effect.mean == pytest.approx(10)


def test_a_data_set_without_a_gate_is_not_judged(make, tmp_path):
    put(make, tmp_path, "cifar10-matched", [0.9] * 5)
    put(make, tmp_path, "cifar10-matched-plain", [0.8] * 5)
    paper = paper_with(claim()).model_copy(update={"gate": ()})
    result = check(tmp_path, paper)[0]["X-C1", "cifar10-matched"]
    assert result.verdict.text == "not testable: no minimum accuracy is set for this data set"


@pytest.mark.parametrize("rule", [{"metric": "across", "over": "within"}, {"metric": "ratio"}])
def test_a_collapsed_embedding_is_degenerate(make, tmp_path, rule):
    health = Health(least=1.2, text="embedding collapsed", **rule)
    near = {"across": [0.027] * 5, "within": [0.026] * 5, "ratio": [1.04] * 5}
    put(make, tmp_path, "dogs-matched", [0.9] * 5, **near)
    put(make, tmp_path, "dogs-matched-plain", [0.8] * 5)
    result = check(tmp_path, paper_with(claim(), health=[health]))[0]["X-C1", "dogs-matched"]
    assert result.verdict.text == "not testable: degenerate: embedding collapsed (1.04, needs 1.2)"
    assert result.effect.mean == pytest.approx(10)


def test_a_variant_without_an_embedding_is_never_degenerate(make, tmp_path):
    put(make, tmp_path, "cifar10-matched", [0.9] * 5, ratio=[1.5] * 5)
    put(make, tmp_path, "cifar10-matched-plain", [0.8] * 5, ratio=[1.1] * 5)
    for but, says in (((), "degenerate: embedding collapsed (1.10, needs 1.2)"), (("plain",), "")):
        health = Health(least=1.2, text="embedding collapsed", metric="ratio", but=but)
        verdict = check(tmp_path, paper_with(claim(), health=[health]))[0]["X-C1", "cifar10-matched"].verdict
        assert says in verdict.text and (verdict.line == 1) == bool(says)


@pytest.mark.parametrize("key", ["method", "baseline", "control"])
def test_an_unknown_metric_is_one_line_with_file_and_key(make, tmp_path, key):
    for variant in ("", "-plain", "-doubled"):
        put(make, tmp_path, f"cifar10-matched{variant}", [0.9] * 3)
    sides = {
        "method": {"metric": "acc"},
        "baseline": {"metric": "acc", "variant": "plain"},
        "control": {"metric": "acc", "variant": "doubled", "name": "doubling"},
    }
    sides[key] = sides[key] | {"metric": "acx"}
    found = collect(runs=tmp_path, results=tmp_path / "none")
    line = f"tables/class2str.toml: X-C1: {key}: no record has 'acx'"
    assert c.unknown_metrics(paper_with(claim(**sides)), found) == [line]
    assert c.unknown_metrics(paper_with(claim()), found) == []


def test_an_unknown_gate_is_one_line_with_file_and_key(make, tmp_path):
    put(make, tmp_path, "cifar10-matched-plain", [0.9] * 3)
    paper = paper_with(claim()).model_copy(update={"gate": (Gate(rows=("cifar10-*",), metric="acx", least=50.0),)})
    found = collect(runs=tmp_path, results=tmp_path / "none")
    assert c.unknown_metrics(paper, found) == ["tables/class2str.toml: gate cifar10-*: no record has 'acx'"]


@pytest.mark.parametrize("key", ["baseline", "control", "gate"])
def test_an_unknown_variant_is_one_line_with_file_and_key(make, tmp_path, key):
    for variant in ("", "-plain", "-doubled"):
        put(make, tmp_path, f"cifar10-matched{variant}", [0.9] * 3)
    sides = {"baseline": {"variant": "plain"}, "control": {"variant": "doubled", "name": "doubling"}, "gate": {}}
    sides[key] = sides[key] | {"variant": "plian"}
    given = {name: {"metric": "acc", **side} for name, side in sides.items() if name != "gate"}
    gate = Gate(rows=("cifar10-*",), metric="acc", least=50.0, **sides["gate"])
    paper = paper_with(claim(**given)).model_copy(update={"gate": (gate,)})
    owner = "gate cifar10-*: variant" if key == "gate" else f"X-C1: {key}"
    found = collect(runs=tmp_path, results=tmp_path / "none")
    assert c.unknown_metrics(paper, found) == [f"tables/class2str.toml: {owner}: no row ends with '-plian'"]


def test_the_committed_claims_use_metrics_that_committed_records_have(committed):
    assert [line for paper in load_tables().values() for line in c.unknown_metrics(paper, committed[1])] == []


def test_a_rule_about_the_base_row_covers_its_variants(make, tmp_path):
    put(make, tmp_path, "cifar10-matched", [0.9] * 3, clusters=[2.0] * 3)
    for variant in ("-plain", "-random"):
        put(make, tmp_path, f"cifar10-matched{variant}", [0.8] * 3)
    pair = claim(method={"metric": "acc", "variant": "plain"}, baseline={"metric": "acc", "variant": "random"})
    for of_base in (True, False):
        health = Health(metric="clusters", least=3, text="one cluster", of_base=of_base)
        verdict = check(tmp_path, paper_with(pair, health=[health]))[0]["X-C1", "cifar10-matched"].verdict
        assert ("degenerate: one cluster (2.00, needs 3)" in verdict.text) == of_base


def test_a_rule_about_one_side_blocks_only_the_claims_that_read_it(make, tmp_path):
    for seed in range(3):
        metrics = {name: make.metric(value) for name, value in (("ari", 0.12), ("none", 0.0), ("random", 0.01))}
        details = {"controls": {"none": {"clusters": 20}}}
        make.put(tmp_path, make.record(metrics, row="cifar100-matched", seed=seed, details=details))
    against = {
        name: claim(id=name, group="check", method={"metric": "ari"}, baseline={"metric": name}, unit="ratio")
        for name in ("none", "random")
    }
    health = Health(metric="controls.none.clusters", of="none", least=21, text="no cluster")
    results, _ = check(tmp_path, paper_with(*against.values(), health=[health]))
    words = {name: results[name, "cifar100-matched"].verdict.text for name in against}
    assert words["none"] == "not testable: degenerate: no cluster (20.00, needs 21)"
    assert not words["random"].startswith("not testable")


def test_clusters_are_not_judged_against_a_method_that_found_none(committed):
    [one] = [comparison for comparison in committed[0] if comparison.paper.paper.id == "finegrained"]
    results = {(r.claim.id, r.row): r for r in one.claims}
    for row in ("cifar10-cpu", "cifar100-q90-matched"):
        assert "degenerate: HDBSCAN finds no cluster" in results["FGL-C5-noumap", row].verdict.text
        assert "degenerate" not in results["FGL-C5-random", row].verdict.text
    assert "degenerate" not in results["FGL-C5-noumap", "mnist5k-cpu"].verdict.text  # three clusters more than classes


def test_one_degenerate_seed_is_enough_and_a_zero_distance_is_no_crash(make, tmp_path):
    health = Health(metric="across", over="within", least=1.2, text="collapsed")
    put(make, tmp_path, "dogs-matched", [0.9] * 3, across=[2.0, 2.0, 1.0], within=[0.0, 1.0, 1.0])
    put(make, tmp_path, "dogs-matched-plain", [0.8] * 3)
    assert "degenerate" in check(tmp_path, paper_with(claim(), health=[health]))[0]["X-C1", "dogs-matched"].verdict.text


@pytest.mark.parametrize(("across", "text"), [(0.0, "degenerate: collapsed (0.00, needs 1.2)"), (1.0, "supported")])
def test_an_embedding_of_one_point_is_degenerate_and_one_of_points_apart_is_not(make, tmp_path, across, text):
    health = Health(metric="across", over="within", least=1.2, text="collapsed")
    put(make, tmp_path, "dogs-matched", [0.9] * 5, across=[across] * 5, within=[0.0] * 5)
    put(make, tmp_path, "dogs-matched-plain", [0.8] * 5)
    verdict = check(tmp_path, paper_with(claim(), health=[health]))[0]["X-C1", "dogs-matched"].verdict
    assert verdict.text.removeprefix("not testable: ") == text


@pytest.mark.parametrize(
    ("control", "text"),
    [
        ([0.900, 0.901, 0.899, 0.900, 0.900], "explained by doubling"),
        ([0.850] * 5, "supported"),
        ([0.80, 0.95, 0.85, 0.99, 0.90], "supported, control undecided"),
        ([], "supported, control undecided (not run)"),
    ],
)
def test_a_planted_control_effect_explains_the_claim(make, tmp_path, control, text):
    put(make, tmp_path, "cifar10-matched", [0.900] * 5)
    put(make, tmp_path, "cifar10-matched-plain", [0.88, 0.881, 0.879, 0.88, 0.88])
    put(make, tmp_path, "cifar10-matched-doubled", control)
    one = claim(control={"metric": "acc", "variant": "doubled", "name": "doubling"})
    assert check(tmp_path, paper_with(one))[0]["X-C1", "cifar10-matched"].verdict.text == text


def test_a_family_is_adjusted_by_holm(make, tmp_path):
    """p of about 0.04 in three claims on one data set: each alone is significant, none survives."""
    effects = [0.9126, 0.9026, 0.9126, 0.9026, 0.9088]
    put(make, tmp_path, "cifar10-matched", effects)
    put(make, tmp_path, "cifar10-matched-plain", [0.9] * 5)
    alone = check(tmp_path, paper_with(claim()))[0]["X-C1", "cifar10-matched"]
    assert 0.017 < alone.effect.p_value() < 0.05 and alone.verdict.text == "supported"
    family = [claim(id=f"X-C{k}") for k in range(3)]
    results, _ = check(tmp_path, paper_with(*family))
    assert {result.verdict.text for result in results.values()} == {"supported (unadjusted)"}
    results, _ = check(tmp_path, paper_with(family[0], *(claim(id=f"F{k}", group="finding") for k in range(3))))
    assert results["X-C0", "cifar10-matched"].verdict.text == "supported"  # findings are no part of it
    for row, more in (("mnist-matched", ""), ("cifar10-matched-long", " (unadjusted)")):
        put(make, tmp_path, row, effects)
        put(make, tmp_path, f"{row}-plain", [0.9] * 5)
        results, _ = check(tmp_path, paper_with(family[0]))
        assert results["X-C0", "cifar10-matched"].verdict.text == "supported" + more


def test_a_rule_about_each_variant_blocks_the_claims_that_read_one_below_it(make, tmp_path):
    metrics = {"A0/acc": 0.5, "A1/acc": 0.51, "A2/acc": 0.01, "gap/A2": 0.3, "gap/A1": 0.2}
    for seed in range(3):
        values = {name: make.metric(value) for name, value in metrics.items()}
        make.put(tmp_path, make.record(values, row="cifar100-matched", seed=seed))
    pairs = {"ok": ("A1/acc", "A0/acc"), "chance": ("A1/acc", "A2/acc"), "gap": ("gap/A2", "gap/A1")}
    claims = [
        claim(id=name, group="check", method={"metric": method}, baseline={"metric": baseline})
        for name, (method, baseline) in pairs.items()
    ]
    health = Health(metric="{}/acc", each=("A0", "A1", "A2"), least=0.013, text="{} at chance")
    results, _ = check(tmp_path, paper_with(*claims, health=[health]))
    words = {name: results[name, "cifar100-matched"].verdict.text for name in pairs}
    assert words["chance"] == words["gap"] == "not testable: degenerate: A2 at chance (0.01, needs 0.013)"
    assert words["ok"].startswith("supported")


def test_no_published_effect_has_the_other_sign_than_its_claim():
    """Else a run that finds what the paper found would be called a contradiction."""
    for paper in load_tables().values():
        for one in (one for one in paper.claim if not one.no_loss):
            for pattern in one.published:
                effect, _ = c._published(one, paper, pattern.replace("*", "paper"))
                assert effect is None or effect > 0, (one.id, pattern)


def test_a_claim_against_a_null_value_has_no_image_term(make, tmp_path):
    put(make, tmp_path, "cifar10-matched", [0.9] * 3, [np.ones(1000, bool)] * 3)
    put(make, tmp_path, "cifar10-matched-plain", [0.8] * 3)
    one = claim(baseline={"value": 50.0})
    result = check(tmp_path, paper_with(one))[0]["X-C1", "cifar10-matched"]
    assert result.effect.mean == pytest.approx(40) and result.missing.startswith("seeds only")


def test_two_variants_are_compared_without_a_base_row(make, tmp_path):
    put(make, tmp_path, "cifar10-matched-aware", [0.9] * 5)
    put(make, tmp_path, "cifar10-matched-plain", [0.8] * 5)
    one = claim(method={"metric": "acc", "variant": "aware"})
    assert check(tmp_path, paper_with(one))[0]["X-C1", "cifar10-matched"].effect.mean == pytest.approx(10)


def test_the_papers_effect_comes_from_its_published_cells(make, tmp_path):
    metrics = {"class_accuracy_ml": make.metric(0.900)}
    for seed in range(5):
        make.put(tmp_path, make.record(metrics, row="cifar10-matched", seed=seed, stage="lh"))
        stage1 = make.record({"fc_accuracy": make.metric(0.901)}, row="cifar10-matched", seed=seed, stage="fc")
        make.put(tmp_path / "stage1", stage1)
        make.put(tmp_path, make.record({"fc_accuracy": make.metric(0.902)}, row="cifar10-matched-fc", seed=seed))
    results, _ = check(tmp_path, paper_of("class2str"))
    result = results["C2S-C1", "cifar10-matched"]
    assert result.published == pytest.approx(0.08) and result.published_baseline == "90.43"
    assert result.effect.mean == pytest.approx(-0.2) and result.verdict.text == "supported"


def test_recalled_numbers_are_shown_and_never_judged(make, tmp_path):
    for variant, value in (("", 0.95), ("-baseline", 0.90)):
        for seed in range(5):
            row = f"cifar10-matched{variant}"
            make.put(tmp_path, make.record({"ccr": make.metric(value)}, row=row, seed=seed, paper="subclass"))
    result = check(tmp_path, paper_of("subclass"))[0]["SDN-C2", "cifar10-matched"]
    assert result.published is None and result.published_baseline == "93.5\N{DAGGER}"


def test_unverified_data_and_changes_are_named_where_claims_are_tested(make, tmp_path):
    for row in ("cifar10-matched", "cifar10-matched-plain"):
        for seed in range(3):
            accuracy = {"acc": make.metric(0.9)}
            make.put(tmp_path, make.record(accuracy, row=row, seed=seed, data_verified=False, dirty="plain" in row))
    result = check(tmp_path, paper_with(claim()))[0]["X-C1", "cifar10-matched"]
    assert result.on == "cifar10-matched (unverified data, uncommitted changes)"


def test_smoke_runs_test_no_claim(make, tmp_path):
    put(make, tmp_path, "mnist5k-smoke", [0.9] * 3)
    put(make, tmp_path, "mnist5k-smoke-plain", [0.9] * 3)
    assert check(tmp_path, paper_with(claim()))[0]["X-C1", ""].verdict.word == "not run"


def test_what_cannot_be_tested_says_why(tmp_path):
    results, _ = check(tmp_path, paper_of("class2str"))
    assert results["C2S-C5", ""].verdict.text.startswith("not testable: needs ImageNet")
    assert results["C2S-C1", ""].verdict.text == "not run: needs make reproduce-class2str PROFILE=matched"


def test_a_fact_has_a_value_and_no_verdict(make, tmp_path):
    put(make, tmp_path, "cifar10-cpu", [0.12, 0.12])
    one = claim(group="fact", baseline=None, margin=None, unit="ratio")
    result = check(tmp_path, paper_with(one))[0]["X-C1", "cifar10-cpu"]
    assert result.effect.by_seed == (0.12, 0.12) and result.verdict.word == "fact"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": None}, "needs `method`, or `bench`"),
        ({"margin": None}, "a main needs `method`, `baseline` and `margin`"),
        ({"group": "fact"}, "a fact has no margin"),
        ({"margin": 0.0}, "greater than 0"),
        ({"method": {"metric": "a", "value": 1.0}}, "`metric` or `value`, and not both"),
        ({"above": 0.0}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_claim_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        claim(**changes)


def test_the_claims_that_the_bench_answers(tmp_path):
    path = tmp_path / "benchmarks.json"
    name = "training step, resnet50 at 224, batch 32: hard against softmax alone"
    one = claim(group="fact", method=None, baseline=None, margin=None, bench=[name], unit="percent")
    entry = {"name": name, "ratio": 1 / 1.13, "ratio_low": 1 / 1.14, "ratio_high": 1 / 1.12}
    path.write_text(json.dumps([{"name": "another"}, 7, entry]))
    assert c.benchmark_fact(paper_of("triplet"), one, path).verdict.text == "hard +13.0 % [+12.0, +14.0]"
    for broken in ([], [{"name": name, "ratio": 0, "ratio_low": 0, "ratio_high": 1}], {}):
        path.write_text(json.dumps(broken))
        assert c.benchmark_fact(paper_of("triplet"), one, path).verdict.word == "not run"


def test_every_paper_has_two_to_four_main_claims_and_gates_for_their_rows():
    for paper in load_tables().values():
        mains = [one for one in paper.claim if one.group == "main"]
        assert 2 <= len(mains) <= 4, paper.paper.id
        assert paper.gate, paper.paper.id
        assert all(one.needs or one.not_testable for one in mains), paper.paper.id
