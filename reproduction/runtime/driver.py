"""What NVIDIA's own tool lists; needs no framework."""

from __future__ import annotations

import os
import re
import shutil
import subprocess


def first_gpu() -> str | None:
    """Name of the first CUDA GPU that nvidia-smi lists, or None."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        answer = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, encoding="utf-8")
    except (OSError, subprocess.SubprocessError):
        return None
    name = re.search(r"^GPU \d+: (.*?)(?: \(UUID|$)", answer.stdout, re.MULTILINE)
    return name.group(1) if answer.returncode == 0 and name else None


def visible_gpu() -> bool:
    """Whether a GPU is listed that CUDA_VISIBLE_DEVICES does not hide."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1") and first_gpu() is not None
