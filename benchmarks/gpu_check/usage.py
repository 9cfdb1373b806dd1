"""What nvidia-smi says: the driver, the GPUs, and how busy one is while a training runs. No framework.

Untried: no GPU could be reached when this was written. The columns are those of nvidia-smi's own help.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator

EVERY_MS = 100


def gpus() -> list[dict[str, str]]:
    """The GPUs that the driver lists: name, driver, memory in MiB, compute capability; [] if nvidia-smi fails."""
    query = ["--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            ["nvidia-smi", *query], capture_output=True, check=True, text=True, timeout=20, encoding="utf-8"
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    names = ("name", "driver", "memory_mib", "capability")
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


@contextlib.contextmanager
def watch_gpu() -> Iterator[list[float]]:
    """Yields a list that holds, once left, the share of time in which the first visible GPU waited, or nothing.

    The driver's utilization is the share of its last sample period in which a kernel ran; ours is one minus its mean.
    """
    waiting: list[float] = []
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield waiting
        return
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", str(EVERY_MS), "-i", first]
    with subprocess.Popen([tool, *query], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8") as child:
        try:
            yield waiting
        finally:
            child.terminate()
            out = child.communicate()[0]
    busy = [float(line) for line in out.split() if line.replace(".", "", 1).isdigit()]
    if busy:
        waiting.append(1 - statistics.fmean(busy) / 100)
