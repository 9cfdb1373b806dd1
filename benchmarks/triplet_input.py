"""Triplet: does the input keep up? Images/s of the input alone against the images/s that the ResNet-50 step consumes.

Frames of 224, batch 32, style `img`, on JPEG files of real size (500 x 375 and larger) that this writes itself: real
digits, enlarged and tiled over a smooth background, so that decoding costs what a photograph's does.

    python benchmarks/triplet_input.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402 - after the path above

import datasets  # noqa: E402
from datasets import lists  # noqa: E402

SIZES = ((375, 500), (400, 600), (682, 1024))  # as the photographs of the five sets
BAR = 3.0


def write_jpegs(root: Path, count: int, num_classes: int = 16) -> Path:
    """Writes <root>/photos in the paper's csv format; returns root."""
    from PIL import Image

    digits = datasets.load("mnist5k")
    home = root / "photos"
    (home / "images").mkdir(parents=True)
    (home / "lists").mkdir()
    rng = np.random.default_rng(0)
    labels = np.arange(count) % num_classes
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
    lists.write_csv(home / "lists" / lists.FILES["train_all"], rows.take(np.arange(count - num_classes)))
    lists.write_csv(home / "lists" / lists.FILES["test"], rows.take(np.arange(count - num_classes, count)))
    return root


def config_of(root: Path, mode: str) -> dict[str, Any]:
    from triplet_tf.config.base_config import parse, training_parser

    words = ["--db_name", "csv:photos", "--data-dir", str(root), "--net", "resnet50", "--train_mode", mode,
             "--aug_style", "img", "--batch_size", "32", "--init", "random"]  # fmt: skip
    return parse(training_parser("triplet_input.py"), words)


def input_rates(root: Path, batches: int, repeats: int, threads: int) -> list[float]:
    """Images/s of the training pipeline alone, at each repeat."""
    from reproduction import tf_runtime
    from triplet_tf.data_sampling.augment import tf1
    from triplet_tf.data_sampling.image_lists import open_lists
    from triplet_tf.data_sampling.loader import TrainBatches

    config = config_of(root, "hard")
    session_config = tf_runtime.start(0, "cpu")
    session_config.inter_op_parallelism_threads = session_config.intra_op_parallelism_threads = threads
    rates = []
    with tf1.Graph().as_default(), tf1.Session(config=session_config) as session:
        pipeline = TrainBatches(config, open_lists(config))
        pipeline.start(session, 0)
        for _ in range(4):  # what is prefetched does not count
            session.run(pipeline.labels)
        for _ in range(repeats):
            start = time.perf_counter()
            for _ in range(batches):
                session.run([pipeline.images.op, pipeline.labels])
            rates.append(batches * config["batch_size"] / (time.perf_counter() - start))
    return rates


def step_rates(root: Path, steps: int) -> list[float]:
    """Images/s of single training steps of ResNet-50 in mode hard, fed by the same pipeline, after one warm-up."""
    from reproduction import tf_runtime
    from triplet_tf import model
    from triplet_tf.data_sampling.augment import tf1
    from triplet_tf.data_sampling.image_lists import open_lists

    config = config_of(root, "hard")
    session_config = tf_runtime.start(0, "cpu")
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        graph = model.build(config, open_lists(config))
        with tf_runtime.session(session_config) as session:
            graph.batches.start(session, 0)
            rates = []
            for step in range(steps + 1):
                start = time.perf_counter()
                session.run([graph.loss, graph.train])
                if step:
                    rates.append(config["batch_size"] / (time.perf_counter() - start))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--images", type=int, default=192, help="files to write (default 192)")
    parser.add_argument("--batches", type=int, default=6, help="batches of a repeat (default 6)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of the input (default 3)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of ResNet-50 (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the input (default 2)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = write_jpegs(Path(folder), args.images)
        given = input_rates(root, args.batches, args.repeats, args.threads)
        taken = step_rates(root, args.steps)
    rate, need = statistics.median(given), statistics.median(taken)
    print("| what | images/s (smallest to largest) | n |\n|---|---|---|")
    print(f"| input alone, {args.threads} threads | {rate:.1f} ({min(given):.1f} to {max(given):.1f}) | {len(given)} |")
    print(f"| ResNet-50 step, mode hard | {need:.2f} ({min(taken):.2f} to {max(taken):.2f}) | {len(taken)} |")
    print(f"\nthe input delivers {rate / need:.1f} times what the step takes (bar: {BAR:g})")


if __name__ == "__main__":
    main()
