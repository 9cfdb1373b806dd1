"""Step 1: the base network on coarse labels, its features, the uncertainty of each image, the clusters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from finegrained_torch.method.uncertainty import certain_mask, uncertainty
from finegrained_torch.networks.resnet import inference_copy
from finegrained_torch.training import cluster_stage
from finegrained_torch.training.loop import train
from finegrained_torch.training.modules import LitResnet, features
from finegrained_torch.training.record import close_training, finish
from finegrained_torch.training.setting import (
    FOLDERS,
    Setting,
    best_weights,
    file_hash,
    start_stage,
    write_column,
)
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.arrays import write_npz
from reproduction.runtime.run_folder import UserError, atomic, read_json, shown


def load_base(setting: Setting) -> tuple[LitResnet, str]:
    """Loads the best coarse network on the device; returns it and its checkpoint's hash."""
    content, digest = best_weights(setting.out / FOLDERS["coarse"] / setting.name, "coarse")
    module = setting.new_module(
        LitResnet,
        ("base",),
        pretrained=False,
        num_classes=setting.data.num_coarse_labels,
        other_classes=content.get("other_classes", 0),
    )
    module.load_state_dict(content["state_dict"])
    return module.to(setting.device).eval(), digest


def train_coarse(setting: Setting) -> None:
    """Step 1a: trains the base network on coarse labels, or with --control one of the two base controls."""
    config, control = setting.config, setting.config.control
    data = setting.data
    inputs = {"data": setting.data_hash}
    keep: np.ndarray | None = None
    if control == "none" or config.pretrained:
        inputs["weights"] = setting.pretrained[1]
    if control == "certain":
        keep = setting.certain()
        inputs["certain"] = file_hash(setting.tables / "uncertainty.npz")
    if control == "budget":
        base, inputs["base"] = load_base(setting)
    with setting.open_stage("coarse", setting.folder("coarse"), inputs) as run:
        if run.is_finished():
            return
        key = (config.seed, "coarse" if control == "none" else f"coarse {control}")
        other = setting.other_classes(data.num_sub_labels)
        module = setting.new_module(LitResnet, key, num_classes=data.num_coarse_labels, other_classes=other)
        if control == "budget":
            module.load_state_dict(base.state_dict())
            torch.manual_seed(runtime.derive(config.seed, "coarse budget", "head"))
            module.fine_tuning(data.num_coarse_labels, config.freeze, data.num_sub_labels)
        task = setting.task("coarse", run, module, keep=keep, classes=data.num_coarse_labels, other_classes=other)
        close_training(setting, run, task, train(task, config), inputs)


def extract_features(setting: Setting) -> None:
    """Step 1b: computes the features of the un-augmented training images in file order."""
    start_stage(setting.config)
    module, digest = load_base(setting)
    inputs = {"data": setting.data_hash, "base": digest}
    with setting.open_stage("features", setting.folder("features"), inputs) as run:
        if run.is_finished():
            return
        items, width = setting.train_items, module.network.feature_dim
        path = setting.tables / "activations.npy"
        for stale in setting.tables.glob(".activations.*.partial"):  # left by a kill -9
            stale.unlink(missing_ok=True)
        write_features(path, features(module, items, setting.config.test_batch), (len(items), width))
        path.with_suffix(".csv").unlink(missing_ok=True)  # of an older base network
        if setting.config.csv_features:
            with atomic(path.with_suffix(".csv")) as text:
                np.savetxt(text, np.load(path, mmap_mode="r"), fmt="%.8g", delimiter=",", encoding="utf-8")
        print(f"features: {len(items):,} x {width} in {shown(path)}", flush=True)
        details = {"shape": [len(items), width], "features_sha256": file_hash(path)}
        finish(setting, run, "features", inputs, {}, details)


