"""Shared fixtures: the repository's scripts as subprocesses, as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def script() -> Callable[..., subprocess.CompletedProcess]:
    """script("class2str_tf/train_fc_classifier.py", "--B=8", cwd=..., check=True) -> the finished process."""

    def run(path: str, *flags: str, check: bool = True, cwd: Path = ROOT, timeout: float = 300, **environment: str):
        done = subprocess.run(
            [sys.executable, str(ROOT / path), *map(str, flags)],
            cwd=cwd, text=True, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{path} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def killed_when() -> Callable[..., None]:
    """Starts a script, waits until `seen()` is true, and kills it with SIGKILL."""

    def run(path: str, *flags: str, seen: Callable[[], bool], timeout: float = 120) -> None:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / path), *map(str, flags)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + timeout
        try:
            while not seen():
                assert process.poll() is None, f"{path} ended with {process.returncode} before it could be killed"
                assert time.monotonic() < deadline, f"{path}: not seen within {timeout} s"
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()

    return run
