"""Figures with class and group names of any characters."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hierarchy_cnn_torch import plots
from hierarchy_cnn_torch.report import measure
from tests.hostile_names import NAMES, refuse_mathematics


def test_the_untrained_network_is_drawn_next_to_the_trained_one(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, _path: drawn.append(figure.axes[0]))

    def seed(**more):
        row = {"best": 0.7, "null_mean": 0.4, "null_95": 0.5, "level_groups": 2}
        return {
            "selectivity": {
                name: [row | {key: value[at] for key, value in more.items()}] for at, name in ((0, "conv1"), (1, "fc7"))
            }
        }

    plots.f5_selectivity(
        [seed(untrained=(0.3, 0.5), untrained_95=(0.2, 0.3)), seed(untrained=(0.4, 0.5), untrained_95=(0.2, 0.5))],
        tmp_path,
    )
    lines = {line.get_label(): line.get_ydata() for line in drawn[0].get_lines()}
    assert lines["best channel, untrained"] == pytest.approx([0.35, 0.5])
    assert lines["other groups, untrained, 95 %"] == pytest.approx([0.2, 0.4])
    (bars,) = drawn[0].containers
    assert bars.get_label() == "best channel, mean ± sd over 2 seeds"
    plots.f5_selectivity([seed()], tmp_path)  # of an older run
    assert drawn[1].containers[0].get_label() == "best channel"
    assert not any("untrained" in line.get_label() for line in drawn[1].get_lines())


def test_gradients_are_drawn_next_to_their_ratios_to_the_weights(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, _path: drawn.extend(figure.axes))
    curve = {
        "test": [0.4, 0.5],
        "first_epoch_gradients": [3, 2, 1, 1, 1],
        "first_epoch_ratios": [0.3, 0.2, 0.1, 0.1, 0.1],
    }
    plots.f8_curves([{"arms": ["A0"], "curves": {"A0": curve}}], tmp_path)
    lines = [ax.get_lines()[0].get_ydata().tolist() for ax in drawn]
    assert lines == [[60, 50], curve["first_epoch_gradients"], curve["first_epoch_ratios"]]


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout", "ignore:Tight layout")
def test_names_are_drawn_literally(tmp_path, monkeypatch):
    refuse_mathematics(monkeypatch)
    rng, count = np.random.default_rng(0), len(NAMES)
    scores = rng.normal(size=(count, count))
    for arm, arrays in {
        "A0/predictions": {"test_labels": np.arange(count), "test_logits": scores, "val_logits": scores},
        "analysis/profiles": {"conv5__2": rng.random((count, 12)), "conv1__2": rng.random((count, 12))},
    }.items():
        (tmp_path / arm).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / f"{arm}.npz", **arrays)
    rho, gap = {"2": {"rho": 0.5}}, dict.fromkeys(NAMES, [1, 0, 2])
    seed = {
        "dataset": "folder:$\\frac$",
        "names": list(NAMES),
        "kept_epochs": [0, 2],
        "mantel": {"conv1": rho, "conv5": rho},
        "levels": [[c % 2 for c in range(count)]],
        "gap": {"A0": gap, "A1": gap},
        "quality": {
            "images_s2": list(range(9)),
            "images_s3": list(range(9)),
            "planted_s2": [],
            "planted_s3": [],
            "pairs": [[0, 1, 0.5], [2, 5, 0.4]],
            "duplicates": [[0, 1]],
            "duplicate_pairs": 1,
        },
    }
    out = lambda name: tmp_path / f"{name}.png"  # noqa: E731
    plots.f1_confusion(seed, tmp_path, out("F1"))
    plots.f2_correlation(seed, tmp_path, out("F2"))
    plots.f4_responses(seed, tmp_path, out("F4"))
    plots.f7_gaps([seed], out("F7"))
    plots.f9_quality(seed, rng.integers(0, 256, (50, 8, 8, 3), np.uint8), out("F9"))
    for name in ("F1", "F2", "F4", "F7", "F9"):
        assert np.asarray(Image.open(out(name))).std() > 0


def test_a_class_named_all_has_its_own_gap_next_to_the_overall_one(tmp_path, monkeypatch):
    """The same images under two lists of names: only the names differ, in the measurements and in the plot."""
    rng, drawn = np.random.default_rng(0), []
    monkeypatch.setattr(plots, "save", lambda figure, _path: drawn.append(figure.axes[0]))
    saved = {f"{split}_labels": rng.integers(0, 3, 60) for split in ("train", "test")}
    saved |= {"train_predicted": rng.integers(0, 3, 60), "test_logits": rng.normal(size=(60, 3))}
    (tmp_path / "A0").mkdir()
    np.savez(tmp_path / "A0" / "predictions.npz", **saved)
    of_seed = {"folder": tmp_path, "levels": [np.array([0, 1, 1])], "config": SimpleNamespace(bootstrap=10)}

    def measured(first):
        names = [first, "b", "c"]
        return measure.group_gaps(SimpleNamespace(data=SimpleNamespace(names=names), **of_seed), "A0")

    (overall, gaps, metrics), (same, others, same_metrics) = measured("all"), measured("a")
    test_right = saved["test_logits"].argmax(1) == saved["test_labels"]
    gap = (saved["train_predicted"] == saved["train_labels"]).mean() - test_right.mean()
    assert (overall, metrics, [*gaps.values()]) == (same, same_metrics, [*others.values()])
    assert overall[0] == pytest.approx(gap) and gaps["all"] == others["a"] != overall
    assert metrics["gap_spread"] == pytest.approx(max(found := [g for g, _, _ in gaps.values()]) - min(found))
    assert measured("b, c")[2] == metrics  # the name of the second group is "b, c" as well
    plots.f7_gaps([{"gap": {"A0": gaps}, "gap_overall": {"A0": overall}}], tmp_path)
    assert [text.get_text() for text in drawn[0].get_xticklabels()] == ["all classes", *gaps]
    plots.f7_gaps([{"gap": {"A0": {"all": overall} | others}}], tmp_path)  # of an older run
    before = [text.get_text() for text in drawn[1].get_xticklabels()]
    points = [ax.containers[0].lines[0].get_ydata().tolist() for ax in drawn]
    assert before == ["all", *others] and points[0] == points[1]


def test_whiskers_are_the_deviation_between_seeds(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, _path: drawn.append(figure.axes[0]))
    row = {"null_mean": 0.4, "null_95": 0.5, "level_groups": 2}
    plots.f5_selectivity([{"selectivity": {"conv1": [row | {"best": best}]}} for best in (0.6, 0.8)], tmp_path)
    ((low, high),) = drawn[0].containers[0][2][0].get_segments()
    assert (high[1] - low[1]) / 2 == pytest.approx(np.std([0.6, 0.8], ddof=1))


@pytest.mark.parametrize("count", [0, 3, 60])
def test_titles_count_the_doubtful_images_that_are_drawn(tmp_path, monkeypatch, count):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, _path: drawn.extend(figure.axes))
    lists = {f"images_{key}": list(range(count)) for key in ("s2", "s3")}
    lists |= {f"planted_{key}": [1] * count for key in ("s2", "s3")}
    quality = lists | {"pairs": [], "duplicates": [], "duplicate_pairs": 0}
    plots.f9_quality({"names": ["a", "b"], "quality": quality}, np.zeros((60, 9, 9, 1), np.uint8), tmp_path)
    shown = min(count, 48)
    for ax in drawn[:2]:
        assert ax.get_title().endswith(f"; {shown} of {shown} were planted") and bool(ax.images) == (count > 0)
