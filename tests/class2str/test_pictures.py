"""The pictures of the strings: written, of a size that can be read, the same for the same input."""

import numpy as np
import pytest
from PIL import Image

from class2str_tf import plots as pictures
from class2str_tf.method.codes import from_strings
from tests.hostile_names import NAMES, refuse_mathematics


def some_codes(num_classes, bits, seed=0):
    numbers = np.random.default_rng(seed).permutation(2**bits)[:num_classes]
    return np.array([[n >> i & 1 for i in range(bits)] for n in numbers], np.uint8)


def ink(path):
    """bool [H, W], where the picture is not white."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L")) < 250


@pytest.mark.parametrize(("num_classes", "bits"), [(10, 4), (100, 7)])
def test_tree_has_room_for_every_class_name(tmp_path, num_classes, bits):
    path = tmp_path / "tree.png"
    names = [f"a_long_class_name_{k}" for k in range(num_classes)]
    coarse = np.arange(num_classes) % 5
    pictures.draw_tree(some_codes(num_classes, bits), names, path, coarse, [f"kind_{s}" for s in range(5)])
    marked = ink(path)
    height, width = marked.shape
    assert height / num_classes > 20 and width < 2000 and height < 4000
    assert not marked[:, -2:].any() and not marked[:2].any() and not marked[-2:].any()  # nothing is cut off
    lines = marked[:, int(0.8 * width) :].any(axis=1)  # class names, white between two of them
    assert (np.diff(lines.astype(int)) == 1).sum() >= num_classes
    first = path.read_bytes()
    pictures.draw_tree(some_codes(num_classes, bits), names, path, coarse, [f"kind_{s}" for s in range(5)])
    assert path.read_bytes() == first and [p.name for p in tmp_path.iterdir()] == ["tree.png"]


def test_a_thousand_classes_are_drawn_to_a_depth_that_can_be_read(tmp_path):
    codes = some_codes(1000, 10)
    assert pictures._drawn_depth(codes) == 7  # 2^7 branches at most, 2^8 are more than MOST_LEAVES
    assert pictures._drawn_depth(some_codes(100, 7)) == 7


@pytest.mark.parametrize("texts", [["0000"] * 10, ["0"], ["0", "1"], ["0101", "0110", "0110"]])
def test_collapsed_and_tiny_tables_can_be_drawn(tmp_path, texts):
    path = tmp_path / "tree.png"
    pictures.draw_tree(from_strings(texts), [f"class{k}" for k in range(len(texts))], path)
    assert ink(path).any()


def test_shared_strings_are_red(tmp_path):
    def red(texts):
        pictures.draw_tree(from_strings(texts), ["a", "b", "c"], tmp_path / "tree.png")
        with Image.open(tmp_path / "tree.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        return ((pixels[..., 0] - pixels[..., 1]) > 90).any()

    assert red(["00", "01", "01"]) and not red(["00", "01", "11"])


def test_the_posters_curves_come_from_the_papers_table():
    assert pictures.poster_curve("cifar10") == pytest.approx([0.979, 0.966, 0.923, 0.905])
    assert len(pictures.poster_curve("cifar100")) == 7
    assert pictures.poster_curve("mnist5k") == pictures.poster_curve("mnist") == []


def test_prefix_curve_draws_the_posters_beside_ours(tmp_path):
    def colours(dataset):
        path = tmp_path / f"{dataset}.png"
        pictures.draw_prefix_curve([0.9, 0.8, 0.7, 0.65], path, dataset=dataset)
        with Image.open(path) as image:
            return {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}

    blue, red = (0x21, 0x66, 0xAC), (0xB2, 0x18, 0x2B)
    assert {blue, red} <= colours("cifar10")
    assert blue in colours("mnist5k") and red not in colours("mnist5k")


def test_a_perfect_or_hopeless_curve_can_be_drawn(tmp_path):
    for accuracy in ([1.0, 1.0], [0.0], [0.5, 0.0, 0.0]):
        pictures.draw_prefix_curve(accuracy, tmp_path / "curve.png")
        assert ink(tmp_path / "curve.png").any()


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
def test_names_are_drawn_literally(tmp_path, monkeypatch):
    refuse_mathematics(monkeypatch)
    count = len(NAMES)
    pictures.draw_tree(some_codes(count, 4), NAMES, tmp_path / "tree.png", np.arange(count), NAMES)
    pictures.draw_tree(from_strings(["0101"] * count), NAMES, tmp_path / "shared.png")
    pictures.draw_prefix_curve([0.9, 0.8], tmp_path / "prefixes.png", dataset="folder:$\\frac$")
    for name in ("tree", "shared", "prefixes"):
        assert ink(tmp_path / f"{name}.png").any()
