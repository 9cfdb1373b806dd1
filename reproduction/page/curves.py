"""Learning curves as small inline SVG, from the metrics.jsonl next to a record."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from reproduction.compare.collect import RowRuns, SeedRun
from reproduction.page.svg import RULE, SEEDS, blank_axes, inline

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 8, 24
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 2)))  # in line widths
MAX_POINTS = 150
MAX_SEEDS = 5
MAX_CURVES = 8
MAX_LOG_BYTES = 64 * 2**20

Series = list[tuple[float, float]]


def inside(folder: Path, name: str) -> Path | None:
    """The file `name` of a run folder; None if the name leads out of the folder or is no file."""
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def read_log(path: Path) -> dict[str, Series]:
    """Scalars of a metrics.jsonl: name -> [(step, value)], finite numbers only; lines that are no JSON do not count."""
    log: dict[str, Series] = {}
    if path.stat().st_size > MAX_LOG_BYTES:
        return log
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(line, dict) or not _number(line.get("step")):
            continue
        for name, value in line.items():
            if name != "step" and _number(value):
                log.setdefault(name, []).append((float(line["step"]), float(value)))
    return log


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def logs_of(run: SeedRun) -> dict[str, Series]:
    """All scalars of all stages of a run; one that several stages log is called `<stage>: <scalar>`."""
    logs: dict[str, dict[str, Series]] = {}
    for entry in run.entries:
        path = inside(entry.path.parent, entry.record.curve) if entry.record.curve and entry.source == "runs" else None
        if path is not None:
            logs.setdefault(entry.record.stage, {}).update(read_log(path))
    times = Counter(name for log in logs.values() for name in log)
    return {
        name if times[name] == 1 else f"{stage}: {name}": series
        for stage, log in logs.items()
        for name, series in log.items()
    }


def thinned(series: Series, points: int = MAX_POINTS) -> Series:
    """At most `points` points: the mean of each of as many equal bins, the last point as it is."""
    if len(series) <= points:
        return series
    bins: list[Series] = [[] for _ in range(points - 1)]
    for index, point in enumerate(series[:-1]):
        bins[index * (points - 1) // (len(series) - 1)].append(point)
    means = [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in bins if part]
    return [*means, series[-1]]


def chart(name: str, series: Mapping[int, Series], unit: str = "steps") -> Markup:
    """Draws one chart as inline SVG, a line per seed.

    Args:
      name: the scalar's name, for screen readers.
      series: seed -> [(step, value)], finite, at least one point in all; the place of a seed decides its colour.
      unit: of the horizontal axis, for screen readers.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = blank_axes(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM)
    for number, points in enumerate(map(thinned, series.values())):
        steps, values = [x for x, _ in points], [y for _, y in points]
        style: dict[str, Any] = {"color": SEEDS[number % MAX_SEEDS], "gid": f"k{number % MAX_SEEDS}", "clip_on": False}
        if len(points) == 1:  # a stage of one epoch: a dot
            axes.plot(2 * steps, 2 * values, linewidth=6, solid_capstyle="round", **style)
        elif points:
            axes.plot(steps, values, linewidth=1.5, linestyle=DASHES[number % MAX_SEEDS], **style)
    axes.margins(x=0, y=0.04)
    axes.grid(axis="y", color=RULE, linewidth=1, clip_on=False)
    whole = all(float(x).is_integer() for points in series.values() for x, _ in points)  # there is no step 1.25
    for axis, integer in ((axes.xaxis, whole), (axes.yaxis, False)):
        axis.set_major_locator(MaxNLocator(4, steps=(1, 2, 2.5, 5, 10), integer=integer))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    return inline(figure, "chart", f"{name} over {unit}")


def short(value: float) -> str:
    """A tick's label: 25000 as 25k, no trailing zeros."""
    if abs(value) >= 10000:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1000:g}k"
    return f"{round(value, 10):.4g}"


def row_charts(
    group: RowRuns, wanted: Sequence[str], unit: str = "steps"
) -> tuple[list[tuple[str, Markup]], list[int]]:
    """Draws the charts of one row.

    Args:
      group: the row's runs.
      wanted: scalars to draw, in this order, of every stage or as `<stage>: <scalar>` of one; empty, or none of them
        there: the first eight.
      unit: of the horizontal axis.
    Returns:
      ([(scalar, svg)], seeds in the order of their colours).
    """
    runs = group.runs[:MAX_SEEDS]
    logs = {run.seed: logs_of(run) for run in runs}
    names = list(dict.fromkeys(name for log in logs.values() for name in log))
    matching = [name for scalar in wanted for name in names if name == scalar or name.endswith(f": {scalar}")]
    chosen = list(dict.fromkeys(matching)) or names[:MAX_CURVES]
    charts = []
    for name in chosen:
        series = {seed: log.get(name, []) for seed, log in logs.items()}
        if any(series.values()):
            charts.append((name, chart(name, series, unit)))
    return charts, list(logs)
