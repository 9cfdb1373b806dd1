"""The verdicts against slow versions of their definition, and what must never be judged."""

from __future__ import annotations

import math
import random
from functools import cache

import pytest

from reproduction.compare import comparison as c
from reproduction.compare.collect import collect
from reproduction.compare.effects import t_quantile
from reproduction.compare.tables import Number, paper_of, parse_paper
from reproduction.runtime.record import still_rising


@cache
def slow_t(n: int) -> float:
    """t(0.975, n-1) by Simpson's rule on the density and bisection."""
    degrees = n - 1
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)

    def density(x: float) -> float:
        return constant * (1 + x * x / degrees) ** (-(degrees + 1) / 2)

    def mass(upper: float, steps: int = 2000) -> float:
        width = upper / steps
        inner = sum((4 if k % 2 else 2) * density(k * width) for k in range(1, steps))
        return (density(0) + inner + density(upper)) * width / 3

    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) < 0.475 else (low, middle)
    return low


def slow_half_width(values: list[float], published: float, samples: int | None) -> float:
    n = len(values)
    mean = sum(values) / n
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    binomial = 0.0 if samples is None else 196 * math.sqrt(published / 100 * (1 - published / 100) / samples)
    return max(slow_t(n) * sd * math.sqrt(1 + 1 / n), binomial)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 30])
def test_t_quantile_against_integration(n):
    assert t_quantile(0.975, n - 1) == pytest.approx(slow_t(n), rel=1e-5)


@pytest.mark.parametrize(("n", "factor"), [(3, 4.97), (5, 3.04), (10, 2.37)])
def test_factors_of_the_design(n, factor):
    """The three factors that the rule's description names."""
    assert t_quantile(0.975, n - 1) * math.sqrt(1 + 1 / n) == pytest.approx(factor, abs=0.006)


@pytest.mark.parametrize(("published", "samples", "error"), [(94.0, 10000, 0.47), (87.33, 3333, 1.13)])
def test_binomial_errors_of_the_design(published, samples, error):
    assert c.half_width([90.0, 90.0, 90.0], published, samples) == pytest.approx(error, abs=0.005)


def test_half_width_against_the_slow_version():
    draw = random.Random(0)
    for _ in range(200):
        n = draw.randint(2, 8)
        values = [draw.gauss(90, draw.choice([0.0, 0.01, 0.3, 2.0])) for _ in range(n)]
        published, samples = draw.uniform(50, 100), draw.choice([None, 1000, 10000])
        assert c.half_width(values, published, samples) == pytest.approx(
            slow_half_width(values, published, samples), rel=1e-5, abs=1e-12
        )


def test_a_further_run_falls_inside_in_95_percent():
    """What the half-width promises: it is a prediction interval for the one run that a paper reports."""
    draw = random.Random(1)
    for n in (3, 5):
        hits = 0
        for _ in range(4000):
            values = [draw.gauss(90, 0.5) for _ in range(n)]
            half = c.half_width(values, 90, None)
            hits += abs(draw.gauss(90, 0.5) - sum(values) / n) <= half
        assert 0.94 < hits / 4000 < 0.96


@pytest.mark.parametrize(
    ("values", "published", "word"),
    [
        ([90.0, 90.1, 90.2], 90.43, "consistent"),
        ([90.0, 90.01, 90.02], 92.0, "below paper"),
        ([93.0, 93.01, 93.02], 92.0, "above paper"),
        ([90.0, 91.0, 92.0], 91.0, "inconclusive"),  # h is about 5 points: even a perfect match says nothing
        ([90.0, 91.0, 92.0], 50.0, "above paper"),  # a gap beyond h is one, however wide h is
        ([90.0, 90.1], 90.05, "indicative"),
        ([90.0], 90.0, "indicative"),
    ],
)
def test_words(values, published, word):
    assert c.judge_proportion(values, published, 10000).word == word


def test_words_against_the_slow_rule():
    draw = random.Random(2)
    seen = set()
    for _ in range(500):
        n = draw.randint(1, 6)
        values = [draw.gauss(90, draw.choice([0.02, 0.1, 0.5])) for _ in range(n)]
        published = draw.uniform(88.5, 91.5)
        got = c.judge_proportion(values, published, 10000)
        mean = sum(values) / n
        if n < 3:
            want = "indicative"
        else:
            h = slow_half_width(values, published, 10000)
            if not mean - h <= published <= mean + h:
                want = "below paper" if mean < published else "above paper"
            else:
                want = "inconclusive" if h > 1 else "consistent"
        assert got.word == want
        assert f"{abs(mean - published):.2f}" in got.text
        seen.add(want)
    assert seen == {"indicative", "inconclusive", "consistent", "below paper", "above paper"}


