"""The map of an embedding: a plane that keeps far classes apart, drawn from what a run left on disk."""

from __future__ import annotations

import re

import numpy as np
import pytest

from reproduction.compare.collect import collect
from reproduction.page import gallery, maps


def save_embedding(path, classes=3, each=40, width=8, seed=0):
    """Classes 20 apart on the first axes, noise of one around them."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    means = np.zeros((classes, width))
    means[np.arange(classes), np.arange(classes)] = 20
    np.savez(path, emb=(means[labels] + draw.normal(size=(len(labels), width))).astype(np.float32), label=labels)
    return labels


def test_class_plane_keeps_far_classes_apart_and_never_stretches(tmp_path):
    labels = save_embedding(tmp_path / "e.npz")
    features = np.load(tmp_path / "e.npz")["emb"]
    flat, share = maps.class_plane(features, labels)
    apart = np.linalg.norm(features[:, None] - features[None], axis=2)
    shown = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    assert (shown <= apart + 1e-3).all() and 0.5 < share < 1
    other = labels[:, None] != labels[None]
    assert shown[other].min() > shown[~other].max()
    two, _ = maps.class_plane(features[:80], labels[:80])  # these means span a line; across it there is spread too
    assert np.abs(two[labels[:80] == 0].mean(axis=0) - two[labels[:80] == 1].mean(axis=0))[1] < 1e-6 < np.ptp(two[:, 1])
    assert np.allclose(maps.class_plane(features, labels)[0], flat)


def test_embeddings_of_a_run_are_drawn_as_a_map(make, tmp_path):
    item = {"kind": "npz", "path": "e.npz", "title": "Embeddings"}
    made = make.record({}, row="mnist5k-cpu", artefacts=[item], details={"class_names": ["<a>", "b", "c"]})
    save_embedding(make.put(tmp_path, made).parent / "e.npz")
    group = collect(runs=tmp_path, results=tmp_path / "none").rows["class2str", "mnist5k-cpu"]
    text = gallery.gallery(group, tmp_path / "report.html", gallery.Budget(100_000))
    [drawn] = re.findall(r'<svg class="map".*?</svg>', text)
    assert drawn.count("<path") == 3 and drawn.count("h0") == 120 and "&lt;a&gt;" in drawn
    assert "Map of the embedding" in text
    assert "<svg" not in gallery.gallery(group, tmp_path / "report.html", gallery.Budget(100))


@pytest.mark.parametrize(
    "arrays",
    [
        {"emb": np.zeros((4, 2), np.float32)},
        {"emb": np.zeros((4, 2), np.float32), "label": np.zeros(4, np.int64)},
        {"emb": np.zeros((4, 1), np.float32), "label": np.arange(4)},
        {"emb": np.full((4, 2), np.nan, np.float32), "label": np.arange(4)},
        {"emb": np.zeros((4, 2), np.float32), "label": np.arange(3)},
        {"emb": np.zeros((4, 2), np.float32), "label": np.array(list("abcd"))},
    ],
)
def test_other_arrays_are_no_map(tmp_path, arrays):
    np.savez(tmp_path / "e.npz", **arrays)
    assert maps.embedding_map(tmp_path / "e.npz") is None
    (tmp_path / "e.npz").write_bytes(b"PK")
    assert maps.embedding_map(tmp_path / "e.npz") is None


@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")  # NumPy's and matplotlib's of empty ranges
def test_features_that_are_all_equal_draw_without_a_warning(tmp_path):
    np.savez(tmp_path / "e.npz", emb=np.ones((6, 3), np.float32), label=np.arange(6) % 2)
    svg, caption = maps.embedding_map(tmp_path / "e.npz")
    assert svg.count("h0") == 6 and "(0% of" in caption
