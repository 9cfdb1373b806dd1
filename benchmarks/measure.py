"""What a benchmark gives back (a pair, a measure, a curve), and how times and memory are taken."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from reproduction.runtime.cores import available_bytes
from reproduction.runtime.driver import first_gpu
from reproduction.runtime.run_folder import REPO_ROOT

REPEATS = 5
LOOP_REPEATS, LOOP_SECONDS = 15, 25  # of a loop, while they fit into so many seconds: short ones are noisy
LOOP_BAR = 0.97  # our loop may not be slower than a bare one; the rest is noise of short repeats: ours
GIVE_UP = 0.7  # share of the free memory at which a child process gives up


class NotSupported(Exception):
    """This machine cannot run the benchmark; the message says why and is printed in the table."""


@dataclass(frozen=True)
class Pair:
    """Repeated measurements of a baseline and of ours, in turn, in one process.

    Attributes:
      name: what is compared.
      unit: of the values; "images/s" and the like are better when larger, "s" and "MiB" when smaller.
      baseline: values of the baseline, one for each repeat.
      ours: values of our code, one for each repeat.
      bar: smallest ratio that we accept, or None.
      note: text of the column "note".
    """

    name: str
    unit: str
    baseline: list[float]
    ours: list[float]
    bar: float | None = None
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Returns how many times better our code is, repeat by repeat."""
        pairs = zip(self.baseline, self.ours, strict=True)
        return [o / b if self.unit.endswith("/s") else b / o for b, o in pairs]

    def summary(self) -> dict[str, Any]:
        """One entry of runs/bench/bench.json."""
        medians = {"baseline": statistics.median(self.baseline), "ours": statistics.median(self.ours)}
        return asdict(self) | medians | _spread(self.ratios)


@dataclass(frozen=True)
class Measure:
    """A number that is compared with a budget instead of another program.

    Attributes:
      unit: as in `Pair`.
      values: one for each repeat; empty if this machine cannot run it, which `note` explains.
      budget: the limit, or None.
    """

    name: str
    unit: str
    values: list[float]
    budget: float | None = None
    note: str = ""

    def summary(self) -> dict[str, Any]:
        """One entry of bench.json; the baseline is the budget."""
        entry: dict[str, Any] = {"name": self.name, "unit": self.unit, "baseline": self.budget, "note": self.note}
        entry |= {"ours": statistics.median(self.values) if self.values else None, "bar": None}
        budgets = [self.budget] * len(self.values) if self.budget else []
        ratios = Pair("", self.unit, budgets, self.values).ratios if budgets else []
        return entry | _spread(ratios) | {"n": len(self.values)}


@dataclass(frozen=True)
class Curve:
    """Cost of a part of a method at growing sizes.

    Attributes:
      name: part of the method.
      against: quantity that grows.
      sizes: values of this quantity.
      seconds: median time at each size.
      order: order of the number of operations, such as "N log N".
    """

    name: str
    against: str
    sizes: list[int]
    seconds: list[float]
    order: str

    def summary(self) -> dict[str, Any]:
        """One entry of bench.json; ours is the exponent, low and high its interval."""
        slope, low, high = exponent(self.sizes, self.seconds)
        entry = asdict(self) | {"name": f"{self.name}, against {self.against}", "part": self.name, "unit": "exponent"}
        absent = dict.fromkeys(("baseline", "ratio"))
        return entry | absent | {"ours": slope, "low": low, "high": high, "n": len(self.sizes)}


Result = Pair | Measure | Curve
Benchmark = Callable[[bool], Result | Sequence[Result]]  # of `small`: sizes that take seconds


