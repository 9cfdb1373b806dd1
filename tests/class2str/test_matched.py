"""Profile `matched`: fixed strings, fast training, further training from a stage 1, outcomes in every record."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import datasets
from class2str_tf import matched
from class2str_tf.data import images
from class2str_tf.flags import SINCE, fc_parser, of_run, parse_fc, parse_rnn, rnn_parser, settings_of
from class2str_tf.method import codes, fixed_codes, string_tree
from reproduction.launch.pipeline import Request
from reproduction.runtime.outcomes import Outcomes
from reproduction.runtime.run_folder import PLACES, UserError

ROOT = Path(__file__).parents[2]
FC, RNN = "class2str_tf/train_fc_classifier.py", "class2str_tf/train_rnn_classifier_cifar.py"
FAST = ("--B=64", "--dataset", "mnist5k", "--model", "early", "--F", "16", "--one-cycle", "--augment", "--lr", "3e-3",
        "--amp", "auto", "--eval-batch", "500", "--weight-decay", "1e-4", "--name", "s", "--device", "cpu")  # fmt: skip
LOSS = ("--w_c=4", "--w_i=100", "--w_l2=0.1", "--lstm-units", "10")


@pytest.mark.parametrize(("num_classes", "num_bits"), [(10, 4), (16, 4), (100, 7), (1, 1)])
def test_random_strings_are_one_to_one_and_drawn_by_the_seed(num_classes, num_bits):
    table = fixed_codes.random_codes(num_classes, num_bits, 3)
    assert table.shape == (num_classes, num_bits) and codes.num_distinct(table) == num_classes
    assert np.array_equal(table, fixed_codes.random_codes(num_classes, num_bits, 3))
    assert num_classes == 1 or not np.array_equal(table, fixed_codes.random_codes(num_classes, num_bits, 4))


def test_a_prefix_of_the_tree_is_a_cluster():
    centres = np.eye(3)[[0, 0, 0, 0, 1, 1, 1, 2, 2, 2]] * 5
    means = centres + np.random.default_rng(0).normal(0, 0.1, (10, 3))
    table = fixed_codes.tree_codes(means, 4)
    assert codes.num_distinct(table) == 10
    shared = string_tree.lcp_matrix(table)
    group = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    same = group[:, None] == group
    for of_class, others in zip(shared, same, strict=True):
        assert of_class[others].min() > of_class[~others].max()


def test_a_side_of_the_tree_takes_no_more_classes_than_it_has_strings():
    means = np.vstack([np.eye(16)[0] * 10, np.random.default_rng(1).normal(0, 1, (15, 16)) + 3])
    table = fixed_codes.tree_codes(means, 4)
    assert codes.num_distinct(table) == 16 and table[:, 0].sum() == 8
    with pytest.raises(ValueError, match="17 classes need more than 4 bits"):
        fixed_codes.tree_codes(np.ones((17, 2)), 4)
    assert codes.num_distinct(fixed_codes.tree_codes(np.ones((10, 4)), 4)) == 10


@pytest.mark.parametrize("zeros", range(1, 9))
def test_a_class_whose_mean_is_zero_has_a_string_of_its_own(zeros):
    assert codes.num_distinct(fixed_codes.tree_codes(np.array([[0, 0], [1, 0], [0, 1]]), 2)) == 3
    means = np.random.default_rng(zeros).normal(size=(8, 3))
    means[:zeros] = 0
    assert codes.num_distinct(fixed_codes.tree_codes(means, 3)) == 8


def test_fixed_bits_are_certain():
    table = fixed_codes.random_codes(10, 4, 0)
    logits = fixed_codes.logits_of(table)
    assert np.array_equal(codes.bits_of(logits), table)
    assert float(1 / (1 + np.exp(-np.float32(fixed_codes.CONFIDENT)))) > 1 - 1e-8


def test_a_class_without_an_image_has_no_place_in_the_tree():
    from class2str_tf.training.stage2 import fixed_strings

    config = parse_rnn(rnn_parser("s", "cifar10", "vgg16"), ["--codes", "tree", "--name", "nobody"])
    pixels, labels = np.zeros((4, 1, 1, 1), np.uint8), np.array([0, 0, 2, 2])
    data = datasets.Dataset("three", pixels, labels, pixels, labels, ("a", "b", "c"))
    with pytest.raises(UserError, match="--codes tree: no training image of class b$"):
        fixed_strings(config, np.eye(4, dtype=np.float32), data)


@pytest.mark.parametrize("source", ["learned", "random", "tree"])
def test_only_learned_strings_can_collapse(capsys, source):
    from class2str_tf.training.stage2 import warn_of_collapse

    warn_of_collapse(parse_rnn(rnn_parser("s", "cifar10", "vgg16"), ["--codes", source, "--name", "nobody"]))
    assert bool(capsys.readouterr().err) == (source == "learned")


def test_shift_and_flip_is_a_function_of_seed_and_step():
    from class2str_tf.data.augment import SHIFT, shift_and_flip
    from reproduction.runtime.tf import tf, tf1

    batch = np.random.default_rng(0).integers(0, 256, (12, 9, 9, 3), np.uint8)
    with tf1.Graph().as_default(), tf1.Session() as session:
        step = tf1.placeholder(tf.int64, [])
        moved = shift_and_flip(tf.constant(batch), 5, step)
        first, again, other = (session.run(moved, {step: number}) for number in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    border = np.pad(batch, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "reflect")
    flipped = 0
    for image, wide in zip(first, border, strict=True):
        places = [wide[y : y + 9, x : x + 9] for y in range(2 * SHIFT + 1) for x in range(2 * SHIFT + 1)]
        plain = any(np.array_equal(image, place) for place in places)
        assert plain or any(np.array_equal(image[:, ::-1], place) for place in places)
        flipped += not plain
    assert 0 < flipped < 12


def test_the_rate_of_one_cycle_rises_and_falls_in_each_attempt(config):
    from class2str_tf.training.loop import RISE, learning_rate
    from reproduction.runtime.tf import tf1

    cycle = parse_fc(fc_parser("s"), ["--one-cycle", "--lr", "0.5"])
    with tf1.Graph().as_default(), tf1.Session() as session:
        step = tf1.placeholder("int64", [])
        rate = learning_rate(cycle, step, 100)
        rates = [session.run(rate, {step: number}) for number in range(200)]
    assert learning_rate(config, step, 100) == config.lr
    assert np.argmax(rates[:100]) == round(100 * RISE) and max(rates) == pytest.approx(0.5)
    assert rates[0] == pytest.approx(0.005) and rates[99] == pytest.approx(0.5 / 77, rel=1e-4)
    assert rates[:100] == rates[100:]


def test_bfloat16_follows_float32_over_the_first_steps(tmp_path):
    from class2str_tf.networks import build as networks
    from class2str_tf.training import stage1
    from reproduction.runtime import tf_runtime
    from reproduction.runtime.tf import tf1

    flags = ["--dataset", "mnist5k", "--model", "early", "--F", "16", "--B", "32", "--train-images", "640"]
    config = parse_fc(fc_parser("s"), [*flags, "--data-dir", str(tmp_path)])
    losses = {}
    for amp in (None, "bf16"):
        session_config = tf_runtime.start(0, "cpu", amp=amp)
        with tf1.Graph().as_default():
            tf1.set_random_seed(0)
            graph = stage1.build(config, images.load(config))
            with tf_runtime.session(session_config) as session:
                networks.whiten(session, images.load(config).train_images, config)
                graph.batches.start(session, 0)
                steps = [session.run([graph.loss, graph.train])[0] for _ in range(20)]
        losses[tf_runtime.precision_of(session_config)] = np.array(steps)
    assert set(losses) == {"float32", "bfloat16"}
    assert not np.array_equal(losses["float32"], losses["bfloat16"])
    assert losses["bfloat16"].mean() == pytest.approx(losses["float32"].mean(), rel=0.02)


def test_a_fixed_fifth_is_held_out(tmp_path):
    flags = ["--dataset", "mnist5k", "--data-dir", str(tmp_path)]
    whole = images.load(parse_fc(fc_parser("s"), flags))
    part = images.load(parse_fc(fc_parser("s"), [*flags, "--hold-out"]))
    again = images.load(parse_fc(fc_parser("s"), [*flags, "--hold-out", "--seed", "9"]))
    assert len(part.test_labels) == len(whole.train_labels) // 5
    together = np.concatenate([part.train_images, part.test_images])
    assert sorted(map(bytes, together)) == sorted(map(bytes, whole.train_images))
    assert np.array_equal(part.test_images, again.test_images)


@pytest.mark.parametrize("trained", [{}, {"hold_out": True}])
def test_no_network_is_tested_on_held_out_images_that_it_was_trained_on(tmp_path, trained, capsys):
    """A stage 1 without --hold-out, or with the older split, trained on some of them."""
    words = ["--dataset", "mnist5k", "--runs-dir", str(tmp_path), "--name", "cnn", "--hold-out"]
    config = parse_fc(fc_parser("s"), words)
    (tmp_path / "cnn").mkdir()
    stored = tmp_path / "cnn" / "config.json"
    kept = {name: value for name, value in of_run(config).items() if name != "hold_out"}
    stored.write_text(json.dumps(kept | trained, default=str))
    for parse in (
        lambda: parse_rnn(rnn_parser("s", "mnist", "lenet"), words),
        lambda: parse_fc(fc_parser("s"), [*words, "--eval", str(tmp_path / "cnn" / "model-1")]),
    ):
        with pytest.raises(SystemExit):
            parse()
        assert "--hold-out: the run in" in capsys.readouterr().err
    stored.write_text(json.dumps(of_run(config), default=str))
    assert parse_rnn(rnn_parser("s", "mnist", "lenet"), words).hold_out == "stratified"
    with pytest.raises(SystemExit):  # the fifth of a part is not the part of a fifth
        parse_rnn(rnn_parser("s", "mnist", "lenet"), [*words, "--train-images", "2000"])
    assert "the same --train-images" in capsys.readouterr().err


def test_runs_from_before_the_new_flags_go_on():
    """The flags of a committed record resolve to what its run folder holds: the new ones are left out."""
    for name, more in (("seed0-fc", []), ("seed0-lh", ["--finetune", "none"])):
        record = json.loads((ROOT / f"reproduction/results/class2str/cifar10-cpu/{name}.json").read_text())
        argv = [*record["argv"][1:], *more]
        config = parse_fc(fc_parser("s"), argv) if not more else parse_rnn(rnn_parser("s", "cifar10", "vgg16"), argv)
        now, then = json.loads(json.dumps(of_run(config))), record["config"]
        ignored = PLACES | {"stage1"}
        assert {k: v for k, v in now.items() if k not in ignored} == {k: v for k, v in then.items() if k not in ignored}
    assert set(SINCE) - {"cnn_dir", "stage1"} <= set(vars(config))


def test_the_commands_of_the_profile(graph):
    from class2str_tf.method import model
    from class2str_tf.method.layers import count_parameters
    from reproduction.runtime.tf import tf

    request = Request("matched", "cifar10", (0, 1), "cpu")
    commands = matched.commands_of(request)
    assert [command.worker for command in commands] == ["seed0"] * 10 + ["seed1"] * 10
    assert len({command.folder for command in commands}) == 20
    for command in commands:
        parser, parse = (
            (fc_parser("s"), parse_fc) if command.script == FC else (rnn_parser("s", "cifar10", "vgg16"), parse_rnn)
        )
        config = parse(parser, list(command.flags))
        assert config.folder.resolve() == command.folder and config.row == command.row
        assert config.augment == (command.row.rpartition("-")[2] not in matched.ON_FEATURES)
    setting = matched.SETTINGS["cifar10"]
    model.lh_classifier(tf.zeros([1, setting.features]), 4, [int(units) for units in setting.lstm.split(",")])
    assert matched.lh_weights(setting, settings_of("cifar10")["bits"]) == count_parameters("lh", weights_only=True)
    everything = matched.commands_of(Request("matched", "cifar10", (0,), "cpu", all_rows=True))
    rows = {command.row for command in commands}
    others = {f"{name}-{row.partition('-')[2]}" for name in matched.FURTHER_SETS for row in rows}
    others |= {f"{name}-matched-frozen150" for name in ("cifar10", "cifar100")}
    others |= {f"{name}-matched-frozen5" for name in ("cifar10", "cifar100", "mnist")}
    assert {command.row for command in everything} == rows | {"cifar10-matched-linear", "mnist-matched-long"} | others
    (longer,) = (command for command in everything if command.row == "cifar100-matched-frozen150")
    config = parse_rnn(rnn_parser("s", "cifar100", "vgg16"), list(longer.flags))
    assert config.epochs == 150 and config.finetune == "none" and not config.augment
    for name in matched.SETTINGS:
        along, alike = (
            parse_rnn(rnn_parser("s", name, "vgg16"), list(command.flags))
            for row in ("matched", "matched-frozen5")
            for command in everything
            if command.row == f"{name}-{row}" and command.script != FC
        )
        own = {"row": "", "runs_dir": "", "cnn_dir": "", "finetune": "", "no_cache_features": False}
        assert dataclasses.replace(along, **own) == dataclasses.replace(alike, **own)  # the CNN is all that differs
        assert (along.finetune, alike.finetune) == ("all", "none")
    stage1, stage2 = (command for command in everything if command.row == "mnist-matched-long")
    assert parse_fc(fc_parser("s"), list(stage1.flags)).epochs == 100
    config = parse_rnn(rnn_parser("s", "mnist", "lenet"), list(stage2.flags))
    assert config.epochs == 100 and config.finetune == "all" and config.lr == 3e-3
    assert stage2.folder == stage1.folder / "rnn" and config.folder.resolve() == stage2.folder
    [first, second] = matched.commands_of(Request("matched", "cifar10", (0,), "cpu", ("--mu", "0.5")))
    assert first.row == "cifar10-matched" and second.row == "cifar10-matched-mu-0.5"


def test_weight_decay_counts_for_the_reduced_fc_on_frozen_features(config):
    from class2str_tf.networks import build as networks
    from class2str_tf.training.frozen_features import Features
    from class2str_tf.training.reduced_fc import train_reduced
    from reproduction.runtime import tf_runtime

    rng, labels = np.random.default_rng(0), np.arange(300) % 3
    x = (np.eye(8)[labels] + rng.normal(0, 1, (300, 8))).astype(np.float32)
    pixels = np.zeros((300, 1, 1, 1), np.uint8)
    data = datasets.Dataset("noise", pixels, labels, pixels, labels, ("a", "b", "c"))
    session_config, right = tf_runtime.start(0, "cpu"), {}
    for decay in (None, networks.WEIGHT_DECAY, 0.0, 3.0):
        flags = dataclasses.replace(config, B=50, lr=1e-2, weight_decay=decay)
        right[decay] = train_reduced(flags, data, Features(x, x, x[:, :3]), 110, 60, session_config)[1]
    assert np.array_equal(right[None], right[networks.WEIGHT_DECAY])  # what the other profiles compute
    assert right[3.0].sum() < right[None].sum() < len(labels) and not np.array_equal(right[0.0], right[3.0])


@pytest.fixture(scope="module")
def runs(script, tmp_path_factory) -> dict[str, Path]:
    """One short run of every kind, by row."""
    root = tmp_path_factory.mktemp("matched")
    first, found = root / "stage1" / "s", {}
    kinds = {
        "stage1": (FC, "--max-steps", "60"),
        "further": (FC, "--max-steps", "1", "--cnn-dir", first),
        "reduced": (FC, "--max-steps", "1", "--cnn-dir", first, "--fc-weights", "900"),
        "lh": (RNN, *LOSS, "--max-steps", "2", "--no-reduced-fc", "--cnn-dir", first),
        "tree": (RNN, *LOSS, "--max-steps", "30", "--finetune", "none", "--codes", "tree", "--cnn-dir", first),
    }
    for name, (program, *flags) in kinds.items():
        folder = root / ("stage1" if name == "lh" else name)
        done = script(program, *FAST, *(f for f in flags), "--runs-dir", folder)
        assert "precision: " in done.stdout
        found[name] = folder / "s" / ("rnn" if program == RNN else "")
    return found


def test_every_test_accuracy_has_its_outcomes(runs):
    for folder in runs.values():
        record = json.loads((folder / "record.json").read_text())
        metrics = {name: value["last"] for name, value in record["metrics"].items()}
        accuracies = {name for name in metrics if "accuracy" in name} - {"inverse_accuracy"}
        if metrics.get("distinct_codes", 10) < 10:
            accuracies.discard("class_accuracy_exact")
        assert set(record["outcomes"]) == accuracies
        for name, outcomes in record["outcomes"].items():
            assert Outcomes(**outcomes).bits().mean() == pytest.approx(metrics[name])
    assert "class_accuracy_ml" in metrics and "reduced_fc_accuracy" in metrics


def test_further_training_goes_on_from_stage1(runs):
    records = {name: json.loads((folder / "record.json").read_text()) for name, folder in runs.items()}
    value = lambda name, metric: records[name]["metrics"][metric]["last"]  # noqa: E731
    assert value("stage1", "fc_accuracy") > 0.5
    assert value("further", "fc_accuracy") == pytest.approx(value("stage1", "fc_accuracy"), abs=0.15)
    assert value("reduced", "reduced_fc_accuracy") < 0.5  # its head is new, and one step old
    assert value("reduced", "reduced_fc_weights") <= 900
    assert records["reduced"]["stage"] == "reduced" and "fc_accuracy" not in records["reduced"]["metrics"]


def test_fixed_strings_are_those_of_the_tree_and_features_are_computed_once(runs):
    record = json.loads((runs["tree"] / "record.json").read_text())
    features = np.load(runs["lh"] / "features-train.npy")
    labels = images.load(parse_fc(fc_parser("s"), ["--dataset", "mnist5k"])).train_labels
    means = np.stack([features[labels == c].mean(axis=0) for c in range(10)])
    assert record["details"]["strings"] == codes.strings(fixed_codes.tree_codes(means, 4))
    assert record["metrics"]["distinct_codes"]["last"] == 10 and record["metrics"]["min_confidence"]["last"] > 0.999
    assert not (runs["tree"] / "features-train.npy").exists()


def test_evaluation_takes_the_strings_of_the_run(script, runs, tmp_path):
    """A tree of other training images would be another one, and the accuracy that of no network."""
    recorded = json.loads((runs["tree"] / "record.json").read_text())["metrics"]["lh_accuracy"]["last"]
    copied = shutil.copytree(runs["tree"], tmp_path / "rnn")
    newest = next(copied.glob("model-*.meta")).with_suffix("")
    flags = ("--dataset", "mnist5k", "--train-images", "30", "--amp", "auto", "--device", "cpu", "--eval", newest)
    assert f"lh_accuracy {recorded:.4f}" in " ".join(script(RNN, *flags).stdout.split())
    table = json.loads((copied / "mnist5k_strings.json").read_text())
    for names, message in (
        (table["class_names"][:9], "has other classes than the run of"),
        (None, "no *_strings.json"),
    ):
        (copied / "mnist5k_strings.json").unlink()
        if names:
            (copied / "mnist5k_strings.json").write_text(json.dumps(table | {"class_names": names}))
        assert message in script(RNN, *flags, code=2).stderr
