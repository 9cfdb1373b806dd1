"""Small data and a way to run the real scripts."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from subclass_torch.yt8m import tfrecord
from tests import scripts

ROOT = scripts.ROOT
torch.set_num_threads(1)

TINY = (
    "--dataset mnist5k --model vgg_small --subset 400 --batch_size 64 --epochs_class 2 --epochs 2 --learning_rate 0.01 "
    "--threads 1 --chance-epochs 0 --device cpu"
).split()


def reached(checkpoints: Path, step: int) -> bool:
    """Whether a run has written a full state of this step or a later one: two of them stay, each for a moment only."""
    return any(int(path.stem.removeprefix("state-")) >= step for path in checkpoints.glob("state-*.pt"))


command = functools.partial(scripts.command, "subclass_torch")
run = functools.partial(scripts.run, "subclass_torch")


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
