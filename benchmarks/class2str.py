"""Class2Str: stage 2 on cached features against the frozen CNN at every step, and our loop against a bare one."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import datasets
from benchmarks.measure import Pair, interleave


def _config(**flags: Any) -> dict[str, Any]:
    from class2str_tf.flags import resolve_rnn, rnn_parser

    args = rnn_parser("bench", "cifar10", "vgg16").parse_args([])
    args.argv = []
    return resolve_rnn(argparse.Namespace(**{**vars(args), **flags}))


def cached_features() -> Pair:
    """Images/s of stage 2 on VGG16 (512 features) at batch 200: features once, or the CNN at every step."""
    from class2str_tf import stage2
    from class2str_tf.layers import tf1
    from reproduction import tf_runtime

    config = _config(B=200, w_c=4.0, w_i=100.0, w_l2=0.1, name="bench")
    session_config = tf_runtime.start(0, "cpu")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 400)
    tables = {
        "uncached": rng.integers(0, 256, (400, 32, 32, 3), np.uint8),
        "cached": rng.normal(size=(400, 512)).astype(np.float32),
    }
    rates = {}
    for name, x in tables.items():
        graph = tf1.Graph()
        with graph.as_default():
            tf1.set_random_seed(0)
            built = stage2.build(config, x, labels, 10, 1_000_000)
            session = tf1.Session(config=session_config)
            session.run(tf1.global_variables_initializer())
            built.batches.start(session, 0)

        def rate(session=session, built=built, steps=2 if name == "uncached" else 100) -> float:
            start = time.perf_counter()
            for _ in range(steps):
                session.run([built.scalars["loss"], built.train])
            return steps * 200 / (time.perf_counter() - start)

        rates[name] = rate
    return interleave("stage 2, VGG16, batch 200: features once", "images/s", rates["uncached"], rates["cached"])


def loop_overhead() -> Pair:
    """Images/s of stage 1 (LeNet, batch 200): a bare loop of session.run, and our loop with all it does besides."""
    from class2str_tf import stage1
    from class2str_tf.flags import fc_parser, resolve_fc
    from class2str_tf.layers import tf1
    from reproduction import tf_runtime
    from reproduction.runs import open_run, read_metrics

    steps, batch = 600, 200
    args = fc_parser("bench").parse_args(["--dataset", "mnist5k", "--model", "lenet", "--max-steps", str(steps)])
    args.argv = []
    config = resolve_fc(args)
    session_config = tf_runtime.start(0, "cpu")
    real = datasets.load("mnist5k")
    often = np.arange((steps + 1) * batch) % len(real.train_labels)  # one long epoch: no test inside the timed steps
    data = datasets.Dataset(
        name="mnist5k",
        train_images=real.train_images[often],
        train_labels=real.train_labels[often],
        test_images=real.test_images[:1],
        test_labels=real.test_labels[:1],
        class_names=real.class_names,
        digests=real.digests,
        verified=True,
    )
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        graph = stage1.build(config, data)
        session = tf1.Session(config=session_config)
        session.run(tf1.global_variables_initializer())
        reset = tf1.global_variables_initializer()

        def bare() -> float:
            graph.batches.start(session, 0)
            start = time.perf_counter()
            for _ in range(steps):
                session.run(graph.train)
            return steps * batch / (time.perf_counter() - start)

        def ours() -> float:
            session.run(reset)
            with tempfile.TemporaryDirectory() as folder, open_run(Path(folder) / "run", config) as run:
                stage1.train(session, graph, run, data)
                # first step to the check after the last: what is saved and recorded then happens once, not per step
                seconds = [line["test/seconds"] for line in read_metrics(run.folder) if "test/seconds" in line]
                return steps * batch / seconds[-1]

        return interleave("stage 1, LeNet, batch 200: whole loop against bare session.run", "images/s", bare, ours)


PAIRS = {"cached features": cached_features, "loop": loop_overhead}
