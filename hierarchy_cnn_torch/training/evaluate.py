"""Passes of a network over images: scores, class profiles, features of the probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hierarchy_cnn_torch.data.images import Data, prepared
from hierarchy_cnn_torch.flags import Config
from hierarchy_cnn_torch.networks.alexnet import Network, Trunk, trunk_of
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.torch_runtime import World, read_checkpoint

EVAL_BATCH, PASS_BATCH = 500, 250
PROBE_TAPS = ("conv2", "conv3", "conv5", "fc7")
TRAIN_SAMPLE = 5000  # training images on which the gap between training and test is measured, at most


@dataclass
class Scores:
    """The scores that a trained network gives the images, on the CPU.

    Attributes:
      test: float32 [M, K] class logits of the test images.
      test_heads: float32 [M, n] logits of each branch.
      val: float32 [V, K], of the held-out part.
      val_heads: float32 [V, n] likewise.
      train: float32 [T, K], of a sample of the training part.
      sample: int64 [T], indices of that sample.
      last: accuracy on the test images, in [0, 1].
      best_on_val: the same of the epoch that was best on the held-out part, or of the last if that was trained on.
    """

    test: Tensor
    test_heads: list[Tensor]
    val: Tensor
    val_heads: list[Tensor]
    train: Tensor
    sample: np.ndarray
    last: float
    best_on_val: float


def layout(x: Tensor, config: Config) -> Tensor:
    """Returns images in channels-last memory if the flags ask for it."""
    return x.contiguous(memory_format=torch.channels_last) if config.channels_last else x


def accuracy_of(scores: Tensor, labels: np.ndarray) -> float:
    """Returns the share of images whose largest score is that of their label, in [0, 1].

    Args:
      scores: float [N, K], on the CPU.
      labels: int64 [N].
    """
    return float((scores.argmax(1).numpy() == labels).mean())


@torch.inference_mode()
def scores_of(
    network: torch.nn.Module, pixels: np.ndarray, data: Data, config: Config, world: World
) -> tuple[Tensor, list[Tensor]]:
    """Returns class logits [N, K] and branch logits [N, n] of images, on the CPU; processes share the work.

    Args:
      network: on the device; evaluated, not trained.
      pixels: uint8 [N, H, W, C].
      data: mean and deviation of the training part.
      config: resolved flags.
      world: the processes.
    Raises:
      UserError: a score is not finite.
    """
    network.eval()
    mean, sd = data.mean.to(world.device), data.sd.to(world.device)
    parts: list[tuple[int, int, list[Tensor]]] = []
    size = config.eval_batch or EVAL_BATCH
    for start in range(world.rank * size, len(pixels), world.size * size):
        batch = torch.from_numpy(np.array(pixels[start : start + size])).to(world.device)
        x = layout(prepared(batch, mean, sd, config.image_size), config)
        with runtime.autocast(world.device, config.amp):
            logits, heads = network(x)
        parts.append((start, start + len(batch), [value.float() for value in (logits, *heads.values())]))
    widths = [value.shape[1] for value in parts[0][2]] if parts else []
    if world.size > 1:
        table = torch.tensor([*widths, *[0] * (8 - len(widths))], device=world.device)
        torch.distributed.broadcast(table, 0)
        widths = [int(width) for width in table if width]
    out = [torch.zeros(len(pixels), width, device=world.device) for width in widths]
    for start, end, values in parts:
        for target, value in zip(out, values, strict=True):
            target[start:end] = value
    runtime.reduce_sum(world, *out)
    if not all(bool(value.isfinite().all()) for value in out):  # a loss is taken before the update of its step
        raise UserError(
            f"{config.arm}: the scores of the network are not finite; train it with --lr below {config.lr:g}"
        )
    return out[0].cpu(), [value.cpu() for value in out[1:]]


def evaluate_epoch(config: Config, network: Network, data: Data, world: World) -> tuple[dict[str, float], list[Tensor]]:
    """Evaluates after an epoch; every process calls it.

    Args:
      config: resolved flags.
      network: as it is after the epoch.
      data: images in their splits.
      world: the processes.
    Returns:
      (accuracies by name, int32 predictions for `data.curve`: one array, none if only a fold is predicted).
    """
    accuracies: dict[str, float] = {}
    if not config.train_held_out:
        watched = data.val if config.folds else data.val[: config.curve_images or len(data.val)]
        val, _ = scores_of(network, data.images[watched], data, config, world)
        accuracies["val/accuracy"] = accuracy_of(val, data.labels[watched])
    if config.folds:
        return accuracies, []
    test, _ = scores_of(network, data.test_images[data.curve], data, config, world)
    accuracies["test/accuracy"] = accuracy_of(test, data.test_labels[data.curve])
    return accuracies, [test.argmax(1).to(torch.int32)]


def evaluate_splits(
    network: Network, data: Data, config: Config, world: World, history: Sequence[dict[str, Any]], folder: Path
) -> Scores:
    """Scores all test images, the held-out part and a sample of the training part; every process calls it.

    Args:
      network: with its last weights, which it keeps.
      data: images in their splits.
      config: resolved flags.
      world: the processes.
      history: one dict an epoch.
      folder: run folder, with the weights of the best epoch.
    """
    val, val_heads = scores_of(network, data.images[data.val], data, config, world)
    test, test_heads = scores_of(network, data.test_images, data, config, world)
    sample = np.sort(np.random.RandomState(0).permutation(data.train)[:TRAIN_SAMPLE])
    train, _ = scores_of(network, data.images[sample], data, config, world)
    last = best_on_val = accuracy_of(test, data.test_labels)
    held_out = [row["val/accuracy"] for row in history if "val/accuracy" in row]
    if held_out and held_out[-1] <= max(held_out[:-1], default=-1.0):
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(read_checkpoint(folder / "checkpoints" / "best.pt", world.device))
        scores, _ = scores_of(network, data.test_images, data, config, world)
        network.load_state_dict(weights)
        best_on_val = accuracy_of(scores, data.test_labels)
    return Scores(test, test_heads, val, val_heads, train, sample, last, best_on_val)


def evaluate_checkpoint(config: Config, data: Data, world: World) -> None:
    """Prints the top-1 accuracy of the checkpoint of --eval on the whole test set.

    Raises:
      UserError: the checkpoint cannot be read or is of another network.
    """
    state = read_checkpoint(Path(config.eval or ""))
    try:
        state = state.get("model", state)
        heads = {name.split(".")[1]: len(value) for name, value in state.items() if name.endswith(".5.bias")}
        trunk = trunk_of(config.trunk, config.preset)
        network = rebuild(config, data, heads, replace(trunk, fc=len(state["fc6.bias"])))  # A5 is wider
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError, LookupError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"--eval {config.eval}: does not fit --trunk, --preset, --bn or --dataset ({reason})") from None
    scores, _ = scores_of(network.to(world.device), data.test_images, data, config, world)
    accuracy = accuracy_of(scores, data.test_labels)
    print(f"{config.dataset}: top-1 accuracy {100 * accuracy:.2f} % on {len(data.test_labels):,} test images")


def rebuild(config: Config, data: Data, heads: dict[str, int] | None = None, trunk: Trunk | None = None) -> Network:
    """Returns an untrained network of a run's flags.

    Args:
      config: resolved flags.
      data: its images' channels and classes.
      heads: layer -> outputs of the branch there; without them the network is flat.
      trunk: instead of the flags' own.
    """
    return Network(
        trunk or trunk_of(config.trunk, config.preset),
        data.images.shape[3],
        len(data.names),
        heads,
        config.bn,
        config.seed,
        dropout=config.dropout,
    )


def kept_epochs(folder: Path) -> list[int]:
    """Returns the epochs whose weights a run kept: 0, the untrained network, 1, and more.

    Raises:
      UserError: 0 or 1 is missing; says which flag keeps them.
    """
    epochs = sorted(int(path.stem.split("-")[1]) for path in (folder / "weights").glob("epoch-*.pt"))
    if epochs[:2] != [0, 1]:
        raise UserError(
            f"{shown(folder)}: weights of the epochs {epochs}, needed are 0 (untrained) and 1 at least; train it with "
            "--keep-epochs auto, or leave responses and probes out of --what"
        )
    return epochs


def load_epoch(network: Network, folder: Path, epoch: int) -> None:
    """Puts an epoch's weights into the network."""
    network.load_state_dict(read_checkpoint(folder / "weights" / f"epoch-{epoch:04d}.pt"))


