"""The sheet of neighbours: frames tell whether the class is the query's, and no image file can spoil it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.hostile_names import NAMES, refuse_mathematics
from triplet_tf import plots


def test_frames_and_tiles_of_the_sheet(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for i, size in enumerate([(300, 100), (4, 9), (1, 900)]):
        Image.new("RGB", size, (0, 0, 200 + i)).save(files[i])
    files[3].write_bytes(b"what Pillow does not read")
    labels, nearest = np.array([0, 0, 1, 1]), np.array([[1, 3], [0, 2], [3, 0], [2, 1]])
    plots.neighbours(tmp_path / "sheet.png", files, labels, nearest, ("ant", "bee"))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    cell, gap = plots.TILE + 2 * plots.FRAME + plots.GAP, 3 * plots.GAP
    corners = [
        [tuple(sheet[row * (cell + 12) + 13, column * cell + (gap if column else 0) + 1]) for column in range(3)]
        for row in range(2)
    ]
    black, green, red = plots.BLACK, plots.GREEN, plots.RED
    assert corners == [[black, green, red], [black, green, red]]  # queries are images 0 and 2
    middle = 12 + plots.FRAME + plots.TILE // 2
    assert tuple(sheet[middle, middle - 12]) == (0, 0, 200)
    assert tuple(sheet[middle, 2 * cell + gap + middle - 12]) == (211, 211, 211)  # image 3


def test_queries_are_spread_over_the_classes():
    labels = np.repeat(np.arange(30), 3)
    assert labels[plots.queries(labels)].tolist() == [0, 3, 6, 10, 13, 16, 19, 23, 26, 29]
    assert plots.queries(np.array([5, 5, 2])).tolist() == [2, 0]


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
def test_names_are_drawn_literally(tmp_path, monkeypatch):
    refuse_mathematics(monkeypatch)
    count = len(NAMES)
    plots.confusion(tmp_path / "confusion.png", np.ones((count, count), int), NAMES, 0.1)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    nearest = np.roll(np.arange(count), 1)[:, None]
    files = [tmp_path / "a.png"] * count
    plots.neighbours(tmp_path / "sheet.png", files, np.arange(count), nearest, NAMES)
    for name in ("confusion", "sheet"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png")).std() > 0
