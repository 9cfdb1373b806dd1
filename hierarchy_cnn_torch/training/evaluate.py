"""Passes of a trained network over images: class profiles, per-image responses, probe features, for kept epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hierarchy_cnn_torch.data import images
from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.method import responses
from hierarchy_cnn_torch.networks.alexnet import Network, trunk_of
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.torch_runtime import read_checkpoint

BATCH = 250
PROBE_TAPS = ("conv2", "conv3", "conv5", "fc7")


def rebuild(config: Mapping[str, Any], data: Data) -> Network:
    """An untrained A0 of a run's flags."""
    trunk = trunk_of(config["trunk"], config["preset"])
    return Network(trunk, data.images.shape[3], len(data.names), {}, config["bn"], config["seed"])


def kept_epochs(folder: Path) -> list[int]:
    """Epochs whose weights a run kept.

    Raises:
      UserError: none; says which flag keeps them.
    """
    found = sorted(int(path.stem.split("-")[1]) for path in (folder / "weights").glob("epoch-*.pt"))
    if not found:
        raise UserError(f"{shown(folder)}: no weights of epochs were kept; train it with --keep-epochs auto")
    return found


def load_epoch(network: Network, folder: Path, epoch: int) -> Network:
    """Puts an epoch's weights into the network."""
    network.load_state_dict(read_checkpoint(folder / "weights" / f"epoch-{epoch:04d}.pt"))
    return network.eval()


@torch.inference_mode()
def passes(
    network: Network, data: Data, pixels: np.ndarray, config: Mapping[str, Any], device: torch.device,
    layers: Sequence[str], pool: Any,
) -> Iterator[dict[str, np.ndarray]]:  # fmt: skip
    """Batches of pooled outputs of some layers, float32 [B, M] each, in the order of the images."""
    chosen = {name: layer for name, layer in network.response_layers().items() if name in layers}
    network.eval().to(device)
    mean, sd = data.mean.to(device), data.sd.to(device)
    with responses.tapped(chosen, pool) as caught:
        for start in range(0, len(pixels), BATCH):
            batch = torch.from_numpy(np.array(pixels[start : start + BATCH])).to(device)
            x = images.prepared(batch, mean, sd, config["image_size"])
            network(x.contiguous(memory_format=torch.channels_last) if config["channels_last"] else x)
            yield {name: caught[name].numpy() for name in chosen}


def class_profiles(
    network: Network, data: Data, pixels: np.ndarray, labels: np.ndarray, config: Mapping[str, Any],
    device: torch.device, layers: Sequence[str], how: str = "mean",
) -> dict[str, np.ndarray]:  # fmt: skip
    """Class profiles R, float64 [K, M] per layer."""
    sums: dict[str, responses.ClassSums] = {}
    start = 0
    for batch in passes(network, data, pixels, config, device, layers, lambda x: responses.aggregate(x, how)):
        count = len(next(iter(batch.values())))
        for name, values in batch.items():
            sums.setdefault(name, responses.ClassSums(len(data.names), values.shape[1]))
            sums[name].update(values, labels[start : start + count])
        start += count
    return {name: value.mean() for name, value in sums.items()}


def stream_responses(
    network: Network, data: Data, pixels: np.ndarray, labels: np.ndarray, ids: np.ndarray, config: Mapping[str, Any],
    device: torch.device, layers: Sequence[str], how: str, folder: Path,
) -> dict[str, tuple[responses.ClassSums, responses.TopImages]]:  # fmt: skip
    """Sums, top images and the image-by-channel matrix on disk."""

    def batches() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
        start = 0
        for batch in passes(network, data, pixels, config, device, layers, lambda x: responses.aggregate(x, how)):
            end = start + len(next(iter(batch.values())))
            yield batch, labels[start:end], ids[start:end]
            start = end

    folder.mkdir(parents=True, exist_ok=True)
    return responses.stream(batches(), len(pixels), len(data.names), folder)


def probe_features(
    network: Network, data: Data, pixels: np.ndarray, config: Mapping[str, Any], device: torch.device
) -> dict[str, torch.Tensor]:
    """Features of the probes: maps pooled to 2 x 2, hidden layers as they are; float32 [N, D] per tap."""

    def pool(x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(x, 2).flatten(1) if x.dim() == 4 else x

    parts: dict[str, list[np.ndarray]] = {}
    for batch in passes(network, data, pixels, config, device, PROBE_TAPS, pool):
        for name, values in batch.items():
            parts.setdefault(name, []).append(values)
    return {name: torch.from_numpy(np.concatenate(values)) for name, values in parts.items()}
