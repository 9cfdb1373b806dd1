"""Full states of a torch training: weights, optimizer and position in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from reproduction.runtime.run_folder import shown
from reproduction.runtime.torch_runtime import World, agreed, load_state, reduce_sum, save_state, states_of


class States:
    """Full states of a torch training, for `loop.Training`: weights, optimizer, position.

    Attributes:
      folder: `checkpoints` of the run folder.
      world: the processes; rank 0 writes.
      parts: name -> what has state_dict and load_state_dict.
    """

    def __init__(self, run_folder: Path, world: World, parts: dict[str, Any]):
        self.folder, self.world, self.parts = run_folder / "checkpoints", world, parts
        self.device, self.writes = world.device.type, world.rank == 0
        self.waits = self.device == "cuda"
        self.agree_every = 1 if world.size == 1 else 20

    def load(self) -> dict[str, Any] | None:
        state = load_state(self.folder, self.world.device, {*self.parts, "position"})
        if state is None:
            return None
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        position: dict[str, Any] = state["position"]
        return position if self.writes else position | {"sums": {}}  # they are the sums of all processes

    def save(self, position: dict[str, Any]) -> None:
        sums = self.total(position["sums"])
        if self.writes:
            parts = {name: part.state_dict() for name, part in self.parts.items()}
            position = position | {"sums": sums, "device": self.device}
            save_state(self.folder, position["step"], parts | {"position": position})

    def total(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Sums over the processes; tensors stay tensors, numbers stay numbers."""
        totals = {name: torch.as_tensor(value, dtype=torch.float64).clone() for name, value in sums.items()}
        reduce_sum(self.world, *totals.values())
        return {name: total if torch.is_tensor(sums[name]) else total.item() for name, total in totals.items()}

    def newest(self) -> str | None:
        return shown(present[-1]) if (present := states_of(self.folder)) else None

    def agreed(self, answer: bool) -> bool:
        return agreed(self.world, answer)


def decided(world: World, decide: Callable[[], bool]) -> bool:
    """The answer of rank 0 on every process; if it refuses, the others end without a message of their own.

    Args:
      world: the processes.
      decide: called on rank 0 alone.
    Raises:
      Whatever `decide` raises, on rank 0. SystemExit: on the other processes then.
    """
    if world.size == 1:
        return decide()
    answer = torch.full((2,), 0, device=world.device)  # yes, refused
    try:
        if world.rank == 0:
            answer[0] = decide()
    except BaseException:
        answer[1] = 1
        raise
    finally:
        reduce_sum(world, answer)
    if answer[1]:
        raise SystemExit(2)
    return bool(answer[0])
