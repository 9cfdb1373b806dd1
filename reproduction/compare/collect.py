"""Finds records, joins the stages of each run, and decides which of them may be judged.

Records are in run folders (`runs/<paper>/**/record.json`) and, if committed, in `results/<paper>/<row>/seed<k>.json`.
Where a row has local runs these are shown, else the committed ones; a row never mixes the two.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduction.runtime.outcomes import Outcomes
from reproduction.runtime.record import Metric, Record, load_record
from reproduction.runtime.run_folder import PLACES, REPO_ROOT, RUNS_ROOT, UserError, shown

RESULTS = REPO_ROOT / "reproduction" / "results"
OFF = "none"  # of a flag in a record; so are null, false, 0 and an absent one
MAX_RECORD_BYTES = 16 * 2**20  # a record is a few kilobytes; anything near this is not one


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
    profile: str
    source: str
    entries: list[Entry] = field(default_factory=list)

    def number(self, metric: str, selection: str) -> float | None:
        """Returns a metric of the run, the latest stage first; None if it is absent or not finite.

        `name[k]` is entry k of a list in the records' details; `name[class=1,4].clusters` is the sum of `clusters` over
        the entries of such a list whose `class` is 1 or 4, and absent unless all of them are there. `a - b` is a
        difference of two metrics, such as a train-test gap.
        """
        if " - " in metric:
            left, right = (self.number(part, selection) for part in metric.split(" - "))
            return None if left is None or right is None else left - right
        if place := re.fullmatch(r"(\w+)\[(\w+)=([\d,]+)\]\.(\w+)", metric):
            listed, wanted = self.detail(place[1]), place[3].split(",")
            entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
            by_key = {str(entry.get(place[2])): entry.get(place[4]) for entry in entries}
            known = [float(v) for key in wanted if isinstance(v := by_key.get(key), (int, float)) and math.isfinite(v)]
            return sum(known) if len(known) == len(wanted) else None
        if place := re.fullmatch(r"(\w+)\[(\d+)\]", metric):
            listed = self.detail(place[1])
            value = listed[int(place[2])] if isinstance(listed, list) and int(place[2]) < len(listed) else None
            return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
        for entry in reversed(self.entries):
            found: Metric | None = entry.record.metrics.get(metric)
            value = None if found is None else getattr(found, selection)
            if value is not None:
                return float(value) if math.isfinite(value) else None
        return None

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

    def detail(self, name: str) -> Any:
        """An entry of the records' details, the latest stage first."""
        for entry in reversed(self.entries):
            if name in entry.record.details:
                return entry.record.details[name]
        return None

    def agrees(self, pair: tuple[str, str] | None) -> bool:
        """Whether two of the run's metrics are the same number; True for no pair, or where one is absent."""
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
        found = []
        for entry in self.entries:
            record = entry.record
            if record.commit == "unknown":
                found.append("unknown commit")
            elif record.dirty:
                found.append("uncommitted changes")
            if not record.data_verified:
                found.append("unverified data")
        if self.profile not in ("paper", "matched", "cpu"):
            found.append(f"{self.profile} profile")
        return list(dict.fromkeys(found))

    @property
    def last(self) -> Entry:
        """The newest record of this seed."""
        return self.entries[-1]

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


@dataclass
class RowRuns:
    """The runs of one row, by seed; `caveat` says why they are not judged ("" if they are)."""

    paper: str
    row: str
    profile: str
    source: str
    runs: list[SeedRun]
    caveat: str = ""
    left_out: list[str] = field(default_factory=list)


@dataclass
class Collection:
    """Everything found: rows by (paper, row), and one line for each file that cannot be used."""

    rows: dict[tuple[str, str], RowRuns]
    problems: list[str]

    def of(self, paper: str) -> list[RowRuns]:
        """The rows of one paper, in the order of their names."""
        return [row for (name, _), row in self.rows.items() if name == paper]


def _files(folder: Path, names: str) -> list[Path]:
    found = []
    for base, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(base) / name for name in sorted(files) if (name == names if names != "*" else name.endswith(".json"))
        ]
    return found


def _read(path: Path, source: str) -> Entry:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{shown(path)}: {error.strerror or error}") from None
    if size > MAX_RECORD_BYTES:
        raise UserError(f"{shown(path)}: {size:,} bytes, too large for a record")
    try:
        record = load_record(path)
    except UserError as error:
        raise UserError(" ".join(str(error).replace(str(path), shown(path)).split())) from None
    except RecursionError:
        raise UserError(f"{shown(path)}: not a record of this repository: nested too deeply") from None
    return Entry(path, record, source)


