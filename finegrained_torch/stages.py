"""The stages of the method: what each reads, computes and writes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from finegrained_torch import checkpoint, evaluate, uncertainty
from finegrained_torch.classifier import LitResnet, MultiHead
from finegrained_torch.filter import certain_mask
from finegrained_torch.results import close_stage, say
from finegrained_torch.setting import FOLDERS, Setting, best_weights, file_hash
from finegrained_torch.training import start_stage
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import UserError, read_json, shown, write_bytes


def load_base(setting: Setting) -> tuple[LitResnet, str]:
    """The best coarse network on the device, and its checkpoint's hash."""
    content, digest = best_weights(setting.out / FOLDERS["coarse"] / setting.name, "coarse")
    module = setting.module(
        LitResnet, ("base",), pretrained=False, num_classes=setting.data.num_coarse_labels,
        other_classes=content.get("other_classes", 0),
    )  # fmt: skip
    module.load_state_dict(content["state_dict"])
    return module.to(setting.device).eval(), digest


def coarse(setting: Setting) -> None:
    """Step 1a: the base network on coarse labels; with --control one of the two base controls."""
    config, control = setting.config, setting.config["control"]
    data = setting.data
    inputs = {"data": setting.data_hash}
    keep: np.ndarray | None = None
    if control == "none" or config["pretrained"]:
        inputs["weights"] = setting.pretrained[1]
    if control == "certain":
        keep = setting.certain()
        inputs["certain"] = file_hash(setting.tables / "uncertainty.npz")
    if control == "budget":
        inputs["base"] = best_weights(setting.out / FOLDERS["coarse"] / setting.name, "coarse")[1]
    with setting.opened("coarse", setting.folder("coarse"), inputs) as run:
        if run.done:
            run.say_done()
            return
        key = (config["seed"], "coarse" if control == "none" else f"coarse {control}")
        other = setting.other_classes(data.num_sub_labels)
        module = setting.module(LitResnet, key, num_classes=data.num_coarse_labels, other_classes=other)
        if control == "budget":
            base, _ = load_base(setting)
            module.load_state_dict(base.cpu().state_dict())
            torch.manual_seed(runtime.derive(config["seed"], "coarse budget", "head"))
            module.fine_tuning(data.num_coarse_labels, config["freeze"], data.num_sub_labels)
        where = setting.positions("coarse", keep=keep)
        trained = setting.fit("coarse", run, module, where, classes=data.num_coarse_labels, other_classes=other)
        close_stage(setting, "coarse", run, module, trained, where, inputs, control=control)


def features(setting: Setting) -> None:
    """Step 1b: features of the un-augmented training images in file order, memory-mapped."""
    start_stage(setting.config)
    module, digest = load_base(setting)
    inputs = {"data": setting.data_hash, "base": digest}
    with setting.opened("features", setting.folder("features"), inputs) as run:
        if run.done:
            run.say_done()
            return
        items, batch = setting.train_items, setting.config["batch_size"]
        width = module.network.feature_dim
        path = setting.tables / "activations.npy"
        write_features(path, evaluate.features(module, items, batch), (len(items), width))
        out = np.load(path, mmap_mode="r")
        if setting.config["csv_features"]:
            partial = path.with_name(".activations.csv.partial")
            with open(partial, "w", encoding="utf-8") as text:
                np.savetxt(text, out, fmt="%.8g", delimiter=",", encoding="utf-8")
            os.replace(partial, path.with_suffix(".csv"))
        print(f"features: {len(items):,} x {width} in {shown(path)}", flush=True)
        say(setting, "features", run, inputs, {}, {"shape": list(out.shape), "features_sha256": file_hash(path)})


