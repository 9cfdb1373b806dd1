"""A folder of pictures that changes between two calls of a script."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("bright", "dark")


def write_pictures(folder: Path, first: int = 0, count: int = 12, side: int = 32) -> Path:
    """Writes pictures number `first` and the `count - 1` after it into each of two class folders."""
    rng = np.random.default_rng(first)
    for name, level in zip(CLASSES, (200, 40), strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(first, first + count):
            pixels = np.clip(rng.normal(level, 30, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n:03d}.png")
    return folder


def add_pictures(folder: Path) -> None:
    """Eight more pictures."""
    write_pictures(folder, first=500, count=4)


def touch_pictures(folder: Path) -> None:
    """Other times, the same content."""
    for path in sorted(folder.rglob("*.png")):
        os.utime(path)


def assert_refused(stderr: str, run_folder: str) -> None:
    """One line that names the run folder, the data and the way on."""
    (line,) = [line for line in stderr.splitlines() if "error: " in line]
    assert "other data" in line and "folder:set/" in line and "--overwrite" in line and run_folder in line, stderr
    assert "Traceback" not in stderr
