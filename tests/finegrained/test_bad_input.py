"""What the real scripts refuse with one line: a stage before its time, a rate too high, labels that do not fit."""

import contextlib
import json
import re

import numpy as np
import pytest

from finegrained_torch import flags
from finegrained_torch.training import evaluate
from finegrained_torch.training.setting import Setting, read_labels
from reproduction.runtime.run_folder import UserError

from .conftest import TINY, run


def test_stages_without_what_they_need(tmp_path):
    out = tmp_path / "out"
    for stage, said in (
        ("features", "classifier/mnist5k: has not finished; run pipeline.py --stage coarse first"),
        ("cluster", "stages/features: has not finished; run pipeline.py --stage features first"),
        ("sub", "sub_mnist5k/pseudo.csv: no finished clustering; run pipeline.py --stage cluster first"),
        ("fine-tune", "classifier_sub/mnist5k/pseudo: has not finished; run pipeline.py --stage sub first"),
    ):
        assert said in run("pipeline.py", *TINY, "--out_dir", out, "--stage", stage, code=2).stderr
    said = run("pipeline.py", *TINY, "--out_dir", out, "--stage", "sub", "--sub_labels", "kmeans", code=2).stderr
    assert "run pipeline.py --stage cluster --controls kmeans first" in said
    assert not list(tmp_path.rglob("config.json"))


def test_batches_that_are_too_small_are_refused(tmp_path):
    words = "--dataset mnist5k --limit_train 20 --no-pretrained --legacy-net --batch_size 1 --device cpu --threads 1"
    said = run("main.py", *words.split(), "--out_dir", tmp_path, code=2).stderr
    assert said.strip().splitlines()[-1].endswith("--batch_size 1: expected 2 or more for each of --devices")


def test_a_diverging_training_ends_in_one_line(tmp_path):
    said = run("pipeline.py", *TINY, "--out_dir", tmp_path, "--lr", "1e30", "--stage", "coarse", code=2).stderr
    assert "coarse: non-finite loss at step " in said and "no checkpoint yet; choose a lower --lr" in said


@pytest.mark.parametrize("before", [[], ["random"], ["noumap", "pixels"]])
def test_a_control_that_a_finished_clustering_lacks_is_added_by_the_command_of_the_message(tmp_path, before):
    folder = tmp_path / "sub_mnist5k" / "stages" / "cluster"
    folder.mkdir(parents=True)
    (folder / "DONE").write_text("{}")
    (folder / "manifest.json").write_text(json.dumps({"settings": {"controls": before}}))
    for labels in ("kmeans", "found"):
        config = flags.parse_pipeline([*TINY, "--out_dir", str(tmp_path), "--stage", "sub", "--sub_labels", labels])
        with pytest.raises(UserError, match="lacks it") as raised:
            Setting(config).sub_labels()
        command = flags.parse_pipeline(re.search("run pipeline.py (.*) first$", str(raised.value))[1].split())
        assert command.stage == ["cluster"] and command.overwrite
        assert set(command.controls) == {*before, labels} - {"found"}


def test_certain_images_of_other_data_are_not_used(tmp_path):
    """A filter of other images would choose images by their position alone."""
    words = [*TINY, "--out_dir", str(tmp_path), "--no-use_pseudo", "--true-images", "certain", "--split", "legacy"]
    setting = Setting(flags.parse_pipeline(words))
    (stage := setting.folder("uncertainty")).mkdir(parents=True)
    own = setting.data.train.coarse
    for coarse, said in ((own, None), (own[:150], "belongs to other training images"), (1 - own, "belongs to other")):
        certain = np.arange(len(coarse)) % 3 > 0
        np.savez(setting.tables / "uncertainty.npz", certain=certain, coarse=coarse)
        (stage / "DONE").unlink(missing_ok=True)
        with pytest.raises(UserError, match="has not finished; run pipeline.py --stage uncertainty first"):
            setting.sub_labels()
        (stage / "DONE").write_text("{}")
        with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
            assert np.array_equal(setting.sub_labels()[0] >= 0, certain)


@pytest.mark.parametrize(
    ("trained", "hold_out", "said"),
    [
        ({}, False, None),
        ({}, True, "does not name the images it was trained on"),
        ({"hold_out": False, "limit_train": 200}, False, None),
        ({"hold_out": False, "limit_train": 0}, False, None),  # the official test split is the same
        ({"hold_out": False, "limit_train": 200}, True, "was trained without --hold-out"),
        ({"hold_out": True, "limit_train": 200}, False, "was trained with --hold-out"),
        ({"hold_out": True, "limit_train": 200}, True, None),
        ({"hold_out": True, "limit_train": 300}, True, "trained with --limit_train 300, here it is 200"),
        ({"hold_out": True}, True, "trained with --limit_train None, here it is 200"),
    ],
)
def test_a_checkpoint_is_not_tested_on_images_it_was_trained_on(trained, hold_out, said):
    with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
        evaluate.check_held_out(trained, hold_out, 200)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0\n1\n", "2 labels for 4 training images"),
        ("0\n2\n2\n0\n", "without gaps"),
        ("-1\n-1\n-1\n-1\n", "without gaps"),
        ("0\n0\n1\n1\n", "a label occurs in two coarse classes"),
        ("0\nx\n1\n1\n", "pseudo.csv: not a column of whole numbers"),
        ("0\n2.5\n1\n1\n", "not a column of whole numbers"),
    ],
)
def test_pseudo_labels_that_do_not_fit(tmp_path, text, said):
    path = tmp_path / "pseudo.csv"
    with pytest.raises(UserError, match="pseudo.csv: No such file.*--stage cluster"):
        read_labels(path, np.array([0, 1, 0, 1]))
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_labels(path, np.array([0, 1, 0, 1]))
    path.write_text("0\n1\n-1\n1\n")
    assert read_labels(path, np.array([0, 1, 0, 1])).tolist() == [0, 1, -1, 1]
