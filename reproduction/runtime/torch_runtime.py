"""What the torch papers share: seeds, devices, processes, checkpoint files. Functions only, no trainer.

Every random draw comes from `generator(seed, stage, epoch, ...)`, on the CPU: a resumed run draws the same numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from reproduction.runtime.arrays import check_zip, may_be_whole
from reproduction.runtime.cores import cores, requested_threads
from reproduction.runtime.driver import visible_gpu
from reproduction.runtime.faults import first_line
from reproduction.runtime.run_folder import Damaged, UserError, atomic, newest_whole, shown
from reproduction.runtime.torch_fast import allow_tf32 as allow_tf32
from reproduction.runtime.torch_fast import amp_of as amp_of
from reproduction.runtime.torch_fast import fused as fused
from reproduction.runtime.torch_fast import old_driver as old_driver
from reproduction.runtime.torch_fast import one_cycle as one_cycle
from reproduction.runtime.torch_fast import precision as precision
from reproduction.runtime.torch_fast import upload as upload


class World(NamedTuple):
    """The processes of one run: this one's rank, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device


def set_threads(count: int = 0) -> None:
    """Sets torch's CPU threads; 0: OMP_NUM_THREADS, else every core. Again after scikit-learn, which changes it."""
    torch.set_num_threads(count or requested_threads() or cores())


def start(seed: int, threads: int = 0, deterministic: bool = False, amp: str | None = None) -> None:
    """First call of every torch entry point: denormals, threads, seeds of python, NumPy and torch, TF32.

    Denormals come before any other torch call: worker threads inherit the setting only then (54 s a step otherwise).
    """
    torch.set_flush_denormal(True)
    set_threads(threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    allow_tf32(amp == "tf32")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def derive(*words: int | str) -> int:
    """A 63-bit seed, a pure function of the words, for example (seed, "stage1", "order", epoch)."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, words)).encode()).digest()[:8], "little") >> 1


def generator(*words: int | str) -> torch.Generator:
    """A CPU generator seeded with `derive(*words)`."""
    return torch.Generator().manual_seed(derive(*words))


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Resolves auto | cpu | cuda | cuda:N; UserError if torch does not find the requested GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            reason = old_driver()
            if reason is None and visible_gpu():
                reason = "torch sees no GPU although the driver lists one; install a torch that is built with CUDA"
            if reason:
                raise UserError(f"--device auto: {reason}; --device cpu runs without a GPU")
    if not name.startswith("cuda"):
        return torch.device(name)
    index = int(name.partition(":")[2] or local_rank)
    if index >= torch.cuda.device_count():
        reason = old_driver() or f"torch sees {torch.cuda.device_count()} GPUs"
        raise UserError(f"--device {name}: {reason}; --device cpu runs without a GPU")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def parameter_count(module: torch.nn.Module, trainable: bool = False) -> int:
    """Numbers in a network's parameters (no running means): all, or with `trainable` those that are not frozen."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def device_name(device: torch.device) -> str | None:
    """Model of the GPU for records, None on the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


@contextlib.contextmanager
def open_world(device: str) -> Iterator[World]:
    """Joins the processes that torchrun started (gloo on CPU, nccl on GPUs), or is a world of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    picked = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(0, 1, picked)
        return
    dist.init_process_group("nccl" if picked.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, picked)
    finally:
        dist.destroy_process_group()


def reduce_sum(world: World, *tensors: torch.Tensor) -> None:
    """Sums each tensor over the processes, in place."""
    for tensor in tensors if world.size > 1 else ():
        dist.all_reduce(tensor)


def share_statistics(network: torch.nn.Module, world: World) -> None:
    """Gives all processes the running statistics of process 0, those of the checkpoint, to evaluate with."""
    for value in network.buffers() if world.size > 1 else ():
        dist.broadcast(value, 0)


def agreed(world: World, answer: bool) -> bool:
    """Whether the answer is yes on any process."""
    flag = torch.tensor(int(answer), device=world.device if world.size > 1 else "cpu")
    reduce_sum(world, flag)
    return bool(flag)


def autocast(device: torch.device, amp: str | None) -> contextlib.AbstractContextManager[Any]:
    """Returns bfloat16 autocast if `amp` asks for it (see `amp_of`), else nothing."""
    amp = amp_of(device, amp)
    return torch.autocast(device.type, dtype=torch.bfloat16) if amp == "bf16" else contextlib.nullcontext()


def write_checkpoint(path: Path, content: Any) -> None:
    """torch.save, atomically: complete under its name or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(".*.partial"):  # left by a kill -9
        stale.unlink(missing_ok=True)
    try:
        with atomic(path) as file:
            torch.save(content, file)
    except RuntimeError as error:  # after a failed write torch's writer raises once more as it closes
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def read_checkpoint(path: Path, device: torch.device | str = "cpu", needs: Iterable[str] = ()) -> Any:
    """Reads a file of torch.save with weights_only=True.

    Args:
      path: the file.
      device: to which tensors are loaded.
      needs: entries that the stored dict must have.
    Raises:
      UserError: the file is missing, or disk or memory do not let it be read.
      Damaged: the file is damaged or foreign, or lacks an entry of `needs`.
    """
    try:
        check_zip(path)
        content = torch.load(path, map_location=device, weights_only=True)
        if needs and not content.keys() >= set(needs):
            raise ValueError("not the full state of a run")
        return content
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: no such checkpoint") from None
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, ValueError, KeyError, OSError
        reason = first_line(error)
        if may_be_whole(error):
            raise UserError(f"{shown(path)}: cannot be read ({getattr(error, 'strerror', reason)})") from None
        raise Damaged(f"{shown(path)}: not a readable checkpoint ({reason})") from None


def states_of(folder: Path) -> list[Path]:
    """Full states of a run, oldest first."""
    return sorted(path for path in folder.glob("state-*.pt") if re.fullmatch(r"state-\d{10}\.pt", path.name))


def save_state(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Writes the full state of a run at global step `step` and deletes all but the newest two up to it."""
    write_checkpoint(written := folder / f"state-{step:010d}.pt", state)
    newest = [path for path in states_of(folder) if path <= written][-2:]
    for other in set(states_of(folder)) - set(newest):  # a later one is damaged: the run went on without it
        other.unlink(missing_ok=True)


def load_state(folder: Path, device: torch.device | str = "cpu", needs: Iterable[str] = ()) -> dict[str, Any] | None:
    """Returns the newest undamaged full state with all entries of `needs`, or None; see `newest_whole`."""
    return newest_whole(states_of(folder), lambda path: read_checkpoint(path, device, needs))
