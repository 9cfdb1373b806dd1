"""Finds records, joins the stages of each run, and decides which of them may be judged.

Records are in run folders (`runs/<paper>/**/record.json`) and, if committed, in `results/<paper>/<row>/seed<k>.json`.
Where a row has local runs these are shown, else the committed ones; a row never mixes the two.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduction.runtime.outcomes import Outcomes
from reproduction.runtime.record import Record, load_record
from reproduction.runtime.run_folder import PLACES, REPO_ROOT, RUNS_ROOT, UserError, shown

RESULTS = REPO_ROOT / "reproduction" / "results"
PROFILES = ("paper", "matched", "cpu")  # whose runs may be judged, the nearest to the paper first
OFF = "none"  # of a flag in a record; so are null, false, 0 and an absent one
STARTS = "retry_collisions"  # Class2Str's limit on new starts while classes share a string


@dataclass(frozen=True)
class Entry:
    """One record file."""

    path: Path
    record: Record
    source: str  # "runs" or "results"


@dataclass
class SeedRun:
    """All stages of one (paper, row, seed), oldest first."""

    paper: str
    row: str
    seed: int
    entries: list[Entry] = field(default_factory=list)

    @property
    def last(self) -> Entry:
        """The newest record of this seed."""
        return self.entries[-1]

    @property
    def profile(self) -> str:
        """The profile of the newest record."""
        return self.last.record.profile

    def number(self, metric: str, selection: str) -> float | None:
        """Returns a metric of the run, the latest stage first; None if it is absent or not finite.

        `name[k]` is entry k of a list in the records' details; `name[class=1,4].clusters` is the sum of `clusters` over
        the entries of such a list whose `class` is 1 or 4, and absent unless all of them are there. `a.b` is entry b of
        the dictionary a in the details. `a - b` is a difference of two metrics, such as a train-test gap.
        """
        if " - " in metric:
            left, right = (self.number(part, selection) for part in metric.split(" - "))
            return None if left is None or right is None else left - right
        if place := re.fullmatch(r"(\w+)\[(\w+)=([\d,]+)\]\.(\w+)", metric):
            name, key, wanted, counted = place.groups()
            by_key = {str(entry.get(key)): entry.get(counted) for entry in self.listed(name) if isinstance(entry, dict)}
            numbers = [_finite(by_key.get(value)) for value in wanted.split(",")]
            known = [number for number in numbers if number is not None]
            return sum(known) if len(known) == len(numbers) else None
        if place := re.fullmatch(r"(\w+)\[(\d+)\]", metric):
            listed, at = self.listed(place[1]), int(place[2])
            return _finite(listed[at]) if at < len(listed) else None
        if "." in metric:
            return _finite(self.detail(*metric.split(".")))
        records = [entry.record for entry in reversed(self.entries) if metric in entry.record.metrics]
        values = (getattr(record.metrics[metric], selection) for record in records)
        return next((_finite(value) for value in values if value is not None), None)

    def outcomes(self, metric: str) -> Outcomes | None:
        """Returns which test images count as correct for an accuracy, the latest stage first; None if not recorded."""
        return next((e.record.outcomes[metric] for e in reversed(self.entries) if metric in e.record.outcomes), None)

    def numerics(self, metric: str) -> str:
        """Returns the precision, and the GPU if any, of the stage that has the metric; "" if none has.

        Of a difference `a - b` it is the stage that has `a`.
        """
        name = metric.partition(" - ")[0]
        record = next((e.record for e in reversed(self.entries) if name in e.record.metrics), None)
        if record is None:
            return ""
        return record.precision + (f" on {record.machine.gpu}" if record.machine.gpu else "")

    def precisions(self) -> frozenset[str]:
        """Returns what its stages computed in."""
        return frozenset(entry.record.precision for entry in self.entries)

    def detail(self, name: str, *path: str) -> Any:
        """An entry of the records' details, the latest stage first, or what lies below it; None if it is absent."""
        values = (entry.record.details[name] for entry in reversed(self.entries) if name in entry.record.details)
        value = next(values, None)
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def listed(self, *path: str) -> list[Any]:
        """A list among the details; [] if there is none at that place."""
        value = self.detail(*path)
        return value if isinstance(value, list) else []

    def agrees(self, pair: tuple[str, str] | None) -> bool:
        """Whether two of the run's metrics are the same number; True for no pair, or if one is absent."""
        if pair is None:
            return True
        a, b = (self.number(metric, "last") for metric in pair)
        return a is None or b is None or a == b

    @property
    def still_rising(self) -> bool | None:
        """Returns whether the learning curve of any stage was still rising at its end; None if not recorded."""
        flags = [entry.record.details.get("still_rising") for entry in self.entries]
        known = [flag for flag in flags if isinstance(flag, bool)]
        return any(known) if known else None

    @property
    def caveats(self) -> list[str]:
        """Returns the reasons why this run must not be judged; empty if it may be."""
        reasons = []
        for record in (entry.record for entry in self.entries):
            if record.commit == "unknown":
                reasons.append("unknown commit")
            elif record.dirty:
                reasons.append("uncommitted changes")
            if not record.data_verified:
                reasons.append("unverified data")
        if self.profile not in PROFILES:
            reasons.append(f"{self.profile} profile")
        return list(dict.fromkeys(reasons))

    def flags_by_stage(self) -> dict[str, dict[str, Any]]:
        """The flags that decide what each stage computes; equal for two seeds of one experiment."""
        flags = {}
        for entry in self.entries:
            # `stage1` is the digest of the seed's own stage-1 checkpoint: an input, not a flag
            ignored = {"seed", "stage1", *PLACES}
            config = {key: value for key, value in entry.record.config.items() if key not in ignored}
            text = re.sub(rf"seed{self.seed}(?!\d)", "seed*", json.dumps(config, sort_keys=True))
            flags[entry.record.stage] = json.loads(text)
        return flags


