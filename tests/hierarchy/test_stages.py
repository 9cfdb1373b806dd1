"""What the two stages refuse before they train, and what they read back: trees, checkpoints, folders in class order."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hierarchy_cnn_torch import flags
from hierarchy_cnn_torch.data import images
from hierarchy_cnn_torch.data.label_noise import plant
from hierarchy_cnn_torch.data.tree_files import load_tree
from hierarchy_cnn_torch.method.trees import levels_of, to_json, tree_of
from hierarchy_cnn_torch.networks import alexnet
from hierarchy_cnn_torch.report import measure
from hierarchy_cnn_torch.training import evaluate, loop, stage1, stage2
from reproduction.runtime.run_folder import Run, Stop, UserError, write_json
from reproduction.runtime.torch_runtime import World
from tests.changing_pictures import write_pictures

from . import ddp_worker as worker

ALONE = World(0, 1, torch.device("cpu"))


CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()


def divided(folder):
    """A folder with its own training and test images: they are read in the order of the classes."""
    write_pictures(folder / "train", count=40)
    write_pictures(folder / "test", count=4)
    return folder


def config_of(*words):
    return flags.resolve_train(flags.train_parser().parse_args([*map(str, words), "--device", "cpu"]))


@pytest.mark.parametrize("words", ["--dataset fashion_mnist", "--dataset folder:x", "--dataset cifar10 --tree random"])
def test_held_out_images_that_make_the_tree_are_not_trained_on(words):
    with pytest.raises(UserError, match="--train-held-out with a tree"):
        config_of(*words.split(), "--train-held-out")
    assert config_of(*words.split(), "--tree", "official", "--train-held-out").train_held_out


@pytest.mark.parametrize("words", ["", "--split-class 1", "--label-noise 0.1"])
def test_a_label_study_without_a_tree_ends_before_the_training(monkeypatch, words):
    monkeypatch.setattr(loop, "run", lambda *_: pytest.fail("trained"))
    config = replace(config_of("--dataset", "mnist5k", "--folds", "2", *words.split()), tree="derived")
    data = worker.make_data()
    data.names = [*"abcd", "b (second label)"] if config.split_class >= 0 else list("abcd")
    with pytest.raises(UserError, match="--folds needs --tree official or a tree file"):
        stage1.train(config, data, Run(Path("unused"), {}, False), ALONE, Stop())


def test_a_label_study_of_a_split_class_alone_has_its_second_label_in_the_tree(monkeypatch):
    trees = []
    monkeypatch.setattr(loop, "run", lambda *_: None)
    monkeypatch.setattr(stage1.evaluate, "scores_of", lambda *_: (None, []))
    monkeypatch.setattr(stage1.record, "write_fold", lambda *parts: trees.append(parts[-1]))
    config, data = config_of("--dataset", "cifar10", "--folds", "2", "--split-class", "4"), worker.make_data()
    data.names = [*CIFAR10, "deer (second label)"]
    stage1.train(config, data, Run(Path("unused"), {}, False), ALONE, Stop())
    finest = levels_of(trees[0])[-1]
    assert finest[10] == finest[4] and len(finest) == 11


def test_noise_near_and_far_needs_groups(tmp_path):
    write_json(tmp_path / "flat.json", to_json(tree_of([], CIFAR10)))
    words = ("--dataset", "cifar10", "--folds", "2", "--label-noise", "0.1", "--tree", tmp_path / "flat.json")
    with pytest.raises(UserError, match=r"flat.json\) has no level between its root and the classes"):
        plant(config_of(*words), np.arange(10), CIFAR10)


def test_eval_reads_a_network_of_any_width(tmp_path, capsys):
    """A5 has the layers of A0, but for the width of the fully connected ones."""
    config, data = (
        config_of("--preset", "mini", "--dataset", "mnist5k", "--eval", tmp_path / "a5.pt"),
        worker.make_data(),
    )
    wide = alexnet.Network(alexnet.replace(alexnet.PRESETS["mini"], fc=300), 3, 4, seed=2)
    torch.save(wide.state_dict(), tmp_path / "a5.pt")
    evaluate.evaluate_checkpoint(config, data, ALONE)
    scores, _ = evaluate.scores_of(wide, data.test_images, data, config, ALONE)
    assert f"{100 * evaluate.accuracy_of(scores, data.test_labels):.2f} %" in capsys.readouterr().out
    torch.save(worker.make_network().state_dict(), tmp_path / "a5.pt")  # with batch norms
    with pytest.raises(UserError, match="--bn"):
        evaluate.evaluate_checkpoint(config, data, ALONE)


def test_the_first_images_of_a_folder_in_class_order_are_a_sample(tmp_path):
    pictures = divided(tmp_path / "set")
    words = ("--dataset", f"folder:{pictures}", "--data-dir", tmp_path / "data", "--held-out", "20")
    data = images.load(config_of(*words))
    ordered = np.sort(data.labels[data.val])
    assert (np.diff(data.labels) >= 0).all() and data.labels[data.val].tolist() != ordered.tolist()
    assert set(data.labels[data.val[:10]]) == set(data.labels)
    assert (np.diff(images.load(config_of("--dataset", "mnist5k")).val) > 0).all()


@pytest.mark.parametrize("size", [7, 100])
def test_mean_and_deviation_are_those_of_a_sample_of_the_whole_folder(tmp_path, monkeypatch, size):
    monkeypatch.setattr(images, "MEAN_IMAGES", size)
    pictures = divided(tmp_path / "set")
    data = images.load(config_of("--dataset", f"folder:{pictures}", "--data-dir", tmp_path / "data"))
    pixels = data.images[data.train] / 255
    assert data.mean.numpy() == pytest.approx(pixels.mean((0, 1, 2)), abs=0.05 if size == 7 else 1e-6)


def test_the_command_of_stage_1_has_every_flag_of_the_network_and_the_data(tmp_path):
    words = "--dataset cifar100 --trunk alexnet --bn --image-size=64 --lr-schedule onecycle --dropout 0.1 --seed 7 "
    words += "--label-smoothing 0.1 --train-held-out --data-dir mine --stage aware --arm=A4 --device cpu --name A4 "
    words += f"--overwrite --runs_dir {tmp_path}/x"
    config = replace(config_of(*words.split()), argv=words.split())
    with pytest.raises(UserError, match="needs a finished stage 1") as error:
        stage2.finished_stage_1(config)
    command = shlex.split(re.search(r"run: python \S+/train.py (.*)", str(error.value))[1])
    asked = flags.resolve_train(flags.train_parser().parse_args(command))
    assert asked == replace(config, stage="flat", arm="A0", name="A0", flat_run=None, overwrite=False, argv=[])


@pytest.mark.parametrize("tree", ["derived", "random"])
def test_a_tree_from_images_that_the_flat_network_was_trained_on_is_refused(tmp_path, tree):
    config = config_of("--dataset", "cifar10", "--tree", "official", "--train-held-out")
    (tmp_path / "A0").mkdir()
    for written in ("DONE", "config.json"):
        write_json(tmp_path / "A0" / written, flags.of_run(config))
    aware = replace(config, train_held_out=False, tree=tree, stage="aware", arm="A1", flat_run=str(tmp_path / "A0"))
    with pytest.raises(UserError, match=f"--tree {tree}: .*A0 was trained on the held-out images"):
        stage2.levels_for(aware, list("abcd"))


def test_the_tree_file_of_stage_1_may_be_edited_or_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "run", lambda *_: pytest.fail("trained"))
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "mine.json", to_json(tree_of([np.array([0, 0, 1, 1])], "abcd")))
    config, data = config_of("--dataset", "mnist5k", "--tree", "mine.json"), worker.make_data()
    tree = load_tree("mine.json", data.names)
    (tmp_path / "A0").mkdir()
    with pytest.raises(pytest.fail.Exception, match="trained"):
        stage1.train(config, data, Run(tmp_path / "A0", {}, False), ALONE, Stop())
    write_json(tmp_path / "mine.json", {"name": "all", "children": []})
    assert measure.study_tree(tmp_path, config, data.names) == tree
    write_json(tmp_path / "A0" / "config.json", flags.of_run(config))
    aware = replace(config, stage="aware", arm="A1", flat_run=str(tmp_path / "A0"))
    assert (
        stage2.levels_for(aware, data.names)[1] == tree and "mine.json is no longer the tree" in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="mine.json"):  # not the tree of this stage 1
        stage2.levels_for(replace(aware, tree=str(tmp_path / "mine.json")), data.names)
    # an older run has no copy but that of A1
    (tmp_path / "A1").mkdir()
    (tmp_path / "A0" / "given_tree.json").rename(tmp_path / "A1" / "tree.json")
    for written in ("DONE", "config.json"):
        write_json(tmp_path / "A1" / written, flags.of_run(replace(config, stage="aware", arm="A1")))
    (tmp_path / "mine.json").unlink()
    assert measure.study_tree(tmp_path, config, data.names) == tree
    with pytest.raises(UserError, match="other.json"):  # A1 had another tree
        measure.study_tree(tmp_path, replace(config, tree="other.json"), data.names)
    with pytest.raises(UserError, match="mine.json"):
        stage1.train(config, data, Run(tmp_path / "A0", {}, False), ALONE, Stop())


def test_a_variant_that_is_none_is_refused():
    with pytest.raises(UserError, match="--compare B9: not one of A0, A1"):
        flags.resolve_analyze(flags.analyze_parser().parse_args(["--run", "x", "--compare", "B9"]))
