"""Stage 1: the CNN with its fully connected classifier. Cross-entropy + 0.001 * sum of 0.5 ||W||^2, Adam.

Source: authors' train_fc_classifier.py; class2str.md section 4.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import datasets
from class2str_tf.data.batches import Batches, has_fixed_order, slices, steps_per_epoch
from class2str_tf.flags import RELEASED_DIGITS, load_data, run_folder
from class2str_tf.method.layers import count_parameters, tf, tf1
from class2str_tf.networks import build as networks
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.record import make_record, still_rising, versions_of
from reproduction.runtime.run_folder import MetricsLog, Run, open_run, read_metrics, shown, stop_signals

SCALARS_EVERY = 10  # steps between two lines of the training scalars, as released
WARM_UP = 5  # first steps, slower than the rest
PROJECT_AFTER = 50  # steps after them until the projected time is said
TEST = "test/cnn_train/acc"
LEGACY_SAVE = 10_000  # samples between two checkpoints of an epoch under --legacy-batches (C2S-D10)


class Graph(NamedTuple):
    """Tensors of stage 1."""

    batches: Batches
    scalars: dict[str, tf.Tensor]
    train: tf.Operation
    images: tf.Tensor
    num_correct: tf.Tensor
    test_labels: tf.Tensor


def build(config: Mapping[str, Any], data: datasets.Dataset) -> Graph:
    """Training and evaluation towers on shared variables, in the current graph."""
    num_classes = len(data.class_names)
    step = tf1.train.get_or_create_global_step()
    batches = Batches(data.train_images, data.train_labels, config["B"], config["seed"], has_fixed_order(config))
    features = networks.cnn(batches.x, config, training=True)
    logits = networks.fc_classifier(features, config, num_classes, training=True)
    loss_classifier = networks.cross_entropy(batches.labels, logits)
    regularizer = networks.WEIGHT_DECAY * networks.weight_penalty("cnn", "classifier")
    loss = loss_classifier + regularizer
    correct = tf.equal(tf.argmax(logits, axis=1), batches.labels)
    scalars = {
        "loss_classifier": loss_classifier,
        "regularizer": regularizer,
        "loss": loss,
        "acc": tf.reduce_mean(tf.cast(correct, tf.float32)),
    }
    with tf.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
        train = tf1.train.AdamOptimizer(config["lr"]).minimize(loss, global_step=step)

    images = tf1.placeholder(tf.uint8, [None, *data.train_images.shape[1:]], name="x")
    labels = tf1.placeholder(tf.int64, [None], name="y")
    test_logits = networks.fc_classifier(
        networks.cnn(images, config, training=False), config, num_classes, training=False
    )
    num_correct = tf.reduce_sum(tf.cast(tf.equal(tf.argmax(test_logits, axis=1), labels), tf.int32))
    return Graph(batches, scalars, train, images, num_correct, labels)


def accuracy(session: tf1.Session, graph: Graph, images: np.ndarray, labels: np.ndarray, batch_size: int) -> float:
    """Accuracy over all given images, by integer counts, in [0, 1]."""
    parts = zip(slices(images, batch_size), slices(labels, batch_size), strict=True)
    counts = [session.run(graph.num_correct, {graph.images: x, graph.test_labels: y}) for x, y in parts]
    return int(sum(counts)) / len(labels)


def run_stage1(config: dict[str, Any]) -> None:
    """The whole of a stage-1 script: train (or go on), evaluate, write the record."""
    if config["eval"]:
        evaluate_checkpoint(config)
        return
    with open_run(run_folder(config), config, config["overwrite"]) as run:
        session_config = tf_runtime.start(config["seed"], config["device"], config["xla"])
        seen = run_data.look_at(config)
        data = load_data(config)
        if run_data.is_finished(run, seen, lambda: data.digests):
            return
        with tf1.Graph().as_default():
            tf1.set_random_seed(config["seed"])
            graph = build(config, data)
            with tf_runtime.session(session_config) as session:
                train(session, graph, run, data)


def train(session: tf1.Session, graph: Graph, run: Run, data: datasets.Dataset) -> None:
    """The loop of stage 1."""
    config, folder = run.config, run.folder
    batch, num_train = config["B"], len(data.train_labels)
    per_epoch = steps_per_epoch(num_train, batch)
    total = min(config["epochs"] * per_epoch, config["max_steps"] or sys.maxsize)
    saver = tf1.train.Saver(max_to_keep=0)  # save_checkpoint keeps the newest two and the best
    first = tf_runtime.restore_newest(session, saver, folder) or 0
    announce(data, config, total, first)
    log = MetricsLog(folder, resume_step=first if first else -1, subfolder="logs")
    history = [line for line in read_metrics(folder) if TEST in line]
    seconds_before = history[-1]["test/seconds"] if history else 0.0
    graph.batches.start(session, first)

    start = time.monotonic()
    bar = tqdm(total=total * batch, initial=first * batch, unit="img", disable=None, leave=False)
    with stop_signals() as stop:
        for step in range(first + 1, total + 1):
            samples = (step - 1) * batch  # the authors' x-axis: samples seen before the step
            if step % SCALARS_EVERY == 1:
                values = session.run([graph.scalars, graph.train])[0]
                log.write(step, {f"cnn_train/{k}": float(v) for k, v in values.items()}, "train", samples)
                bar.set_postfix(loss=f"{values['loss']:.3f}", acc=f"{values['acc']:.3f}")
                loss = values["loss"]
            else:
                loss = session.run([graph.scalars["loss"], graph.train])[0]
            tf_runtime.stop_if_not_finite(loss, step, folder)
            bar.update(batch)

            if step == first + WARM_UP:
                warm = time.monotonic()
            if step == first + WARM_UP + PROJECT_AFTER:
                say_projection(bar, PROJECT_AFTER * batch, (total - step) * batch, time.monotonic() - warm)
            at_end = step == total
            due = checkpoint_due(step, per_epoch, batch, config["legacy_batches"]) or at_end
            if due:
                test = accuracy(session, graph, data.test_images, data.test_labels, batch)
                seconds = round(seconds_before + time.monotonic() - start, 3)
                line = {"cnn_train/acc": test, "epoch": step / per_epoch, "seconds": seconds}
                log.write(step, line, "test", samples)
                history.append({"step": step, TEST: test, "test/seconds": seconds})
            if due or stop.requested:
                prefix = folder / checkpoint_name(step, per_epoch, batch, config["legacy_batches"] and not at_end)
                best = [max(history, key=lambda entry: entry[TEST])["step"]] if history else []
                tf_runtime.save_checkpoint(session, saver, prefix, keep=best, with_graph=at_end)
            if stop.requested and not at_end:
                stop.leave(folder)
    bar.close()
    log.close()
    finish(run, data, history, total)


def say_projection(bar: tqdm, images: int, left: int, seconds: float) -> None:
    """Says once how long the `left` images will take at the rate measured over the first `images`."""
    rate = images / seconds
    bar.write(f"{rate:,.0f} images/s, about {left / rate / 60:.1f} min to go")


def checkpoint_due(step: int, per_epoch: int, batch: int, legacy: bool) -> bool:
    """Once an epoch; under --legacy-batches where the sample counter of the epoch crosses a multiple of 10,000."""
    if not legacy:
        return step % per_epoch == 0
    before = (step - 1) % per_epoch * batch
    return before // LEGACY_SAVE < (before + batch) // LEGACY_SAVE


def checkpoint_name(step: int, per_epoch: int, batch: int, legacy: bool) -> str:
    """`model-<samples seen>`; under --legacy-batches the multiple of 10,000 in the epoch, reused as released."""
    if not legacy:
        return f"model-{step * batch}"
    return f"model-{((step - 1) % per_epoch + 1) * batch // LEGACY_SAVE * LEGACY_SAVE}"


def announce(data: datasets.Dataset, config: Mapping[str, Any], total: int, first: int) -> None:
    """What is about to run, in three lines."""
    shape = "x".join(str(n) for n in data.train_images.shape[1:])
    verified = "" if data.verified else ", NOT VERIFIED"
    print(f"{data.name}: {len(data.train_labels)} training and {len(data.test_labels)} test images {shape}{verified}")
    heads = {"CNN": "cnn", "FC classifier": "classifier", "LH classifier": "lh"}
    counts = {name: count_parameters(scope) for name, scope in heads.items() if count_parameters(scope)}
    print("parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    device = tf_runtime.gpu_name() or "CPU"
    print(f"{device}: {total - first} of {total} steps of {config['B']} images to go, lr {config['lr']:g}", flush=True)


def finish(run: Run, data: datasets.Dataset, history: list[dict[str, Any]], total: int) -> None:
    """Writes the record of stage 1 and says where things lie."""
    last, best = history[-1][TEST], max(line[TEST] for line in history)
    seconds = history[-1]["test/seconds"]
    counts = {"cnn": count_parameters("cnn"), "fc": count_parameters("classifier")}
    run.finish(
        make_record(
            paper="class2str",
            row=run.config["row"],
            stage="fc",
            seed=run.config["seed"],
            argv=sys.argv,
            config=run.config,
            metrics={"fc_accuracy": {"last": last, "best_on_val": None, "best_on_test": best}},
            details={
                "parameters": counts,
                "training_images": len(data.train_labels),
                "still_rising": still_rising([line[TEST] for line in history]),
            },
            seconds=seconds,
            images_per_s=round(total * run.config["B"] / max(seconds, 1e-9), 1),
            data=data.digests,
            data_verified=data.verified,
            deviations=active_deviations(run.config),
            versions=versions_of("tensorflow", "tf-keras", "tf-slim", "numpy"),
            deterministic=True,
            gpu=tf_runtime.gpu_name(),
        )
    )
    print(
        f"FC accuracy {100 * last:.2f} % (best epoch on test {100 * best:.2f} %) after {total} steps, {seconds:.0f} s"
    )
    print(f"run folder {shown(run.folder)}; curves: tensorboard --logdir {shown(run.folder)}", flush=True)


def active_deviations(config: Mapping[str, Any]) -> list[str]:
    """Ids of the deviations from the released code that are on in this configuration (docs/deviations)."""
    active = ["C2S-D08", "C2S-D10", "C2S-D16", "C2S-D17", "C2S-D22"]
    if config.get("dataset") == "imagenet":
        active += ["C2S-D25", "C2S-D29"]
    elif config["model"] == "vgg16" and config["features"] == "paper512":
        active.append("C2S-D03")
    if not config["legacy_batches"] and config["dataset"] != "imagenet":
        active.append("C2S-D15")
    if config["dataset"] == "mnist" and config["train_images"] != RELEASED_DIGITS:
        active.append("C2S-D30")
    if config["dataset"].startswith("cifar") and config["pixels"] != "raw":
        active.append("C2S-D26")
    return active


def evaluate_checkpoint(config: dict[str, Any]) -> None:
    """--eval: accuracy of one checkpoint over the whole test set."""
    session_config = tf_runtime.start(config["seed"], config["device"])
    data = load_data(config)
    with tf1.Graph().as_default():
        tf1.set_random_seed(config["seed"])
        graph = build(config, data)
        with tf_runtime.session(session_config) as session:
            built = f"{config['model']} on {data.name}"
            tf_runtime.restore_for_evaluation(session, Path(config["eval"]), built)
            test = accuracy(session, graph, data.test_images, data.test_labels, config["B"])
    print(f"{config['eval']}: FC accuracy {100 * test:.2f} % of {len(data.test_labels)} test images")
