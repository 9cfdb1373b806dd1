"""How long an epoch is, and what a training needs to go on."""

from __future__ import annotations

import math
from typing import Any

import torch

from reproduction.runtime.run_folder import UserError
from reproduction.runtime.torch_runtime import World
from subclass_torch.method.neglect import new_totals


def steps_per_epoch(count: int, batch: int, world: World) -> int:
    """Steps of an epoch of `count` images; a last batch with fewer images than processes is left out.

    Raises:
      UserError: a whole batch has fewer images than there are processes.
    """
    if (most := min(count, batch)) < world.size:
        raise UserError(f"--batch_size {batch}: a batch has {most} images at most, too few for {world.size} processes")
    return math.ceil(count / batch) - (0 < count % batch < world.size)


def first_state(classes: int, device: torch.device) -> dict[str, Any]:
    """The loop's own values before the first step: neglection degrees, and the best epoch."""
    totals = new_totals(classes, device)
    return {"totals": totals, "degrees": [], "skipped": 0, "best_epoch": -1, "best_accuracy": -1.0}
