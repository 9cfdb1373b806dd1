"""Class2Str: features cached or not, LH classifier against FC, our loop against a bare one, XLA, bfloat16."""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import datasets
from benchmarks.measure import NotSupported, Pair, interleave, loops, on_each_device, rate

BATCH = 200  # the authors'
TRAINING_BATCH = {"lenet": BATCH, "vgg16": 50}  # a step of VGG16 at 200 takes two cores 2 s


def _config(**flags: Any) -> Any:
    from class2str_tf.flags import resolve_rnn, rnn_parser

    args = rnn_parser("bench", "cifar10", "vgg16").parse_args([])
    args.argv = []
    return resolve_rnn(argparse.Namespace(**{**vars(args), **flags}))


def cached_features(small: bool) -> Pair:
    """Images/s of stage 2 on a frozen VGG16 (512 features), batch 200: features once, or the CNN at every step."""
    from class2str_tf.method.layers import tf1
    from class2str_tf.training import stage2
    from reproduction.runtime import tf_runtime

    batch = 20 if small else BATCH
    config = _config(B=batch, w_c=4.0, w_i=100.0, w_l2=0.1, finetune="none", name="bench")
    session_config = tf_runtime.start(0, "cpu")
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
        wanted = [built.loss, built.train]

        def step(session: Any = session, wanted: Any = wanted) -> None:
            session.run(wanted)

        rates[name] = rate(batch, step, inner=2 if name == "uncached" else 100)
    name = f"stage 2 on a frozen VGG16, batch {batch}: features once against the CNN at every step"
    return interleave(name, "images/s", rates["uncached"], rates["cached"], bar=20)


def forward(small: bool) -> Pair:
    """Images/s of VGG16 (512 features) with the FC classifier, and with an LH classifier of LSTM 10 and its strings.

    The poster's time per image falls by 15.9 % on CIFAR-10 (C2S-C8).
    """
    from class2str_tf.method.layers import tf1
    from class2str_tf.training.timing import classifiers
    from reproduction.runtime import tf_runtime

    batch = 4 if small else BATCH
    config = _config(B=batch, lstm_units="10", name="bench")
    codes = (np.arange(10)[:, None] >> np.arange(config.n_sequence)[::-1] & 1).astype(np.uint8)
    feed = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    session_config = tf_runtime.start(0, "cpu")
    with tf1.Graph().as_default():
        images, fc, lh = classifiers(config, feed.shape[1:], codes)
        session = tf1.Session(config=session_config)
        session.run(tf1.global_variables_initializer())

    def rate_of(output: Any) -> Callable[[], float]:
        return rate(batch, lambda: session.run(output, {images: feed}))

    name = f"classifying, VGG16, batch {batch}: LH classifier against FC"
    return interleave(name, "images/s", rate_of(fc), rate_of(lh))


def stage1_of(model: str, steps: int, batch: int, device: str = "cpu") -> tuple[Any, Any, Any]:
    """Configuration, data (one long epoch, no test inside the timed steps) and session configuration of stage 1."""
    from class2str_tf.flags import fc_parser, resolve_fc
    from class2str_tf.matched import EARLY
    from reproduction.runtime import tf_runtime
    from reproduction.runtime.run_folder import UserError

    lenet = model == "lenet"
    words = ["--dataset", "mnist5k" if lenet else "cifar10", "--model", model, "--max-steps", str(steps)]
    words += [*EARLY, "--lr", "1e-4"] if model == "early" else []  # as in profile matched; the rate does not matter
    args = fc_parser("bench").parse_args([*words, "--B", str(batch), "--device", device])
    args.argv = []
    config = resolve_fc(args)
    try:
        session_config = tf_runtime.start(0, device)
    except UserError as error:
        raise NotSupported(str(error)) from None
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
    return config, data, session_config


