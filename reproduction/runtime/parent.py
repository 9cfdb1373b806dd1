"""Ties the end of a process to that of its parent."""

from __future__ import annotations

import ctypes
import sys

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: between fork and exec nothing may be


def end_with_parent(number: int) -> None:
    """Makes the kernel send this process a signal when its parent ends; does nothing outside Linux.

    Args:
      number: of the signal.
    """
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, number)
