"""Learning curves as small SVG pictures, from the metrics.jsonl beside a record."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from reproduction.compare.collect import RowRuns, SeedRun

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 24
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
    found: dict[str, Series] = {}
    if path.stat().st_size > MAX_LOG_BYTES:
        return found
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(line, dict) or not _number(line.get("step")):
            continue
        for name, value in line.items():
            if name != "step" and _number(value):
                found.setdefault(name, []).append((float(line["step"]), float(value)))
    return found


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
    means = [(_mean([x for x, _ in part]), _mean([y for _, y in part])) for part in bins if part]
    return [*means, series[-1]]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span [low, high], about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def chart(name: str, series: Mapping[int, Series], unit: str = "steps") -> str:
    """One SVG chart: a line per seed.

    Args:
      name: the scalar's name, for screen readers.
      series: seed -> [(step, value)], finite, at least one point in all.
      unit: of the horizontal axis, for screen readers.
    """
    lines = [thinned(points) for points in series.values()]  # the place in the list is the colour
    xs = [x for points in lines for x, _ in points]
    ys = [y for points in lines for _, y in points]
    x0, x1 = min(xs), max(xs)
    y0, y1 = min(ys), max(ys)
    if y1 - y0 < 1e-12 * max(1.0, abs(y0)):
        pad = abs(y0) * 0.05 or 0.5
        y0, y1 = y0 - pad, y1 + pad
    else:
        y0, y1 = y0 - 0.04 * (y1 - y0), y1 + 0.04 * (y1 - y0)
    if x1 <= x0:
        pad = max(0.5, 1e-9 * abs(x0))  # 0.5 beside 1e18 is nothing
        x0, x1 = x0 - pad, x1 + pad

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)} over {unit}">']
    for tick in ticks(y0, y1):
        y = place(x0, tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{short(tick)}</text>')
    whole = all(float(x).is_integer() for points in series.values() for x, _ in points)
    for tick in ticks(x0, x1):
        if whole and not float(round(tick, 9)).is_integer():
            continue  # there is no step 1.25
        x = place(tick, y0)[0]
        anchor = "end" if x > WIDTH - 30 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{short(tick)}</text>')
    for number, points in enumerate(lines):
        where = [place(x, y) for x, y in points]
        if not where:
            continue
        if len(where) == 1:  # a stage of one epoch
            x, y = where[0]
            parts.append(f'<circle class="k{number % MAX_SEEDS}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        parts.append(f'<polyline class="k{number % MAX_SEEDS}" points="{path}"/>')
    return "".join(parts) + "</svg>"


def short(value: float) -> str:
    """A tick's label: 25000 as 25k, no trailing zeros."""
    if abs(value) >= 10000:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1000:g}k"
    return f"{round(value, 10):.4g}"


def row_charts(group: RowRuns, wanted: Sequence[str], unit: str = "steps") -> tuple[list[tuple[str, str]], list[int]]:
    """The charts of one row.

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