def _misfiled(entry: Entry, results: Path) -> str:
    """Why a committed record does not stand where its content says; "" if it does."""
    record = entry.record
    expected = results / record.paper / record.row / f"seed{record.seed}.json"
    stem = entry.path.stem
    if entry.path.parent == expected.parent and (stem == expected.stem or stem.startswith(expected.stem + "-")):
        return ""
    return f"{shown(entry.path)}: its content belongs to {shown(expected)}"


def read_all(files: Iterable[tuple[Path, str]], results: Path = RESULTS) -> tuple[list[Entry], list[str]]:
    """Reads record files.

    Args:
      files: (path, source) pairs.
    Returns:
      (entries, problems): one line for each file that is not a record or is in the wrong place.
    """
    entries, problems = [], []
    for path, source in files:
        try:
            entry = _read(path, source)
        except UserError as error:
            problems.append(str(error))
            continue
        wrong = _misfiled(entry, results) if source == "results" else ""
        if wrong:
            problems.append(wrong)
        else:
            entries.append(entry)
    return entries, problems


def join(entries: Sequence[Entry]) -> tuple[dict[tuple[str, str], RowRuns], list[str]]:
    """Joins the stages of each (paper, row, seed) and groups the seeds of each row.

    Two records of one seed and stage count once: the newer, with a line about the other. Where clean and doubtful
    runs meet in a row only the clean ones are kept; a row of doubtful runs alone is kept and never judged.
    """
    problems: list[str] = []
    local = {(entry.record.paper, entry.record.row) for entry in entries if entry.source == "runs"}
    runs: dict[tuple[str, str, int], SeedRun] = {}
    seen: dict[tuple[str, str, int, str], Entry] = {}
    for entry in sorted(entries, key=lambda item: (item.record.date, len(item.path.parts), str(item.path))):
        record = entry.record
        if entry.source == "results" and (record.paper, record.row) in local:
            continue
        key = (record.paper, record.row, record.seed)
        run = runs.setdefault(key, SeedRun(*key, profile=record.profile, source=entry.source))
        older = seen.get((*key, record.stage))
        if older is not None:
            run.entries.remove(older)
            problems.append(
                f"{shown(older.path)}: left out, {shown(entry.path)} is the newer run of this row, seed and stage"
            )
        seen[(*key, record.stage)] = entry
        run.entries.append(entry)
        run.profile = record.profile
    rows: dict[tuple[str, str], RowRuns] = {}
    for (paper, row, _), run in sorted(runs.items()):
        rows.setdefault((paper, row), RowRuns(paper, row, run.profile, run.source, [])).runs.append(run)
    for group in rows.values():
        _decide(group)
    return rows, problems


def _decide(group: RowRuns) -> None:
    """Keeps the runs of a row that belong together and says whether they may be judged."""
    clean = [run for run in group.runs if not run.caveats]
    if clean and len(clean) < len(group.runs):
        for run in group.runs:
            if run.caveats:
                group.left_out.append(f"{shown(run.last.path)}: left out of its row ({', '.join(run.caveats)})")
        group.runs = clean
    elif not clean:
        group.caveat = ", ".join(dict.fromkeys(reason for run in group.runs for reason in run.caveats))
    group.profile = group.runs[0].profile
    group.caveat = ", ".join(part for part in (group.caveat, different_flags(group.runs)) if part)


def different_flags(runs: Sequence[SeedRun]) -> str:
    """Says which flags differ between seeds in a stage that they share; "" if the seeds are one experiment.

    A flag that one of them does not know yet is off there.
    """
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for stage, flags in run.flags_by_stage().items():
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
    found: list[Path] = []
    for path in paths:
        try:
            words = [path] if path.exists() else [Path(word) for word in shlex.split(str(path))]
        except ValueError:
            words = [path]
        found += words if all(word.exists() for word in words) else [path]
    return found


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
        found = _files(path, "record.json") or _files(path, "*") if path.is_dir() else [path]
        if not path.exists():
            raise UserError(f"--runs {path}: no such file or folder")
        if not found:
            raise UserError(f"--runs {path}: no record.json in this folder or below it")
        files += [(file, "runs") for file in found]
    if not paths:
        if not committed_only:
            files += [(file, "runs") for file in _files(runs, "record.json")]
        files += [(file, "results") for file in _files(results, "*")]
    unique = list(dict.fromkeys((path.resolve(), source) for path, source in files))
    entries, problems = read_all(unique, results.resolve())
    rows, more = join(entries)
    left_out = [line for group in rows.values() for line in group.left_out]
    return Collection(rows, problems + more + left_out)
