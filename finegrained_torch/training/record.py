"""What a finished stage writes: manifest.json for the stages after it, record.json, test predictions."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from finegrained_torch import deviations, flags
from finegrained_torch.training import evaluate
from finegrained_torch.training.loop import Trained
from finegrained_torch.training.modules import log_probabilities
from finegrained_torch.training.setting import Part, Setting, Task
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.outcomes import outcomes_of
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import Run, UserError, shown, write_json

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


def finish(
    setting: Setting,
    run: Run,
    stage: str,
    inputs: Mapping[str, str],
    metrics: Mapping[str, Mapping[str, float | None]],
    details: Mapping[str, Any],
    *,
    variant: str = flags.BASE,
    choice: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    **fields: Any,
) -> None:
    """Writes manifest.json, record.json and the DONE stamp of a stage.

    Args:
      setting: of the command.
      run: folder of the stage.
      stage: its name.
      inputs: name -> hash of what the stage read; in the manifest and in the record's details, but not in the record's
        configuration, which is equal for all seeds.
      metrics: of the record.
      details: of the record.
      variant: suffix of the row.
      choice: the value of a flag with several values that this run is for, such as {"alpha": 0.1}.
      manifest: further entries of the manifest.
      **fields: further arguments of `make_record`; without `seconds` it is the time since this process opened the run.
    """
    config, versions = setting.config, versions_of(*PACKAGES)
    settings, chosen = flags.of_stage(config, stage), dict(choice or {})
    # of this run alone: a command may train several heads, and --freeze changes some of its stages only
    run_config = dataclasses.replace(config, head=[chosen.get("head", "plain")], freeze=settings.get("freeze", False))
    content = {
        "maker": "finegrained_torch",
        "stage": stage,
        "variant": variant,
        "dataset": setting.name,
        "settings": settings,
        "inputs": dict(inputs),
        "seed": config.seed,
        "versions": versions,
        **(manifest or {}),
    }
    write_json(run.folder / "manifest.json", content)
    fields = {"seconds": time.monotonic() - run.opened, "curve": None} | fields
    record = make_record(
        paper="finegrained",
        row=flags.row_name(config.row, variant),
        stage=stage,
        seed=config.seed,
        argv=[sys.argv[0], *config.argv],
        config=settings | chosen,
        metrics=metrics,
        data=setting.data.digests,
        data_verified=setting.data.verified,
        deviations=deviations.active(run_config),
        versions=versions,
        deterministic=setting.device.type == "cpu",
        precision=runtime.precision(setting.device, flags.AMP[config.precision]),
        details={**details, "inputs": dict(inputs)},
        gpu=runtime.device_name(setting.device),
        **fields,
    )
    run.finish(record)


def _labels(task: Task, part: Part) -> np.ndarray:
    """Returns the labels that a network is tested on: of the sub classifier the fine ones, of all others the coarse."""
    items, positions = part
    return (items.fine if task.stage == "sub" else items.coarse).numpy()[positions]


def _measure(
    setting: Setting, task: Task, weights: Mapping[str, Any], part: Part
) -> tuple[np.ndarray, dict[str, float]]:
    """Computes log-probabilities and metrics of a checkpoint's weights on some images."""
    task.module.load_state_dict(weights["state_dict"])
    scores = log_probabilities(task.module.to(setting.device), *part, setting.config.test_batch)
    return scores, evaluate.compute_metrics(scores, _labels(task, part))


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
    Raises:
      UserError: best.ckpt is not of the best epoch.
    """
    config, data, stage, facts = setting.config, setting.data, task.stage, task.facts
    head, alpha = facts.get("head", "plain"), facts.get("alpha")
    num_sub = facts["classes"] if stage == "sub" else facts.get("num_sub")
    tested, part, fine = "test", setting.test, data.test.fine
    if stage == "sub" and config.use_pseudo:
        # DEVIATION FGL-D12: tested where pseudo-labels exist. DEVIATION FGL-D13: those of test images are -1
        tested, part, fine = "val", task.val, np.full(len(task.val[1]), -1, np.int64)
    labels, best_file = _labels(task, part), run.folder / "best.ckpt"
    # DEVIATION FGL-D29: weights_only, with a map location
    weights = runtime.read_checkpoint(best_file, setting.device)
    if weights["epoch"] != trained.best_epoch:  # killed after best.ckpt, and the epoch did not repeat bit for bit
        raise UserError(
            f"{shown(best_file)}: of epoch {weights['epoch']}, but epoch {trained.best_epoch} has the best validation "
            "accuracy; --overwrite trains anew"
        )
    last_scores, last = _measure(setting, task, runtime.read_checkpoint(trained.last_state, setting.device), part)
    scores, best = _measure(setting, task, weights, part)
    val = best if tested == "val" else _measure(setting, task, weights, task.val)[1]
    if setting.name == "pathmnist" and stage != "sub":
        best |= evaluate.auroc(scores, labels)
    evaluate.write_predictions(run.folder / "predictions.npz", scores, labels, fine)

    epochs, images, best_epoch = len(trained.history), len(task.train[1]), trained.best_epoch
    seconds = sum(row["seconds"] for row in trained.history)
    train_seconds = sum(row.get("train_seconds", row["seconds"]) for row in trained.history)  # older states lack it
    variant = flags.variant(stage, config.use_pseudo, head, alpha, config.sub_labels, config.control)
    details = {
        "num_sub": num_sub,
        "lr": trained.lr,
        "lr_source": trained.lr_source,
        "epochs": epochs,
        "best_epoch": best_epoch,
        "parameters": runtime.parameter_count(task.module),
        "training_images": images,
        "validation_images": len(task.val[1]),
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
    choice = {"head": head} if stage == "fine-tune" else {} if alpha is None else {"alpha": alpha}
    print(
        f"{stage}{' ' + variant if variant else ''}: {tested} accuracy {100 * best['accuracy']:.2f} % (epoch "
        f"{best_epoch}, chosen on validation), last {100 * last['accuracy']:.2f} %",
        flush=True,
    )
    artefacts = [{"kind": "npz", "path": "predictions.npz", "title": f"Log-probabilities and labels, {tested} images"}]
    if trained.lr_source != "flag":
        artefacts.append({"kind": "json", "path": "lr_find.json", "title": "Learning-rate range test"})
    finish(
        setting,
        run,
        stage,
        inputs,
        metrics,
        details,
        variant=variant,
        choice=choice,
        manifest={"checkpoint": "best.ckpt", **details},
        artefacts=artefacts,
        curve="metrics.jsonl",
        seconds=seconds,
        images_per_s=images * epochs / train_seconds if train_seconds else None,
        outcomes={f"{prefix}accuracy": outcomes_of(last_scores.argmax(1) == labels, labels)}
        if tested == "test"
        else {},
    )
