"""Class2Str: features cached or not, LH classifier against FC, our loop against a bare one, XLA, bfloat16."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np

import datasets
from benchmarks.measure import Benchmark, Pair, interleave, loops, on_each_device, rate
from benchmarks.tf_sessions import bare_loop, compare_sessions, precision_configs, started, xla_configs
from class2str_tf.flags import Config, fc_parser, parse_fc, parse_rnn, rnn_parser
from class2str_tf.matched import EARLY
from class2str_tf.training import stage1, stage2
from class2str_tf.training.loop import run_steps
from class2str_tf.training.timing import classifiers
from reproduction.runtime import tf_runtime
from reproduction.runtime.tf import tf1

BATCH = 200  # the authors'
TRAINING_BATCH = {"lenet": BATCH, "vgg16": 50}  # a step of VGG16 at 200 takes two cores 2 s


def cached_features(small: bool) -> Pair:
    """Images/s of stage 2 on a frozen VGG16 (512 features), batch 200: features once, or the CNN at every step."""
    batch = 20 if small else BATCH
    words = f"--B {batch} --w_c 4 --w_i 100 --w_l2 0.1 --finetune none --name bench"
    config = parse_rnn(rnn_parser("bench", "cifar10", "vgg16"), words.split())
    session_config = started("cpu")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2 * batch)
    tables = {
        "uncached": rng.integers(0, 256, (2 * batch, 32, 32, 3), np.uint8),
        "cached": rng.normal(size=(2 * batch, 512)).astype(np.float32),
    }
    rates = {}
    for name, x in tables.items():
        with tf1.Graph().as_default():
            tf1.set_random_seed(0)
            built = stage2.build(config, x, labels, 10, 1_000_000)
            session = tf1.Session(config=session_config)
            session.run(tf1.global_variables_initializer())
            built.batches.start(session, 0)
        step = functools.partial(session.run, [built.loss, built.train])
        rates[name] = rate(batch, step, inner=2 if name == "uncached" else 100)
    name = f"stage 2 on a frozen VGG16, batch {batch}: features once against the CNN at every step"
    return interleave(name, "images/s", rates["uncached"], rates["cached"], bar=20)


def forward(small: bool) -> Pair:
    """Images/s of VGG16 (512 features) with the FC classifier, and with an LH classifier of LSTM 10 and its strings.

    The poster's time per image falls by 15.9 % on CIFAR-10 (C2S-C8).
    """
    batch = 4 if small else BATCH
    words = ["--B", str(batch), "--lstm-units", "10", "--name", "bench"]
    config = parse_rnn(rnn_parser("bench", "cifar10", "vgg16"), words)
    codes = (np.arange(10)[:, None] >> np.arange(config.n_sequence)[::-1] & 1).astype(np.uint8)
    feed = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    session_config = started("cpu")
    name = f"classifying, VGG16, batch {batch}: LH classifier against FC"
    with tf1.Graph().as_default():
        images, *outputs = classifiers(config, feed.shape[1:], codes)
        with tf_runtime.session(session_config) as session:
            fc, lh = (rate(batch, functools.partial(session.run, output, {images: feed})) for output in outputs)
            return interleave(name, "images/s", fc, lh)


def stage1_of(model: str, steps: int, batch: int, device: str = "cpu") -> tuple[Config, datasets.Dataset]:
    """Configuration and data (one long epoch, no test inside the timed steps) of stage 1."""
    lenet = model == "lenet"
    words = ["--dataset", "mnist5k" if lenet else "cifar10", "--model", model, "--max-steps", str(steps)]
    words += [*EARLY, "--lr", "1e-4"] if model == "early" else []  # as in profile matched; the rate does not matter
    config = parse_fc(fc_parser("bench"), [*words, "--B", str(batch), "--device", device])
    count, rng = (steps + 1) * batch, np.random.default_rng(0)
    shape = (28, 28, 1) if lenet else (32, 32, 3)
    data = datasets.Dataset(
        name="mnist5k" if lenet else "cifar10",
        train_images=rng.integers(0, 256, (count, *shape), np.uint8),
        train_labels=np.arange(count) % 10,
        test_images=rng.integers(0, 256, (1, *shape), np.uint8),
        test_labels=np.zeros(1, np.int64),
        class_names=tuple("0123456789"),
        digests={},
        verified=True,
    )
    return config, data


def loop(model: str, steps: int, device: str, small: bool) -> Pair:
    """Images/s of stage 1: a bare loop of session.run, and our loop with all it does besides."""
    batch, steps = (20, min(steps, 6)) if small else (TRAINING_BATCH[model], steps)
    config, data = stage1_of(model, steps, batch, device)
    session_config = started(device)
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        graph = stage1.build(config, data)
        session = tf1.Session(config=session_config)
        reset = tf1.global_variables_initializer()
        tested = functools.partial(stage1.right, session, graph, config, data)

        def ours() -> float:
            session.run(reset)

            def test(step: int) -> dict[str, float]:
                return {stage1.TEST: float(tested().mean())}

            with tempfile.TemporaryDirectory() as folder:
                history = run_steps(
                    "bench",
                    session,
                    graph,
                    config,
                    Path(folder),
                    len(data.train_labels),
                    steps,
                    test,
                    best_by=f"test/{stage1.TEST}",
                )
                return steps * batch / history[-1]["test/seconds"]

        name = f"training of stage 1, {model}, batch {batch}, {device}: our loop against bare session.run"
        bare = functools.partial(bare_loop, session, reset, graph, batch, steps)
        return loops(name, batch, steps, bare, ours)


def xla(model: str, inner: int, device: str, small: bool) -> Pair:
    """Images/s of a training step of stage 1 with and without XLA, in two sessions on one graph."""
    batch, inner = (20, 1) if small else (TRAINING_BATCH[model], inner)
    name = f"training step, {model}, batch {batch}, {device}: XLA against none"
    return compare_steps(name, model, batch, xla_configs(device), inner, device)


def bfloat16(small: bool) -> Pair:
    """Images/s of a training step of stage 1 of profile matched in float32, and in bfloat16 (--amp auto).

    Raises:
      NotSupported: this CPU has no instructions for bfloat16.
    """
    batch, inner = (20, 1) if small else (BATCH, 3)
    name = f"training step, early, batch {batch}, cpu: bf16 against float32"
    return compare_steps(name, "early", batch, precision_configs(), inner, "cpu")


def compare_steps(name: str, model: str, batch: int, configs: list[tf1.ConfigProto], inner: int, device: str) -> Pair:
    """Images/s of a training step of stage 1 in two sessions; see `compare_sessions`."""
    config, data = stage1_of(model, 50 * inner, batch, device)
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        graph = stage1.build(config, data)
        return compare_sessions(name, batch, graph.train, configs, lambda s: graph.batches.start(s, 0), inner)


def _pairs(device: str) -> dict[str, Benchmark]:
    return {
        "loop lenet": lambda small: loop("lenet", 120, device, small),
        "loop vgg16": lambda small: loop("vgg16", 4 if device == "cpu" else 400, device, small),
        "xla lenet": lambda small: xla("lenet", 60, device, small),
        "xla vgg16": lambda small: xla("vgg16", 1 if device == "cpu" else 50, device, small),
    }


BENCHMARKS: dict[str, Benchmark] = {
    "cached features": cached_features,
    "forward": forward,
    "bf16": bfloat16,
    **on_each_device(_pairs),
}
