"""Run folders as the stages leave them, made without training: real digits, invented predictions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from finegrained_torch import flags as tables
from finegrained_torch.method import agreement, controls
from finegrained_torch.training import cluster_files
from finegrained_torch.training.cluster_jobs import cluster_in_processes
from finegrained_torch.training.cluster_stage import summarize
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import Run

DATASET, IMAGES = "mnist5k", 200
FOLDERS = {
    "": ("coarse", "classifier/mnist5k"),
    "ft": ("fine-tune", "fine-tuning/mnist5k/pseudo/plain"),
    "ft-deep": ("fine-tune", "fine-tuning/mnist5k/pseudo/deep_layer"),
    "ft-true": ("fine-tune", "fine-tuning/mnist5k/true/plain"),
    "ft-random": ("fine-tune", "fine-tuning/mnist5k/random/plain"),
    "mh09": ("multi-head", "multihead/mnist5k/pseudo/alpha_0.9"),
}
CONFIG = {"dataset": DATASET, "limit_train": IMAGES, "network": "small", "seed": 42}


def finish(
    folder: Path,
    stage: str,
    variant: str,
    seed: int,
    metrics: dict,
    details: dict,
    artefacts=(),
    *,
    dataset: str = DATASET,
    row: str = "",
) -> None:
    """record.json, config.json, manifest.json and DONE as a finished stage leaves them; `row` names all variants."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, "seed": seed, "dataset": dataset}
    record = make_record(
        paper="finegrained",
        row=row or tables.row_name("mnist5k-cpu", variant),
        stage=stage,
        seed=seed,
        argv=[],
        config=config,
        metrics=metrics,
        seconds=1.0,
        data={"file": "00"},
        data_verified=True,
        deviations=[],
        versions=versions_of("numpy"),
        deterministic=True,
        details=details,
        artefacts=artefacts,
        curve="metrics.jsonl",
    )
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").write_text(json.dumps({"variant": variant}))
    Run(folder, config, False).finish(record)


def training(out: Path, variant: str, seed: int, correct: np.ndarray, truth: np.ndarray) -> None:
    """One training whose best network classifies exactly the images of `correct`.

    Args:
      correct: bool [n].
      truth: int64 [n] in {0, 1}.
    """
    stage, below = FOLDERS[variant]
    folder = out / below
    accuracy = float(correct.mean())
    metrics = {
        "accuracy": {"best_on_val": accuracy, "last": accuracy},
        "macro_accuracy": {"best_on_val": accuracy},
        "nll": {"best_on_val": 0.1, "last": 0.1},
        "val_accuracy": {"best_on_val": accuracy},
    }
    num_sub = None if not variant else 10
    details = {"num_sub": num_sub, "lr": 0.05, "epochs": 2, "training_images": 180}
    finish(folder, stage, variant, seed, metrics, details)
    buffer = io.BytesIO()
    predicted = np.where(correct, truth, 1 - truth)
    np.savez(buffer, labels=truth, predicted=predicted, log_probabilities=np.zeros((len(truth), 2), np.float32))
    (folder / "predictions.npz").write_bytes(buffer.getvalue())
    lines = [{"step": e, "train_loss": 1 / e, "val_loss": 1.1 / e, "val_acc": 0.5 + 0.1 * e} for e in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = {"lr": [1e-4, 1e-3, 1e-2, 1e-1], "loss": [2.0, 1.8, 1.0, 3.0], "suggestion": 0.01}
    (folder / "lr_find.json").write_text(json.dumps(curve))


def clusters(out: Path, seed: int, images: np.ndarray, fine: np.ndarray, coarse: np.ndarray) -> None:
    """Uncertainty and a clustering on two pixel statistics, with controls, as the cluster stage writes them."""
    below = out / f"sub_{DATASET}"
    below.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(coarse)) < 0.05
    values = np.where(wrong, 1.5, 0.3) + 0.3 * rng.random(len(coarse))
    certain = values < np.quantile(values, 0.9)
    mean = np.full((len(coarse), 2), 0.2, np.float32)
    mean[np.arange(len(coarse)), np.where(wrong, 1 - coarse, coarse)] = 0.8
    np.savez(below / "uncertainty.npz", uncertainty=values, mean_prediction=mean, certain=certain)
    features = (images.reshape(len(images), -1) / 255).astype(np.float32)[:, ::4]
    np.save(below / "activations.npy", features)
    made = cluster_in_processes(features, coarse, certain, reducer="none", min_cluster_size=5, workers=0)
    made.pseudo = np.where(certain, np.where(rng.random(len(fine)) < 0.8, fine, 5 * coarse), -1)  # mostly right
    made.parent, made.num_labels = np.repeat([0, 1], 5), 10
    cluster_files.save_clustering(out, DATASET, made, certain, coarse, settings={"seed": seed})
    labels = {"random": controls.random_labels(made.pseudo, coarse, seed), "kmeans": made.pseudo, "pixels": fine}
    metrics, details = summarize(made, labels, {}, coarse, certain, fine)
    between = agreement.in_between(np.where(certain, 0, -1), values.astype(np.float32), coarse, certain)
    metrics |= {name: {"last": value} for name, value in between.items()}
    details["class_names"] = ["digits 0-4", "digits 5-9"]
    finish(below / "stages" / "cluster", "cluster", "", seed, metrics, details)


def make(root: Path, seeds: tuple[int, ...] = (42, 43, 44)) -> Path:
    """A whole table over seeds below `root`; returns the folder of the first seed."""
    import datasets

    ds = datasets.subset(datasets.load(DATASET), train=IMAGES, seed=0)
    fine = ds.train_labels
    coarse = (fine >= 5).astype(np.int64)
    truth = (ds.test_labels >= 5).astype(np.int64)
    for seed in seeds:
        out = root / f"seed{seed}"
        clusters(out, seed, ds.train_images, fine, coarse)
        rng = np.random.default_rng(seed)
        base = rng.random(len(truth)) < 0.955
        for variant in FOLDERS:
            gain = {"": 0.0, "ft": 0.4, "ft-deep": 0.4, "ft-true": 0.7, "ft-random": 0.0, "mh09": 0.1}[variant]
            correct = base | (rng.random(len(truth)) < gain)
            training(out, variant, seed, correct, truth)
    return root / f"seed{seeds[0]}"