def _spread(ratios: Sequence[float]) -> dict[str, Any]:
    middle, low, high = median_interval(ratios) if ratios else (None, None, None)
    return {
        "ratio": middle,
        "ratio_min": min(ratios, default=None),
        "ratio_max": max(ratios, default=None),
        "ratio_low": low,
        "ratio_high": high,
        "n": len(ratios),
    }


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median and its 95 percent interval by order statistics: no assumption about the distribution.

    Fewer than 6 values have no such interval; then it is the whole range.
    """
    ordered = sorted(values)
    rank = max(int(stats.binom.ppf(0.025, len(ordered), 0.5)), 1)
    return statistics.median(ordered), ordered[rank - 1], ordered[-rank]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float, float]:
    """k of cost ~ size^k by least squares in log-log, and its 95 percent interval (t, n - 2 degrees of freedom).

    Raises:
      ValueError: fewer than 3 sizes.
    """
    if len(sizes) < 3:
        raise ValueError(f"{len(sizes)} sizes: a slope with an interval needs 3")
    fit = stats.linregress(np.log(sizes), np.log(costs))
    half = stats.t.ppf(0.975, len(sizes) - 2) * fit.stderr
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def interleave(
    name: str,
    unit: str,
    baseline: Callable[[], float],
    ours: Callable[[], float],
    repeats: int = REPEATS,
    most: int = 0,
    **more: Any,
) -> Pair:
    """Measures both in turn after one warm-up each; who goes first alternates, so that a drift favours neither.

    Args:
      baseline: runs the baseline once and returns a value in `unit`.
      ours: runs our code once and returns a value in `unit`.
      repeats: repeats of both.
      most: more repeats, up to this number, as long as fewer than LOOP_SECONDS have passed.
      more: further fields of the pair.
    """
    baseline(), ours()
    taken: dict[Callable[[], float], list[float]] = {baseline: [], ours: []}
    order, began = [baseline, ours], time.monotonic()
    while len(taken[ours]) < repeats or (len(taken[ours]) < most and time.monotonic() - began < LOOP_SECONDS):
        for one in order:
            taken[one].append(one())
        order.reverse()
    return Pair(name, unit, taken[baseline], taken[ours], **more)


def loops(
    name: str, batch: int, steps: int, bare: Callable[[], float], ours: Callable[[], float], why: str = ""
) -> Pair:
    """A bare training loop and ours, in images/s, with what ours adds to a step.

    Args:
      batch: images of a step.
      steps: steps of a repeat.
      why: what our loop does in the additional time, for the note.
    """
    pair = interleave(name, "images/s", bare, ours, most=LOOP_REPEATS, bar=LOOP_BAR)
    more = 1000 * batch * (1 / statistics.median(pair.ours) - 1 / statistics.median(pair.baseline))
    note = f"{steps} steps a repeat; a step of ours takes {more:+.1f} ms{': ' * bool(why)}{why}"
    return replace(pair, note=note)


def seconds(work: Callable[[], object], inner: int = 1) -> Callable[[], float]:
    """A callable that runs `work` `inner` times and returns the seconds of one."""

    def timed() -> float:
        began = time.perf_counter()
        for _ in range(inner):
            work()
        return (time.perf_counter() - began) / inner

    return timed


def rate(count: int, work: Callable[[], object], inner: int = 1) -> Callable[[], float]:
    """A callable that returns how many of the `count` things that one `work` does are done in a second."""
    timed = seconds(work, inner)
    return lambda: count / timed()


def on_each_device(benchmarks_of: Callable[[str], Mapping[str, Benchmark]]) -> dict[str, Benchmark]:
    """The benchmarks of the CPU, and if the driver lists a GPU those of CUDA with the device in their names.

    Args:
      benchmarks_of: device -> name -> benchmark.
    """
    benchmarks = dict(benchmarks_of("cpu"))
    if first_gpu() is not None:
        benchmarks |= {f"{name} on cuda": benchmark for name, benchmark in benchmarks_of("cuda").items()}
    return benchmarks


def output_of(command: Sequence[str], what: str = "") -> str:
    """Runs a command in the repository root and returns its standard output.

    Args:
      command: words.
      what: in front of the message of an error.
    Raises:
      RuntimeError: it failed; the message ends with the last line that it wrote to stderr.
    """
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(what + (done.stderr.strip().splitlines() or ["no message"])[-1])
    return done.stdout


@dataclass(frozen=True)
class Rise:
    """Rise of anonymous memory over the value before the call, bytes; seconds of the call; what it returned."""

    bytes: int
    seconds: float
    returned: Any
    gave_up: bool


def rise(prepare: Callable[..., Callable[[], Any]], *args: Any, family: bool = False) -> Rise:
    """Memory of one call in a child process of its own.

    Args:
      prepare: a function of a module; in the child `prepare(*args)` makes everything that does not count and returns
        the call that does.
      args: JSON values, for `prepare`.
      family: whether the child's own children count too.
    Raises:
      RuntimeError: the child failed; holds its last line.
    """
    request = [prepare.__module__, prepare.__name__, args, family]
    out = output_of([sys.executable, "-m", "benchmarks.measure", json.dumps(request)])
    return Rise(*json.loads(out.splitlines()[-1]))


def memory_pair(
    name: str, baseline: tuple[Any, ...], ours: tuple[Any, ...], repeats: int = REPEATS
) -> tuple[Pair, list[Rise], list[Rise]]:
    """Both in children of their own, in turn; each argument is (prepare, *args) of `rise`.

    A baseline that gives up counts with the memory it had by then; the note says that this is a lower bound, and it is
    not run again.
    """
    a: list[Rise] = []
    b: list[Rise] = []
    for _ in range(repeats):
        a.append(a[-1] if a and a[-1].gave_up else rise(*baseline))
        b.append(rise(*ours))
    note = "straightforward gave up at 70 % of the free memory and was not run again: at least" if a[-1].gave_up else ""
    before, after = ([max(run.bytes, 4096) / 2**20 for run in side] for side in (a, b))
    return Pair(name, "MiB", before, after, note=note), a, b


def anonymous(family: bool = False) -> int:
    """Anonymous memory of this process, and of its children's processes where `family`, bytes (Linux)."""
    if not family:
        return _anonymous_of("self")
    parents: dict[str, str] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
            parents[name] = file.read().rpartition(")")[2].split()[1]
    ours, before = {str(os.getpid())}, 0
    while len(ours) != before:
        before = len(ours)
        ours |= {name for name, parent in parents.items() if parent in ours}
    return sum(_anonymous_of(name) for name in ours)


def _anonymous_of(process: str) -> int:
    try:
        with open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("RssAnon")), 0) * 1024
    except OSError:  # ended meanwhile
        return 0


def _child(module: str, name: str, args: list[Any], family: bool) -> None:
    """The child process of `rise`; above the limit it prints what there is and ends."""
    work = getattr(importlib.import_module(module), name)(*args)
    before, limit, done = anonymous(family), GIVE_UP * available_bytes(), threading.Event()
    peak, began = before, time.perf_counter()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.05 if family else 0.002):
            peak = max(peak, anonymous(family))
            if peak - before > limit:
                print(json.dumps([peak - before, time.perf_counter() - began, None, True]), flush=True)
                os._exit(0)

    watcher = threading.Thread(target=look, daemon=True)  # it does not outlive an error
    watcher.start()
    called = time.perf_counter()
    returned = work()
    took = time.perf_counter() - called
    done.set()
    watcher.join()
    print(json.dumps([max(peak, anonymous(family)) - before, took, returned, False]))


def number(value: float | None, digits: int = 4) -> str:
    """So many digits without an exponent, or a dash."""
    if value is None:
        return "-"
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= 1000:
        return f"{rounded:,.0f}"
    return np.format_float_positional(rounded, trim="-")


if __name__ == "__main__":
    _child(*json.loads(sys.argv[1]))
