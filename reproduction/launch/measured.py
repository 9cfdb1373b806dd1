"""GPU hours of a plan's commands as `make gpu-check` projected them from speeds measured on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction.launch.jobs import Command
from reproduction.runtime.run_folder import RUNS_ROOT, UserError, read_json, write_json

HOURS_FILE = RUNS_ROOT / "gpu-check" / "hours.json"
PRECISIONS = {"bf16": "bf16", "auto": "auto", "bf16-mixed": "bf16", "tf32": "tf32", "32-true": "float32"}
# flags that do not change how long a command takes
WITH_VALUE = ("--device", "--data-dir", "--row", "--name", "--runs-dir", "--seed", "--neglected")
ALONE = ("--overwrite", "--accept-unverified")


@dataclass(frozen=True)
class Measured:
    """Hours that were measured here.

    Attributes:
      gpu: name of the GPU, as the driver gives it.
      date: of the measurement.
      hours: key of a command -> precision -> hours; `auto` is what `--amp auto` chooses on this GPU.
    """

    gpu: str
    date: str
    hours: Mapping[str, Mapping[str, float]]


def key_of(command: Command) -> tuple[str, str]:
    """What a command computes, the same for every seed and folder, and the precision it computes in."""
    words = [part for word in command.flags for part in (word.split("=", 1) if word.startswith("--") else [word])]
    parts, precision = [], "float32"
    iterator = iter(words)
    for word in iterator:
        name = word.replace("_", "-")
        if name in WITH_VALUE:
            next(iterator, None)
        elif name in ("--amp", "--precision"):
            precision = PRECISIONS.get(next(iterator, ""), "float32")
        elif name not in ALONE:
            parts.append("*" if re.search(r"[/\\]seed\d+", word) else word)
    return " ".join((command.script, *parts)), precision


def hours_of(command: Command, measured: Measured | None) -> float | None:
    """Measured hours of a command, or None if nothing like it was measured."""
    key, precision = key_of(command)
    return None if measured is None else measured.hours.get(key, {}).get(precision)


def read(gpu: str | None = None, path: Path | None = None) -> Measured | None:
    """Reads the hours of this machine.

    Args:
      gpu: name of this machine's GPU; hours of another one do not count. None accepts any.
      path: the file; None: HOURS_FILE.
    Returns:
      None if there are no hours, or the file is damaged.
    """
    try:
        stored: dict[str, Any] = read_json(path or HOURS_FILE, "gpu", "date", "hours")
        hours = {key: {p: float(value) for p, value in row.items()} for key, row in stored["hours"].items()}
    except (UserError, AttributeError, TypeError, ValueError):
        return None
    return Measured(str(stored["gpu"]), str(stored["date"]), hours) if gpu in (None, stored["gpu"]) else None


def write(path: Path, gpu: str, date: str, hours: Mapping[str, Mapping[str, float]]) -> None:
    """Writes the hours of this machine; those of an earlier measurement go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"gpu": gpu, "date": date, "hours": hours})


def hours_text(hours: float) -> str:
    """Two digits, or whole hours from ten on."""
    return f"{hours:,.0f}" if hours >= 9.95 else f"{hours:.2g}"


def planned_hours(commands: Sequence[Command], measured: Measured | None) -> tuple[list[float], int]:
    """Returns the hours of each command, and how many are measured; the others are the estimates of the plan."""
    known = [hours_of(command, measured) for command in commands]
    planned = [command.gpu_hours if hours is None else hours for command, hours in zip(commands, known, strict=True)]
    return planned, sum(hours is not None for hours in known)
