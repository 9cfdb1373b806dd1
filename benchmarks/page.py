"""docs/benchmarks.md and docs/scaling.png from the entries of bench.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hours import explained
from benchmarks.measure import LOOP_BAR, number
from reproduction.compare.tabular import markdown_table
from reproduction.runtime.driver import first_gpu
from reproduction.runtime.figures import new_figure, save_figure
from reproduction.runtime.record import commit_and_dirty, machine, versions_of
from reproduction.runtime.run_folder import write_bytes

Entry = dict[str, Any]
COLUMNS = ("module", "what", "straightforward, or budget", "ours", "unit", "ratio (spread)", "n", "note")
CURVE_COLUMNS = ("part", "against", "sizes", "seconds", "operations", "exponent (95 % interval)", "sizes (n)")
TOP = f"""# Benchmarks

`make bench` writes this page. Every benchmark runs in its own process and gives one or more rows. Numbers are medians
of n repeats. The spread is the smallest and the largest ratio of one repeat. A ratio above 1 means that our code is
better, or that it stays within the budget.

* **Straightforward**: a simple implementation of the same, in the same process. After a warm-up of both, the two run
  alternately, and the first one alternates too; a note names exceptions. Rows about memory have no warm-up, and each
  call has its own process: the number is the rise of anonymous memory over the value before the call.
* **Budget**: some rows compare our number with a limit instead of another program. The limit is in the same column, and
  the ratio is budget / ours. A dash means that there is neither.
* **Bar**: the smallest ratio that we accept; a row below it says "missed". Our training loops may not be slower
  than a bare loop. Their bar of {LOOP_BAR} is our choice and allows for the noise of short repeats on two cores.
  Both sides run the same steps. The end of an epoch (checkpoint, record) is not timed. A test is timed on both
  sides or on neither.
* If the driver lists a CUDA GPU, its rows are next to those of the CPU.
* **Age**: a row is about the code of its commit, not about today's. The last line of the page names the commit of most
  rows. A row with a number in brackets was measured by itself, later; the line with this number, below the tables,
  names its commit. `python -m benchmarks --list` names all benchmarks, `python -m benchmarks MODULE NAME` runs one and
  prints it, with `--page` it puts it on this page.
* Rows `cpu profile` and `matched profile` are computed from the committed records. Their times are those of the runs,
  of which several often ran side by side.
"""
SCALING = """## Scaling

The table gives the seconds of parts of the methods at growing sizes on the CPU. The exponent k of seconds ~ size^k is
fitted by least squares in log-log over n sizes; each time is the median of up to nine calls. "Operations" is the
order of the number of operations, which times follow only roughly. At small sizes, fixed costs (starting a call or
threads) lower the exponent. When the data no longer fit into the caches, the exponent rises, even above the order.
UMAP compares all pairs below 4,096 points. Above, it searches approximately, which this curve does not cover; the
table above has its time for 50,000 points.

