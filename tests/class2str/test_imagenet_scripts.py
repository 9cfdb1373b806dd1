"""The two ImageNet scripts as a user runs them, on tiny images and a VGG16 two channels wide."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from class2str_tf.flags import fc_parser, parse_fc
from class2str_tf.training import imagenet_stage1
from reproduction.runtime.run_folder import UserError

from .test_imagenet import WIDTH, random_weights

CLASSES = 3


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
    arrays = random_weights(rng, 7 * 7 * 8 * WIDTH)
    (tmp_path / "data/weights").mkdir()
    np.savez(tmp_path / "data/weights/vgg16_weights.npz", **arrays)
    return ["--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs", "--name", "v", "--device", "cpu"]


def test_both_stages_on_a_folder_of_images(script, places, tmp_path):
    second = ["class2str_tf/train_rnn_classifer_imagenet.py", *places, "--F=2", "--B=6", "--w_i=100", "--w_l2=0.03"]
    second += ["--n-sequence", "3", "--lstm-units", "4,4", "--max-steps", "12", "--lr", "1e-3"]
    early = script(*second, code=2)
    assert early.returncode == 2 and "train_fc_classifer_imagenet.py" in early.stderr
    script("class2str_tf/train_fc_classifer_imagenet.py", *places, "--F=2", "--B=6", "--accept-unverified")
    script(*second)
    records = [json.loads((tmp_path / "runs" / at / "record.json").read_text()) for at in ("v", "v/rnn")]
    assert [record["stage"] for record in records] == ["fc", "lh"]
    assert all("C2S-D25" in record["deviations"] for record in records)
    accuracies = [record["metrics"]["fc_accuracy"]["last"] for record in records]
    assert accuracies[0] == accuracies[1]
    assert records[1]["metrics"]["classes"]["last"] == CLASSES
    assert (tmp_path / "runs/v/rnn/imagenet1000_strings.json").exists()


@pytest.mark.parametrize("flag", ["--train-images=1000", "--lr=1", "--fc-weights=9", "--amp=bf16", "--lenet-relu"])
def test_flags_that_stage_1_would_not_use_are_refused(places, flag):
    config = parse_fc(fc_parser("s", "imagenet", original_flags=False), [*map(str, places), flag])
    with pytest.raises(UserError, match=f"^{flag.partition('=')[0]}: not for imagenet, .*$"):
        imagenet_stage1.run_fc(config)
