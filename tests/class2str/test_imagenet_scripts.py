"""The two ImageNet scripts as a user runs them, on tiny images and a VGG16 two channels wide."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from datasets.weights import VGG16_SHAPES

CLASSES, WIDTH = 3, 2


@pytest.fixture
def places(tmp_path):
    """--data-dir and --runs-dir with images of three colours and random weights."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for label in range(CLASSES):
            folder = tmp_path / "data/imagenet" / split / f"n{label:02d}"
            folder.mkdir(parents=True)
            for i in range(count):
                colour = np.full((8, 8, 3), 90 * label, np.uint8) + rng.integers(0, 20, (8, 8, 3), np.uint8)
                Image.fromarray(colour).resize((50, 40)).save(folder / f"{i}.JPEG")
    shapes = {
        "fc6_W": (7 * 7 * 8 * WIDTH, 64 * WIDTH), "fc6_b": (64 * WIDTH,), "fc7_W": (64 * WIDTH, 64 * WIDTH),
        "fc7_b": (64 * WIDTH,), "fc8_W": (64 * WIDTH, CLASSES), "fc8_b": (CLASSES,),
    }  # fmt: skip
    arrays = {}
    for name, shape in VGG16_SHAPES.items():
        shape = shapes.get(name) or tuple(n * WIDTH // 64 if n >= 64 else n for n in shape)
        spread = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.0
        arrays[name] = rng.normal(0, spread, shape).astype(np.float32)
    (tmp_path / "data/weights").mkdir()
    np.savez(tmp_path / "data/weights/vgg16_weights.npz", **arrays)
    return ["--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs", "--name", "v", "--device", "cpu"]


def test_both_stages_on_a_folder_of_images(script, places, tmp_path):
    second = ["class2str_tf/train_rnn_classifer_imagenet.py", *places, "--F=2", "--B=6", "--w_i=100", "--w_l2=0.03"]
    second += ["--n-sequence", "3", "--lstm-units", "4,4", "--max-steps", "12", "--lr", "1e-3"]
    early = script(*second, code=2)
    assert early.returncode == 2 and "train_fc_classifer_imagenet.py" in early.stderr
    weights = ["--F=2", "--B=6", "--accept-unverified"]
    script("class2str_tf/train_fc_classifer_imagenet.py", *places, *weights)
    script(*second)
    records = [json.loads((tmp_path / "runs" / at / "record.json").read_text()) for at in ("v", "v/rnn")]
    assert [record["stage"] for record in records] == ["fc", "lh"]
    assert all("C2S-D25" in record["deviations"] for record in records)
    accuracies = [record["metrics"]["fc_accuracy"]["last"] for record in records]
    assert accuracies[0] == accuracies[1]
    assert records[1]["metrics"]["classes"]["last"] == CLASSES
    assert (tmp_path / "runs/v/rnn/imagenet1000_strings.json").exists()