def test_a_cut_schedule_is_never_more_than_indicative():
    verdict = c.judge_proportion([90.0, 90.0, 90.0], 90.0, 10000, short="100 of 1000 epochs")
    assert verdict.word == "indicative"
    assert "short: 100 of 1000 epochs" in verdict.text


def number(printed: str, unit: str = "parameters") -> Number:
    text = f'''
    [paper]
    id = "x"
    title = "t"
    short = "s"
    authors = "a"
    venue = "v"
    year = 2000
    folder = "f"
    link = "l"
    method = "m"
    sources = "s"
    [[table]]
    id = "t"
    title = "t"
    where = "w"
    split = "test"
    selected = "unknown"
    evidence = "verified"
    columns = [{{ name = "c", unit = "{unit}", metric = "m", judge = "exact" }}]
    rows = [{{ name = "r", values = ["{printed}"] }}]
    '''
    return parse_paper(text, "x.toml").numbers[0]


@pytest.mark.parametrize(
    ("printed", "value", "word"),
    [
        ("1.58 M", 1583104, "consistent"),
        ("1.58 M", 1575000, "consistent"),
        ("1.58 M", 1574999, "below paper"),
        ("6 K", 6308, "consistent"),
        ("6 K", 304088, "above paper"),
        ("123.63 M", 123633664, "consistent"),
    ],
)
def test_counts_are_equal_to_the_printed_digits(printed, value, word):
    assert c.judge_exact([value], number(printed)).word == word


def lines(tmp_path, paper="class2str"):
    found = collect(runs=tmp_path / "runs", results=tmp_path / "results")
    return {(line.row, line.quantity): line for line in c.lines_of(paper_of(paper), found)}, found


def put_seeds(make, tmp_path, accuracies, row="mnist-paper", **changes):
    for seed, accuracy in enumerate(accuracies):
        metrics = {"fc_accuracy": make.metric(accuracy), "lh_accuracy": make.metric(accuracy - 0.0002)}
        make.put(tmp_path / "runs", make.record(metrics, row=row, seed=seed, **changes))


def test_paper_rows_are_judged(make, tmp_path):
    put_seeds(make, tmp_path, [0.9930, 0.9938, 0.9941])
    line = lines(tmp_path)[0]["mnist-paper", "FC"]
    assert line.verdict.word == "consistent"
    assert line.values == pytest.approx((99.30, 99.38, 99.41))
    assert line.mean == pytest.approx(99.36333, abs=1e-4)
    assert line.h == pytest.approx(slow_half_width([99.30, 99.38, 99.41], 99.38, 10000), rel=1e-5)
    assert line.gap == pytest.approx(line.mean - 99.38)


def test_cpu_rows_stand_beside_the_number_unjudged(make, tmp_path):
    put_seeds(make, tmp_path, [0.96, 0.97, 0.965], row="mnist5k-cpu")
    line = lines(tmp_path)[0]["mnist5k-cpu", "FC"]
    assert line.verdict.text == "not comparable (cpu profile, mnist5k)"
    assert line.number.printed == "99.38"
    assert line.h is None and line.gap is None


def test_recalled_numbers_are_marked_and_never_judged(make, tmp_path):
    for seed in range(3):
        metrics = {"ccr": make.metric(0.94, best_on_test=0.948)}
        make.put(tmp_path / "runs", make.record(metrics, paper="subclass", row="cifar10-paper", seed=seed))
    line = lines(tmp_path, "subclass")[0]["cifar10-paper", "SVGG16"]
    assert line.mean == pytest.approx(94.8) and line.last_mean == pytest.approx(94.0)
    assert line.verdict.text == "not judged (recalled number)"
    assert line.h is None and line.gap is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dirty": True}, "uncommitted changes"),
        ({"commit": "unknown", "dirty": True}, "unknown commit"),
        ({"data_verified": False}, "unverified data"),
        ({"profile": "custom"}, "custom profile"),
        ({"profile": "smoke"}, "smoke profile"),
    ],
)
def test_doubtful_records_are_shown_and_not_judged(make, tmp_path, changes, reason):
    put_seeds(make, tmp_path, [0.9930, 0.9938, 0.9941], **changes)
    line = lines(tmp_path)[0]["mnist-paper", "FC"]
    assert line.verdict.text == f"not judged ({reason})"
    assert line.mean is not None and line.h is None


