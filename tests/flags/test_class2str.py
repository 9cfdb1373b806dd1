"""The authors' flags of every Class2Str script: names, types and defaults as released, and what they resolve to."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import pytest

from class2str_tf import flags, scripts
from class2str_tf.data import images
from class2str_tf.flags import fc_parser, parse_fc, parse_rnn, rnn_parser

FC = {"B": (int, 200), "F": (int, 64), "dataset": (str, "cifar10"), "name": (str, "default"), "model": (str, "vgg16")}
RNN = {**FC, "w_c": (float, 1.0), "w_i": (float, 1.0), "w_l2": (float, 1.0)}
GOLDEN = {
    "train_fc_classifier.py": (lambda: fc_parser("s"), FC),
    "train_fc_classifer_cifar100.py": (
        lambda: fc_parser("s", dataset="cifar100"),
        {**FC, "dataset": (str, "cifar100")},
    ),
    "train_fc_classifer_imagenet.py": (lambda: fc_parser("s", dataset="imagenet", original_flags=False), {}),
    "train_rnn_classifier_cifar.py": (lambda: rnn_parser("s", "cifar10", "vgg16"), RNN),
    "train_rnn_classifier_cifar100.py": (
        lambda: rnn_parser("s", "cifar100", "lenet"),
        {**RNN, "dataset": (str, "cifar100"), "model": (str, "lenet")},
    ),
    "train_rnn_classifer_mnist.py": (
        lambda: rnn_parser("s", "mnist", "lenet", flavour="mnist"),
        {"B": (int, 200), "gpu": (int, 0), "w_inv_loss": (float, 100.0)},
    ),
    "train_rnn_classifer_imagenet.py": (
        lambda: rnn_parser("s", "imagenet", "vgg", batch=100, flavour="imagenet"),
        {**RNN, "B": (int, 100), "dataset": (str, "imagenet"), "model": (str, "vgg"), "restore": (int, 0)},
    ),
}


@pytest.mark.parametrize("script_name", GOLDEN)
def test_original_flags_are_verbatim(script_name):
    make, golden = GOLDEN[script_name]
    parser = make()
    actions = {a.dest: a for a in parser.originals._group_actions}
    assert set(actions) == set(golden)
    for name, (kind, default) in golden.items():
        assert actions[name].option_strings == [f"--{name}"]
        assert actions[name].default == default and isinstance(actions[name].default, kind)


@pytest.mark.parametrize("form", ["--B=256", "--B 256"])
def test_both_spellings_of_a_value(form):
    assert parse_fc(fc_parser("s"), form.split()).B == 256


def test_seed_lines_resolve_and_chain(tmp_path):
    places = ["--runs_dir", str(tmp_path)]
    first = parse_fc(fc_parser("s"), "--B=256 --dataset cifar10 --name exp1 --model vgg16".split() + places)
    second = parse_rnn(
        rnn_parser("s", "cifar10", "vgg16"),
        "--B=200 --dataset cifar10 --name exp1 --model vgg16 --w_c=4 --w_i=100 --w_l2=0.1".split() + places,
    )
    assert (first.B, first.epochs, first.lr, first.features, first.pixels) == (256, 1000, 1e-4, "paper512", "raw")
    expected = {
        **dict(B=200, w_c=4.0, w_i=100.0, w_l2=0.1, mu=0.9, n_sequence=4, lstm_units=[100, 20, 100], hidden=500),
        **dict(label_grad="flow", finetune="all", epochs=1000, cnn_dir=str(tmp_path / "exp1")),
    }
    assert {key: getattr(second, key) for key in expected} == expected
    assert second.folder == first.folder / "rnn" == tmp_path / "exp1" / "rnn"


def test_original_folder_is_found_where_the_named_one_is_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10_cnn").mkdir()
    (tmp_path / "cifar10_cnn" / "model-20000.index").write_bytes(b"")
    args = ["--runs-dir", str(tmp_path / "runs")]
    assert parse_rnn(rnn_parser("s", "cifar10", "vgg16"), args).cnn_dir == "cifar10_cnn"


def test_sizes_of_every_data_set():
    cases = {"cifar100": (7, [40, 40], 0.9), "mnist": (4, [10], 1.0), "mnist5k": (4, [10], 1.0), "svhn": (4, None, 0.9)}
    for dataset, (bits, units, mu) in cases.items():
        config = parse_rnn(rnn_parser("s", "cifar10", "vgg16"), ["--dataset", dataset, "--name", "nobody"])
        assert (config.n_sequence, config.mu) == (bits, mu)
        assert units is None or config.lstm_units == units
    budget = parse_rnn(rnn_parser("s", "cifar10", "vgg16"), ["--lh_preset", "budget", "--name", "nobody"])
    assert budget.lstm_units == [3, 3]


@pytest.mark.parametrize("below", ["", "train"])
def test_hidden_folders_are_no_classes(tmp_path, below):
    """16 classes need 4 bits and a small network's sizes; a seventeenth, which nobody trains, would change both."""
    names = [*(f"class{k}" for k in range(16)), ".ipynb_checkpoints", ".cache"]
    for name in names:
        (tmp_path / below / name).mkdir(parents=True)
    words = ["--dataset", f"folder:{tmp_path}", "--name", "nobody"]
    config = parse_rnn(rnn_parser("s", "cifar10", "vgg16"), words)
    assert (config.n_sequence, config.lstm_units, config.hidden) == (4, [100, 20, 100], 500)


