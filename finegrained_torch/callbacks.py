"""What Lightning calls during a training: early stopping as in 1.5.10, checkpoints and curve, a clean stop."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from finegrained_torch.ready import Callback, Checkpoint, EarlyStopping, LightningModule, Trainer
from reproduction.runtime.run_folder import MetricsLog, Stop, UserError, shown
from reproduction.runtime.torch_runtime import write_checkpoint

LOOK_EVERY = 50  # steps between looks at the loss on a GPU, which each wait for it


class EarlyStoppingAfterMinimum(EarlyStopping):
    """Early stopping whose signal does not outlive an epoch before `min_epochs`, as in Lightning 1.5.10.

    In Lightning 2.6 `should_stop` stays set once patience has run out, so one early plateau ends the training at
    exactly min_epochs. Here it is cleared until then; patience goes on counting, and a new best resets it.

    Source: Lightning 1.5.10, loops/fit_loop.py. Deviation: FGL-D06.
    """

    def __init__(self, monitor: str, patience: int):
        """Args: monitor: logged loss. patience: validations without a new best."""
        super().__init__(monitor=monitor, patience=patience, mode="min", verbose=False, check_on_train_epoch_end=False)
        self.signals = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self.signals += trainer.should_stop
        # DEVIATION FGL-D06: the flag is cleared while min_epochs is unmet, so training can recover from a plateau
        if trainer.current_epoch + 1 < (trainer.min_epochs or 0):
            trainer.should_stop = False


class Keeper(Checkpoint):
    """Curve and checkpoints of one training: best weights by validation accuracy, full state of the newest epochs.

    DEVIATION FGL-D10: every training has its own, so no path of an earlier one is ever returned.

    Attributes:
      history: one row an epoch. best_epoch (from 1), best_accuracy: of the best validation accuracy, the first of
        equal ones. finished: the training ended by itself.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], prefix: str, images: int, keep: int = 2):
        """Args: folder: of the training. facts: kept with the best weights. prefix: of logged names. images: N."""
        self.folder, self.facts, self.prefix, self.images, self.keep = folder, facts, prefix, images, keep
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best_accuracy = 0, -1.0
        self.finished = False
        self._log: MetricsLog | None = None
        self._began = 0.0
        self._rate = math.nan

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history, "best_epoch": self.best_epoch, "best_accuracy": self.best_accuracy,
            "finished": self.finished,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._log = MetricsLog(self.folder, resume_step=len(self.history) or -1)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._began = time.monotonic()
            self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After validation: row of the curve, best weights, full state."""
        epoch = len(self.history) + 1
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {f"{split}_{what}": seen[f"{split}_{what}{self.prefix}"]
               for split in ("train", "val") for what in ("loss", "acc")}  # fmt: skip
        row |= {"lr": self._rate, "seconds": time.monotonic() - self._began}
        self.history.append(row)
        better = row["val_acc"] > self.best_accuracy
        if better:
            self.best_epoch, self.best_accuracy = epoch, row["val_acc"]
        self.finished = epoch >= (trainer.max_epochs or 0) or trainer.should_stop
        if trainer.is_global_zero:
            if better:
                found = {"state_dict": pl_module.state_dict(), "epoch": epoch, "val_acc": row["val_acc"]}
                write_checkpoint(self.folder / "best.ckpt", found | self.facts)
            assert self._log is not None
            self._log.write(epoch, row)
            self._say(epoch, trainer.max_epochs or 0, row)
        self._save(trainer, epoch)

    def _say(self, epoch: int, epochs: int, row: dict[str, float]) -> None:
        """One line an epoch; after the first the time the rest will take at most."""
        left = f", at most {(epochs - epoch) * row['seconds'] / 60:.1f} min to go" if epoch == 1 < epochs else ""
        print(
            f"{self.facts['stage']} epoch {epoch}/{epochs}: loss {row['train_loss']:.4f}, "
            f"train {100 * row['train_acc']:.2f} %, val loss {row['val_loss']:.4f}, val {100 * row['val_acc']:.2f} %, "
            f"{row['seconds']:.1f} s, {self.images / max(row['seconds'], 1e-9):.0f} images/s{left}",
            flush=True,
        )

    def _save(self, trainer: Trainer, epoch: int) -> None:
        """Full state, complete under its name or not there; every process takes part."""
        partial = self.folder / f".state-{epoch:04d}.partial"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.rename(self.folder / f"state-{epoch:04d}.ckpt")
            for old in states(self.folder)[: -self.keep]:
                old.unlink(missing_ok=True)
        trainer.strategy.barrier()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def states(folder: Path) -> list[Path]:
    """Full states of a training, oldest first."""
    return sorted(folder.glob("state-[0-9][0-9][0-9][0-9].ckpt"))


class Watch(Callback):
    """Ends a training with one line: at a non-finite loss, or after SIGINT or SIGTERM."""

    def __init__(self, stage: str, folder: Path, stop: Stop | None):
        """Args: stage: for messages. folder: of the training. stop: requests to leave."""
        self.stage, self.folder, self.stop = stage, folder, stop
        self._bad: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach()
        step = trainer.global_step - 1
        if self._bad is None:
            self._bad = torch.full((), -1, dtype=torch.int64, device=loss.device)
        self._bad = torch.where((self._bad < 0) & ~torch.isfinite(loss), step, self._bad)
        last = trainer.is_last_batch
        if (loss.device.type == "cpu" or last or step % LOOK_EVERY == 0) and int(self._bad) >= 0:
            kept = states(self.folder)[-1:]
            words = f"last checkpoint {shown(kept[0])}" if kept else "no checkpoint yet"
            raise UserError(f"{self.stage}: non-finite loss at step {int(self._bad)} (batch {batch_idx} of epoch "
                            f"{trainer.current_epoch + 1}); {words}; choose a lower --lr")  # fmt: skip
        if self.stop is not None and self.stop.requested:
            self.stop.leave(self.folder)
