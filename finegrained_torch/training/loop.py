"""One training through Lightning: what is trained, when it stops, which epoch is kept.

A training minimizes `training_step` of its module (modules.py) on the training images, epoch by epoch. After each epoch
`EpochEnd` looks at the validation images:

* the epoch with the highest validation accuracy, the first of equal ones, is kept in best.ckpt;
* early stopping (`stops_early`) ends the training, or --max_epochs does;
* a line goes to metrics.jsonl, and the full state to state-<epoch>.ckpt (states.py); the same command goes on from it.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finegrained_torch.data.images import Batches, loader
from finegrained_torch.flags import AMP, TRAINING_CHILD, Config
from finegrained_torch.training.learning_rate import find_rate
from finegrained_torch.training.modules import Checkpoint, LightningModule, Trainer, make_trainer, quiet
from finegrained_torch.training.setting import Task, start_stage
from finegrained_torch.training.states import HISTORY, newest_state, save_state, state_files
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.loop import LOSSES, check_device, check_losses
from reproduction.runtime.metrics_log import MetricsLog
from reproduction.runtime.run_folder import Stop, UserError, shown, stop_signals


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


class EpochEnd(Checkpoint):
    """Checks each loss; after each epoch keeps the best weights, decides on stopping, and writes curve and full state.

    DEVIATION FGL-D10: every training has its own, so no path of an earlier one is ever returned.

    Attributes:
      history: one row per epoch.
    """

    def __init__(self, task: Task, config: Config, stop: Stop | None):
        """Prepares for one training.

        Args:
          task: its module, folder and facts are used.
          config: resolved flags.
          stop: set when a signal asks to leave; None with several processes.
        """
        self.stage, self.folder, self.facts, self.prefix = task.stage, task.folder, task.facts, task.module.prefix
        self.images, self.config, self.stop = len(task.train[1]), config, stop
        self.device = runtime.pick_device(config.device).type
        self.history: list[dict[str, float]] = []
        self._metrics: MetricsLog | None = None
        self._losses: list[torch.Tensor] = []
        self._began, self._trained, self._rate = 0.0, 0.0, math.nan

    @property
    def state_key(self) -> str:
        return HISTORY

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "device": self.device}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])
        check_device(self.folder, state_dict.get("device", self.device), self.device)  # older states lack it

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        runtime.allow_tf32(AMP[self.config.precision] == "tf32")  # a spawned process begins with torch's own default
        if trainer.is_global_zero:
            self._metrics = MetricsLog(self.folder, resume_step=len(self.history) or -1)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._began = time.monotonic()
            self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the training with one line after a loss that is not finite, or when a signal asks for it."""
        self._losses.append(outputs["loss"].detach())
        waits = self._losses[0].device.type != "cpu"  # looking at a loss waits for the GPU: look at many together
        if not waits or trainer.is_last_batch or len(self._losses) >= LOSSES:
            check_losses(
                self.stage,
                self._losses,
                trainer.global_step,
                self.config.batch_size,
                lambda: next((shown(path) for path in state_files(self.folder)[-1:]), None),
                "choose a lower --lr",
            )
            self._losses = []
        self._trained = time.monotonic() - self._began  # validation comes after the last batch
        if self.stop is not None and self.stop.requested:
            self.stop.leave(self.folder)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs after the validation of an epoch; every process takes part."""
        row = self._row(trainer)
        is_best = row["val_acc"] > max((earlier["val_acc"] for earlier in self.history), default=-1.0)
        self.history.append(row)
        epoch = len(self.history)
        trainer.should_stop = is_finished(self.history, self.config)
        if trainer.is_global_zero:
            if is_best:
                content = {"state_dict": pl_module.state_dict(), "epoch": epoch, "val_acc": row["val_acc"]}
                runtime.write_checkpoint(self.folder / "best.ckpt", content | self.facts)
            assert self._metrics is not None
            self._metrics.write(epoch, row)
            self._print(epoch, row)
        save_state(trainer, self.folder, epoch)

    def _row(self, trainer: Trainer) -> dict[str, float]:
        """Returns the numbers of an epoch; "lr" is the rate of its first step, "seconds" include its validation."""
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            f"{split}_{what}": seen[f"{split}_{what}{self.prefix}"]
            for split in ("train", "val")
            for what in ("loss", "acc")
        }
        seconds = {"seconds": time.monotonic() - self._began, "train_seconds": self._trained}
        return row | {"lr": self._rate} | seconds

    def _print(self, epoch: int, row: dict[str, float]) -> None:
        """Prints one line per epoch; after the first also the longest time that the others will take."""
        epochs, seconds = self.config.max_epochs, row["seconds"]
        left = f", at most {(epochs - epoch) * seconds / 60:.1f} min to go" if epoch == 1 < epochs else ""
        print(
            f"{self.stage} epoch {epoch}/{epochs}: loss {row['train_loss']:.4f}, "
            f"train {100 * row['train_acc']:.2f} %, val loss {row['val_loss']:.4f}, val {100 * row['val_acc']:.2f} %, "
            f"{seconds:.1f} s, {self.images / max(row['train_seconds'], 1e-9):.0f} images/s{left}",
            flush=True,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


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
