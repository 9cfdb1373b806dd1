"""What a finished stage writes down: manifest.json for the stages behind it, record.json, test predictions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finegrained_torch import evaluate, flags, networks, tables
from finegrained_torch.classifier import Module
from finegrained_torch.data import Items
from finegrained_torch.deviations import active
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import Run, write_json

if TYPE_CHECKING:
    from finegrained_torch.setting import Positions, Setting
    from finegrained_torch.training import Trained

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


def say(
    setting: Setting, stage: str, run: Run, inputs: Mapping[str, str],
    metrics: Mapping[str, Mapping[str, float | None]], details: Mapping[str, Any],
    artefacts: Sequence[Mapping[str, str]] = (), *, variant: str = tables.BASE,
    more: Mapping[str, Any] | None = None, seconds: float | None = None, images_per_s: float | None = None,
) -> None:  # fmt: skip
    """Writes manifest.json, record.json and the DONE stamp of a stage.

    Args:
      inputs: name -> hash of what the stage read. metrics, details, artefacts: of the record.
      variant: suffix of the row. more: further entries of the manifest; the inputs are in it, but not in the record's
        configuration, which is equal for all seeds. seconds: of a training's epochs; None: since this process
        opened the run. images_per_s: of a training.
    """
    config = setting.config
    manifest = {
        "maker": "finegrained_torch", "stage": stage, "variant": variant, "dataset": setting.name,
        "settings": flags.of_stage(config, stage), "inputs": dict(inputs), "seed": config["seed"],
        "versions": versions_of(*PACKAGES), "details": dict(details), **(more or {}),
    }  # fmt: skip
    write_json(run.folder / "manifest.json", manifest)
    record = make_record(
        paper="finegrained",
        row=tables.row_name(config["row"], variant),
        stage=stage,
        seed=config["seed"],
        argv=config["argv"],
        config={**flags.of_stage(config, stage), **(more or {}).get("choice", {})},
        metrics=metrics,
        seconds=time.monotonic() - run.opened if seconds is None else seconds,
        data=setting.data.digests,
        data_verified=setting.data.verified,
        deviations=active(config),
        versions=versions_of(*PACKAGES),
        deterministic=setting.device.type == "cpu",
        precision="float32" if config["precision"] == "32-true" else "bfloat16 autocast",
        images_per_s=images_per_s,
        curve="metrics.jsonl" if "lr" in details else None,
        artefacts=artefacts,
        details={**details, "inputs": dict(inputs)},
        gpu=runtime.device_name(setting.device),
    )
    run.finish(record)


def _measure(
    setting: Setting, module: Module, weights: Path, items: Items, positions: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """Log-probabilities and figures of some weights on some images."""
    # DEVIATION FGL-D29: weights_only, with a map location
    module.load_state_dict(runtime.read_checkpoint(weights, setting.device)["state_dict"])
    scores = evaluate.log_probabilities(module.to(setting.device), items, positions, setting.config["batch_size"])
    return scores, evaluate.figures(scores, labels)


def close_stage(
    setting: Setting, stage: str, run: Run, module: Module, trained: Trained, where: Positions,
    inputs: Mapping[str, str], *, num_sub: int | None = None, head: str = "plain", alpha: float | None = None,
    control: str = "none",
) -> None:  # fmt: skip
    """Tests the best and the last weights of a training and writes everything down.

    The sub classifier is tested on fine labels: the true ones of the test images, or, since test images have no
    pseudo-labels, the pseudo-labels of its validation images.
    """
    config, data = setting.config, setting.data
    fine_of_test = data.test.fine if config["use_pseudo"] is False else np.full(len(data.test.fine), -1, np.int64)
    val_items, val_at = where.val
    val_labels = (val_items.fine if stage == "sub" else val_items.coarse).numpy()[val_at]
    if stage == "sub" and config["use_pseudo"]:
        # DEVIATION FGL-D12: tested where pseudo-labels exist. DEVIATION FGL-D13: those of test images are -1
        items, at, labels, fine = val_items, val_at, val_labels, fine_of_test[:0]
        tested = "val"
    else:
        items, at = setting.test_items, np.arange(len(setting.test_items))
        labels, tested = (data.test.fine if stage == "sub" else data.test.coarse), "test"
        fine = data.test.fine
    _, last = _measure(setting, module, trained.last_state, items, at, labels)
    best_file = run.folder / "best.ckpt"
    scores, best = _measure(setting, module, best_file, items, at, labels)
    val = best if tested == "val" else _measure(setting, module, best_file, val_items, val_at, val_labels)[1]
    if setting.name == "pathmnist" and stage != "sub":
        best |= evaluate.auroc(scores, labels)
    fine = fine if tested == "test" else np.full(len(labels), -1, np.int64)
    evaluate.write_predictions(run.folder / "predictions.npz", scores, labels, fine)

    epochs = trained.history
    seconds = sum(row["seconds"] for row in epochs)
    images = len(where.train[1])
    variant = tables.variant(stage, config["use_pseudo"], head, alpha, config["sub_labels"], control)
    details = {
        "num_sub": num_sub, "lr": trained.lr, "lr_source": trained.lr_source, "epochs": len(epochs),
        "best_epoch": trained.best_epoch, "training_images": images, "validation_images": len(val_at),
        "test_images": len(labels), "tested_on": tested, "parameters": networks.parameter_count(module),
        "seconds_per_epoch": seconds / max(len(epochs), 1), "coarse_names": list(data.coarse_names),
    }  # fmt: skip
    prefix = "sub_" if stage == "sub" else ""
    metrics: dict[str, dict[str, float | None]] = {
        f"{prefix}{name}": {"best_on_val": value, "last": last.get(name)} for name, value in best.items()
    }
    metrics[f"{prefix}val_accuracy"] = {"best_on_val": val["accuracy"]}
    choice = {"head": head} if stage == "fine-tune" else {} if alpha is None else {"alpha": alpha}
    more = {
        "choice": choice,
        "checkpoint": "best.ckpt",
        "lr": trained.lr,
        "lr_source": trained.lr_source,
        "epochs": len(epochs),
        "best_epoch": trained.best_epoch,
        "stopped_early": len(epochs) < config["max_epochs"],
        "num_sub": num_sub,
        "counts": {"train": images, "val": len(val_at), "test": len(labels), "tested_on": tested},
        "parameters": details["parameters"],
        "metrics": {"val_accuracy": val["accuracy"], "val_nll": val["nll"],
                    **{f"test_{name}": value for name, value in best.items()}},
    }  # fmt: skip
    print(f"{stage}{' ' + variant if variant else ''}: {tested} accuracy {100 * best['accuracy']:.2f} % (epoch "
          f"{trained.best_epoch}, chosen on validation), last {100 * last['accuracy']:.2f} %", flush=True)  # fmt: skip
    curve = [{"kind": "npz", "path": "predictions.npz", "title": f"Log-probabilities and labels, {tested} images"}]
    if trained.lr_source != "flag":
        curve.append({"kind": "json", "path": "lr_find.json", "title": "Learning-rate range test"})
    say(setting, stage, run, inputs, metrics, details, curve, variant=variant, more=more, seconds=seconds,
        images_per_s=images * len(epochs) / seconds if seconds else None)  # fmt: skip
