"""The training loop of both stages, in this process: the best checkpoint, further attempts, images per second."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.2, 0.5, 1.0])), min_size=1))
def test_the_best_checkpoint_is_of_a_test_with_the_most_strings(tests):
    from reproduction.runtime import tf_states
    from reproduction.runtime.tf import tf1

    lines = [{"step": step, "test/distinct": d, "test/rnn_acc": a} for step, (d, a) in enumerate(tests, 1)]
    keep = []
    with tf1.Graph().as_default(), pytest.MonkeyPatch.context() as patch:
        tf1.train.get_or_create_global_step()
        patch.setattr(tf_states, "read_metrics", lambda _: lines)
        patch.setattr(tf_states, "write_json", lambda *_: None)
        patch.setattr(tf_states, "save_checkpoint", lambda *_, **named: keep.extend(named["keep"]))
        states = tf_states.States(None, Path(), [len(lines)], "test/rnn_acc", before=["test/distinct"])
        states.save({"step": len(lines), "seconds": 0.0, "images": 0})
    assert tests[keep[0] - 1] == max(tests)


@pytest.mark.parametrize(("bits", "attempts"), [(1, 1), (2, 3)])
def test_only_strings_that_could_be_distinct_are_tried_again(monkeypatch, tmp_path, capsys, bits, attempts):
    """Three classes: one bit never suffices, two might in the next attempt."""
    from class2str_tf.flags import parse_rnn, rnn_parser
    from class2str_tf.training import stage2
    from class2str_tf.training.frozen_features import Features
    from reproduction.runtime import tf_runtime

    labels, x = np.arange(30) % 3, np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    pixels = np.zeros((30, 1, 1, 1), np.uint8)
    data = datasets.Dataset("noise", pixels, labels, pixels, labels, ("a", "b", "c"))
    words = "--name nobody --finetune none --B 10 --lstm-units 2 --retry-collisions 2 --n-sequence"
    config = parse_rnn(rnn_parser("s", "cifar10", "vgg16"), [*words.split(), str(bits)])
    monkeypatch.setattr(stage2.codes, "num_distinct", lambda table: 2)
    session_config = tf_runtime.start(0, "cpu")
    inputs = Features(x, x, x[:, :3])
    lines = stage2.train_until_unique(config, data, inputs, tmp_path, tmp_path, 2, session_config)[1]
    assert max(line["test/attempt"] for line in lines) == attempts - 1
    assert lines[-1]["test/images"] == attempts * 2 * 10  # of all attempts
    assert sorted(line["test/seconds"] for line in lines) == [line["test/seconds"] for line in lines]
    said = capsys.readouterr().out
    assert said.count("--n-sequence 1: too few strings for 3 classes; no further attempt\n") == (bits == 1)


@pytest.mark.parametrize(("num_classes", "step", "warned"), [(1, 9, False), (2, 1, True), (3, 1, True), (2, 9, True)])
def test_strings_that_classes_share_are_warned_of(monkeypatch, tmp_path, capsys, num_classes, step, warned):
    """All on one string at any test; a single class shares its string with nobody."""
    from types import SimpleNamespace

    from class2str_tf.training import stage2

    one = np.full((num_classes, 2, 2), 0.5)
    outputs = {"p": one, "q": one, "inverse_of_q": np.zeros(num_classes, int)}
    monkeypatch.setattr(stage2, "predict_all", lambda *_: outputs)
    labels, pixels = np.arange(num_classes), np.zeros((num_classes, 1, 1, 1), np.uint8)
    data = datasets.Dataset("x", pixels, labels, pixels, labels, tuple("abc"[:num_classes]))
    config = SimpleNamespace(B=4, eval_batch=0)
    stage2.check(None, None, config, data, pixels, tmp_path, attempt=0, last=9, step=step)
    said = capsys.readouterr().out
    assert said == f"warning: step {step}: 1 distinct strings for {num_classes} classes\n" * warned


def test_training_steps_alone_are_timed_over_all_starts(monkeypatch, tmp_path):
    """Stopped between two tests, and gone on: reading, tests and checkpoints take no training time."""
    import signal
    from types import SimpleNamespace

    from class2str_tf.training import loop
    from reproduction.runtime import loop as shared
    from reproduction.runtime.tf import tf1
    from reproduction.runtime.tf_states import States, speed

    clock, real, save = [0.0], loop.Training.log, States.save

    def start(session: tf1.Session, step: int) -> None:
        clock[0] += 1000  # images are read

    def log(training: loop.Training, loss: float) -> None:
        real(training, loss)
        clock[0] += 1
        if training.step == 2:  # steps that are done; the third runs
            os.kill(os.getpid(), signal.SIGTERM)

    def slow(states: States, position: dict) -> None:
        save(states, position)
        clock[0] += 500

    def test(step: int) -> dict[str, float]:
        clock[0] += 100
        return {"acc": 0.5}

    def history() -> list[dict]:
        with tf1.Graph().as_default():
            step = tf1.train.get_or_create_global_step()
            graph = loop.Graph(SimpleNamespace(start=start), tf1.constant(0.0), {}, tf1.assign_add(step, 1).op)
            with loop.tf_runtime.session() as session:
                config = SimpleNamespace(B=4, lr=1.0, legacy_batches=False)
                return loop.run_steps("stage 1", session, graph, config, tmp_path, 7, 6, test, "test/acc")

    monkeypatch.setattr(loop.Training, "log", log)
    monkeypatch.setattr(States, "save", slow)
    monkeypatch.setattr(shared, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with pytest.raises(SystemExit):
        history()
    for lines in (history(), history()):  # the second has nothing left to train
        assert [(line["test/seconds"], line["test/images"]) for line in lines] == [(2, 7), (4, 14), (6, 21)]
        assert speed(lines[-1]) == {"seconds": 6, "images_per_s": 3.5}


@pytest.mark.parametrize(("legacy", "saved"), [(False, [2, 6, 8]), (True, [2, 4, 6, 8])])
def test_only_the_best_tests_and_the_end_are_saved_at_once(monkeypatch, tmp_path, legacy, saved):
    """A full state is 200 MB for VGG16; --legacy-batches saves at each test, as released."""
    from types import SimpleNamespace

    from class2str_tf.training import loop
    from reproduction.runtime.tf import tf1
    from reproduction.runtime.tf_states import States

    found, save = [], States.save
    monkeypatch.setattr(States, "save", lambda states, at: (found.append(at["step"]), save(states, at)))
    monkeypatch.setattr(loop, "LEGACY_SAVE", 8)  # two batches of four
    accuracy = {2: 0.5, 4: 0.4, 6: 0.6, 8: 0.6}
    with tf1.Graph().as_default():
        step = tf1.train.get_or_create_global_step()
        graph = loop.Graph(SimpleNamespace(start=lambda *_: None), tf1.constant(0.0), {}, tf1.assign_add(step, 1).op)
        with loop.tf_runtime.session() as session:
            config = SimpleNamespace(B=4, lr=1.0, legacy_batches=legacy)
            loop.run_steps(
                "stage 1", session, graph, config, tmp_path, 8, 8, lambda at: {"acc": accuracy[at]}, "test/acc"
            )
    assert found == saved
    if not legacy:
        assert {path.name for path in tmp_path.glob("model-*.index")} == {"model-24.index", "model-32.index"}


def test_what_is_not_finite_is_neither_tested_nor_saved(tmp_path):
    """One step, whose loss is finite before its update: stage 1, stage 2 and the reduced FC end with one line."""
    from class2str_tf.flags import fc_parser, parse_fc, parse_rnn, rnn_parser
    from class2str_tf.training import reduced_fc, stage1, stage2
    from class2str_tf.training.frozen_features import Features
    from reproduction.runtime import tf_runtime
    from reproduction.runtime.run_folder import UserError

    words = "--dataset mnist5k --model lenet --train-images 400 --max-steps 1 --lr 1e30 --device cpu --name x".split()
    words += ["--data-dir", str(tmp_path), "--runs-dir", str(tmp_path)]
    line = "the outputs of the network are not finite; lower the learning rate$"
    with pytest.raises(UserError, match=f"^stage 1: {line}"):
        stage1.run_stage1(parse_fc(fc_parser("s"), words))
    with pytest.raises(UserError, match=r"^stage 1: non-finite loss at step 1 \(batch of 200\); no checkpoint yet; "):
        stage1.run_stage1(parse_fc(fc_parser("s"), [*words, "--max-steps", "2", "--overwrite"]))
    assert not list((tmp_path / "x").glob("model-*")) and not (tmp_path / "x" / "record.json").exists()

    config = parse_rnn(rnn_parser("s", "cifar10", "vgg16"), [*words, "--finetune", "none", "--lstm-units", "2"])
    x, labels = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
    pixels = np.zeros((30, 1, 1, 1), np.uint8)
    data = datasets.Dataset("noise", pixels, labels, pixels, labels, ("a", "b", "c"))
    inputs, session_config = Features(x, x, x[:, :3]), tf_runtime.start(0, "cpu")
    with pytest.raises(UserError, match=f"^stage 2: {line}"):
        stage2.train_until_unique(config, data, inputs, tmp_path, tmp_path, 1, session_config)
    with pytest.raises(UserError, match=f"^reduced FC: {line}"):
        reduced_fc.train_reduced(config, data, inputs, 100, 1, session_config)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ""),
        ("{", "clock.json: not readable"),
        ("[]", "clock.json: holds a list"),
        ('{"3": 5}', "clock.json: not an object"),
    ],
)
def test_a_damaged_clock_never_costs_the_training(content, words, tmp_path, capsys):
    from reproduction.runtime.tf_states import read_clock

    if content is not None:
        (tmp_path / "clock.json").write_text(content)
    assert read_clock(tmp_path) == {}
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == (content is not None)
