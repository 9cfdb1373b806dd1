"""What a training leaves on disk to go on from, and states of older versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hierarchy_cnn_torch.networks.alexnet import Network
from reproduction.runtime.torch_runtime import write_checkpoint


def keep_weights(folder: Path, network: Network, epoch: int) -> None:
    """Writes the weights of an epoch that the analysis looks at."""
    state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    write_checkpoint(folder / "weights" / f"epoch-{epoch:04d}.pt", state)


def keep_best(folder: Path, network: Network) -> None:
    """Writes the weights of the best epoch so far on the held-out part."""
    write_checkpoint(folder / "checkpoints" / "best.pt", network.state_dict())


def upgrade_state(state: dict[str, Any], steps: int, limit: int) -> dict[str, Any]:
    """Turns a state written before there was the shared loop into one of today; others stay as they are.

    Args:
      state: full state; before, its position was `progress`.
      steps: of an epoch.
      limit: steps in all.
    """
    if "progress" not in state:
        return state
    old = state.pop("progress")
    norms = torch.tensor(old["gradients"], dtype=torch.float32)
    earlier = norms[: len(norms) - old["step"]]
    return state | {
        "position": {
            "epoch": old["epoch"],
            "step": min(old["epoch"] * steps, limit) + old["step"],
            "history": old["history"],
            "sums": dict(zip(("total", "right"), old["sums"], strict=False)),
            "seconds": 0.0,
            "state": {
                "seconds": old["seconds"],
                "norms": list(norms[len(earlier) :]),
                "curve": old["curve"],
                "gradients": list(earlier.split(steps)) if len(earlier) else [],
            },
        }
    }
