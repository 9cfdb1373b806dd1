"""Errors in one line, and the faults of a GPU: out of memory, lost in mid-run, no code for it. No framework.

Untried on a GPU: the texts are those of torch 2 and TensorFlow 2 as their sources and their users' reports have them.
TensorFlow may also abort the whole process when a GPU is lost; then no line of ours can be printed.
"""

from __future__ import annotations

import re
import sys
from typing import Any

BATCH_FLAGS = ("batch_size", "B", "batch")
ROOM = 0.8  # of the memory that is counted on: the allocator leaves gaps
OUT_OF_MEMORY = ("OutOfMemoryError", "ResourceExhaustedError")
# what CUDA and its libraries raise when they lack memory for themselves; the last is TensorFlow's, of a copy to the GPU
FULL = re.compile(
    r"CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|CU(BLAS|DNN)_STATUS_ALLOC_FAILED|Dst tensor is not initialized"
)
# a full disk is a ResourceExhaustedError of TensorFlow as well
DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
CUDA = re.compile(r"CUDA error|CUDA_ERROR_|CUBLAS_STATUS|CUDNN_STATUS|cuDNN error|NCCL error|failed to synchronize")
OURS = ("device-side assert", "invalid argument", "BAD_PARAM", "INVALID_VALUE")
# TensorFlow's messages begin with where the nodes of the graph were defined
PREAMBLE = re.compile(r"Graph execution error:.*\nNode: [^\n]*\n(\d+ root error\(s\) found\.\n)?", re.DOTALL)
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def first_line(error: BaseException) -> str:
    """What an error says, shortened for a message of ours: its first line, at most 160 characters, or its type."""
    text = PREAMBLE.sub("", str(error)).strip() or type(error).__name__
    return text.splitlines()[0][:160]


def going_on() -> str:
    """Says which command continues this one; `--overwrite` would start anew."""
    return f"the same command{' without --overwrite' * ('--overwrite' in sys.argv)} goes on"


def batch_of(config: Any) -> tuple[str, int] | None:
    """Returns the flag of the batch size and its value; None if the resolved flags (dataclass or dict) have none."""
    values = config if isinstance(config, dict) else vars(config)
    return next(((f"--{name}", values[name]) for name in BATCH_FLAGS if isinstance(values.get(name), int)), None)


def batch_that_fits(batch: int, message: str) -> int:
    """Estimates the largest batch that fits, a power of two, from the ratio of capacity to the memory that was needed.

    Args:
      batch: size of the batch that did not fit.
      message: torch's error message, with allocated, requested and total memory; without these, half the batch.
    """
    amount = r"([\d.]+) ([KMG]iB)"
    patterns = (f"Tried to allocate {amount}", f"total capacity of {amount}", f"{amount} is allocated by PyTorch")
    amounts = [float(match[1]) * UNITS[match[2]] for pattern in patterns if (match := re.search(pattern, message))]
    share = 0.5
    if len(amounts) == len(patterns):
        tried, capacity, allocated = amounts
        share = min(0.5, ROOM * capacity / (allocated + tried))
    return 1 << max(int(batch * share).bit_length() - 1, 0)


def explain(error: BaseException, batch: tuple[str, int] | None = None) -> str | None:
    """Returns the message for a fault of the GPU or a full disk; None for any other error, which the caller raises.

    Args:
      error: as a framework raised it.
      batch: flag and value of the run's batch size, if known.
    """
    name, text, first = type(error).__name__, str(error), first_line(error)
    if name in OUT_OF_MEMORY and DISK_FULL.search(text):
        return f"{first}; free some space, {going_on()}"
    if name in OUT_OF_MEMORY or FULL.search(text):
        if batch is None or batch[1] < 2:
            return f"out of GPU memory ({first}); free the GPU of other programs (nvidia-smi lists them)"
        flag, size = batch
        return (
            f"out of GPU memory with {flag} {size} ({first}); by an estimate {flag} {batch_that_fits(size, text)} fits:"
            " other flags need another --name; nvidia-smi lists what else uses the GPU"
        )
    if not CUDA.search(text) or any(word in text for word in OURS):
        return None
    if "no kernel image" in text:
        return f"this build of the framework has no code for this GPU ({first}); install a newer one, or --device cpu"
    if "illegal memory access" in text or "ILLEGAL_ADDRESS" in text:
        return (
            f"the GPU stopped ({first}): an error in code, or a GPU that fails; the last checkpoint is whole: "
            f"{going_on()}, CUDA_LAUNCH_BLOCKING=1 before it shows which call it is"
        )
    return (
        f"the GPU was lost ({first}); the last checkpoint is whole: when nvidia-smi lists the GPU again, {going_on()}"
    )
