"""Weights that a training leaves on disk for the analysis and for use."""

from __future__ import annotations

from pathlib import Path

from hierarchy_cnn_torch.networks.alexnet import Network
from reproduction.runtime.torch_runtime import write_checkpoint


def keep_weights(folder: Path, network: Network, epoch: int) -> None:
    """Writes the weights of an epoch that the analysis looks at."""
    state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    write_checkpoint(folder / "weights" / f"epoch-{epoch:04d}.pt", state)


def keep_best(folder: Path, network: Network) -> None:
    """Writes the weights of the best epoch so far on the held-out part."""
    write_checkpoint(folder / "checkpoints" / "best.pt", network.state_dict())
