"""Charts over seeds: every one can be drawn, its numbers are those of the records, and old files go."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from reproduction.compare import charts
from reproduction.compare.collect import collect
from reproduction.compare.comparison import compare
from reproduction.compare.tables import load_tables
from reproduction.compare.verdicts import Verdict


@pytest.fixture(scope="module")
def by_paper(committed):
    """Comparisons by paper, and the records; charts add to their list of problems, which is a copy."""
    found = dataclasses.replace(committed[1], problems=[*committed[1].problems])
    return {comparison.paper.paper.id: comparison for comparison in committed[0]}, found


def test_the_gain_of_a_class_is_the_mean_difference_of_its_accuracy(by_paper):
    comparisons, found = by_paper
    figure = charts.class_gains(comparisons["subclass"], found, "cifar10-cpu")
    [axis] = figure.axes
    drawn = dict(zip([text.get_text() for text in axis.get_yticklabels()], axis.patches, strict=True))
    before, after = (found.rows["subclass", row].runs for row in ("cifar10-cpu-baseline", "cifar10-cpu"))
    names = after[0].detail("class_names")
    for label, name in enumerate(names):
        pairs = zip(before, after, strict=True)
        gains = [
            b.number(f"class_accuracy/{label}", "last") - a.number(f"class_accuracy/{label}", "last") for a, b in pairs
        ]
        assert drawn[name].get_width() == pytest.approx(100 * sum(gains) / len(gains))
    assert charts.class_gains(comparisons["subclass"], found, "no-row") is None


def test_every_variant_has_a_panel_with_the_sum_over_the_other_classes(make, tmp_path):
    rng, names = np.random.default_rng(0), ("cat", "dog", "frog")
    plain = {seed: rng.uniform(0.5, 0.8, 3) for seed in (0, 1)}
    gains = {variant: rng.uniform(-0.1, 0.1, 3) for variant in charts.GAINS}
    for variant, gain in {"baseline": np.zeros(3), **gains}.items():
        for seed, before in plain.items():
            metrics = {f"class_accuracy/{c}": make.metric(value) for c, value in enumerate(before + gain)}
            row = f"cifar10-matched-{variant}".removesuffix("-")
            details = {"class_names": names, "neglected": [1]}
            make.put(tmp_path, make.record(metrics, row=row, seed=seed, paper="subclass", details=details))
    found = collect(runs=tmp_path, results=tmp_path / "none")
    figure = charts.class_gains(None, found, "cifar10-matched")
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert len(panels) == len(gains) == 6
    for axis, (variant, gain) in zip(panels, gains.items(), strict=True):
        others = 100 * (gain[0] + gain[2])
        assert axis.get_title().startswith(f"{charts.GAINS[variant]} (2 seeds)")
        assert axis.get_xlabel().endswith("of seeds only")  # no outcomes of images
        assert axis.get_title().endswith(f"neglected {100 * gain[1]:+.1f}, over the others {others:+.1f}")


def test_of_many_classes_a_panel_has_the_neglected_and_the_others_that_change_most(make, tmp_path):
    names, neglected = [f"class{c}" for c in range(30)], [3, 4, 28]
    for row, gain in (("cifar100-matched-baseline", 0.0), ("cifar100-matched", 0.01)):
        for seed in (0, 1):
            metrics = {f"class_accuracy/{c}": make.metric(0.5 + gain * c) for c in range(30)}
            details = {"class_names": names, "neglected": neglected}
            make.put(tmp_path, make.record(metrics, row=row, seed=seed, paper="subclass", details=details))
    figure = charts.class_gains(None, collect(runs=tmp_path, results=tmp_path / "none"), "cifar100-matched")
    [axis] = (axis for axis in figure.axes if axis.get_title())
    shown = {text.get_text() for text in axis.get_yticklabels()}
    assert shown == {f"class{c}" for c in (*neglected, 0, 1, 2, 5, 6, 29, 27, 26, 25, 24)}
    assert axis.get_xlabel().endswith("of the others: the 5 best and 5 worst")
    others = sum(c for c in range(30) if c not in neglected)
    assert axis.get_title().endswith(f"neglected +35.0, over the others +{others}.0")  # of all classes, drawn or not


def test_effects_are_those_of_the_claims(by_paper):
    results = [r for r in by_paper[0]["class2str"].claims if r.row == "cifar10-cpu"]
    figure = charts.effects(results)
    [axis] = figure.axes
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"]
    expected = [r.effect.mean for r in results if r.claim.unit == "points" and r.claim.margin is not None]
    assert means == pytest.approx(expected) and len(means) >= 3
    assert charts.effects([]) is None and charts.effects(results[:1]) is None  # one effect is a line of the table


@pytest.mark.parametrize("classes", [10, 30])
def test_the_degrees_of_many_classes_are_those_of_the_ends_of_the_ranking(make, tmp_path, classes):
    names, order = (
        [f"class{c}" for c in range(classes)],
        [int(c) for c in np.random.default_rng(0).permutation(classes)],
    )
    degrees = [[[1.0 + order.index(c) for c in range(classes)]]] * 2  # two runs of one epoch
    details = {"class_names": names, "ranking": order, "neglected": order[:3], "degrees": degrees}
    make.put(tmp_path, make.record({}, row="cifar100-matched-ranking", paper="subclass", details=details))
    figure = charts.neglect_of_all_seeds(
        None, collect(runs=tmp_path, results=tmp_path / "none"), "cifar100-matched-ranking"
    )
    [axis] = figure.axes
    shown = order if classes == 10 else [*order[:8], *order[-5:]]
    assert [text.get_text() for text in axis.get_xticklabels()] == [names[c] for c in shown]
    heights = [line.get_ydata()[0] for line in axis.lines]
    assert heights == [1.0 + order.index(c) for c in shown for _ in range(2)]
    assert ("of the others" in axis.get_title()) == (classes == 30)


def test_an_effect_that_is_not_testable_is_grey_and_open(by_paper):
    results = [r for r in by_paper[0]["hierarchy"].claims if r.row == "cifar100-q90-matched"]
    drawn = [r for r in results if r.claim.unit == "points" and r.claim.margin is not None]
    blocked = Verdict("not testable", "not testable: degenerate", 1)
    mixed = [dataclasses.replace(r, verdict=blocked) if r == drawn[-1] else r for r in results]
    for given, opened in ((results, 0), (mixed, 1)):
        [axis] = charts.effects(given).axes
        circles = [line for line in axis.lines if line.get_marker() == "o"]
        open_ones = [line for line in circles if line.get_markerfacecolor() == "white"]
        assert len(circles) == len(drawn) and open_ones == circles[len(circles) - opened :]
        assert {line.get_color() for line in open_ones} == ({charts.GREY} if opened else set())
        assert ("open circle: not testable" in axis.get_xlabel()) == bool(opened)


def test_the_curve_after_each_bit_ends_at_the_string_match_accuracy(by_paper):
    comparisons, found = by_paper
    [axis] = charts.prefixes(comparisons["class2str"], found, "cifar10-cpu").axes
    runs = found.rows["class2str", "cifar10-cpu"].runs
    ends = [line.get_ydata()[-1] for line in axis.lines]
    assert ends[:-1] == pytest.approx([100 * run.number("lh_accuracy", "last") for run in runs])
    assert list(axis.lines[-1].get_ydata()) == pytest.approx([97.9, 96.6, 92.3, 90.5])  # the poster's
    assert charts.prefixes(comparisons["class2str"], found, "mnist5k-cpu") is None  # no such curve on the poster


def is_whole(figure):
    """Whether no text or line leaves the picture, to a hundredth of an inch."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01