@torch.inference_mode()
def passes(
    network: Network,
    data: Data,
    pixels: np.ndarray,
    config: Config,
    device: torch.device,
    layers: Sequence[str],
    pool: Any,
) -> Iterator[tuple[dict[str, np.ndarray], slice]]:
    """Yields the pooled outputs of some layers, float32 [B, M] each, and the rows of the batch, in the images' order.

    Args:
      network: evaluated on the device.
      data: mean and deviation of the training part.
      pixels: uint8 [N, H, W, C].
      config: resolved flags.
      device: where to compute.
      layers: names of `Network.response_layers`.
      pool: turns an output of a layer into float32 [B, M].
    """
    from hierarchy_cnn_torch.method.responses import tapped

    chosen = {name: layer for name, layer in network.response_layers().items() if name in layers}
    network.eval().to(device)
    mean, sd = data.mean.to(device), data.sd.to(device)
    with tapped(chosen, pool) as caught:
        for start in range(0, len(pixels), PASS_BATCH):
            batch = torch.from_numpy(np.array(pixels[start : start + PASS_BATCH])).to(device)
            network(layout(prepared(batch, mean, sd, config.image_size), config))
            yield {name: caught[name].numpy() for name in chosen}, slice(start, start + len(batch))


def class_profiles(
    network: Network,
    data: Data,
    pixels: np.ndarray,
    labels: np.ndarray,
    config: Config,
    device: torch.device,
    layers: Sequence[str],
    how: str = "mean",
) -> dict[str, np.ndarray]:
    """Returns the class profiles R of some layers, float64 [K, M] each.

    Args:
      network: evaluated on the device.
      data: images in their splits.
      pixels: uint8 [N, H, W, C].
      labels: int64 [N].
      config: resolved flags.
      device: where to compute.
      layers: names of `Network.response_layers`.
      how: how a map becomes one number: mean, max or q95.
    """
    from hierarchy_cnn_torch.method.responses import ClassSums, aggregate

    sums: dict[str, ClassSums] = {}
    for batch, rows in passes(network, data, pixels, config, device, layers, lambda x: aggregate(x, how)):
        for name, values in batch.items():
            sums.setdefault(name, ClassSums(len(data.names), values.shape[1])).update(values, labels[rows])
    return {name: value.mean() for name, value in sums.items()}


def probe_features(
    network: Network, data: Data, pixels: np.ndarray, config: Config, device: torch.device
) -> dict[str, Tensor]:
    """Returns the features of the probes, float32 [N, D] a layer: maps pooled to 2 x 2, hidden layers as they are.

    Args:
      network: evaluated on the device.
      data: mean and deviation of the training part.
      pixels: uint8 [N, H, W, C].
      config: resolved flags.
      device: where to compute.
    """

    def pool(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 2).flatten(1) if x.dim() == 4 else x

    batches = [batch for batch, _ in passes(network, data, pixels, config, device, PROBE_TAPS, pool)]
    return {name: torch.from_numpy(np.concatenate([batch[name] for batch in batches])) for name in batches[0]}
