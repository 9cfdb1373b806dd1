"""Full states of a Lightning training, and the bookkeeping around its steps: losses, lines, files."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from finegrained_torch.flags import AMP, Config
from finegrained_torch.training.modules import Checkpoint, LightningModule, Trainer
from finegrained_torch.training.setting import Task
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.loop import LOSSES, check_losses
from reproduction.runtime.metrics_log import MetricsLog
from reproduction.runtime.run_folder import Damaged, Stop, newest_whole, shown

KEEP_STATES = 2


def state_files(folder: Path) -> list[Path]:
    """Lists the full states of a training, oldest first."""
    return sorted(folder.glob("state-[0-9][0-9][0-9][0-9].ckpt"))


def newest_state(folder: Path) -> tuple[Path, list[dict[str, float]]] | None:
    """Finds the newest whole full state and its history; None if there is no state; see `newest_whole`."""

    def read(path: Path) -> tuple[Path, list[dict[str, float]]]:
        content = runtime.read_checkpoint(path)
        try:
            return path, [dict(row) for row in content["callbacks"]["Keeper"]["history"]]
        except (KeyError, TypeError, ValueError, IndexError):
            raise Damaged(f"{shown(path)}: not the full state of a training") from None

    return newest_whole(state_files(folder), read)


class Bookkeeping(Checkpoint):
    """Checks each loss, keeps the history, and writes curve, line and full state of an epoch.

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
        self.history: list[dict[str, float]] = []
        self._metrics: MetricsLog | None = None
        self._losses: list[torch.Tensor] = []
        self._began, self._trained, self._rate = 0.0, 0.0, math.nan

    @property
    def state_key(self) -> str:
        """Key of the history in a full state; the name is that of older states, which go on under this version."""
        return "Keeper"

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])

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

    def row_of(self, trainer: Trainer) -> dict[str, float]:
        """Returns the numbers of an epoch; "lr" is the rate of its first step, "seconds" include its validation."""
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            f"{split}_{what}": seen[f"{split}_{what}{self.prefix}"]
            for split in ("train", "val")
            for what in ("loss", "acc")
        }
        seconds = {"seconds": time.monotonic() - self._began, "train_seconds": self._trained}
        return row | {"lr": self._rate} | seconds

    def write(self, trainer: Trainer) -> None:
        """Writes the last row of the history and the full state; every process takes part."""
        epoch, row = len(self.history), self.history[-1]
        if trainer.is_global_zero:
            assert self._metrics is not None
            self._metrics.write(epoch, row)
            self._print(epoch, row)
        self._save(trainer, epoch)

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

    def _save(self, trainer: Trainer, epoch: int) -> None:
        """Writes the full state, complete under its name or not there."""
        partial = self.folder / f".state-{epoch:04d}.partial"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.rename(self.folder / f"state-{epoch:04d}.ckpt")
            for old in state_files(self.folder)[:-KEEP_STATES]:
                old.unlink(missing_ok=True)
        trainer.strategy.barrier()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