def loop(model: str, steps: int, device: str, small: bool) -> Pair:
    """Images/s of stage 1: a bare loop of session.run, and our loop with all it does besides."""
    batch, steps = (20, min(steps, 6)) if small else (TRAINING_BATCH[model], steps)
    config, data, session_config = stage1_of(model, steps, batch, device)
    from class2str_tf.method.layers import tf1
    from class2str_tf.training import stage1
    from class2str_tf.training.loop import run_steps

    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        graph = stage1.build(config, data)
        session = tf1.Session(config=session_config)
        reset = tf1.global_variables_initializer()

        def bare() -> float:
            session.run(reset)
            graph.batches.start(session, 0)
            start = time.perf_counter()
            for _ in range(steps):
                session.run(graph.train)
            stage1.right(session, graph, config, data)  # ours is timed up to its test
            return steps * batch / (time.perf_counter() - start)

        def ours() -> float:
            session.run(reset)

            def test(step: int) -> dict[str, float]:
                return {stage1.TEST: float(stage1.right(session, graph, config, data).mean())}

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
                # first step to the test after the last: what is saved and recorded then happens once, not per step
                return steps * batch / history[-1]["test/seconds"]

        name = f"training of stage 1, {model}, batch {batch}, {device}: our loop against bare session.run"
        return loops(name, batch, steps, bare, ours)


def allow_xla() -> None:
    """Allows XLA on the CPU, where each session says whether it wants it; before TensorFlow looks for devices."""
    os.environ["TF_XLA_FLAGS"] = "--tf_xla_cpu_global_jit"


def xla_rates(session_config: Any, batch: int, inner: int, train: Any, start: Any) -> list[Callable[[], float]]:
    """Images/s of an op of the current graph without XLA, and with it: two sessions.

    Args:
      inner: steps of one measurement.
      start: called with each session after its variables are initialised.
    Raises:
      NotSupported: XLA cannot compile it.
    """
    from class2str_tf.method.layers import tf, tf1

    rates, ready = [], tf1.global_variables_initializer()
    for level in (tf1.OptimizerOptions.OFF, tf1.OptimizerOptions.ON_2):
        own = tf1.ConfigProto()
        own.CopyFrom(session_config)
        own.graph_options.optimizer_options.global_jit_level = level
        session = tf1.Session(config=own)
        session.run(ready)
        start(session)

        def step(session: Any = session) -> None:
            session.run(train)

        try:
            step()
        except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError) as error:
            raise NotSupported(str(error).splitlines()[0]) from None
        rates.append(rate(batch, step, inner))
    return rates


def xla(model: str, inner: int, device: str, small: bool) -> Pair:
    """Images/s of a training step of stage 1 with and without XLA, in two sessions on one graph."""
    allow_xla()
    batch, inner = (20, 1) if small else (TRAINING_BATCH[model], inner)
    config, data, session_config = stage1_of(model, 50 * inner, batch, device)
    from class2str_tf.method.layers import tf1
    from class2str_tf.training import stage1

    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        graph = stage1.build(config, data)
        without, with_xla = xla_rates(
            session_config, batch, inner, graph.train, lambda session: graph.batches.start(session, 0)
        )
        name = f"training step, {model}, batch {batch}, {device}: XLA against none"
        return interleave(name, "images/s", without, with_xla)


def bfloat16(small: bool) -> Pair:
    """Images/s of a training step of stage 1 of profile matched in float32, and in bfloat16 (--amp auto).

    Raises:
      NotSupported: this CPU has no instructions for bfloat16.
    """
    batch, inner = (20, 1) if small else (BATCH, 3)
    config, data, session_config = stage1_of("early", 20 * inner, batch)
    from class2str_tf.method.layers import tf1
    from class2str_tf.training import stage1
    from reproduction.runtime import tf_runtime

    fast = tf_runtime.start(0, "cpu", amp="auto")
    if tf_runtime.precision_of(fast) == "float32":
        raise NotSupported("this CPU has no instructions for bfloat16; --amp auto computes in float32")
    rates = []
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        graph, ready = stage1.build(config, data), tf1.global_variables_initializer()
        for own in (session_config, fast):
            session = tf1.Session(config=own)
            session.run(ready)
            graph.batches.start(session, 0)
            rates.append(rate(batch, functools.partial(session.run, graph.train), inner))
    name = f"training step, early, batch {batch}, cpu: bf16 against float32"
    return interleave(name, "images/s", rates[0], rates[1])


def _pairs(device: str) -> dict[str, Callable[[bool], Pair]]:
    return {
        "loop lenet": lambda small: loop("lenet", 120, device, small),
        "loop vgg16": lambda small: loop("vgg16", 4 if device == "cpu" else 400, device, small),
        "xla lenet": lambda small: xla("lenet", 60, device, small),
        "xla vgg16": lambda small: xla("vgg16", 1 if device == "cpu" else 50, device, small),
    }


PAIRS: dict[str, Callable[[bool], Pair]] = {
    "cached features": cached_features,
    "forward": forward,
    "bf16": bfloat16,
} | on_each_device(_pairs)
