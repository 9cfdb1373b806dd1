"""Where a stage stands: its counters, its full-state checkpoints and its log files."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import write_bytes
from reproduction.runtime.torch_runtime import World
from subclass_torch.method import neglect


@dataclass
class Progress:
    """Everything a resumed stage needs besides its flags; all random draws are functions of epoch and step.

    Attributes:
      epoch, step: next epoch and next step in it. seconds: spent in this epoch so far. history: one dict per epoch.
      degrees: t_i(e), [E][C]. skipped: non-finite degrees left out. best_epoch, best_accuracy: by test accuracy.
      sums: float64 [3] on the device: loss, correct outputs, correct classes of this epoch (this process's share).
      totals: neglection totals of this epoch, the same on every process. first_bad: see `check_finite`.
    """

    sums: Tensor
    totals: dict[str, Tensor]
    first_bad: Tensor
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    degrees: list[list[float]] = field(default_factory=list)
    skipped: int = 0
    best_epoch: int = -1
    best_accuracy: float = -1.0


_PLAIN = ("epoch", "step", "seconds", "history", "degrees", "skipped", "best_epoch", "best_accuracy")


def new(classes: int, device: torch.device) -> Progress:
    """A stage at its start."""
    return Progress(
        sums=torch.zeros(3, dtype=torch.float64, device=device),
        totals=neglect.new_totals(classes, device),
        first_bad=torch.full((), -1, dtype=torch.int64, device=device),
    )


def clear_epoch(progress: Progress) -> None:
    """Zeroes what counts one epoch."""
    progress.sums.zero_()
    for total in progress.totals.values():
        total.zero_()
    progress.step, progress.seconds = 0, 0.0


def save(
    progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, world: World, folder: Path, at: int
) -> None:
    """Writes the full state at global step `at`; called by every process, written by the first."""
    whole = progress.sums.clone()
    runtime.reduce_sum(world, whole)
    if world.rank == 0:
        state = {name: getattr(progress, name) for name in _PLAIN}
        state |= {"sums": whole, "totals": progress.totals}
        state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        runtime.save_state(folder / "checkpoints", at, state)


def resume(progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, world: World, folder: Path) -> bool:
    """Loads the newest readable full state into all of these.

    Returns:
      False where there is none.
    """
    state = runtime.load_state(folder / "checkpoints", world.device, (*_PLAIN, "sums", "totals", "model", "optimizer"))
    if state is None:
        return False
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for name in _PLAIN:
        setattr(progress, name, state[name])
    progress.totals = state["totals"]
    if world.rank == 0:  # the sums are of all processes together
        progress.sums = state["sums"]
    return True


def write_csv(path: Path, history: list[dict[str, Any]]) -> None:
    """The authors' log file, rewritten each epoch: their four columns first, then ours; epochs count from 0."""
    columns = ["epoch", "lr", "trn_acc", "tst_acc", "trn_class_acc", "loss", "seconds"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()  # DEVIATION SDN-D24: csv writer, not DataFrame.append
    writer.writerows({**row, "epoch": row["epoch"] - 1} for row in history)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.getvalue().encode())
