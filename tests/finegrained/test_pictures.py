"""Pictures at their edges: no cluster, many classes, few images; and what they say in words."""

import numpy as np
import pytest
from PIL import Image

from finegrained_torch import plots as pictures
from finegrained_torch.method import umap_maps
from finegrained_torch.method.cluster_one_class import Settings
from finegrained_torch.training.cluster_files import make_maps
from tests.hostile_names import NAMES, refuse_mathematics


def readable(path):
    with Image.open(path) as image:
        return image.width > 150 and np.asarray(image.convert("L")).std() > 3


def test_mix_names_the_commonest_subclasses():
    fine = np.array([3, 3, 3, 1, 1, 0, -1])
    assert pictures.mix(fine, ["a", "b", "c", "d"]) == "d 50 %\nb 33 %\na 17 %"
    assert pictures.mix(np.array([-1]), ["a"]) == ""


def test_maps_and_grids_of_odd_classes(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.standard_normal((30, 2))
    images = rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    none = np.full(30, -1)
    pictures.class_map(tmp_path / "none.png", points, none, none >= 0, None, "a class", [])
    assert readable(tmp_path / "none.png")
    pictures.cluster_grid(tmp_path / "empty.png", images, none, np.full(30, np.nan), None, "a class", [])
    assert not (tmp_path / "empty.png").exists()  # nothing to show
    pseudo = np.arange(30) % 13 + 4  # two or three images each, more clusters than colours
    strength = rng.random(30)
    pictures.cluster_grid(tmp_path / "grid.png", images[..., :1], pseudo, strength, pseudo % 3, "a class", "xyz")
    assert readable(tmp_path / "grid.png")
    pictures.joint_map(tmp_path / "joint.png", points, pseudo - 4, pseudo > 5, [f"class {c}" for c in range(13)])
    assert readable(tmp_path / "joint.png")


def test_many_classes_do_not_break_axes(tmp_path):
    rng = np.random.default_rng(1)
    names = [f"class {c}" for c in range(40)]
    matrix = rng.integers(0, 9, (40, 40))
    pictures.confusions(tmp_path / "confusion.png", [("base", matrix)], names)
    pictures.contingency(tmp_path / "table.png", matrix[:30], range(30), [c // 3 for c in range(30)], names)
    coarse = np.repeat(np.arange(40), 3)
    pictures.uncertainty_histogram(tmp_path / "u.png", rng.random(120) * 2, coarse, rng.random(120) < 0.5, names)
    for name in ("confusion", "table", "u"):
        assert readable(tmp_path / f"{name}.png")


def test_same_arrays_same_file(tmp_path):
    matrix = np.array([[5, 1], [2, 7]])
    for name in ("a", "b"):
        pictures.confusions(tmp_path / f"{name}.png", [("base", matrix)], ["x", "y"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_joint_map_is_all_images_or_an_even_part():
    np.testing.assert_array_equal(umap_maps.joint_rows(300), np.arange(300))
    rows = umap_maps.joint_rows(50_000)
    assert len(rows) == umap_maps.JOINT_IMAGES and rows[0] == 0 and rows[-1] == 49_999
    assert set(np.diff(rows)) <= {2, 3}


def test_maps_are_kept_and_made_anew_for_other_features(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    features, coarse = rng.standard_normal((40, 5)).astype(np.float32), np.arange(40) % 2
    ran = []

    def fake(points, settings):
        ran.append((len(points), settings.components))
        return points[:, :2].copy(), None, []

    monkeypatch.setattr(umap_maps, "reduce", fake)
    first = make_maps(tmp_path / "maps.npz", features, coarse, Settings())
    assert sorted(ran) == [(20, 2), (20, 2), (40, 2)] and set(first) == {umap_maps.JOINT, 0, 1}
    np.testing.assert_array_equal(first[1], features[coarse == 1][:, :2])
    again = make_maps(tmp_path / "maps.npz", features, coarse, Settings())
    assert len(ran) == 3
    np.testing.assert_array_equal(again[umap_maps.JOINT], first[umap_maps.JOINT])
    make_maps(tmp_path / "maps.npz", features + 1, coarse, Settings())
    assert len(ran) == 6
    few = make_maps(tmp_path / "few.npz", features[:5], coarse[:5], Settings())
    assert len(ran) == 6 and not few[umap_maps.JOINT].any()  # too few to lay out
    (tmp_path / "maps.npz").write_bytes(b"PK no")
    make_maps(tmp_path / "maps.npz", features, coarse, Settings())
    assert len(ran) == 9  # a damaged file is made anew


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
def test_names_are_drawn_literally(tmp_path, monkeypatch):
    refuse_mathematics(monkeypatch)
    rng, count = np.random.default_rng(0), len(NAMES)
    points, kinds = rng.standard_normal((3 * count, 2)), np.repeat(np.arange(count), 3)
    certain, images = kinds % 2 == 0, rng.integers(0, 256, (3 * count, 8, 8, 3), dtype=np.uint8)
    matrix, strength = rng.integers(1, 9, (count, count)), rng.random(3 * count)
    out = lambda name: tmp_path / f"{name}.png"  # noqa: E731
    pictures.class_map(out("map"), points, kinds, certain, kinds, NAMES[0], NAMES)
    pictures.joint_map(out("joint"), points, kinds, certain, NAMES)
    pictures.cluster_grid(out("grid"), images, kinds, strength, kinds, NAMES[0], NAMES)
    pictures.certainty_examples(out("examples"), images, strength, kinds, np.eye(count)[kinds], NAMES)
    pictures.uncertainty_histogram(out("u"), strength, kinds, certain, NAMES)
    pictures.confusions(out("confusion"), [(NAMES[0], matrix), (NAMES[1], matrix)], NAMES)
    pictures.contingency(out("table"), matrix, range(count), list(range(count)), NAMES)
    for name in ("map", "joint", "grid", "examples", "u", "confusion", "table"):
        assert readable(out(name))
