"""Plots of a run with class names of any characters."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from subclass_torch import plots
from tests.hostile_names import NAMES, refuse_mathematics


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
def test_names_are_drawn_literally(tmp_path, monkeypatch):
    refuse_mathematics(monkeypatch)
    count = len(NAMES)
    matrix = np.random.default_rng(0).integers(1, 9, (count, count))
    plots.neglection(tmp_path / "neglection.png", np.ones((3, count)) / 2, range(count), NAMES)
    plots.confusions(tmp_path / "confusions.png", [(NAMES[0], matrix), (NAMES[1], matrix)], range(3), NAMES)
    plots.gains(tmp_path / "gains.png", np.zeros(count), np.linspace(-1, 1, count), range(3), NAMES)
    for name in ("neglection", "confusions", "gains"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png")).std() > 0


def test_a_name_that_begins_with_an_underscore_is_in_the_legend(tmp_path, monkeypatch):
    legends = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: legends.append(figure.axes[0].get_legend()))
    plots.neglection(tmp_path / "neglection.png", np.ones((2, 3)), [0, 2], ("_x", "b", "c"))
    assert [text.get_text() for text in legends[0].get_texts()] == ["_x", "c"]
