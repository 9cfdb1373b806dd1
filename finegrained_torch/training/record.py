"""What a finished stage writes: manifest.json for the stages after it, record.json, test predictions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finegrained_torch import deviations, flags
from finegrained_torch.data.images import Items
from finegrained_torch.training import evaluate
from finegrained_torch.training.loop import Trained
from finegrained_torch.training.modules import log_probabilities
from finegrained_torch.training.setting import Setting, Task
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.outcomes import Outcomes, outcomes_of
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import Run, write_json

PACKAGES = (
    "torch",
    "lightning",
    "torchmetrics",
    "numpy",
    "umap-learn",
    "hdbscan",
    "scikit-learn",
    "numba",
    "pynndescent",
)


@dataclass(frozen=True)
class Outcome:
    """What a stage found.

    Attributes:
      stage: its name.
      inputs: name -> hash of what the stage read; in the manifest, but not in the record's configuration, which is
        equal for all seeds.
      metrics: of the record.
      details: of the record and the manifest.
      artefacts: of the record.
      variant: suffix of the row.
      choice: the value of a flag with several values that this run is for, such as {"alpha": 0.1}.
      manifest: further entries of the manifest.
      seconds: of a training's epochs; None: since this process opened the run.
      images_per_s: of a training.
      outcomes: name of a test accuracy -> which test images the last epoch's network classified correctly.
    """

    stage: str
    inputs: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, float | None]]
    details: Mapping[str, Any]
    artefacts: Sequence[Mapping[str, str]] = ()
    variant: str = flags.BASE
    choice: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    images_per_s: float | None = None
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)


def write_outcome(setting: Setting, run: Run, outcome: Outcome) -> None:
    """Writes manifest.json, record.json and the DONE stamp of a stage."""
    config, stage, inputs = setting.config, outcome.stage, dict(outcome.inputs)
    versions = versions_of(*PACKAGES)
    settings = flags.of_stage(config, stage)
    manifest = {
        "maker": "finegrained_torch",
        "stage": stage,
        "variant": outcome.variant,
        "dataset": setting.name,
        "settings": settings,
        "inputs": inputs,
        "seed": config.seed,
        "versions": versions,
        "details": dict(outcome.details),
        **outcome.manifest,
    }
    write_json(run.folder / "manifest.json", manifest)
    record = make_record(
        paper="finegrained",
        row=flags.row_name(config.row, outcome.variant),
        stage=stage,
        seed=config.seed,
        argv=config.argv,
        config={**settings, **outcome.choice},
        metrics=outcome.metrics,
        seconds=time.monotonic() - run.opened if outcome.seconds is None else outcome.seconds,
        data=setting.data.digests,
        data_verified=setting.data.verified,
        deviations=deviations.active(config),
        versions=versions,
        deterministic=setting.device.type == "cpu",
        precision=runtime.precision(setting.device, flags.AMP[config.precision]),
        images_per_s=outcome.images_per_s,
        curve="metrics.jsonl" if "lr" in outcome.details else None,
        artefacts=outcome.artefacts,
        details={**outcome.details, "inputs": inputs},
        outcomes=outcome.outcomes,
        gpu=runtime.device_name(setting.device),
    )
    run.finish(record)


def _measure(
    setting: Setting, task: Task, weights: Path, items: Items, positions: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """Computes log-probabilities and metrics of stored weights on some images."""
    # DEVIATION FGL-D29: weights_only, with a map location
    task.module.load_state_dict(runtime.read_checkpoint(weights, setting.device)["state_dict"])
    size = setting.config.eval_batch or setting.config.batch_size
    scores = log_probabilities(task.module.to(setting.device), items, positions, size)
    return scores, evaluate.compute_metrics(scores, labels)


def close_training(setting: Setting, run: Run, task: Task, trained: Trained, inputs: Mapping[str, str]) -> None:
    """Tests the best and the last weights of a training and writes everything down.

    The sub classifier is tested on fine labels: the true ones of the test images, or, since test images have no
    pseudo-labels, the pseudo-labels of its validation images.

    Args:
      setting: of the command.
      run: folder of the training.
      task: what was trained.
      trained: how it went.
      inputs: name -> hash of what the stage read.
    """
    config, data, stage, facts = setting.config, setting.data, task.stage, task.facts
    head, alpha = facts.get("head", "plain"), facts.get("alpha")
    num_sub = facts["classes"] if stage == "sub" else facts.get("num_sub")
    val_items, val_at = task.val
    val_labels = (val_items.fine if stage == "sub" else val_items.coarse).numpy()[val_at]
    if stage == "sub" and config.use_pseudo:
        # DEVIATION FGL-D12: tested where pseudo-labels exist. DEVIATION FGL-D13: those of test images are -1
        tested, items, at, labels = "val", val_items, val_at, val_labels
        fine = np.full(len(labels), -1, np.int64)
    else:
        tested, items, at, fine = "test", setting.test_items, np.arange(len(setting.test_items)), data.test.fine
        labels = fine if stage == "sub" else data.test.coarse
    last_scores, last = _measure(setting, task, trained.last_state, items, at, labels)
    best_file = run.folder / "best.ckpt"
    scores, best = _measure(setting, task, best_file, items, at, labels)
    val = best if tested == "val" else _measure(setting, task, best_file, val_items, val_at, val_labels)[1]
    if setting.name == "pathmnist" and stage != "sub":
        best |= evaluate.auroc(scores, labels)
    evaluate.write_predictions(run.folder / "predictions.npz", scores, labels, fine)

    epochs, images, best_epoch = len(trained.history), len(task.train[1]), trained.best_epoch
    seconds = sum(row["seconds"] for row in trained.history)
    variant = flags.variant(stage, config.use_pseudo, head, alpha, config.sub_labels, config.control)
    shared = {
        "num_sub": num_sub,
        "lr": trained.lr,
        "lr_source": trained.lr_source,
        "epochs": epochs,
        "best_epoch": best_epoch,
        "parameters": runtime.parameter_count(task.module),
    }
    details = shared | {
        "training_images": images,
        "validation_images": len(val_at),
        "test_images": len(labels),
        "tested_on": tested,
        "seconds_per_epoch": seconds / max(epochs, 1),
        "coarse_names": list(data.coarse_names),
    }
    prefix = "sub_" if stage == "sub" else ""
    metrics: dict[str, dict[str, float | None]] = {
        f"{prefix}{name}": {"best_on_val": value, "last": last.get(name)} for name, value in best.items()
    }
    metrics[f"{prefix}val_accuracy"] = {"best_on_val": val["accuracy"]}
    metrics[f"{prefix}train_accuracy"] = {
        "best_on_val": trained.history[best_epoch - 1]["train_acc"],
        "last": trained.history[-1]["train_acc"],
    }
    right = {f"{prefix}accuracy": outcomes_of(last_scores.argmax(1) == labels, labels)} if tested == "test" else {}
    choice = {"head": head} if stage == "fine-tune" else {} if alpha is None else {"alpha": alpha}
    manifest = shared | {
        "choice": choice,
        "checkpoint": "best.ckpt",
        "stopped_early": epochs < config.max_epochs,
        "counts": {"train": images, "val": len(val_at), "test": len(labels), "tested_on": tested},
        "metrics": {
            "val_accuracy": val["accuracy"],
            "val_nll": val["nll"],
            **{f"test_{name}": value for name, value in best.items()},
        },
    }
    print(
        f"{stage}{' ' + variant if variant else ''}: {tested} accuracy {100 * best['accuracy']:.2f} % (epoch "
        f"{best_epoch}, chosen on validation), last {100 * last['accuracy']:.2f} %",
        flush=True,
    )
    artefacts = [{"kind": "npz", "path": "predictions.npz", "title": f"Log-probabilities and labels, {tested} images"}]
    if trained.lr_source != "flag":
        artefacts.append({"kind": "json", "path": "lr_find.json", "title": "Learning-rate range test"})
    per_second = images * epochs / seconds if seconds else None
    outcome = Outcome(stage, inputs, metrics, details, artefacts, variant, choice, manifest, seconds, per_second, right)
    write_outcome(setting, run, outcome)
