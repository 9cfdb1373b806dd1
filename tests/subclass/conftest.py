"""Small data and a way to run the real scripts."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reproduction.flags import run_main
from subclass_torch import tfrecord

ROOT = Path(__file__).resolve().parent.parent.parent
torch.set_num_threads(1)

TINY = (
    "--dataset mnist5k --model vgg_small --subset 400 --batch_size 64 --epochs_class 2 --epochs 2 --learning_rate 0.01 "
    "--threads 1 --chance-epochs 0 --device cpu"
).split()


def reached(checkpoints: Path, step: int) -> bool:
    """Whether a run has written a full state of this step or a later one: two of them stay, each for a moment only."""
    return any(int(path.stem.removeprefix("state-")) >= step for path in checkpoints.glob("state-*.pt"))


def command(script: str, *flags: str) -> list[str]:
    """Command line of a script of the paper, with this interpreter."""
    return [sys.executable, str(ROOT / "subclass_torch" / script), *map(str, flags)]


def run(script: str, *flags: str, code: int = 0, fresh: bool = False, timeout: float = 300):
    """Runs a script's main and returns its exit code and what it printed; the code must be `code`.

    In this process unless `fresh`: importing torch again takes longer than training the small network.
    """
    if fresh:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        argv = command(script, *flags)
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=env, timeout=timeout)
    else:
        done = _run_here(command(script, *flags))
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def _run_here(argv: list[str]) -> subprocess.CompletedProcess:
    module = importlib.import_module(f"subclass_torch.{Path(argv[1]).stem}")
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


def video(rng: np.random.Generator, labels: list[int], shift: float = 0.0) -> dict:
    """Features of one video in the layout of the 2018 release."""
    return {
        "id": [b"abcd"],
        "labels": np.array(labels, np.int64),
        "mean_rgb": (rng.normal(size=1024) + shift).astype(np.float32),
        "mean_audio": (rng.normal(size=128) + shift).astype(np.float32),
    }


def write_shard(path: Path, examples: list[dict]) -> Path:
    """Writes a TFRecord file in the real format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(tfrecord.frame(tfrecord.build_example(example)) for example in examples))
    return path


@pytest.fixture
def videos(tmp_path):
    """Two training shards and one validation shard of 6 classes, in the folders the authors' code expects."""
    rng = np.random.default_rng(0)
    root = tmp_path / "yt8m"

    def some(count):
        return [
            video(rng, sorted({int(rng.integers(6)), int(rng.integers(6))}), rng.choice([-1.0, 1.0]))
            for _ in range(count)
        ]

    write_shard(root / "train" / "train00.tfrecord", some(30))
    write_shard(root / "train" / "train01.tfrecord", some(25))
    write_shard(root / "validate" / "validate00.tfrecord", some(20))
    return root
