"""Where the epochs of a training end, and what it needs to go on."""

from __future__ import annotations

import math
from typing import Any

import torch

from reproduction.runtime.torch_runtime import World
from subclass_torch.flags import Config
from subclass_torch.method.neglect import new_totals


def epoch_ends(count: int, epochs: int, config: Config, world: World) -> list[int]:
    """Lists the numbers of steps after which an epoch ends.

    Args:
      count: training images.
      epochs: E.
      config: batch_size, max_steps.
      world: the processes; a last batch with fewer samples than processes is left out.
    """
    steps = math.ceil(count / config.batch_size)
    if 0 < count % config.batch_size < world.size:
        steps -= 1
    limit = min(config.max_steps or epochs * steps, epochs * steps)
    return [min(limit, end) for end in range(steps, limit + steps, steps)]


def first_state(classes: int, device: torch.device) -> dict[str, Any]:
    """The loop's own values before the first step: neglection degrees, and the best epoch."""
    totals = new_totals(classes, device)
    return {"totals": totals, "degrees": [], "skipped": 0, "best_epoch": -1, "best_accuracy": -1.0}