def _finite(value: Any) -> float | None:
    """A finite number as it is, None for anything else."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


@dataclass(frozen=True)
class RowRuns:
    """The runs of one row, by seed, at least one; `caveat` says why they are not judged ("" if they are)."""

    paper: str
    row: str
    runs: list[SeedRun]
    caveat: str

    @property
    def profile(self) -> str:
        """The profile of the first seed."""
        return self.runs[0].profile

    @property
    def source(self) -> str:
        """Where the records are: "runs" or "results"."""
        return self.runs[0].last.source


def row_of(base: str, variant: str) -> str:
    """Returns the name of a variant's row; "" is the base row itself."""
    return f"{base}-{variant}" if variant else base


@dataclass
class Collection:
    """Everything found: rows by (paper, row), and one line for each file that cannot be used."""

    rows: dict[tuple[str, str], RowRuns]
    problems: list[str]

    def of(self, paper: str) -> list[RowRuns]:
        """The rows of one paper, in the order of their names."""
        return [row for (name, _), row in self.rows.items() if name == paper]

    def runs(self, paper: str, base: str, variant: str = "") -> list[SeedRun]:
        """The runs of a row, or of a variant of it, by seed; [] if there are none."""
        group = self.rows.get((paper, row_of(base, variant)))
        return group.runs if group is not None else []


def _files(folder: Path, pattern: str) -> list[Path]:
    paths = []
    for base, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(base) / name for name in sorted(fnmatch.filter(files, pattern))]
    return paths


def _read(path: Path, source: str, results: Path) -> Entry:
    """Reads one record file.

    Raises:
      UserError: it is no record, or a committed one in a folder that its content does not name.
    """
    record = load_record(path)
    if source == "results":
        expected = results / record.paper / record.row / f"seed{record.seed}.json"
        if path.parent != expected.parent or not f"{path.stem}-".startswith(f"{expected.stem}-"):
            raise UserError(f"{shown(path)}: its content belongs to {shown(expected)}")
    return Entry(path, record, source)


