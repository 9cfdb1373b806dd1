"""docs/benchmarks.md and docs/scaling.png from the entries of bench.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reproduction.record import commit_and_dirty, machine, versions_of
from reproduction.runs import write_bytes

Entry = dict[str, Any]
HEAD = (
    "| module | what | straightforward, or budget | ours | unit | ratio (spread) | n | note |\n"
    "|---|---|---|---|---|---|---|---|"
)
CURVES_HEAD = (
    "| part | against | sizes | seconds | operations | exponent (95 % interval) | n |\n|---|---|---|---|---|---|---|"
)
TOP = """# Benchmarks

Written by `make bench`. Every line is measured in a process of its own, ours and the straightforward formulation in
turn after a warm-up; figures are medians, the spread is the smallest and the largest ratio of the n repeats. A ratio
above 1 means that ours is better, or that the budget is kept. Memory is the rise of anonymous memory over the value
before the call, in a child process for each call.
"""


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    return "-" if value is None else f"{value:,.4g}"


def line(entry: Entry) -> str:
    """One row of the table."""
    ratio = "-"
    if entry["ratio"] is not None:
        ratio = f"{entry['ratio']:.3g} ({entry['ratio_min']:.3g} to {entry['ratio_max']:.3g})"
    notes = [entry.get("note") or "", f"bar: ratio {entry['bar']:.3g}" if entry.get("bar") else ""]
    if entry["unit"] == "exponent":
        notes = [f"95 % interval {entry['low']:.2f} to {entry['high']:.2f}"]
    return (
        f"| {entry['paper']} | {entry['name']} | {number(entry['baseline'])} | {number(entry['ours'])} "
        f"| {entry['unit']} | {ratio} | {entry['n']} | {'; '.join(filter(None, notes))} |"
    )


def curve_line(entry: Entry) -> str:
    """One row of the table of exponents."""
    times = f"{number(entry['seconds'][0])} to {number(entry['seconds'][-1])}"
    return (
        f"| {entry['part']} | {entry['against']} | {entry['sizes'][0]:,} to {entry['sizes'][-1]:,} | {times} "
        f"| {entry['order']} | {entry['ours']:.2f} ({entry['low']:.2f} to {entry['high']:.2f}) | {entry['n']} |"
    )


def write(folder: Path, entries: Sequence[Entry], failed: Sequence[str], load: float, seconds: float) -> None:
    """Writes benchmarks.md, and scaling.png where there are curves, with the machine they were measured on.

    Args:
      load: of the machine before the first benchmark. seconds: of the whole run.
    """
    curves = [entry for entry in entries if entry["unit"] == "exponent"]
    hours = [entry for entry in entries if entry["paper"] == "hours"]
    others = [entry for entry in entries if entry["unit"] != "exponent" and entry["paper"] != "hours"]
    commit, dirty = commit_and_dirty()
    here = machine()
    versions = ", ".join(
        f"{k} {v}" for k, v in versions_of("tensorflow", "torch", "lightning", "numpy", "scipy").items()
    )
    parts = [TOP, "\n".join([HEAD, *map(line, others)])]
    if curves:
        picture(folder / "scaling.png", curves)
        parts.append(
            "## Scaling\n\nSeconds of the method parts at growing sizes; the exponent k of seconds ~ size^k by least\n"
            "squares in log-log. At small sizes a fixed cost lowers it.\n\n![seconds against size](scaling.png)\n\n"
            + "\n".join([CURVES_HEAD, *map(curve_line, curves)])
        )
    if hours:
        from benchmarks.hours import EXPLAINED

        rows = [f"| {e['name']} | {number(e['ours'])} | {e['note']} |" for e in hours]
        parts.append(
            f"## Hours of the full tables: an estimate\n\n{EXPLAINED}\n\n| table | hours | made of |\n|---|---|---|\n"
            + "\n".join(rows)
        )
    if failed:
        parts.append("## Failed\n\n" + "\n".join(f"* {failure}" for failure in failed))
    parts.append(
        f"Machine: {here.cpu}, {here.cores} cores, {here.system}, load {load:.1f} before the first; {versions}; commit "
        f"{commit[:10]}{' with uncommitted changes' if dirty else ''}; {seconds / 60:.0f} minutes in all.\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "benchmarks.md", "\n\n".join(part.strip() for part in parts).encode() + b"\n")


def picture(path: Path, curves: Sequence[Entry]) -> None:
    """Seconds against size in log-log, one panel for each curve with its fitted line."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot, ticker

    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.2 * columns, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for axis, entry in zip(axes.flat, curves, strict=False):
        sizes, seconds = np.array(entry["sizes"], float), np.array(entry["seconds"])
        middle = np.exp(np.log(seconds).mean() + entry["ours"] * (np.log(sizes) - np.log(sizes).mean()))
        axis.loglog(sizes, seconds, "o", ms=4, color="#0b6e99")
        axis.loglog(sizes, middle, "-", lw=1, color="#c44e52", label=f"exponent {entry['ours']:.2f}")
        axis.set_title(entry["part"], fontsize=9)
        axis.set_xlabel(entry["against"], fontsize=8)
        axis.set_xticks(entry["sizes"][::2], [f"{size:,}" for size in entry["sizes"][::2]])
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=7, frameon=False)
    figure.supylabel("seconds", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
