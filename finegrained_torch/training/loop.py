"""One training through Lightning: what is trained, when it stops, which epoch is kept.

A training minimizes `training_step` of its module (modules.py) on the training images, epoch by epoch. After each epoch
`EpochEnd` looks at the validation images:

* the epoch with the highest validation accuracy, the first of equal ones, is kept in best.ckpt;
* early stopping (`stops_early`) ends the training, or --max_epochs does;
* the full state goes to state-<epoch>.ckpt, from which the same command goes on.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finegrained_torch.data.images import Batches, Items, loader
from finegrained_torch.flags import AMP, TRAINING_CHILD, Config
from finegrained_torch.training.modules import (
    Callback,
    Checkpoint,
    LightningModule,
    LitResnet,
    Module,
    MultiHead,
    Trainer,
    quiet,
    seed_everything,
)
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.loop import LOSSES, check_losses
from reproduction.runtime.run_folder import (
    Damaged,
    MetricsLog,
    Stop,
    UserError,
    newest_whole,
    read_json,
    shown,
    stop_signals,
    write_json,
)

KEEP_STATES = 2


@dataclass(frozen=True)
class Task:
    """What a training sees.

    Attributes:
      stage: for messages.
      folder: where it writes.
      module: at its initial weights.
      train: items, and positions of the training images in them.
      val: items, and positions of the validation images in them.
      key: seeds of the order, (seed, stage).
      facts: stored together with the best weights.
    """

    stage: str
    folder: Path
    module: Module
    train: tuple[Items, np.ndarray]
    val: tuple[Items, np.ndarray]
    key: tuple[int | str, ...]
    facts: dict[str, Any]


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


class EpochEnd(Checkpoint):
    """Checks each loss; at the end of each epoch keeps the best weights, decides on stopping, saves the full state.

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
        self.history: list[dict[str, float]] = []
        self._metrics: MetricsLog | None = None
        self._losses: list[torch.Tensor] = []
        self._began, self._rate = 0.0, math.nan

    @property
    def state_key(self) -> str:
        """Key of the history in a full state; the name is that of older states, which go on under this version."""
        return "Keeper"

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
                self.stage, self._losses, trainer.global_step, self.config.batch_size,
                lambda: next((shown(path) for path in states(self.folder)[-1:]), None), "choose a lower --lr",
            )  # fmt: skip
            self._losses = []
        if self.stop is not None and self.stop.requested:
            self.stop.leave(self.folder)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs after the validation of an epoch."""
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {f"{split}_{what}": seen[f"{split}_{what}{self.prefix}"]
               for split in ("train", "val") for what in ("loss", "acc")}  # fmt: skip
        row |= {"lr": self._rate, "seconds": time.monotonic() - self._began}
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
        self._save(trainer, epoch)

    def _print(self, epoch: int, row: dict[str, float]) -> None:
        """Prints one line per epoch; after the first also the longest time that the others will take."""
        epochs, seconds = self.config.max_epochs, row["seconds"]
        left = f", at most {(epochs - epoch) * seconds / 60:.1f} min to go" if epoch == 1 < epochs else ""
        print(
            f"{self.stage} epoch {epoch}/{epochs}: loss {row['train_loss']:.4f}, "
            f"train {100 * row['train_acc']:.2f} %, val loss {row['val_loss']:.4f}, val {100 * row['val_acc']:.2f} %, "
            f"{seconds:.1f} s, {self.images / max(seconds, 1e-9):.0f} images/s{left}",
            flush=True,
        )

    def _save(self, trainer: Trainer, epoch: int) -> None:
        """Writes the full state, complete under its name or not there; every process takes part."""
        partial = self.folder / f".state-{epoch:04d}.partial"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.rename(self.folder / f"state-{epoch:04d}.ckpt")
            for old in states(self.folder)[:-KEEP_STATES]:
                old.unlink(missing_ok=True)
        trainer.strategy.barrier()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


def is_finished(history: Sequence[dict[str, float]], config: Config) -> bool:
    """Tells whether a training ends after these epochs."""
    val_losses = [row["val_loss"] for row in history]
    return len(history) >= config.max_epochs or stops_early(val_losses, config.patience, config.min_epochs)


def states(folder: Path) -> list[Path]:
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

    return newest_whole(states(folder), read)


def start_stage(config: Config) -> None:
    """Sets seeds and threads, at the start of every stage."""
    # DEVIATION FGL-D31: seeded at the start of every stage, so that a resumed stage draws what an undisturbed one does
    seed_everything(config.seed, workers=True, verbose=False)
    runtime.set_threads(config.threads)  # UMAP and scikit-learn change it
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def make_trainer(config: Config, folder: Path, callbacks: list[Callback], devices: int) -> Trainer:
    """Makes a Trainer without loggers; with several devices Lightning's own strategies.

    Without callbacks it is one for the range test, whose 100 steps no number of epochs cuts short.
    """
    device = runtime.pick_device(config.device)
    alone = [device.index or 0] if device.type == "cuda" else 1
    # DEVIATION FGL-D05: accelerator and devices, since gpus= is gone in Lightning 2
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=alone if devices == 1 else devices,
        strategy="auto" if devices == 1 else config.parallel,
        precision="bf16-mixed" if runtime.amp_of(device, AMP[config.precision]) else "32-true",
        max_epochs=config.max_epochs if callbacks else -1,
        min_epochs=config.min_epochs if callbacks else None,
        callbacks=callbacks,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty() and bool(callbacks),
        enable_checkpointing=bool(callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        benchmark=False,
    )


def find_rate(task: Task, config: Config, batches: Batches) -> tuple[float, str]:
    """Returns the learning rate and its source: --lr, or the range test, whose curve is stored in lr_find.json."""
    if config.lr:
        return config.lr, "flag"
    from finegrained_torch.training import learning_rate

    path = task.folder / "lr_find.json"
    if not path.exists():
        trainer = make_trainer(config, task.folder, [], devices=1)
        found = learning_rate.find(task.module, loader(task.train[0], batches), trainer)
        curve = {"lr": found.rates, "loss": found.losses, "suggestion": found.rate, "source": found.source}
        write_json(path, curve)
    curve = read_json(path, "lr", "suggestion", "source")
    print(f"{task.stage}: learning rate {curve['suggestion']:.4g} ({curve['source']}, {len(curve['lr'])} steps)")
    return float(curve["suggestion"]), str(curve["source"])


def train(task: Task, config: Config) -> Trained:
    """Trains to the end, from the newest full state if there is one.

    Raises:
      UserError: no images, non-finite loss.
    """
    quiet()
    for name, (_, positions) in (("training", task.train), ("validation", task.val)):
        if len(positions) < config.devices:
            raise UserError(f"{task.stage}: {len(positions)} {name} images; raise --threshold or take more images")
    for stale in task.folder.glob(".*.partial"):
        stale.unlink(missing_ok=True)
    batches = Batches(task.train[1], config.batch_size, task.key)
    start_stage(config)
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
    loaders = (
        loader(task.train[0], batches, config.num_workers),
        loader(task.val[0], Batches(task.val[1], config.batch_size, None), config.num_workers),
    )
    with stop_signals() as stop:
        epoch_end = EpochEnd(task, config, stop if config.devices == 1 else None)
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


@torch.no_grad()
def log_probabilities(module: Module, items: Items, positions: np.ndarray, batch_size: int) -> np.ndarray:
    """Computes the log-probabilities of images, of the coarse head if there are two.

    Args:
      module: on its device; left in evaluation mode.
      items: images.
      positions: int64 [n], which images, in that order.
      batch_size: images at a time.
    Returns:
      float32 [n, outputs].
    """
    module.eval()
    outputs = []
    for at in torch.from_numpy(positions).split(batch_size):
        out = module(items.images[at].to(module.device))
        outputs.append((out[1] if isinstance(module, MultiHead) else out).float().cpu())
    return torch.cat(outputs).numpy() if outputs else np.zeros((0, 0), np.float32)


@torch.no_grad()
def features(module: LitResnet, items: Items, batch_size: int) -> Iterator[np.ndarray]:
    """Computes the output of `avgpool` for every image in file order, un-augmented, in evaluation mode.

    Args:
      module: on its device.
      items: images.
      batch_size: images at a time.
    Yields:
      float32 [b, F], b up to batch_size.
    Source: authors' pipeline.py, features_extraction (forward hook on avgpool).
    """
    module.eval()
    module.set_activations()
    for images in items.images.split(batch_size):
        module(images.to(module.device))
        assert module.activations is not None
        yield module.activations.float().cpu().numpy()
