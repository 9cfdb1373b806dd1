"""The 22 flags of the triplet authors: names, types, defaults and choices as released, and what they resolve to."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from reproduction.runtime.flags import as_dict
from reproduction.runtime.run_folder import REPO_ROOT
from triplet_tf import main as original
from triplet_tf.config.base_config import choose_gpu, composed_name, of_run, parse, training_parser

GOLDEN = {
    "emb_dim": 256, "batch_size": 32, "gpu": "0", "checkpoint_dir": None, "db_name": "flowers", "net": "resnet50",
    "tuple_loader_queue_size": 10, "train_mode": "vanilla", "aug_style": "batch", "triplet_loss_lambda": 1,
    "caffe_iter_size": 1, "logging_threshold": 500, "test_interval": 10, "train_iters": 40000, "margin": 0.2,
    "Triplet_K": 4, "checkpoint_suffix": "base_config", "checkpoint_filename": "model.ckpt", "learning_rate": 0.01,
    "end_learning_rate": 0, "log_filename": "logger", "frame_size": 224,
}  # fmt: skip
CHOICES = {
    "train_mode": {"vanilla", "semi_hard", "hard", "hard_awtl", "cntr"},
    "aug_style": {"batch", "img"},
    "net": {"resnet50", "resnet50_v1", "inc4", "inc3", "densenet161", "mobile"},
}
NAME = "aircrafts_resnet50_lr0.01_B32_caf1_iter40K_lambda1_trn_mode_semi_hard__lm1_aug_img_fixed_299_0"


def resolved(*argv: str) -> dict:
    return as_dict(parse(training_parser(), list(argv)))


def test_the_22_flags_are_verbatim():
    actions = {a.dest: a for a in training_parser().originals._group_actions}
    assert len(GOLDEN) == 22 and set(actions) == set(GOLDEN)
    for name, default in GOLDEN.items():
        assert actions[name].option_strings == [f"--{name}"]
        assert actions[name].default == default and type(actions[name].default) is type(default), name
    for name, choices in CHOICES.items():
        assert set(actions[name].choices) == choices


def test_flags_of_older_runs_stay_what_they_were():
    default = parse(training_parser(), [])
    assert set(of_run(default)) == set(as_dict(default)) - {
        "vanilla_batches",
        "first_third",
        "distance",
        "image_cache",
        "amp",
        "xla",
        "eval_batch",
    }
    argv = "--train_mode hard --first-third lambda --amp auto --xla --eval-batch 64".split()
    found = of_run(parse(training_parser(), argv))
    assert (found["first_third"], found["amp"], found["xla"], found["eval_batch"]) == ("lambda", "auto", True, 64)
    assert "vanilla_batches" not in found


@pytest.mark.parametrize("form", ["--Triplet_K=8", "--Triplet_K 8"])
def test_both_spellings_of_a_value(form):
    assert resolved(*form.split())["Triplet_K"] == 8


def test_every_original_value_is_accepted():
    for name, choices in CHOICES.items():
        for choice in choices - {"inc4", "inc3"}:
            assert resolved(f"--{name}", choice)[name] == choice
    for net in ("inc4", "inc3"):
        assert resolved("--net", net)["net"] == net
    for db in ("flowers", "aircrafts", "cars", "dogs", "birds", "csv:mine", "folder:/some/where"):
        assert resolved("--db_name", db)["db_name"] == db
    for text, value in (("0.5", 0.5), ("soft", "soft"), ("None", "none"), ("SOFT", "soft"), ("-1", -1.0)):
        assert resolved("--train_mode", "hard", f"--margin={text}")["margin"] == value


def test_test_interval_is_multiplied_while_parsing():
    assert resolved()["test_interval"] == 5000
    assert resolved("--logging_threshold", "7", "--test_interval", "3")["test_interval"] == 21


def test_composed_name_is_the_released_one(monkeypatch):
    config = parse(training_parser(), original.arguments(0))
    assert config.name == composed_name(config) == NAME
    assert (config.frame_size, config.aug_style, config.seed) == (224, "img", 0)
    assert "lambda2_" in resolved("--triplet_loss_lambda", "2")["name"]
    assert "lambda0.5_" in resolved("--triplet_loss_lambda", "0.5")["name"]  # widened from int
    assert resolved("--checkpoint_dir", "mine")["name"] == resolved("--name", "mine")["name"] == "mine"
    assert resolved("--db_name", "folder:/a/b c")["name"].startswith("b c_resnet50_")


def test_main_runs_the_settings_of_the_released_script():
    words = original.arguments(3)
    released = dict(zip(words[::2], words[1::2], strict=True))
    assert released.pop("--seed") == "3"
    assert resolved(*words)["gpu"] == "0"  # its default, which leaves CUDA_VISIBLE_DEVICES of the environment as it is
    assert released == {
        "--db_name": "aircrafts",
        "--net": "resnet50",
        "--train_mode": "semi_hard",
        "--margin": "0.2",
        "--caffe_iter_size": "1",
        "--logging_threshold": "500",
        "--train_iters": "40000",
        "--learning_rate": "0.01",
        "--aug_style": "img",
        "--checkpoint_suffix": "_lm1_aug_img_fixed_299_3",
    }
    assert original.NUM_TRIALS == 1


def test_spellings_of_places(tmp_path):
    for data, runs in (("--data-dir", "--runs-dir"), ("--datasets_dir", "--models_dir")):
        config = resolved(data, str(tmp_path / "d"), runs, str(tmp_path / "r"))
        assert (config["data_dir"], config["runs_dir"]) == (str(tmp_path / "d"), str(tmp_path / "r"))
        assert config["pretrained_dir"] == str(tmp_path / "d" / "weights")


def test_ours_are_optional_and_as_listed():
    config = resolved()
    ours = {"init": "imagenet", "seed": 0, "weight_decay": "off", "center_update": "on", "eval_split": "test",
            "resize_sides": [350, 512], "bn_decay": None, "flip": True, "tap": None}  # fmt: skip
    assert {key: config[key] for key in ours} == ours
    config = resolved("--yes", "--no-flip", "--resize_sides", "68,76", "--bn_decay", "0.9", "--weight_decay", "on")
    assert (config["flip"], config["resize_sides"], config["bn_decay"]) == (False, [68, 76], 0.9)
    assert "yes" not in config


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--train_mode semi_hard --margin soft", "--margin soft: a word goes with --train_mode hard only"),
        ("--train_mode vanilla --margin none", "--margin none: a word goes with --train_mode hard only"),
        ("--train_mode hard_awtl --margin soft", "--margin soft: a word goes with"),
        ("--train_mode hard --margin wide", "'wide' is not a number, 'soft' or 'none'"),
        ("--train_mode hard --margin nan", "'nan' is not a number"),
        ("--train_mode cntr --batch_size 30", "--batch_size 30 is not a multiple of --Triplet_K 4"),
        ("--train_mode hard --Triplet_K 1", "--Triplet_K 1: --train_mode hard needs at least 2"),
        ("--train_mode semi_hard --distance euclidean", "--distance euclidean: only with --train_mode hard"),
        ("--train_mode hard --distance euclidean --first_third semi_hard", "and not with --first_third semi_hard"),
        ("--image-cache", "--image_cache: only with --aug_style img"),
        ("--net vgg16", "invalid choice: 'vgg16'"),
        ("--db_name cub", "'cub' is not one of flowers, aircrafts"),
        ("--db_name csv:../x", "is not one of flowers"),
        ("--resize_sides 76,68", "two whole numbers LOW,HIGH"),
        ("--aug_style img --frame_size 351", "--frame_size 351 is larger than the shorter side"),
        ("--net inc4 --aug_style img --frame_size 64", "--frame_size 64: --net inc4 needs at least"),
        ("--triplet_loss_lambda -1", "'-1' is not a number >= 0"),
        ("--log_filename ../x", "'../x' is not a file name; the file lies in the run folder"),
        ("--log_filename=", "'' is not a file name"),
        ("--checkpoint_filename a/b", "'a/b' is not a file name"),
        ("--checkpoint_filename model-4", "'model-4': names that begin with 'model-' are those of single steps"),
        ("--bn_decay 1", "'1' is not a number >= 0 and < 1"),
        ("--train_it 5", "unrecognized arguments: --train_it"),
    ],
)
def test_bad_values_end_in_one_line(argv, says, capsys):
    with pytest.raises(SystemExit) as error:
        resolved(*argv.split())
    message = capsys.readouterr().err
    assert error.value.code == 2 and says in message and message.count("\n") == 1, message


def test_vanilla_has_no_groups():
    assert resolved("--batch_size", "30")["batch_size"] == 30


def test_eval_takes_the_network_from_the_run_folder(tmp_path):
    trained = {
        **resolved("--net", "mobile", "--train_mode", "hard", "--frame_size", "64", "--aug_style", "img"),
        "data_dir": "/their/data",
    }
    (tmp_path / "config.json").write_text(json.dumps(trained))
    config = resolved("--checkpoint", str(tmp_path / "model.ckptbest"))
    assert (config["net"], config["frame_size"], config["train_mode"]) == ("mobile", 64, "hard")
    assert (config["data_dir"], config["name"]) == ("/their/data", tmp_path.name)
    config = resolved("--eval", str(tmp_path / "model.ckpt"), "--frame_size=96", "--datasets_dir", "here")
    assert (config["frame_size"], config["data_dir"]) == (96, "here")


def test_eval_finds_the_data_of_a_run_that_was_started_in_the_repository(tmp_path, monkeypatch):
    """Flags are recorded as given, and a make command gives folders as seen from there."""
    trained = resolved("--net", "mobile", "--data-dir", "tests")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(trained))
    for cwd in (REPO_ROOT, tmp_path):
        monkeypatch.chdir(cwd)
        data_dir = resolved("--checkpoint", str(tmp_path / "run" / "model.ckpt"))["data_dir"]
        assert Path(data_dir).resolve() == REPO_ROOT / "tests"


def test_eval_takes_a_network_whose_batches_fit_its_own_triplet_k_alone(tmp_path):
    trained = resolved("--train_mode", "hard", "--batch_size", "30", "--Triplet_K", "5")
    (tmp_path / "config.json").write_text(json.dumps(trained))
    config = resolved("--checkpoint", str(tmp_path / "model.ckpt"))
    assert (config["batch_size"], config["Triplet_K"]) == (30, 5)


@pytest.mark.parametrize(
    ("argv", "present", "expected"),
    [
        ("", None, "0"),
        ("", "3", "3"),
        ("", "", ""),
        ("--gpu 1", "3", "1"),
        ("--gpu=1", None, "1"),
        ("--gpu 1 --device cuda:2", "3", "3"),
        ("--device cpu", None, None),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_gpu_overrides_the_environment_only_where_it_is_given(monkeypatch, argv, present, expected, own):
    if present is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "x")  # so that it is taken back afterwards
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", present)
    monkeypatch.setattr(sys, "argv", ["eval.py", *argv.split()])
    choose_gpu(parse(training_parser(), argv.split()), None if own else argv.split())
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


@pytest.mark.parametrize(
    ("text", "says"), [("{}", "lacks net"), ("cut", "not readable as JSON"), ('{"net": "x"}', "lacks train_mode")]
)
def test_eval_beside_a_damaged_config_is_one_line(tmp_path, capsys, text, says):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SystemExit) as error:
        resolved("--checkpoint", str(tmp_path / "model.ckpt"))
    message = capsys.readouterr().err
    assert error.value.code == 2 and says in message and message.count("\n") == 1


def test_eval_without_a_config_says_so(tmp_path, capsys):
    assert resolved("--checkpoint", str(tmp_path / "model.ckpt"), "--net", "mobile")["net"] == "mobile"
    assert "no config.json; the network is that of the flags given here" in capsys.readouterr().err
