"""A tiny data set in the paper's format, and graphs of their own for the tests that build one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datasets import lists

CLASSES, TRAIN, TEST = 5, 6, 3  # images of each class


def write_set(root: Path, name: str = "tiny", seed: int = 0) -> Path:
    """Writes <root>/<name>/{images,lists}: JPEG files of unequal sizes whose class is their colour."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    home = root / name
    (home / "images").mkdir(parents=True)
    (home / "lists").mkdir()
    rows: dict[str, lists.Rows] = {}
    for split, count in (("train", TRAIN), ("val", TEST), ("test", TEST)):
        labels, names = [], []
        for label in range(CLASSES):
            for i in range(count):
                height, width = 20 + 7 * ((i + label) % 4), 20 + 5 * (i % 3)
                pixels = rng.integers(0, 90, (height, width, 3), np.uint8)
                pixels[..., label % 3] += np.uint8(60 + 20 * label)
                names.append(f"{split}_{label}_{i}.jpg")
                labels.append(label + 1)  # labels from 1, as those of cars
                Image.fromarray(pixels).save(home / "images" / names[-1], quality=95)
        rows[split] = lists.Rows(np.array(labels), tuple(names))
    both = lists.Rows(
        np.concatenate([rows["train"].labels, rows["val"].labels]), rows["train"].names + rows["val"].names
    )
    for key, part in {**rows, "train_all": both}.items():
        lists.write_csv(home / "lists" / lists.FILES[key], part)
    return home


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Data folder that holds the set `tiny`; not to be changed by a test."""
    root = tmp_path_factory.mktemp("data with spaces")
    write_set(root)
    return root


@pytest.fixture
def tf1_graph() -> Iterator[None]:
    """A fresh TensorFlow graph with a global step."""
    from reproduction.runtime.tf import tf1

    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        tf1.train.get_or_create_global_step()
        yield


def moving_decays(graph) -> list[float]:  # a tf1.Graph
    """The decay in each update of a moving statistic: x -= (x - batch) * (1 - decay)."""
    from reproduction.runtime.tf import tf1

    rates = [t.op for update in graph.get_collection("update_ops") for t in update.inputs[1].op.inputs]
    return [float(tf1.get_static_value(rate.inputs[1])) for rate in rates if rate.inputs[0].op.type == "Const"]