def write_features(path: Path, chunks: Iterator[np.ndarray], shape: tuple[int, int]) -> None:
    """Writes float32 chunks as one .npy file of that shape, to be memory-mapped.

    Raises:
      UserError: a value that is not finite.
    """
    partial = path.with_name(f".{path.name}.partial")
    # DEVIATION FGL-D24: .npy, memory-mapped; text only on request. Written with write(): a map dies on a full disk
    with open(partial, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for chunk in chunks:
            if not np.isfinite(chunk).all():
                raise UserError("features: not all finite; the base network is broken, run --stage coarse --overwrite")
            file.write(np.ascontiguousarray(chunk, "<f4").data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def uncertain(setting: Setting) -> None:
    """Steps 1c and 1d: uncertainty of every training image, and the certain ones of each coarse class."""
    config, data = setting.config, setting.data
    start_stage(config)
    module, digest = load_base(setting)
    inputs = {"data": setting.data_hash, "base": digest}
    with setting.opened("uncertainty", setting.folder("uncertainty"), inputs) as run:
        if run.done:
            run.say_done()
            return
        labels = data.train.coarse
        with tqdm(total=len(labels), desc="uncertainty", unit="img", leave=False, disable=None) as bar:
            found = uncertainty.uncertainty(
                module.network, setting.train_items.images, labels, config["n_aug"], config["seed"],
                config["batch_size"], config["aug_set"],
                prepare=lambda x: module.prepare(x.to(setting.device)), progress=bar.update,
            )  # fmt: skip
        certain = certain_mask(found.U, labels, config["threshold"])
        # DEVIATION FGL-D08: paths from parts, below --out_dir, on every system
        write_column(setting.tables / "incertezza.csv", found.U)
        write_column(setting.tables / "superclassi.csv", labels)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, uncertainty=found.U, mean_prediction=found.mean_prediction.astype(np.float32), certain=certain,
            coarse=labels, fine=data.train.fine,
        )  # fmt: skip
        write_bytes(setting.tables / "uncertainty.npz", buffer.getvalue())
        wrong = float((found.U > 1).mean())
        print(f"uncertainty: {int(certain.sum()):,} of {len(labels):,} images are certain, "
              f"{100 * wrong:.2f} % of all are misclassified", flush=True)  # fmt: skip
        details = {"certain": int(certain.sum()), "uncertain": int((~certain).sum())}
        metrics: dict[str, dict[str, float | None]] = {"misclassified": {"last": wrong}}
        say(setting, "uncertainty", run, inputs, metrics, details)


def write_column(path: Path, values: np.ndarray) -> None:
    """One value a line, exact: whole numbers as they are, real ones with the digits that give them back."""
    text = "\n".join(map(repr, values.tolist())) + "\n"
    write_bytes(path, text.encode())


def cluster(setting: Setting) -> None:
    """Step 1e: UMAP and HDBSCAN per coarse class; pseudo-labels, scores, the controls that are asked for."""
    config, data = setting.config, setting.data
    for stage in ("features", "uncertainty"):
        if not (setting.folder(stage) / "DONE").exists():
            raise UserError(f"{shown(setting.folder(stage))}: has not finished; run pipeline.py --stage {stage} first")
    path = setting.tables / "activations.npy"
    manifest = read_json(setting.folder("uncertainty") / "manifest.json", "settings")
    if manifest["settings"]["threshold"] != config["threshold"]:
        raise UserError(f"--threshold {config['threshold']}: stage uncertainty ran with "
                        f"{manifest['settings']['threshold']:g}; run it again with --overwrite")  # fmt: skip
    inputs = {"features": file_hash(path), "uncertainty": file_hash(setting.tables / "uncertainty.npz")}
    with setting.opened("cluster", setting.folder("cluster"), inputs) as run:
        if run.done:
            run.say_done()
            return
        from finegrained_torch import controls

        metrics, details, artefacts = controls.cluster_stage(
            setting.out, setting.name, np.load(path, mmap_mode="r"), data.train.coarse, setting.certain(),
            settings=config, seed=config["seed"], fine=data.train.fine if data.num_sub_labels else None,
            images=data.train.images, class_names=data.coarse_names, fine_names=data.fine_names or None,
            record_folder=run.folder,
        )  # fmt: skip
        runtime.set_threads(config["threads"])
        say(setting, "cluster", run, inputs, metrics, details, artefacts)


def sub(setting: Setting) -> None:
    """Step 2 (i): a network from the initial weights on the fine labels, certain images only where they are pseudo."""
    config = setting.config
    fine, count, digest = setting.sub_labels()
    inputs = {"data": setting.data_hash, "labels": digest, "weights": setting.pretrained[1]}
    with setting.opened("sub", setting.folder("sub"), inputs) as run:
        if run.done:
            run.say_done()
            return
        other = setting.other_classes(setting.data.num_coarse_labels)
        module = setting.module(LitResnet, (config["seed"], "sub"), num_classes=count, mode="sub", other_classes=other)
        where = setting.positions("sub", fine, fine >= 0)
        trained = setting.fit("sub", run, module, where, classes=count, labels=setting.kind(), other_classes=other)
        close_stage(setting, "sub", run, module, trained, where, inputs, num_sub=count)


def fine_tune(setting: Setting) -> None:
    """Step 2 (ii): the sub classifier with a new head, on coarse labels and all images; one run for each --head."""
    config, classes = setting.config, setting.data.num_coarse_labels
    content, digest = best_weights(setting.folder("sub"), "sub")
    count = int(content["classes"])
    inputs = {"data": setting.data_hash, "sub": digest}
    for head in config["head"]:
        with setting.opened("fine-tune", setting.folder("fine-tune", head=head), inputs, head=head) as run:
            if run.done:
                run.say_done()
                continue
            key = (config["seed"], "fine-tune")
            other = content.get("other_classes", 0)
            module = setting.module(
                LitResnet, key, pretrained=False, num_classes=count, mode="sub", other_classes=other
            )
            module.load_state_dict(content["state_dict"])
            torch.manual_seed(runtime.derive(config["seed"], "fine-tune", head))
            module.fine_tuning(classes, config["freeze"], count, variant=head)
            where = setting.positions("fine-tune")
            trained = setting.fit(
                "fine-tune", run, module, where, classes=classes, head=head, num_sub=count, other_classes=other
            )
            close_stage(setting, "fine-tune", run, module, trained, where, inputs, num_sub=count, head=head)


def multi_head(setting: Setting) -> None:
    """Step 2, multi-head: both labels at once from the initial weights; one run for each --alpha."""
    config, classes = setting.config, setting.data.num_coarse_labels
    fine, count, digest = setting.sub_labels()
    inputs = {"data": setting.data_hash, "labels": digest, "weights": setting.pretrained[1]}
    for alpha in config["alpha"]:
        with setting.opened("multi-head", setting.folder("multi-head", alpha=alpha), inputs, alpha=alpha) as run:
            if run.done:
                run.say_done()
                continue
            key = (config["seed"], "multi-head")
            module = setting.module(MultiHead, key, num_classes=count, num_superclasses=classes, alpha=alpha)
            where = setting.positions("multi-head", fine, fine >= 0)
            trained = setting.fit("multi-head", run, module, where, classes=classes, alpha=alpha, num_sub=count)
            close_stage(setting, "multi-head", run, module, trained, where, inputs, num_sub=count, alpha=alpha)


def report(setting: Setting) -> None:
    """Writes report.md, report.html and figures/ from what the other stages wrote."""
    from finegrained_torch import report as writer

    writer.write_report(setting.out, config=setting.config)
    runtime.set_threads(setting.config["threads"])


STAGES = {
    "coarse": coarse, "features": features, "uncertainty": uncertain, "cluster": cluster, "sub": sub,
    "fine-tune": fine_tune, "multi-head": multi_head, "report": report,
}  # fmt: skip


def run(config: dict[str, Any], names: list[str] | None = None) -> None:
    """Runs stages in order; `names` instead of the configuration's."""
    runtime.start(config["seed"], config["threads"])
    setting = Setting(config)
    if config["eval"]:
        checkpoint.print_evaluation(setting)
        return
    for name in config["stage"] if names is None else names:
        STAGES[name](setting)
