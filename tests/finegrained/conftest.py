"""Small data and a way to run the real scripts."""

import functools

import pytest
import torch

from tests import scripts

ROOT = scripts.ROOT
torch.set_num_threads(1)

TINY = (
    "--dataset mnist5k --network small --limit_train 200 --batch_size 50 --max_epochs 3 --min_epochs 3 --lr 0.05 "
    "--schedule cosine --aug_set shifts --min_cluster_size 10 --threads 1 --device cpu"
).split()

command = functools.partial(scripts.command, "finegrained_torch")
run = functools.partial(scripts.run, "finegrained_torch")


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(0)
