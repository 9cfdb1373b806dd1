"""How many cores and threads this process may use, and how much memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def requested_threads() -> int:
    """Returns OMP_NUM_THREADS; 0 if it is not set to a positive whole number."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() else 0


def available_bytes() -> int:
    """Returns the memory that can be used without swapping, as the kernel reports it; else half of 8 GiB."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 << 30
