"""The small helpers that several papers share: tables as text, npz files, figures, deviations."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from reproduction.compare.tabular import latex_table, markdown_table, spread
from reproduction.runtime.arrays import confusion_counts, read_npz, write_npz
from reproduction.runtime.deviations import active
from reproduction.runtime.figures import new_figure, save_figure
from reproduction.runtime.torch_fast import amp_of, one_cycle, precision


def test_markdown_cells_stay_as_they_are_but_for_what_would_end_them():
    text = markdown_table(("a", "b|"), [(" 1.50", "x\ny"), ("", "\\"), (7, None)])
    assert text.splitlines() == ["| a | b\\| |", "|---|---|", "|  1.50 | x y |", "|  | \\\\ |", "| 7 | None |"]
    assert markdown_table(("a", "b"), []) == "| a | b |\n|---|---|"


def test_latex_needs_no_package_and_no_cell_ends_it():
    text = latex_table("t", ("a & b", "c"), "lr", [("50 % ± 1\N{DAGGER}", "x_1 \\ {}"), ("", "<1")])
    assert text.splitlines() == [
        "% t",
        r"\begin{tabular}{lr}",
        r"\hline",
        r" a \& b & c \\",
        r"\hline",
        r" 50 \% $\pm$ 1$^\dagger$ & x\_1 \textbackslash{} \{\} \\",
        r"  & $<$1 \\",
        r"\hline",
        r"\end{tabular}",
    ]


def test_spread_is_mean_and_standard_deviation():
    assert spread([]) == "-" and spread([0.5], 100) == "50.00" and spread([float("nan")]) == "-"
    assert spread([0.97, 0.99], 100) == "98.00 ± 1.41"


@pytest.mark.parametrize("compress", [True, False])
def test_an_npz_is_whole_or_absent(tmp_path, monkeypatch, compress):
    path = tmp_path / "folder" / "a.npz"
    first = {"path": np.arange(3), "name": np.array("text")}
    write_npz(path, first, compress)
    assert {name: value.tolist() for name, value in read_npz(path).items()} == {"path": [0, 1, 2], "name": "text"}
    content = path.read_bytes()
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_npz(path, {"a": np.array([{}], dtype=object)}, compress)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_npz(path, {"a": np.ones(2)}, compress)
    assert path.read_bytes() == content and os.listdir(path.parent) == ["a.npz"]


def test_confusion_counts_every_pair():
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
    assert confusion_counts(labels, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_equal_plots_are_equal_files(tmp_path):
    for name in ("a", "b"):
        figure, axes = new_figure(3, 2, 1, 2, gridspec_kw={"width_ratios": [1, 2]})
        axes[0, 1].plot([1, 3, 2])
        save_figure(figure, tmp_path / "folder" / f"{name}.png")
    a, b = ((tmp_path / "folder" / f"{name}.png").read_bytes() for name in "ab")
    assert a == b and a.startswith(b"\x89PNG") and b"Software" not in a


def test_deviations_are_active_always_or_by_their_test():
    table = {"X-D02": lambda config: config["mode"] == "ours", "X-D01": None, "X-D03": lambda config: False}
    assert active({"mode": "ours"}, table) == ["X-D01", "X-D02"] and active({"mode": "authors"}, table) == ["X-D01"]


def test_one_cycle_rises_to_the_peak_and_falls():
    rates = [one_cycle(step, 100, 0.5) for step in range(100)]
    assert max(rates) == rates[22] == 0.5 and rates[0] == pytest.approx(0.5 / 23)
    assert rates[-1] == pytest.approx(0.07 * 0.5)
    assert np.diff(rates[:23]) == pytest.approx(0.5 / 23) and np.all(np.diff(rates[22:]) < 0)
    assert one_cycle(0, 1, 0.5) == 0.5 and one_cycle(9, 10, 1.0, rise=0.3, final=0.01) == pytest.approx(0.01)


def test_bf16_is_taken_where_the_device_computes_in_it(monkeypatch):
    cpu = torch.device("cpu")
    for has, amp in ((True, "bf16"), (False, None)):
        monkeypatch.setattr("reproduction.runtime.torch_fast.computes_bf16", lambda device, has=has: has)
        assert amp_of(cpu, "auto") == amp and precision(cpu, "auto") == ("bfloat16 autocast" if has else "float32")
        assert amp_of(cpu, "bf16") == "bf16" and amp_of(cpu, None) is None