def test_clean_seeds_push_doubtful_ones_out(make, tmp_path):
    put_seeds(make, tmp_path, [0.9930, 0.9938, 0.9941])
    make.put(tmp_path / "runs", make.record({"fc_accuracy": make.metric(0.5)}, seed=7, dirty=True))
    table, found = lines(tmp_path)
    assert table["mnist-paper", "FC"].seeds == (0, 1, 2)
    assert any("seed7" in problem and "uncommitted changes" in problem for problem in found.problems)


def test_seeds_of_different_flags_are_not_judged_together(make, tmp_path):
    for seed in range(3):
        config = {"lr": 0.1 if seed else 0.2, "seed": seed, "out": f"runs/x/seed{seed}/y"}
        make.put(tmp_path / "runs", make.record({"fc_accuracy": make.metric(0.99)}, seed=seed, config=config))
    assert lines(tmp_path)[0]["mnist-paper", "FC"].verdict.text == "not judged (seeds ran with different flags: lr)"


@pytest.mark.parametrize(
    ("newer", "differs"), [("none", False), (0, False), (False, False), ("shifts", True), (9, True)]
)
def test_a_flag_that_older_records_do_not_know_is_off_in_them(make, tmp_path, newer, differs):
    for seed in range(3):
        config = {"lr": 0.1, **({"augment": newer} if seed else {})}
        make.put(tmp_path / "runs", make.record({"fc_accuracy": make.metric(0.99)}, seed=seed, config=config))
    said = lines(tmp_path)[0]["mnist-paper", "FC"].verdict.text
    assert ("seeds ran with different flags: augment" in said) == differs


@pytest.mark.parametrize(
    ("limit", "distinct", "differs"),
    [(1, [1, 2], False), (1, [1, 1], True), (1, [], True), (3, [1, 1, 1, 1], False), (0, [2], False), (0, [1], True)],
)
def test_a_limit_that_did_not_end_a_run_is_no_other_flag(make, tmp_path, limit, distinct, differs):
    for seed in range(3):
        details = {"distinct_of_each_attempt": [1, 2] if seed else distinct, "strings": ["01", "10"]}
        config = {"retry_collisions": 3 if seed else limit}
        record = make.record({"fc_accuracy": make.metric(0.99)}, seed=seed, config=config, details=details)
        make.put(tmp_path / "runs", record)
    said = lines(tmp_path)[0]["mnist-paper", "FC"].verdict.text
    assert ("seeds ran with different flags: retry_collisions" in said) == differs


def test_a_stage_that_only_one_seed_has_is_no_other_flag(make, tmp_path):
    put_seeds(make, tmp_path, [0.9930, 0.9938, 0.9941])
    make.put(tmp_path / "runs", make.record({"agreement": make.metric(1.0)}, seed=0, stage="ranking", config={"x": 1}))
    assert "different flags" not in lines(tmp_path)[0]["mnist-paper", "FC"].verdict.text


def test_folders_named_by_the_seed_are_no_other_flags(make, tmp_path):
    for seed in (1, 10, 2):
        config = {"lr": 0.1, "seed": seed, "beside": f"runs/x/seed{seed}", "out": f"runs/x/seed{seed}/y"}
        make.put(tmp_path / "runs", make.record({"fc_accuracy": make.metric(0.99)}, seed=seed, config=config))
    assert lines(tmp_path)[0]["mnist-paper", "FC"].verdict.word in ("consistent", "below paper")


def test_rows_that_no_table_names_are_shown(make, tmp_path):
    put_seeds(make, tmp_path, [0.9], row="mnist-paper-w_l2-0.03")
    found = collect(runs=tmp_path / "runs", results=tmp_path / "results")
    here = [line for line in c.lines_of(paper_of("class2str"), found) if line.row == "mnist-paper-w_l2-0.03"]
    assert [(line.quantity, line.values) for line in here] == [("FC", (90.0,)), ("LH", (89.98,))]
    assert {(line.number, line.verdict.text) for line in here} == {(None, "no published number")}


def test_a_row_that_no_table_names_has_no_name_of_another_network(make, tmp_path):
    """Columns of one metric for four networks: a user's own run is none of them."""
    metrics = {"ccr": make.metric(0.9, best_on_test=0.91), "neglected_accuracy": make.metric(0.8)}
    make.put(tmp_path / "runs", make.record(metrics, paper="subclass", row="folder:birds-cpu"))
    table, _ = lines(tmp_path, "subclass")
    mine = [quantity for row, quantity in table if row == "folder:birds-cpu"]
    assert mine == ["CCR, best test epoch", "accuracy of the neglected classes, last epoch"]


