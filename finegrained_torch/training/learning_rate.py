"""The learning rate of a training: the range test's curve, and the rule of Lightning 1.5.10 applied to it."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from finegrained_torch.data.images import Batches, loader
from finegrained_torch.flags import Config
from finegrained_torch.training.modules import LightningModule, Trainer, make_trainer
from finegrained_torch.training.setting import Task
from reproduction.runtime.run_folder import read_json, write_json

FALLBACK = 0.01
STEPS, LOWEST, HIGHEST, STOP_AT = 100, 1e-8, 1.0, 4.0  # Lightning's defaults, then and now
SKIP_BEGIN, SKIP_END = 10, 1  # points at either end of the curve that are left out


def steepest_by_index(losses: Sequence[float]) -> int | None:
    """Position of the steepest descent of a loss curve per step, ends left out.

    The gradient is over the position in the list of finite points that remain, as Lightning 1.5.10 chose. Lightning 2.6
    divides by the learning-rate spacing.

    Args:
      losses: smoothed loss at each step.
    Returns:
      Position in `losses`, the first of equal minima; None if fewer than two finite points remain.
    Source: Lightning 1.5.10, tuner/lr_finder.py. Deviation: FGL-D06.
    """
    finite = [at for at in range(SKIP_BEGIN, len(losses) - SKIP_END) if math.isfinite(losses[at])]
    if len(finite) < 2:
        return None
    return finite[int(np.gradient([losses[at] for at in finite]).argmin())]


def suggestion(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, str]:
    """The learning rate at the steepest descent per step, or 0.01 if fewer than two finite points are left."""
    # DEVIATION FGL-D06: the index rule, not the modern suggestion, which differs by up to four orders
    at = steepest_by_index(losses)
    return (FALLBACK, "fallback") if at is None else (rates[at], "finder")


def find(module: LightningModule, loader: DataLoader, trainer: Trainer) -> dict[str, Any]:
    """Runs the range test on a copy of the module; the module itself is left as it was.

    Args:
      module: configured as for the training.
      loader: its training batches.
      trainer: used for nothing else.
    Returns:
      What lr_find.json contains: lr, the rates 10^(-8 + 0.08 i) of 100 steps at most; loss, smoothed with beta 0.98;
      suggestion, the rate to train with; source, "finder" or "fallback".
    """
    from lightning.pytorch.tuner import Tuner

    trial = copy.deepcopy(module)
    with contextlib.redirect_stderr(io.StringIO()):  # its own progress bar cannot be turned off
        # DEVIATION FGL-D05: Tuner, since auto_lr_find and trainer.tune are gone in Lightning 2
        finder = Tuner(trainer).lr_find(
            trial,
            train_dataloaders=loader,
            min_lr=LOWEST,
            max_lr=HIGHEST,
            num_training=STEPS,
            mode="exponential",
            early_stop_threshold=STOP_AT,
            update_attr=False,
        )
    for stale in Path(trainer.default_root_dir).glob(".lr_find_*.ckpt"):  # of a search that was killed
        stale.unlink(missing_ok=True)
    rates, losses = ([float(value) for value in finder.results[key]] if finder else [] for key in ("lr", "loss"))
    rate, source = suggestion(rates, losses)
    return {"lr": rates, "loss": losses, "suggestion": rate, "source": source}


def find_rate(task: Task, config: Config, batches: Batches) -> tuple[float, str]:
    """Returns the learning rate and its source: --lr, or the range test, whose curve is stored in lr_find.json."""
    if config.lr:
        return config.lr, "flag"
    path = task.folder / "lr_find.json"
    if not path.exists():
        trainer = make_trainer(config, task.folder, [], devices=1)
        write_json(path, find(task.module, loader(task.train[0], batches), trainer))
    curve = read_json(path, "lr", "suggestion", "source")
    print(f"{task.stage}: learning rate {curve['suggestion']:.4g} ({curve['source']}, {len(curve['lr'])} steps)")
    return float(curve["suggestion"]), str(curve["source"])
