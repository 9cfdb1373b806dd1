"""The files of a Lightning training from which it goes on: one full state an epoch, the newest two of them."""

from __future__ import annotations

from pathlib import Path

from finegrained_torch.training.modules import Trainer
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import Damaged, newest_whole, shown

KEEP_STATES = 2
HISTORY = "Keeper"  # key of the history in a full state; its name in older states, which go on under this version


def state_files(folder: Path) -> list[Path]:
    """Lists the full states of a training, oldest first."""
    return sorted(folder.glob("state-[0-9][0-9][0-9][0-9].ckpt"))


def newest_state(folder: Path) -> tuple[Path, list[dict[str, float]]] | None:
    """Finds the newest whole full state and its history; None if there is no state; see `newest_whole`."""

    def read(path: Path) -> tuple[Path, list[dict[str, float]]]:
        content = runtime.read_checkpoint(path)
        try:
            return path, [dict(row) for row in content["callbacks"][HISTORY]["history"]]
        except (KeyError, TypeError, ValueError, IndexError):
            raise Damaged(f"{shown(path)}: not the full state of a training") from None

    return newest_whole(state_files(folder), read)


def save_state(trainer: Trainer, folder: Path, epoch: int) -> None:
    """Writes the full state, complete under its name or not there; every process takes part."""
    partial = folder / f".state-{epoch:04d}.partial"
    trainer.save_checkpoint(partial)
    if trainer.is_global_zero:
        partial.rename(folder / f"state-{epoch:04d}.ckpt")
        for old in state_files(folder)[:-KEEP_STATES]:
            old.unlink(missing_ok=True)
    trainer.strategy.barrier()
