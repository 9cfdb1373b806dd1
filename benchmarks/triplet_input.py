"""Triplet: does the input keep up with the ResNet-50 step, and our loop against bare session.run.

Both on JPEG files of real size (500 x 375 and larger) that this writes itself: real digits, enlarged and tiled over a
smooth background, so that decoding costs what a photograph's does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import datasets
from benchmarks.measure import REPEATS, Benchmark, Pair, loops, on_each_device, rate
from benchmarks.tf_sessions import bare_loop, started
from datasets import lists
from reproduction.runtime import tf_runtime
from reproduction.runtime.flags import as_dict
from reproduction.runtime.metrics_log import read_metrics
from reproduction.runtime.run_folder import open_run
from reproduction.runtime.tf import tf1
from triplet_tf.config.base_config import Config, parse, training_parser
from triplet_tf.data_sampling.image_lists import open_lists
from triplet_tf.data_sampling.loader import TrainBatches
from triplet_tf.training import graph as model
from triplet_tf.training import loop as ours_loop

SIZES = ((375, 500), (400, 600), (682, 1024))  # as the photographs of the five sets
CLASSES = 16


def write_jpegs(root: Path, count: int) -> Path:
    """Writes <root>/photos in the paper's csv format; returns root."""
    from PIL import Image

    digits = datasets.load("mnist5k")
    home = root / "photos"
    (home / "images").mkdir(parents=True)
    (home / "lists").mkdir()
    rng = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    names = tuple(f"{i:05d}.jpg" for i in range(count))
    for i, name in enumerate(names):
        height, width = SIZES[i % len(SIZES)]
        ramp = np.linspace(0, 120, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
        tiles = digits.train_images[rng.integers(0, len(digits.train_labels), (height // 56 + 1) * (width // 56 + 1))]
        sheet = tiles[..., 0].reshape(height // 56 + 1, width // 56 + 1, 28, 28).repeat(2, axis=2).repeat(2, axis=3)
        sheet = sheet.transpose(0, 2, 1, 3).reshape((height // 56 + 1) * 56, -1)[:height, :width, None]
        pixels = ramp + 0.3 * sheet * rng.uniform(0.3, 1.0, 3) + rng.normal(0, 4, (height, width, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(home / "images" / name, quality=92)
    rows = lists.Rows(labels, names)
    lists.write_csv(home / "lists" / lists.FILES["train_all"], rows.take(np.arange(count - CLASSES)))
    lists.write_csv(home / "lists" / lists.FILES["test"], rows.take(np.arange(count - CLASSES, count)))
    return root


def config_of(
    root: Path, net: str, frame: int, steps: int, device: str, batch: int = 32, more: Sequence[str] = ()
) -> Config:
    """Resolved flags of a run in mode hard on the files below `root`; `more` are further words of its command."""
    fixed = "--db_name csv:photos --train_mode hard --aug_style img --init random --learning_rate 0.001"
    sizes = f"--net {net} --frame_size {frame} --batch_size {batch} --train_iters {steps} --device {device}"
    words = [*f"{fixed} {sizes}".split(), "--data-dir", str(root), *more]
    return parse(training_parser("benchmark"), words)


@contextlib.contextmanager
def photographs(count: int) -> Iterator[Path]:
    """A folder of `count` files that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_jpegs(Path(folder), count)


def delivered(config: Config, session_config: Any, batches: int) -> list[float]:
    """Returns images/s that the input of a run delivers alone, of `batches` batches each time."""
    with tf1.Graph().as_default():
        pipeline = TrainBatches(config, open_lists(config))
        with tf1.Session(config=session_config) as session:
            pipeline.start(session, 0)
            deliver = rate(config.batch_size, lambda: session.run([pipeline.images.op, pipeline.labels]), batches)
            deliver()  # what is prefetched does not count
            return [deliver() for _ in range(REPEATS)]


def decoded_once(small: bool) -> Pair:
    """Images/s of the input of profile matched: images decoded at every step, or once (--image-cache)."""
    session_config, size = started("cpu"), ("--resize_sides", "136,144")
    with photographs(48 if small else 192) as root:
        every, once = (
            delivered(config_of(root, "mobile", 128, 1000, "cpu", more=flags), session_config, 1 if small else 6)
            for flags in (size, (*size, "--image-cache"))
        )
    name = "input at 128, batch 32: images decoded once (--image-cache) against at every step"
    note = "one after the other; without the time to fill the cache, once a data set"
    return Pair(name, "images/s", every, once, note=note)


def input_keeps_up(device: str, small: bool) -> Pair:
    """Images/s that the training step of ResNet-50 at 224 takes, and images/s that the input alone delivers."""
    net, frame, batches = ("mobile", 64, 1) if small else ("resnet50", 224, 6)
    session_config = started(device)
    with photographs(48 if small else 192) as root, tf1.Graph().as_default():
        config = config_of(root, net, frame, 1000, device)
        tf1.set_random_seed(0)
        graph = model.build(config, open_lists(config))
        with tf_runtime.session(session_config) as session:
            graph.batches.start(session, 0)
            step = rate(32, lambda: session.run([graph.loss, graph.train]), 1 if device == "cpu" else 30)
            step()
            taken = [step() for _ in range(REPEATS)]
        input_rates = delivered(config, session_config, batches)
    where = "" if device == "cpu" else f" on {device}"
    name = f"input at {frame}, batch 32: what it delivers alone against what the step of {net}{where} takes"
    return Pair(name, "images/s", taken, input_rates, bar=3, note="one after the other: both at once share the cores")


def loop(net: str, frame: int, batch: int, steps: int, device: str, small: bool) -> Pair:
    """Images/s of a run in mode hard: a bare loop of session.run, and our loop with everything else that it does."""
    net, frame, steps = ("mobile", 64, 2) if small else (net, frame, steps)
    session_config = started(device)
    with photographs(48) as root, tf1.Graph().as_default():
        config = config_of(root, net, frame, steps, device, batch)
        image_lists = open_lists(config)
        # one test image: the test at the end of the loop costs next to nothing
        tested = dataclasses.replace(image_lists, test=image_lists.test.take(np.arange(1)), verified=True)
        tf1.set_random_seed(0)
        graph = model.build(config, tested)
        with tf_runtime.session(session_config) as session:
            reset = tf1.global_variables_initializer()
            bare = functools.partial(bare_loop, session, reset, graph, batch, steps)

            def ours() -> float:
                session.run(reset)
                with tempfile.TemporaryDirectory() as folder, open_run(Path(folder) / "run", as_dict(config)) as run:
                    ours_loop.train(session, graph, run, config, tested)
                    lines = [line for line in read_metrics(run.folder) if "test/seconds" in line]
                return steps * batch / lines[-1]["test/seconds"]

            name = f"training, {net} at {frame}, mode hard, batch {batch}, {device}: our loop against bare session.run"
            return loops(name, batch, steps, bare, ours, "the statistics of the first step, the log")


def _pairs(device: str) -> dict[str, Benchmark]:
    long = 1 if device == "cpu" else 30
    return {
        "input": lambda small: input_keeps_up(device, small),
        "loop resnet50": lambda small: (
            loop("resnet50", 112, 16, 5, device, small)  # at 224 two cores take five minutes for the same answer
            if device == "cpu"
            else loop("resnet50", 224, 32, 150, device, small)
        ),
        "loop mobile": lambda small: loop("mobile", 64, 32, 15 * long, device, small),
    }


BENCHMARKS: dict[str, Benchmark] = {**on_each_device(_pairs), "image cache": decoded_once}