def test_no_text_is_cut_off(by_paper):
    drawn = dict(charts.charts([*by_paper[0].values()], by_paper[1]))
    assert len(drawn) >= 7
    for name, figure in drawn.items():
        assert is_whole(figure), name
    figure.axes[0].set_title("wider than the picture " * 9)
    assert not is_whole(figure)


def test_every_variant_of_fine_grained_is_drawn_against_training_on(make, tmp_path):
    means = {"": 0.60, "-base-budget": 0.62, "-ft": 0.63, "-ft-random": 0.62, "-ft-true": 0.65, "-mh09": 0.58}
    for variant, mean in means.items():
        for seed in (0, 1, 2)[: 1 if variant == "-mh09" else 3]:
            metrics = {"accuracy": make.metric(mean + 0.001 * seed * len(variant))}
            made = make.record(metrics, paper="finegrained", row=f"cifar100-q90-matched{variant}", seed=seed)
            make.put(tmp_path, made)
    found = collect(runs=tmp_path, results=tmp_path / "none")
    [one] = compare([load_tables()["finegrained"]], found)
    drawn = dict(charts.charts([one], found))
    assert list(drawn) == ["finegrained-cifar100-q90-matched-effects"]  # one chart a row
    [axis] = drawn["finegrained-cifar100-q90-matched-effects"].axes
    labels = [text.get_text().replace("\n", " ") for text in axis.get_yticklabels()]
    points = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"]
    expected = {v: 100 * (m + 0.001 * (len(v) - len("-base-budget")) - 0.62) for v, m in means.items()}
    assert points == pytest.approx([expected[v] for v in ("", "-ft", "-ft-random", "-ft-true")])
    assert all(label.endswith("(3 seeds)") for label in labels) and labels[1].startswith("FT from pseudo-labels")
    assert charts.against_longer(one, found, "cifar10-matched") is None
    assert is_whole(drawn["finegrained-cifar100-q90-matched-effects"])
    assert "open circle" in axis.get_xlabel()  # base is below its gate


def test_charts_of_matched_rows_are_written_and_old_ones_deleted(by_paper, tmp_path, monkeypatch):
    comparisons, found = by_paper
    one = comparisons["class2str"]
    as_matched = [dataclasses.replace(r, profile="matched") if r.row == "cifar10-cpu" else r for r in one.claims]
    (tmp_path / "class2str-gone-bits.png").write_bytes(b"old")
    charts.write_charts([dataclasses.replace(one, claims=as_matched)], found, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"class2str-cifar10-cpu-effects.png", "class2str-cifar10-cpu-bits.png"} <= names
    assert "class2str-gone-bits.png" not in names
    assert "](../images/charts/class2str-cifar10-cpu-bits.png)" in charts.markdown_charts("class2str", tmp_path)
    assert charts.markdown_charts("triplet", tmp_path).startswith("No row")
