"""One training through Lightning: what is trained, when it stops, which epoch is kept.

A training minimizes `training_step` of its module (modules.py) on the training images, epoch by epoch. After each epoch
`EpochEnd` looks at the validation images:

* the epoch with the highest validation accuracy, the first of equal ones, is kept in best.ckpt;
* early stopping (`stops_early`) ends the training, or --max_epochs does;
* the full state goes to state-<epoch>.ckpt (states.py), from which the same command goes on.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from finegrained_torch.data.images import Batches, loader
from finegrained_torch.flags import TRAINING_CHILD, Config
from finegrained_torch.training.learning_rate import find_rate
from finegrained_torch.training.modules import LightningModule, Trainer, make_trainer, quiet
from finegrained_torch.training.setting import Task, start_stage
from finegrained_torch.training.states import Bookkeeping, newest_state
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import UserError, stop_signals


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
      lr: learning rate at the start of the schedule.
      lr_source: "flag", "finder" or "fallback".
      history: one row per epoch.
      last_state: file with the weights of the last epoch.
    """

    lr: float
    lr_source: str
    history: list[dict[str, float]]
    last_state: Path

    @property
    def best_epoch(self) -> int:
        """The epoch that is kept, from 1: the highest validation accuracy, the first of equal ones."""
        accuracies = [row["val_acc"] for row in self.history]
        return accuracies.index(max(accuracies)) + 1


def stops_early(val_losses: Sequence[float], patience: int, min_epochs: int) -> bool:
    """Decides whether a training ends after these epochs, as in Lightning 1.5.10.

    In Lightning 2.6 the stop signal stays set once patience has run out, so one early plateau ends the training at
    exactly min_epochs. Here a plateau before min_epochs is forgotten as soon as there is a new best loss.

    Args:
      val_losses: validation loss of each epoch so far.
      patience: epochs without a new best loss.
      min_epochs: epochs that are trained in any case.
    Source: Lightning 1.5.10, loops/fit_loop.py. Deviation: FGL-D06.
    """
    best, waited = math.inf, 0
    for loss in val_losses:
        if loss < best:
            best, waited = loss, 0
        elif math.isfinite(loss):
            waited += 1
    # DEVIATION FGL-D06: asked anew after each epoch, so a training can recover from a plateau before min_epochs
    return len(val_losses) >= min_epochs and (waited >= patience or not math.isfinite(val_losses[-1]))


def is_finished(history: Sequence[dict[str, float]], config: Config) -> bool:
    """Tells whether a training ends after these epochs."""
    val_losses = [row["val_loss"] for row in history]
    return len(history) >= config.max_epochs or stops_early(val_losses, config.patience, config.min_epochs)


class EpochEnd(Bookkeeping):
    """At the end of each epoch keeps the best weights and decides on stopping.

    DEVIATION FGL-D10: every training has its own, so no path of an earlier one is ever returned.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs after the validation of an epoch."""
        row = self.row_of(trainer)
        is_best = row["val_acc"] > max((earlier["val_acc"] for earlier in self.history), default=-1.0)
        self.history.append(row)
        trainer.should_stop = is_finished(self.history, self.config)
        if is_best and trainer.is_global_zero:
            content = {"state_dict": pl_module.state_dict(), "epoch": len(self.history), "val_acc": row["val_acc"]}
            runtime.write_checkpoint(self.folder / "best.ckpt", content | self.facts)
        self.write(trainer)


def train(task: Task, config: Config) -> Trained:
    """Trains to the end, from the newest full state if there is one.

    Raises:
      UserError: no images, too small batches, non-finite loss, or processes that are forked with a GPU.
    """
    quiet()
    if config.devices > 1 and config.parallel == "ddp_fork" and runtime.pick_device(config.device).type == "cuda":
        raise UserError("--parallel ddp_fork: CUDA cannot be used in a forked process; on GPUs use ddp_spawn")
    for name, (_, positions) in (("training", task.train), ("validation", task.val)):
        if len(positions) < config.devices:
            raise UserError(f"{task.stage}: {len(positions)} {name} images; raise --threshold or take more images")
    for stale in task.folder.glob(".*.partial"):
        stale.unlink(missing_ok=True)
    least = 2 if config.network == "legacy" else 1  # its last maps are 1x1: no batch norm of a single image
    if config.batch_size < least * config.devices:
        raise UserError(f"--batch_size {config.batch_size}: expected {least} or more for each of --devices")
    batches = Batches(task.train[1], config.batch_size, task.key, least)
    start_stage(config)
    if config.channels_last:  # DEVIATION FGL-D33: off by default, as are autocast, TF32 and torch.compile
        task.module.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rate, source = find_rate(task, config, batches)
    task.module.learning_rate = rate
    newest = newest_state(task.folder)
    if newest is None or not is_finished(newest[1], config):
        if newest:
            batches.epoch = len(newest[1])
            print(f"{task.stage}: going on after epoch {batches.epoch}", flush=True)
        if config.compile:
            task.module.network.compile()
        _fit(task, config, batches, newest[0] if newest else None)
        newest = newest_state(task.folder)
        if newest is None:
            raise UserError(f"{task.stage}: no epoch was finished")
    return Trained(rate, source, newest[1], newest[0])


def _fit(task: Task, config: Config, batches: Batches, state: Path | None) -> None:
    """Lets Lightning train, from a full state if one is given, in one process or in several."""
    (items, _), (val_items, val_at) = task.train, task.val
    val_batches = Batches(val_at, config.test_batch, None)
    if config.devices == 1 and not config.num_workers:  # one process holds all images on its device
        batches.device = val_batches.device = device = runtime.pick_device(config.device)
        on_device = items.to(device)
        items, val_items = on_device, on_device if val_items is items else val_items.to(device)
    loaders = (loader(items, batches, config.num_workers), loader(val_items, val_batches, config.num_workers))
    # a signal ends several processes at once: each would have to wait for the others' epoch to end
    with stop_signals() if config.devices == 1 else contextlib.nullcontext() as stop:
        epoch_end = EpochEnd(task, config, stop)
        trainer = make_trainer(config, task.folder, [epoch_end], config.devices)
        if config.devices > 1:
            os.environ[TRAINING_CHILD] = "1"
        try:
            trainer.fit(task.module, *loaders, ckpt_path=str(state) if state else None, weights_only=True)
        except torch.multiprocessing.ProcessRaisedException as error:
            last = str(error).strip().splitlines()[-1]
            if "UserError: " not in last:
                raise
            raise UserError(last.partition("UserError: ")[2]) from None
        finally:
            os.environ.pop(TRAINING_CHILD, None)
