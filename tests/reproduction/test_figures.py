"""Texts of a figure are drawn as they are, whatever characters a class name has."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from reproduction.runtime.figures import new_figure, save_figure
from tests.hostile_names import NAMES, refuse_mathematics


def pixels(path, text, mathematics=False):
    figure, axes = new_figure(3, 1)
    axes[0, 0].set_axis_off()
    figure.text(0.1, 0.5, text)
    if mathematics:
        figure.savefig(path)
    else:
        save_figure(figure, path)
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.filterwarnings("ignore:constrained_layout")
@pytest.mark.parametrize("name", NAMES)
def test_every_text_of_a_figure_is_literal(tmp_path, monkeypatch, name):
    refuse_mathematics(monkeypatch)
    figure, axes = new_figure(4, 3)
    axis = axes[0, 0]
    (line,) = axis.plot([0, 1], label=name)
    axis.legend(handles=[line], title=name)
    axis.set_xticks([0, 1], [name, name], rotation=60)
    axis.set(xlabel=name, ylabel=name, title=name)
    axis.text(0, 0, name)
    figure.colorbar(axis.imshow(np.eye(2)), label=name)
    figure.suptitle(name)
    figure.supylabel(name)
    save_figure(figure, tmp_path / "a.png")
    shown = [text.get_text() for text in figure.findobj(Text)]
    assert shown.count(name) >= 11, shown


def test_valid_mathematics_is_drawn_with_its_dollars(tmp_path):
    literal, plain = pixels(tmp_path / "a.png", "a$b$c"), pixels(tmp_path / "b.png", "abc")
    assert (literal < 128).sum() > 1.5 * (plain < 128).sum()
    np.testing.assert_array_equal(pixels(tmp_path / "c.png", "\\$"), pixels(tmp_path / "d.png", "\\$"))
    assert (pixels(tmp_path / "e.png", "\\$") < 128).sum() > (pixels(tmp_path / "f.png", "$") < 128).sum()


@pytest.mark.filterwarnings("ignore:Glyph")
def test_powers_of_ten_along_a_log_axis_stay_mathematics(tmp_path):
    figure, axes = new_figure(3, 3)
    axes[0, 0].loglog([1, 1e4], [1e-4, 1])
    axes[0, 0].set_title("$\\frac$")
    save_figure(figure, tmp_path / "a.png")
    labels = [text for axis in (axes[0, 0].xaxis, axes[0, 0].yaxis) for text in axis.get_ticklabels()]
    powers = [text for text in labels if "mathdefault" in text.get_text()]
    assert powers and all(text.get_parse_math() for text in powers)
    assert not axes[0, 0].title.get_parse_math()