![seconds against size](scaling.png)
"""


def cells(entry: Entry) -> list[str]:
    """Returns the cells of an entry under COLUMNS."""
    ratio, missed = "-", ""
    if entry["ratio"] is not None:
        ratio = "{} ({} to {})".format(*(number(entry[key], 3) for key in ("ratio", "ratio_min", "ratio_max")))
        missed = ", missed" if entry["bar"] and entry["ratio"] < entry["bar"] else ""
    notes = [entry.get("note") or "", f"bar: ratio {entry['bar']:.3g}{missed}" if entry.get("bar") else ""]
    if entry["unit"] == "exponent":
        notes = [f"95 % interval {entry['low']:.2f} to {entry['high']:.2f}"]
    notes.append(entry.get("mark") or "")
    numbers = [number(entry[key]) for key in ("baseline", "ours")]
    note = "; ".join(filter(None, notes))
    return [entry["paper"], entry["name"], *numbers, entry["unit"], ratio, str(entry["n"]), note]


def line(entry: Entry) -> str:
    """Returns the Markdown line of an entry, which is printed as soon as it is measured."""
    return markdown_table(COLUMNS, [cells(entry)]).splitlines()[-1]


def curve_cells(entry: Entry) -> list[str]:
    """Returns the cells of a scaling curve under CURVE_COLUMNS."""
    times = f"{number(entry['seconds'][0])} to {number(entry['seconds'][-1])}"
    sizes = f"{entry['sizes'][0]:,} to {entry['sizes'][-1]:,}"
    exponent = f"{entry['ours']:.2f} ({entry['low']:.2f} to {entry['high']:.2f})"
    return [entry["part"], entry["against"], sizes, times, entry["order"], exponent, str(entry["n"])]


def circumstances(load: float) -> str:
    """Returns machine, versions and commit as they are now; call it before the first benchmark.

    Args:
      load: load of the machine, in processes.
    """
    commit, dirty = commit_and_dirty()
    here = machine(first_gpu())
    packages = versions_of("tensorflow", "torch", "lightning", "numpy", "scipy")
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    changes = " with uncommitted changes" if dirty else ""
    return (
        f"Machine: {here.cpu}, {here.cores} cores, {here.gpu or 'no CUDA GPU'}, {here.system}, load {load:.1f} before "
        f"the first; {versions}; commit {commit[:10]}{changes} at the start"
    )


def merged(old: Sequence[Entry], new: Sequence[Entry], measured_on: str) -> list[Entry]:
    """Returns the old rows with new ones in their places; rows of other names go to the end of their module.

    Args:
      old: rows of the page.
      new: rows that were measured by themselves.
      measured_on: text of `circumstances` for the new ones.
    """
    rows = list(old)
    for entry in (dict(entry, measured_on=measured_on) for entry in new):
        keys = [(row["paper"], row["name"]) for row in rows]
        if (key := (entry["paper"], entry["name"])) in keys:
            rows[keys.index(key)] = entry
        else:
            last = max((at for at, (module, _) in enumerate(keys) if module == entry["paper"]), default=len(rows) - 1)
            rows.insert(last + 1, entry)
    return rows


def write(folder: Path, entries: Sequence[Entry], failed: Sequence[str], measured_on: str) -> None:
    """Writes benchmarks.md, and scaling.png where there are curves, with the machine they were measured on.

    Args:
      folder: where the files go.
      entries: summaries of the benchmarks.
      failed: error lines of the benchmarks that failed.
      measured_on: text of `circumstances`, and how long all took: of the rows that have no text of their own.
    """
    later = list(dict.fromkeys(entry["measured_on"] for entry in entries if "measured_on" in entry))
    entries = [
        entry | {"mark": f"[{1 + later.index(entry['measured_on'])}]"} if "measured_on" in entry else entry
        for entry in entries
    ]
    curves = [entry for entry in entries if entry["unit"] == "exponent"]
    hours = [entry for entry in entries if entry["paper"] == "hours"]
    others = [entry for entry in entries if entry["unit"] != "exponent" and entry["paper"] != "hours"]
    parts = [TOP, markdown_table(COLUMNS, [cells(entry) for entry in others])]
    if curves:
        if not later or any("mark" in curve for curve in curves):  # else the picture shows the same curves already
            picture(folder / "scaling.png", curves)
        parts += [SCALING, markdown_table(CURVE_COLUMNS, [curve_cells(entry) for entry in curves])]
    if hours:
        rows = [(e["name"], number(e["ours"], 2), e["note"]) for e in hours]
        table = markdown_table(("table", "hours", "made of"), rows)
        parts.append(f"## Hours of the full tables: an estimate\n\n{explained()}\n\n{table}")
    if failed:
        parts.append("## Failed\n\n" + "\n".join(f"* {failure}" for failure in failed))
    parts += [f"[{number}] {text}" for number, text in enumerate(later, 1)]
    parts.append(measured_on)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "benchmarks.md", "\n\n".join(part.strip() for part in parts).encode() + b"\n")


def picture(path: Path, curves: Sequence[Entry]) -> None:
    """Seconds against size in log-log, one panel for each curve with its fitted line."""
    from matplotlib import ticker

    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = new_figure(3.2 * columns, 2.6 * rows, rows, columns)
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
    save_figure(figure, path)
