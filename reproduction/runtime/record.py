"""The record of one run: one pydantic model, one JSON file, everything a reader needs to trust or repeat a number.

No host or user name goes in, and no absolute path: paths are shown relative to the repository, else as `<path>`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import math
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pydantic

from reproduction.runtime.cores import cores
from reproduction.runtime.outcomes import Outcomes
from reproduction.runtime.run_folder import REPO_ROOT, UserError, shown

MAX_BYTES = 16 * 2**20  # of a record file, which takes a few kilobytes


class Metric(pydantic.BaseModel, extra="forbid"):
    """One number, always with how its epoch was chosen; None if that choice does not exist for the run."""

    last: float | None = None
    best_on_val: float | None = None
    best_on_test: float | None = None


class Artefact(pydantic.BaseModel, extra="forbid"):
    """A file of the run folder for further use: plots, trees, class strings."""

    kind: Literal["image", "text", "json", "csv", "npz", "html"]
    path: str
    title: str


class Machine(pydantic.BaseModel, extra="forbid"):
    """The machine of a run: models only, no host name."""

    cpu: str
    cores: int
    gpu: str | None = None
    system: str


class Record(pydantic.BaseModel, extra="forbid"):
    """One finished stage of one run. Accuracies are fractions in [0, 1], times seconds, memory bytes.

    Attributes:
      outcomes: of accuracies, under the name of the metric; they belong to its `last`.
      seconds: time of all training steps, over all starts of the run, without tests, checkpoints and plots; the time of
        the whole work if the stage trains nothing.
      images_per_s: images of these steps (in each epoch anew) by these seconds; None if there are none.
    """

    schema_version: Literal[1] = 1
    paper: str
    row: str
    stage: str
    seed: int
    profile: Literal["paper", "matched", "cpu", "smoke", "custom"]
    argv: list[str]
    config: dict[str, Any]
    metrics: dict[str, Metric]
    outcomes: dict[str, Outcomes] = {}
    details: dict[str, Any] = {}
    curve: str | None = None
    artefacts: list[Artefact] = []
    seconds: float
    images_per_s: float | None = None
    peak_memory_bytes: int
    precision: str
    deterministic: bool
    data: dict[str, str]
    data_verified: bool
    deviations: list[str]
    versions: dict[str, str]
    machine: Machine
    commit: str
    dirty: bool
    lock_hash: str
    date: str


def profile_of(row: str) -> str:
    """Returns the profile in a row's name, `<dataset>-<profile>[-variant]`; `custom` for any other name."""
    match = re.fullmatch(r"[\w.+:]+(?:-[\w.+:]+)*?-(paper|matched|cpu|smoke)(?:-.+)?", row)
    return match.group(1) if match else "custom"


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(REPO_ROOT), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def commit_and_dirty() -> tuple[str, bool]:
    """The commit of this checkout and whether tracked or new files differ from it; ("unknown", True) without git."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    if commit is None or changes is None or not (REPO_ROOT / ".git").exists():
        return "unknown", True
    return commit, bool(changes)


def machine(gpu: str | None = None) -> Machine:
    """Describes this machine; `gpu` is the model name that the framework reports."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    return Machine(cpu=cpu, cores=cores(), gpu=gpu, system=f"{platform.system()} {platform.machine()}")