def test_first_images_are_those_of_the_files(monkeypatch, capsys):
    import numpy as np

    import datasets

    arrays = [np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1), np.arange(60) % 3, np.zeros((3, 1, 1, 1), np.uint8)]
    data = datasets.Dataset("mnist", *arrays, np.arange(3), ("a", "b", "c"))
    monkeypatch.setattr(datasets, "load", lambda *_: data)

    def loaded(*words):
        return images.load(parse_fc(fc_parser("s"), ["--dataset", "mnist", *words]))

    first = loaded("--train-images", "first:50")
    np.testing.assert_array_equal(first.train_images.ravel(), np.arange(50))
    np.testing.assert_array_equal(first.train_labels, np.arange(50) % 3)
    assert len(first.test_labels) == 3
    assert len(loaded().train_labels) == 60 and len(loaded("--train-images", "50").train_labels) == 50
    with pytest.raises(flags.UserError, match="--train-images first:61: mnist has 60 training images"):
        loaded("--train-images", "first:61")
    for wrong in ("first:0", "first:", "last:5", "-1"):
        with pytest.raises(SystemExit):
            loaded("--train-images", wrong)
        assert "is not a whole number" in capsys.readouterr().err


def test_legacy_batches_keep_to_the_bound_of_the_released_digits():
    def train_images(*words):
        return parse_fc(fc_parser("s"), list(words)).train_images

    assert train_images("--dataset", "mnist", "--legacy-batches") == "first:50000"
    assert train_images("--dataset", "mnist", "--legacy-batches", "--train-images", "0") == 0
    assert train_images("--dataset", "cifar10", "--legacy-batches") == train_images("--dataset", "mnist") == 0


def test_w_inv_loss_sets_the_inverse_weight():
    parser = lambda: rnn_parser("s", "mnist", "lenet", flavour="mnist")  # noqa: E731
    assert parse_rnn(parser(), []).w_i == 100
    assert parse_rnn(parser(), ["--w_inv_loss=7"]).w_i == 7
    assert parse_rnn(parser(), ["--w_inv_loss=7", "--w_i=3"]).w_i == 3


@pytest.mark.parametrize(
    ("words", "visible"),
    [("", "5"), ("--gpu=0", "0"), ("--gpu 3", "3"), ("--gpu 3 --device cuda:1", "5"), ("--gpu 3 --device cpu", "5")],
)
def test_gpu_is_the_only_device_that_tensorflow_sees(monkeypatch, words, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setattr(sys, "argv", ["s", *words.split()])
    monkeypatch.setattr(scripts, "already_done", lambda *_: False)
    stage2 = SimpleNamespace(run_stage2=lambda config: seen.append((config.device, os.environ["CUDA_VISIBLE_DEVICES"])))
    monkeypatch.setitem(sys.modules, "class2str_tf.training.stage2", stage2)
    seen: list[tuple[str, str]] = []
    scripts.train_stage2("s", "mnist", "lenet", flavour="mnist")
    device = words.split()[-1] if "--device" in words else "auto"
    assert seen == [(device, visible)]  # the flags of the run are the same on every machine


def test_architecture_comes_from_stage1_and_contradictions_are_refused(tmp_path, capsys):
    stage1 = tmp_path / "a"
    stage1.mkdir()
    (stage1 / "config.json").write_text(json.dumps({"model": "vgg16", "F": 16, "features": "released8192"}))
    places = ["--runs-dir", str(tmp_path), "--name", "a"]
    config = parse_rnn(rnn_parser("s", "cifar100", "lenet"), places)
    assert (config.model, config.F, config.features) == ("vgg16", 16, "released8192")
    with pytest.raises(SystemExit) as error:
        parse_rnn(rnn_parser("s", "cifar100", "lenet"), [*places, "--model", "lenet"])
    assert error.value.code == 2 and "trained with vgg16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--dataset", "cifar11"], "unknown data set 'cifar11'"),
        (["--B", "0"], "'0' is not a whole number >= 1"),
        (["--B", "many"], "'many' is not a whole number"),
        (["--model", "resnet"], "invalid choice: 'resnet'"),
        (["--w_c", "nan"], "'nan' is not a number"),
        (["--lstm-units", "10,x"], "'10,x' is not a list"),
        (["--device", "tpu"], "'tpu' is not auto, cpu, cuda or cuda:N"),
        (["--nam", "x"], "unrecognized arguments: --nam"),
        (["--dataset", "folder:/does/not/exist"], "no such folder"),
        (["--n-sequence", "21"], "--n-sequence 21: at most 20 bits"),
    ],
)
def test_bad_values_end_in_one_line(argv, says, capsys):
    with pytest.raises(SystemExit) as error:
        parse_rnn(rnn_parser("s", "cifar10", "vgg16"), argv)
    message = capsys.readouterr().err
    assert error.value.code == 2 and says in message and message.count("\n") == 1, message
