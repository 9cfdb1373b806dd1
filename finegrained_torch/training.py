"""One training through Lightning: learning rate, fit or resume, best weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finegrained_torch import learning_rate
from finegrained_torch.callbacks import EarlyStoppingAfterMinimum, Keeper, Watch, states
from finegrained_torch.classifier import Module
from finegrained_torch.data import Batches, Items, loader
from finegrained_torch.flags import TRAINING_CHILD
from finegrained_torch.ready import Callback, Trainer, quiet, seed_everything
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import Damaged, UserError, newest_whole, read_json, shown, stop_signals, write_json


@dataclass(frozen=True)
class Task:
    """What a training sees.

    Attributes:
      stage: for messages. folder: where it writes. module: at its initial weights.
      train: items and positions of the training images; val: of the validation images.
      key: seeds of the order, (seed, stage). facts: stored beside the best weights.
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
    """How a training went; best_epoch counts from 1."""

    lr: float
    lr_source: str
    history: list[dict[str, float]]
    best_epoch: int
    best_accuracy: float
    last_state: Path


def start_stage(config: Mapping[str, Any]) -> None:
    """Seeds and threads, at the start of every stage."""
    # DEVIATION FGL-D31: seeded at the start of every stage, so that a resumed stage draws what an undisturbed one does
    seed_everything(config["seed"], workers=True, verbose=False)
    runtime.set_threads(config["threads"])  # UMAP and scikit-learn change it
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def make_trainer(config: Mapping[str, Any], folder: Path, callbacks: list[Callback], devices: int) -> Trainer:
    """A Trainer without loggers; Lightning's own strategies where there are several devices.

    Without callbacks it is one for the range test, whose 100 steps no number of epochs cuts short.
    """
    device = runtime.pick_device(config["device"])
    alone = [device.index or 0] if device.type == "cuda" else 1
    # DEVIATION FGL-D05: accelerator and devices, since gpus= is gone in Lightning 2
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=alone if devices == 1 else devices,
        strategy="auto" if devices == 1 else config["parallel"],
        precision=config["precision"],
        max_epochs=config["max_epochs"] if callbacks else -1,
        min_epochs=config["min_epochs"] if callbacks else None,
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


def find_rate(task: Task, config: Mapping[str, Any], batches: Batches) -> tuple[float, str]:
    """The learning rate: --lr, or the range test, whose curve is kept in lr_find.json."""
    if config["lr"]:
        return float(config["lr"]), "flag"
    kept = task.folder / "lr_find.json"
    if not kept.exists():
        found = learning_rate.find(
            task.module, loader(task.train[0], batches), make_trainer(config, task.folder, [], devices=1)
        )
        curve = {"lr": found.rates, "loss": found.losses, "suggestion": found.rate, "source": found.source}
        write_json(kept, curve)
    curve = read_json(kept, "lr", "suggestion", "source")
    print(f"{task.stage}: learning rate {curve['suggestion']:.4g} ({curve['source']}, {len(curve['lr'])} steps)")
    return float(curve["suggestion"]), str(curve["source"])


def newest_state(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole full state and what the Keeper put into it, or None where there is none; see `newest_whole`."""
    return newest_whole(states(folder), _kept_in)


def _kept_in(path: Path) -> tuple[Path, dict[str, Any]]:
    content = runtime.read_checkpoint(path)
    try:
        return path, dict(content["callbacks"]["Keeper"])
    except (KeyError, TypeError, ValueError, IndexError):
        raise Damaged(f"{shown(path)}: not the full state of a training") from None


def train(task: Task, config: Mapping[str, Any]) -> Trained:
    """Trains to the end, from the newest full state where there is one.

    Raises:
      UserError: no images, non-finite loss.
    """
    quiet()
    for what, (_, positions) in (("training", task.train), ("validation", task.val)):
        if len(positions) < config["devices"]:
            raise UserError(f"{task.stage}: {len(positions)} {what} images; raise --threshold or take more images")
    for stale in task.folder.glob(".*.partial"):
        stale.unlink(missing_ok=True)
    module = task.module
    batches = Batches(task.train[1], config["batch_size"], task.key)
    start_stage(config)
    rate, source = find_rate(task, config, batches)
    module.learning_rate = rate
    before = newest_state(task.folder)
    if before is None or not before[1]["finished"]:
        keeper = Keeper(task.folder, task.facts, module.prefix, len(task.train[1]))
        stopping = EarlyStoppingAfterMinimum(f"val_loss{module.prefix}", config["patience"])
        batches.epoch = len(before[1]["history"]) if before else 0
        if before:
            print(f"{task.stage}: going on after epoch {batches.epoch}", flush=True)
        loaders = (
            loader(task.train[0], batches, config["num_workers"]),
            loader(task.val[0], Batches(task.val[1], config["batch_size"], None), config["num_workers"]),
        )
        if config["compile"]:
            module.network.compile()
        with stop_signals() as stop:
            alone = config["devices"] == 1
            callbacks: list[Callback] = [stopping, Watch(task.stage, task.folder, stop if alone else None), keeper]
            trainer = make_trainer(config, task.folder, callbacks, config["devices"])
            path = str(before[0]) if before else None
            if not alone:
                os.environ[TRAINING_CHILD] = "1"
            try:
                trainer.fit(module, *loaders, ckpt_path=path, weights_only=True)
            except torch.multiprocessing.ProcessRaisedException as error:
                last = str(error).strip().splitlines()[-1]
                if "UserError: " not in last:
                    raise
                raise UserError(last.partition("UserError: ")[2]) from None
            finally:
                os.environ.pop(TRAINING_CHILD, None)
        before = newest_state(task.folder)
        if before is None:
            raise UserError(f"{task.stage}: no epoch was finished")
    kept = before[1]
    return Trained(rate, source, kept["history"], kept["best_epoch"], kept["best_accuracy"], before[0])