def current_date() -> str:
    """Returns date and time to the minute, as in records and on the page."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def versions_of(*packages: str) -> dict[str, str]:
    """Installed versions of Python and of the named distributions; absent ones are left out."""
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def still_rising(accuracies: Sequence[float]) -> bool | None:
    """Whether a learning curve had not levelled off when its run ended.

    Args:
      accuracies: of the test set at each test, in order.
    Returns:
      True if the last tenth of the tests, or the last five if that is more, has a mean above that of as many before by
      more than two standard errors of the difference; None if there are fewer than 10 tests.
    """
    tenth = max(len(accuracies) // 10, 5)
    if len(accuracies) < 2 * tenth:
        return None
    before, after = accuracies[-2 * tenth : -tenth], accuracies[-tenth:]
    error = math.sqrt((statistics.variance(before) + statistics.variance(after)) / tenth)
    return statistics.fmean(after) - statistics.fmean(before) > 2 * error


def _without_paths(value: Any) -> Any:
    """Paths that are absolute, or lead out of the working directory, become relative to the repository or `<path>`."""
    if isinstance(value, Mapping):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    value = value.encode("utf-8", "backslashreplace").decode()  # a path need not be UTF-8, but JSON must be
    head, separator, tail = value.rpartition("=") if value.startswith("--") else ("", "", value)
    if tail.startswith("folder:"):
        tail = f"folder:{Path(tail.removeprefix('folder:')).name}"
    elif os.path.isabs(tail) or tail.partition("/")[0] == "..":
        path = Path(os.path.abspath(tail))
        tail = str(path.relative_to(REPO_ROOT)) if path.is_relative_to(REPO_ROOT) else "<path>"
    return f"{head}{separator}{tail}"


def make_record(
    *,
    paper: str,
    row: str | None,
    stage: str,
    seed: int,
    argv: Sequence[str],
    config: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float | None]],
    seconds: float,
    data: Mapping[str, str],
    data_verified: bool,
    deviations: Sequence[str],
    versions: Mapping[str, str],
    deterministic: bool,
    precision: str = "float32",
    images_per_s: float | None = None,
    curve: str | None = "metrics.jsonl",
    artefacts: Sequence[Mapping[str, str]] = (),
    details: Mapping[str, Any] | None = None,
    outcomes: Mapping[str, Outcomes] | None = None,
    gpu: str | None = None,
) -> Record:
    """Builds the record of a finished stage; adds machine, commit, date and memory.

    Args:
      paper: id of the paper, such as "class2str".
      row: the --row flag; None files the run under `<dataset>-custom`.
      stage: name of the stage.
      seed: the --seed flag.
      argv: arguments of the command line.
      config: resolved flags, JSON values.
      metrics: name -> {"last": .., "best_on_val": .., "best_on_test": ..}, missing ones None; accuracies in [0, 1].
      seconds: as in `Record`.
      data: name of a data file -> its digest.
      data_verified: whether every data file has the published digest.
      deviations: ids of the deviations that were active, as in docs/deviations/<paper>.md.
      versions: as `versions_of` returns.
      deterministic: whether the same command gives the same bits on this machine.
      precision: what the networks computed in, such as "float32".
      images_per_s: as in `Record`.
      curve: file of the learning curve in the run folder; None if there is none.
      artefacts: kind, path and title of each file for further use; see `Artefact`.
      details: further JSON values by name.
      outcomes: name of an accuracy -> which test images the last epoch's network got right (`outcomes_of`).
      gpu: model of the GPU; None on the CPU.
    Returns:
      A validated record.
    Raises:
      pydantic.ValidationError: a value has another type.
    """
    if row is None:
        dataset = str(config.get("dataset", "")).partition(":")[0]
        row = f"{dataset}-custom" if dataset else "custom"
    commit, dirty = commit_and_dirty()
    lock = REPO_ROOT / "requirements.lock"
    return Record(
        paper=paper,
        row=row,
        stage=stage,
        seed=seed,
        profile=profile_of(row),  # type: ignore[arg-type]
        argv=_without_paths(list(argv)),
        config=_without_paths(dict(config)),
        metrics={name: Metric(**values) for name, values in metrics.items()},
        outcomes=dict(outcomes or {}),
        details=_without_paths(dict(details or {})),
        curve=curve,
        artefacts=[Artefact(**item) for item in artefacts],  # type: ignore[arg-type]
        seconds=round(seconds, 3),
        images_per_s=images_per_s,
        peak_memory_bytes=peak_memory_bytes(),
        precision=precision,
        deterministic=deterministic,
        data=dict(data),
        data_verified=data_verified,
        deviations=sorted(deviations),
        versions=dict(versions),
        machine=machine(gpu),
        commit=commit,
        dirty=dirty,
        lock_hash=hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.exists() else "none",
        date=current_date(),
    )


def first_fault(error: pydantic.ValidationError) -> str:
    """The first thing that pydantic finds wrong, as `place: message`."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"


def load_record(path: Path) -> Record:
    """Reads and validates a record.

    Raises:
      UserError: one line that names the file and the first thing wrong with it.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{shown(path)}: {size:,} bytes, too large for a record")
        return Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{shown(path)}: {error.strerror or error}") from None
    except pydantic.ValidationError as error:
        raise UserError(f"{shown(path)}: not a record of this repository: {first_fault(error)}") from None