def test_not_run_says_what_it_needs(tmp_path):
    line = lines(tmp_path)[0]["cifar10-paper", "FC"]
    assert line.verdict.text.startswith("not run: needs a CUDA GPU")
    assert line.command == "make reproduce-class2str PROFILE=paper DATASET=cifar10"


def test_stages_join_and_the_latest_wins(make, tmp_path):
    fc = make.record({"fc_accuracy": make.metric(0.99)}, stage="fc", date="2026-11-22 03:00 UTC")
    lh = make.record({"lh_accuracy": make.metric(0.98), "fc_accuracy": make.metric(0.991)}, stage="lh")
    make.put(tmp_path / "runs", fc)
    make.put(tmp_path / "runs", lh)
    table, _ = lines(tmp_path)
    assert table["mnist-paper", "FC"].values == pytest.approx((99.1,))
    assert table["mnist-paper", "LH"].values == pytest.approx((98.0,))


def test_the_newer_of_two_equal_runs_counts_once(make, tmp_path):
    make.put(tmp_path / "runs" / "a", make.record({"fc_accuracy": make.metric(0.9)}, date="2026-11-21 03:00 UTC"))
    make.put(tmp_path / "runs" / "b", make.record({"fc_accuracy": make.metric(0.8)}))
    table, found = lines(tmp_path)
    assert table["mnist-paper", "FC"].values == pytest.approx((80.0,))
    assert any("newer run" in problem for problem in found.problems)


def test_local_runs_and_committed_records_never_mix(make, tmp_path):
    committed = tmp_path / "results" / "class2str" / "mnist-paper"
    committed.mkdir(parents=True)
    for seed in range(5):
        made = make.record({"fc_accuracy": make.metric(0.9)}, seed=seed)
        (committed / f"seed{seed}.json").write_text(made.model_dump_json())
    assert lines(tmp_path)[0]["mnist-paper", "FC"].seeds == (0, 1, 2, 3, 4)
    put_seeds(make, tmp_path, [0.95])
    assert lines(tmp_path)[0]["mnist-paper", "FC"].values == pytest.approx((95.0,))


def test_non_finite_figures_are_no_figures(make, tmp_path):
    put_seeds(make, tmp_path, [math.nan])
    line = lines(tmp_path)[0]["mnist-paper", "FC"]
    assert line.mean is None
    assert line.verdict.word == "no number"


def test_a_short_row_says_whether_accuracy_still_rises(make, tmp_path):
    paper = paper_of("class2str")
    row = next(row for row in paper.row if row.row == "mnist-paper")
    short = row.model_copy(update={"short": "100 of 1000 epochs"})
    cut = paper.model_copy(update={"row": (short,)})
    put_seeds(make, tmp_path, [0.99, 0.99, 0.99], details={"still_rising": True})
    found = collect(runs=tmp_path / "runs", results=tmp_path / "results")
    line = next(line for line in c.lines_of(cut, found) if line.quantity == "FC")
    assert line.verdict.text == "indicative (short: 100 of 1000 epochs, test accuracy still rising); -0.38"


def test_still_rising_needs_a_difference_beyond_the_noise():
    flat = [0.9 + 0.001 * (-1) ** n for n in range(40)]
    assert still_rising(flat) is False
    assert still_rising([0.5 + 0.01 * n for n in range(40)]) is True
    assert still_rising(flat[::-1][:30] + [0.95] * 4 + [0.96] * 4) is True
    assert still_rising([0.9, 0.8] * 20) is False
    assert still_rising([0.1] * 9) is None


def test_a_string_match_is_not_judged_where_two_classes_share_a_string(make, tmp_path):
    for seed, strings in enumerate([10, 10, 9]):
        figures = {"lh_accuracy": 0.99, "fc_accuracy": 0.99, "distinct_codes": strings, "classes": 10}
        metrics = {name: make.metric(value) for name, value in figures.items()}
        make.put(tmp_path, make.record(metrics, row="mnist-paper", seed=seed, profile="paper"))
    found = collect(runs=tmp_path, results=tmp_path)
    lines = {line.quantity: line for line in c.lines_of(paper_of("class2str"), found) if line.row == "mnist-paper"}
    assert lines["LH"].verdict.text == "not judged (two classes share a string in 1 of 3 seeds)" and not lines["LH"].gap
    assert lines["FC"].verdict.word in c.JUDGED