def join(entries: Sequence[Entry]) -> tuple[dict[tuple[str, str], RowRuns], list[str]]:
    """Joins the stages of each (paper, row, seed) and groups the seeds of each row.

    Two records of one seed and stage count once: the newer, with a line about the other. Where clean and doubtful
    runs meet in a row only the clean ones are kept; a row of doubtful runs alone is kept and never judged.

    Args:
      entries: the records.
    Returns:
      (rows by (paper, row), problems): one line for each record that is left out.
    """
    problems: list[str] = []
    local = {(entry.record.paper, entry.record.row) for entry in entries if entry.source == "runs"}
    stages: dict[tuple[str, str, int], dict[str, Entry]] = {}
    for entry in sorted(entries, key=lambda item: (item.record.date, len(item.path.parts), str(item.path))):
        record = entry.record
        if entry.source == "results" and (record.paper, record.row) in local:
            continue
        by_stage = stages.setdefault((record.paper, record.row, record.seed), {})
        older = by_stage.pop(record.stage, None)
        if older is not None:
            problems.append(
                f"{shown(older.path)}: left out, {shown(entry.path)} is the newer run of this row, seed and stage"
            )
        by_stage[record.stage] = entry
    seeds: dict[tuple[str, str], list[SeedRun]] = {}
    for (paper, row, seed), by_stage in sorted(stages.items()):
        seeds.setdefault((paper, row), []).append(SeedRun(paper, row, seed, list(by_stage.values())))
    rows: dict[tuple[str, str], RowRuns] = {}
    for (paper, row), runs in seeds.items():
        doubtful, clean = [run for run in runs if run.caveats], [run for run in runs if not run.caveats]
        if clean:
            reasons = []
            problems += [f"{shown(r.last.path)}: left out of its row ({', '.join(r.caveats)})" for r in doubtful]
        else:
            reasons = list(dict.fromkeys(reason for run in doubtful for reason in run.caveats))
        chosen = clean or doubtful
        caveat = ", ".join(filter(None, [*reasons, different_flags(chosen)]))
        rows[paper, row] = RowRuns(paper, row, chosen, caveat)
    return rows, problems


def different_flags(runs: Sequence[SeedRun]) -> str:
    """Says which flags differ between seeds in a stage that they share; "" if the seeds are one experiment.

    A flag that one of them does not know yet is off there.
    """
    by_stage: dict[str, list[dict[str, Any]]] = {}
    limits = [flags.get(STARTS) or 0 for run in runs for flags in run.flags_by_stage().values()]
    for run in runs:
        starts, strings = run.listed("distinct_of_each_attempt"), run.listed("strings")
        for stage, flags in run.flags_by_stage().items():
            if STARTS in flags and starts and starts[-1] == len(strings):  # a higher limit would have changed nothing
                flags[STARTS] = max(limits)
            by_stage.setdefault(stage, []).append(flags)
    names = {
        name
        for first, *others in by_stage.values()
        for flags in others
        for name in first.keys() | flags.keys()
        if (first.get(name) or OFF) != (flags.get(name) or OFF)
    }
    return f"seeds ran with different flags: {' and '.join(sorted(names)[:3])}" if names else ""


def _split(paths: Sequence[Path]) -> list[Path]:
    """`make compare RUNS="a b"` arrives as one word; it means two folders unless one of that name exists."""
    split: list[Path] = []
    for path in paths:
        try:
            words = [path] if path.exists() else [Path(word) for word in shlex.split(str(path))]
        except ValueError:
            words = [path]
        split += words if all(word.exists() for word in words) else [path]
    return split


def collect(
    paths: Sequence[Path] = (), runs: Path = RUNS_ROOT, results: Path = RESULTS, committed_only: bool = False
) -> Collection:
    """Finds and joins all records.

    Args:
      paths: record files or folders to read instead of `runs` and `results`, for runs of another machine.
      runs: folder of local runs.
      results: folder of committed records.
      committed_only: read `results` only, as for the README.
    Raises:
      UserError: a given path does not exist or holds no record.
    """
    files: list[tuple[Path, str]] = []
    for path in _split(paths):
        if not path.exists():
            raise UserError(f"--runs {path}: no such file or folder")
        records = (_files(path, "record.json") or _files(path, "*.json")) if path.is_dir() else [path]
        if not records:
            raise UserError(f"--runs {path}: no record.json in this folder or below it")
        files += [(file, "runs") for file in records]
    if not paths:
        if not committed_only:
            files += [(file, "runs") for file in _files(runs, "record.json")]
        files += [(file, "results") for file in _files(results, "*.json")]
    entries, problems = [], []
    for path, source in dict.fromkeys((path.resolve(), source) for path, source in files):
        try:
            entries.append(_read(path, source, results.resolve()))
        except UserError as error:
            problems.append(str(error))
    rows, left_out = join(entries)
    return Collection(rows, problems + left_out)
