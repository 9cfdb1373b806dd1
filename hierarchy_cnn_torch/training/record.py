"""What a finished arm leaves behind: predictions, curves, the derived tree, and its record."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hierarchy_cnn_torch import deviations
from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.method import similarity, statistics, trees
from hierarchy_cnn_torch.method.branches import Branches, choose_betas, joined
from hierarchy_cnn_torch.networks.alexnet import Network, parameters_of
from hierarchy_cnn_torch.training import loop
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import Run, shown
from reproduction.runtime.torch_runtime import World

TRAIN_SAMPLE = 5000  # training images on which the train-test gap is measured, at most


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Compressed arrays, atomically."""
    partial = path.with_name(f".{path.stem}.partial.npz")
    np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images whose label is among the k largest scores."""
    top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return float((top == labels[:, None]).any(1).mean())


def finish(
    config: dict[str, Any], run: Run, network: Network, data: Data, branches: Branches, tree: trees.Node | None,
    p: dict[str, Any], world: World, derive: Callable[..., trees.Node],
) -> None:  # fmt: skip
    """Evaluates, writes the artefacts and the record (rank 0)."""
    folder, arm, device = run.folder, config["arm"], world.device
    val_logits, val_heads = loop.scores_of(network, data.images[data.val], data, config, world)
    if config["folds"]:
        if world.rank == 0:
            probabilities = torch.softmax(val_logits, 1).numpy().astype(np.float32)
            write_npz(folder / "fold.npz", index=data.val, probabilities=probabilities, labels=data.labels[data.val],
                      true_labels=data.true_labels[data.val], kind=data.kind[data.val])  # fmt: skip
            trees.save_tree(folder / "noise_tree.json", _noise_tree(config, data))
            accuracy = p["history"][-1]["val/accuracy"]
            _record(config, run, data, p, {"fold_accuracy": {"last": accuracy}}, {}, [])
        return
    test_logits, test_heads = loop.scores_of(network, data.test_images, data, config, world)
    part = np.sort(np.random.RandomState(0).permutation(data.train)[:TRAIN_SAMPLE])
    train_logits, _ = loop.scores_of(network, data.images[part], data, config, world)
    last = float((test_logits.argmax(1).numpy() == data.test_labels).mean())
    best_on_val = _best_on_val(config, network, data, p, world, folder, last)
    if world.rank > 0:
        return
    test, val = test_logits.numpy(), val_logits.numpy()
    labels = data.test_labels
    if tree is None:
        tree = derive(config, network, data, val, device)
    trees.save_tree(folder / "tree.json", tree)
    write_npz(
        folder / "predictions.npz", test_logits=test.astype(np.float32), test_labels=labels,
        val_logits=val.astype(np.float32), val_labels=data.labels[data.val],
        train_predicted=train_logits.numpy().argmax(1), train_labels=data.labels[part],
    )  # fmt: skip
    write_npz(
        folder / "curves.npz", curve=torch.stack(p["curve"]).numpy(), curve_index=data.curve,
        gradients=np.array(p["gradients"], np.float32).reshape(-1, 2, len(network.names)),
    )  # fmt: skip

    history = p["history"]
    whole = len(data.curve) == len(labels)
    found: dict[str, dict[str, float | None]] = {
        "test_accuracy": {
            "last": last,
            "best_on_val": best_on_val,
            "best_on_test": max(row["test/accuracy"] for row in history) if whole else None,
        },
        "train_accuracy": {"last": float((train_logits.numpy().argmax(1) == data.labels[part]).mean())},
        "val_accuracy": {"last": history[-1]["val/accuracy"]},
        "parameters": {"last": float(parameters_of(network))},
        "seconds_per_epoch": {"last": p["seconds"] / p["epoch"]},
    }
    if len(data.names) >= 20:
        found["test_top5_accuracy"] = {"last": top_k_accuracy(test, labels, 5)}
    counts = similarity.confusion_matrix(labels, test.argmax(1), len(data.names))
    for level in trees.levels_of(tree):
        accuracy = statistics.group_report(counts, level)["accuracy"]
        found[f"group_accuracy/{int(level.max()) + 1}"] = {"last": float(accuracy)}  # type: ignore[arg-type]
    details: dict[str, Any] = {"branches": branches.outputs(), "curve_images": len(data.curve)}
    if branches.taps:
        logs, head_logs = loop.log_softmax([test_logits])[0], loop.log_softmax(test_heads)
        betas = choose_betas(
            loop.log_softmax([val_logits])[0], loop.log_softmax(val_heads), branches.labels, data.labels[data.val]
        )
        product = joined(logs, head_logs, branches.labels, betas).argmax(1)
        found["test_accuracy_product"] = {"last": float((product == labels).mean())}
        details["betas"] = betas
        for tap, scores, table in zip(branches.taps, test_heads, branches.labels, strict=True):
            found[f"branch_accuracy/{tap}"] = {"last": float((scores.argmax(1).numpy() == table[labels]).mean())}
        print(
            f"{arm}: last head {100 * last:.2f} %, product of heads {100 * float((product == labels).mean()):.2f} % "
            f"(betas {betas} chosen on the held-out part)",
            flush=True,
        )
    lead = "test_accuracy_product" if config["predict"] == "product" and branches.taps else "test_accuracy"
    found["accuracy"] = dict(found[lead])
    _record(
        config, run, data, p, found, details, [{"kind": "json", "path": "tree.json", "title": f"{arm}: class tree"}]
    )


def _noise_tree(config: dict[str, Any], data: Data) -> trees.Node:
    from hierarchy_cnn_torch.data.images import named_tree, noise_tree

    if config["label_noise"]:
        return noise_tree(config, data.names)
    return named_tree(config["tree"], config["dataset"], data.names)


def _best_on_val(
    config: dict[str, Any], network: Network, data: Data, p: dict[str, Any], world: World, folder: Path, last: float
) -> float | None:
    """Test accuracy of the epoch that was best on the held-out part; restores the last weights."""
    best = max(range(len(p["history"])), key=lambda e: (p["history"][e]["val/accuracy"], -e))
    if best == len(p["history"]) - 1:
        return last
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(runtime.read_checkpoint(folder / "checkpoints" / "best.pt", world.device))
    scores, _ = loop.scores_of(network, data.test_images, data, config, world)
    network.load_state_dict(kept)
    return float((scores.argmax(1).numpy() == data.test_labels).mean())


def _record(
    config: dict[str, Any], run: Run, data: Data, p: dict[str, Any], found: dict[str, dict[str, float | None]],
    details: dict[str, Any], artefacts: list[dict[str, str]],
) -> None:  # fmt: skip
    arm = f"fold{config['fold']}" if config["folds"] else config["arm"]
    images = len(data.train) * p["epoch"]
    device = runtime.pick_device(config["device"])
    record = make_record(
        paper="hierarchy", row=config["row"], stage=arm, seed=config["seed"], argv=sys.argv, config=config,
        metrics={f"{arm}/{name}": value for name, value in found.items()}, seconds=p["seconds"],
        images_per_s=images / max(p["seconds"], 1e-9), data=data.digests, data_verified=data.verified,
        deviations=deviations.active(config), precision="bfloat16" if config["amp"] else "float32",
        deterministic=device.type == "cpu" or config["deterministic"], details=details, artefacts=artefacts,
        versions=versions_of("torch", "numpy", "scipy"), gpu=runtime.device_name(device),
    )  # fmt: skip
    run.finish(record)
    accuracy = next(iter(found.values()))["last"]
    print(f"{shown(run.folder)}: {arm} finished, accuracy {100 * (accuracy or 0):.2f} %", flush=True)