def write_features(path: Path, chunks: Iterator[np.ndarray], shape: tuple[int, int]) -> None:
    """Writes float32 chunks as one .npy file of that shape, to be memory-mapped.

    Raises:
      UserError: a value that is not finite.
    """
    # DEVIATION FGL-D24: .npy, memory-mapped; text only on request. Written with write(): a map dies on a full disk
    with atomic(path) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for chunk in chunks:
            if not np.isfinite(chunk).all():
                raise UserError("features: not all finite; the base network is broken, run --stage coarse --overwrite")
            file.write(np.ascontiguousarray(chunk, "<f4").data)


def compute_uncertainty(setting: Setting) -> None:
    """Steps 1c and 1d: computes the uncertainty of every training image, and marks the certain ones of each class."""
    config, data = setting.config, setting.data
    start_stage(config)
    module, digest = load_base(setting)
    inputs = {"data": setting.data_hash, "base": digest}
    with setting.open_stage("uncertainty", setting.folder("uncertainty"), inputs) as run:
        if run.is_finished():
            return
        labels = data.train.coarse
        with tqdm(total=len(labels), desc="uncertainty", unit="img", leave=False, disable=None) as bar:
            U, mean_prediction = uncertainty(
                inference_copy(module.network),
                setting.train_items.images,
                labels,
                config.n_aug,
                config.seed,
                config.test_batch,
                config.aug_set,
                prepare=lambda x: module.prepare(x.to(setting.device)),
                progress=bar.update,
            )
        certain = certain_mask(U, labels, config.threshold)
        if not certain.any():
            raise UserError(f"--threshold {config.threshold:g}: no class has a certain image; choose a higher one")
        # DEVIATION FGL-D08: paths from parts, below --out_dir, on every system
        write_column(setting.tables / "incertezza.csv", U)
        write_column(setting.tables / "superclassi.csv", labels)
        arrays = {"uncertainty": U, "mean_prediction": mean_prediction.astype(np.float32), "certain": certain}
        write_npz(setting.tables / "uncertainty.npz", arrays | {"coarse": labels, "fine": data.train.fine})
        wrong = float((U > 1).mean())
        print(
            f"uncertainty: {int(certain.sum()):,} of {len(labels):,} images are certain, "
            f"{100 * wrong:.2f} % of all are misclassified",
            flush=True,
        )
        details = {"certain": int(certain.sum()), "uncertain": int((~certain).sum())}
        finish(setting, run, "uncertainty", inputs, {"misclassified": {"last": wrong}}, details)


def cluster(setting: Setting) -> None:
    """Step 1e: clusters each coarse class by UMAP and HDBSCAN; also scores and the controls that are asked for."""
    config, data = setting.config, setting.data
    for stage in ("features", "uncertainty"):
        if not (setting.folder(stage) / "DONE").exists():
            raise UserError(f"{shown(setting.folder(stage))}: has not finished; run pipeline.py --stage {stage} first")
    path = setting.tables / "activations.npy"
    manifest = read_json(setting.folder("uncertainty") / "manifest.json", "settings", "inputs")
    if manifest["inputs"] != read_json(setting.folder("features") / "manifest.json", "inputs")["inputs"]:
        raise UserError(
            f"{shown(setting.out)}: stages features and uncertainty ran on different base networks or images; run both "
            "again: --stage features uncertainty --overwrite"
        )
    if manifest["settings"]["threshold"] != config.threshold:
        raise UserError(
            f"--threshold {config.threshold}: stage uncertainty ran with "
            f"{manifest['settings']['threshold']:g}; run it again with --overwrite"
        )
    inputs = {"features": file_hash(path), "uncertainty": file_hash(setting.tables / "uncertainty.npz")}
    with setting.open_stage("cluster", setting.folder("cluster"), inputs) as run:
        if run.is_finished():
            return
        features = np.load(path, mmap_mode="r")
        metrics, details, artefacts = cluster_stage.cluster_stage(
            setting.out, data, features, setting.certain(), config, run.folder, inputs["features"]
        )
        runtime.set_threads(config.threads)
        finish(setting, run, "cluster", inputs, metrics, details, artefacts=artefacts)
