"""What a finished training leaves behind: predictions, curves, the tree, and the record."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hierarchy_cnn_torch import deviations
from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.data.tree_files import save_tree
from hierarchy_cnn_torch.flags import ARM_NAMES, Config
from hierarchy_cnn_torch.method import trees
from hierarchy_cnn_torch.method.branches import Branches, choose_betas, joined
from hierarchy_cnn_torch.method.statistics import among_top_k
from hierarchy_cnn_torch.networks.alexnet import Network
from hierarchy_cnn_torch.training.evaluate import Scores
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.arrays import write_npz
from reproduction.runtime.loop import Training
from reproduction.runtime.outcomes import outcomes_of
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import Run, shown
from reproduction.runtime.torch_runtime import World, parameter_count

Metrics = dict[str, dict[str, float | None]]


def describe(config: Config, data: Data, network: Network, branches: Branches, world: World) -> None:
    """Prints what is going to be trained on what, once for all processes."""
    if world.rank == 0:
        print(
            f"{config.dataset}: {len(data.train):,} training, {len(data.val):,} held-out, {len(data.test_labels):,} "
            f"test images, {len(data.names)} classes; {config.arm} ({ARM_NAMES[config.arm]}), "
            f"{parameter_count(network):,} parameters, branches {branches.outputs() or 'none'}; {world.device}"
            + (f", {runtime.precision(world.device, config.amp)}" if config.amp else ""),
            flush=True,
        )


def write_fold(config: Config, run: Run, data: Data, training: Training, scores: Tensor, tree: trees.Node) -> None:
    """Writes the out-of-fold predictions of the label study and their record.

    Args:
      config: resolved flags.
      run: open run folder.
      data: images in their splits; `val` is the fold.
      training: finished.
      scores: float32 [N, K] logits of the fold.
      tree: its groups say which flips are near.
    """
    index = data.val
    arrays = {
        "index": index,
        "probabilities": torch.softmax(scores, 1).numpy().astype(np.float32),
        "labels": data.labels[index],
        "true_labels": data.true_labels[index],
        "kind": data.kind[index],
    }
    write_npz(run.folder / "fold.npz", arrays)
    save_tree(run.folder / "noise_tree.json", tree)
    right = {"fold_accuracy": scores.numpy().argmax(1) == data.labels[index]}
    # the true labels identify the images: planted ones differ from seed to seed
    _finish(config, run, data, training, f"fold{config.fold}", {}, right, data.true_labels[index], {}, [])


def write_record(
    config: Config,
    run: Run,
    network: Network,
    data: Data,
    branches: Branches,
    tree: trees.Node,
    training: Training,
    scores: Scores,
) -> None:
    """Writes predictions, curves, tree and record of a variant.

    Args:
      config: resolved flags.
      run: open run folder.
      network: trained.
      data: images in their splits.
      branches: what the heads of the network fit.
      tree: of the classes; derived in stage 1, given in stage 2.
      training: finished.
      scores: of the trained network.
    """
    folder, labels, history, state = run.folder, data.test_labels, training.history, training.state
    test = scores.test.numpy()
    train_predicted, train_labels = scores.train.numpy().argmax(1), data.labels[scores.sample]
    save_tree(folder / "tree.json", tree)
    write_npz(
        folder / "predictions.npz",
        {
            "test_logits": test.astype(np.float32),
            "test_labels": labels,
            "val_logits": scores.val.numpy().astype(np.float32),
            "val_labels": data.labels[data.val],
            "train_predicted": train_predicted,
            "train_labels": train_labels,
        },
    )
    curve, gradients = curves_of(state, len(network.names))
    write_npz(folder / "curves.npz", {"curve": curve, "curve_index": data.curve, "gradients": gradients})
    every_epoch = [row["test/accuracy"] for row in history]
    metrics: Metrics = {
        "test_accuracy": {"best_on_test": max(every_epoch) if len(data.curve) == len(labels) else None},
        "train_accuracy": {"last": float((train_predicted == train_labels).mean())},
        "parameters": {"last": float(parameter_count(network))},
        "seconds_per_epoch": {"last": training.seconds / training.epoch},
    }
    if not config.train_held_out:
        metrics["test_accuracy"]["best_on_val"] = scores.best_on_val
        metrics["val_accuracy"] = {"last": history[-1]["val/accuracy"]}
    predicted = test.argmax(1)
    right = {"test_accuracy": predicted == labels}
    if len(data.names) >= 20:
        right["test_top5_accuracy"] = among_top_k(test, labels, 5)
    for level in trees.levels_of(tree):
        right[f"group_accuracy/{int(level.max()) + 1}"] = level[predicted] == level[labels]
    details: dict[str, Any] = {"branches": branches.outputs(), "curve_images": len(data.curve)}
    lead = "test_accuracy"
    for tap, head, table in zip(branches.taps, scores.test_heads, branches.labels, strict=True):
        right[f"branch_accuracy/{tap}"] = head.numpy().argmax(1) == table[labels]
    if branches.taps and not config.train_held_out:
        details["betas"], right["test_accuracy_product"] = join_heads(config, data, branches, scores)
        # DEVIATION HCN-D10: the last head decides, as we remember it; --predict product: all heads
        lead = "test_accuracy_product" if config.predict == "product" else lead
    right["accuracy"], metrics["accuracy"] = right[lead], metrics.get(lead, {})
    artefact = {"kind": "json", "path": "tree.json", "title": f"{config.arm}: class tree"}
    _finish(config, run, data, training, config.arm, metrics, right, labels, details, [artefact])


def curves_of(state: dict[str, Any], layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Joins what the training collected; the epochs before a resume lie on the device, where the state was read to.

    Args:
      state: of the finished training; `curve` and `gradients` are used.
      layers: number of convolutions.
    Returns:
      (int32 [epochs, curve images], predictions after each epoch; float32 [steps, 2, layers], see `gradient_norms`).
    """
    curve, gradients = ([part.cpu() for part in state[name]] for name in ("curve", "gradients"))
    return torch.stack(curve).numpy(), torch.cat(gradients).numpy().reshape(-1, 2, layers)


