"""Small data and a way to run the real scripts."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reproduction.flags import run_main

ROOT = Path(__file__).resolve().parent.parent.parent
torch.set_num_threads(1)

TINY = (
    "--dataset mnist5k --network small --limit_train 200 --batch_size 50 --max_epochs 3 --min_epochs 3 --lr 0.05 "
    "--schedule cosine --aug_set shifts --min_cluster_size 10 --threads 1 --device cpu"
).split()


def command(script: str, *flags: object) -> list[str]:
    """Command line of a script of the paper, with this interpreter."""
    return [sys.executable, str(ROOT / "finegrained_torch" / script), *map(str, flags)]


def run(script: str, *flags: object, code: int = 0, fresh: bool = False, timeout: float = 300):
    """Runs a script's main and returns its exit code and what it printed; the code must be `code`.

    In this process unless `fresh`: importing Lightning again takes longer than training the small network.
    """
    if fresh:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command(script, *flags), capture_output=True, text=True, cwd=ROOT, env=env, timeout=timeout
        )
    else:
        done = _run_here(command(script, *flags))
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def _run_here(argv: list[str]) -> subprocess.CompletedProcess:
    module = importlib.import_module(f"finegrained_torch.{Path(argv[1]).stem}")
    out, error, before, status = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = argv[1:]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            run_main(module.main)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = before
        torch.set_flush_denormal(False)  # a setting of the whole process, which other tests would trip over
    return subprocess.CompletedProcess(argv, status, out.getvalue(), error.getvalue())


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(0)