def join_heads(config: Config, data: Data, branches: Branches, scores: Scores) -> tuple[list[float], np.ndarray]:
    """Returns the weights of the product of all heads, chosen on the held-out part, and bool [M]: what it got right."""

    def logs(values: list[Tensor]) -> list[np.ndarray]:
        return [torch.log_softmax(value.double(), 1).numpy() for value in values]

    val, *val_heads = logs([scores.val, *scores.val_heads])
    test, *test_heads = logs([scores.test, *scores.test_heads])
    betas = choose_betas(val, val_heads, branches.labels, data.labels[data.val])
    right = joined(test, test_heads, branches.labels, betas).argmax(1) == data.test_labels
    print(
        f"{config.arm}: last head {100 * scores.last:.2f} %, product of heads {100 * right.mean():.2f} % "
        f"(betas {betas} chosen on the held-out part)",
        flush=True,
    )
    return betas, right


def _finish(
    config: Config,
    run: Run,
    data: Data,
    training: Training,
    stage: str,
    metrics: Metrics,
    right: dict[str, np.ndarray],
    labels: np.ndarray,
    details: dict[str, Any],
    artefacts: list[dict[str, str]],
) -> None:
    """Writes the record and the DONE stamp.

    Args:
      config: resolved flags.
      run: open run folder.
      data: images in their splits.
      training: finished.
      stage: name of the variant or fold, in front of each metric.
      metrics: name -> how its epoch was chosen -> value.
      right: name of an accuracy -> bool [N], what the last epoch's network got right; its mean becomes `last`.
      labels: int64 [N] true classes of these images.
      details: further JSON values.
      artefacts: files for the page.
    """
    for name, bits in right.items():
        metrics[name] = {**metrics.get(name, {}), "last": float(bits.mean())}
    device = runtime.pick_device(config.device)
    record = make_record(
        paper="hierarchy",
        row=config.row,
        stage=stage,
        seed=config.seed,
        argv=sys.argv,
        config=run.config,
        metrics={f"{stage}/{name}": value for name, value in metrics.items()},
        seconds=training.seconds,
        outcomes={f"{stage}/{name}": outcomes_of(bits, labels) for name, bits in right.items()},
        images_per_s=training.images_per_s,
        data=data.digests,
        data_verified=data.verified,
        deviations=deviations.active(config),
        precision=runtime.precision(device, config.amp),
        deterministic=device.type == "cpu" or config.deterministic,
        details=details,
        artefacts=artefacts,
        versions=versions_of("torch", "numpy", "scipy"),
        gpu=runtime.device_name(device),
    )
    run.finish(record)
    accuracy = next(iter(right.values())).mean()
    print(f"{shown(run.folder)}: {stage} finished, accuracy {100 * accuracy:.2f} %", flush=True)
