"""The loop of a run: train, test at intervals, keep the last and the best, go on after a kill where it was.

Source: fast_fgvr_semi_train.py of the released code; triplet.md sections 2.4 and 4.1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.identity import look
from datasets.lists import ImageLists
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.run_folder import (
    MetricsLog,
    Run,
    UserError,
    open_run,
    read_metrics,
    shown,
    stop_signals,
    write_json,
)
from triplet_tf import nets
from triplet_tf.config.base_config import run_folder
from triplet_tf.data_sampling import image_lists
from triplet_tf.data_sampling.augment import tf, tf1
from triplet_tf.data_sampling.loader import explained
from triplet_tf.training import evaluate as measures
from triplet_tf.training import graph as model
from triplet_tf.training import initial_weights, record
from triplet_tf.training.run_files import LogFile, link_checkpoint

PROJECT_AFTER = 20  # steps until the projected time is said
ACCURACY = "test/Split_Val_Accuracy"  # the authors' name


def run_training(config: dict[str, Any]) -> None:
    """The whole of a training script: lists, graph, training (or going on), evaluation, record."""
    with open_run(run_folder(config), config, config["overwrite"]) as run:
        seen = look(image_lists.data_set(config), Path(config["data_dir"]))
        lists = image_lists.open_lists(config)
        if run_data.is_finished(run, seen, lambda: image_lists.digests(config, lists)):
            return
        if config["init"] == "imagenet" and tf_runtime.newest_name(run.folder) is None:
            initial_weights.checkpoint_path(config)  # said before the graph is built
        session_config = tf_runtime.start(config["seed"], config["device"])
        write_json(run.folder / "args.json", run.config)
        with tf1.Graph().as_default():
            tf1.set_random_seed(config["seed"])
            graph = model.build(config, lists)
            with tf_runtime.session(session_config) as session:
                try:
                    history, tested = train(session, graph, run, lists)
                    record.finish(session, graph, run, lists, history, tested)
                except tf.errors.OpError as error:
                    raise explained(error, files_due(session, graph, config)) from None


def train(
    session: tf1.Session, graph: model.Graph, run: Run, lists: ImageLists
) -> tuple[list[dict[str, Any]], measures.Tested | None]:
    """The loop.

    Returns:
      (lines of the tests, what the last of them found or None where nothing was left to train).
    """
    config, folder, total = run.config, run.folder, run.config["train_iters"]
    size, per_update = config["batch_size"], config["caffe_iter_size"]
    saver = tf1.train.Saver(max_to_keep=0)
    first = tf_runtime.restore_newest(session, saver, folder)  # DEVIATION STL-D14: the checkpoint's own step
    if first is None:
        first = 0
        if config["init"] == "imagenet":
            weights = initial_weights.checkpoint_path(config)
            nets.restore_imagenet(session, config["net"], weights)
            write_json(folder / initial_weights.FILE, initial_weights.digests(weights))
    log = MetricsLog(folder, resume_step=first if first else -1, subfolder="logs")
    history = [line for line in read_metrics(folder) if ACCURACY in line]
    if first == total and not history:
        raise UserError(f"{shown(folder / 'metrics.jsonl')}: the tests of this run are lost; --overwrite starts anew")
    text = LogFile(folder / f"{config['log_filename']}.txt")
    announce(text, config, lists, total, first)
    tested = None
    seconds_before = history[-1]["test/seconds"] if history else 0.0
    graph.batches.start(session, first * per_update)

    start = time.monotonic()
    bar = tqdm(total=total * size, initial=first * size, unit="img", disable=None, leave=False)
    with stop_signals() as stop:
        for step in range(first + 1, total + 1):
            began = time.monotonic()
            if per_update > 1:
                session.run(graph.start_update)
            for _ in range(per_update - 1):
                loss = session.run([graph.loss, graph.accumulate])[0]
                tf_runtime.stop_if_not_finite(loss, step, folder)
            if step == 1 or step % config["logging_threshold"] == 0:
                rate, values, _ = session.run([graph.learning_rate, graph.scalars, graph.train])
                loss = values["loss"]
                line = {name: float(value) for name, value in values.items()}
                log.write(step, {**line, "learning_rate": float(rate)}, "train")
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{line['batch_accuracy']:.3f}")
                text.write(f"step {step} {describe(line)} ({time.monotonic() - began:.3f} s)", bar)
            else:
                loss = session.run([graph.loss, graph.train])[0]
            tf_runtime.stop_if_not_finite(loss, step, folder)
            bar.update(size * per_update)

            if step == first + PROJECT_AFTER:
                rate = PROJECT_AFTER / (time.monotonic() - start)
                images = rate * size * per_update
                text.write(f"{images:,.1f} images/s, about {(total - step) / rate / 60:.1f} min to go", bar)
            at_end = step == total
            due = step % config["test_interval"] == 0 or at_end
            if due:
                tested = measures.over_list(session, graph.evaluation)
                accuracies = measures.accuracies(tested, lists.num_classes)
                seconds = round(seconds_before + time.monotonic() - start, 3)
                # DEVIATION STL-D15: loss and accuracy over the whole list, not over its last batch
                line = {"Split_Val_Accuracy": accuracies["accuracy"], "macro_accuracy": accuracies["macro_accuracy"],
                        "Val_Loss": accuracies["cross_entropy"], "seconds": seconds}  # fmt: skip
                log.write(step, line, "test")
                history.append({"step": step, **{f"test/{name}": value for name, value in line.items()}})
                best = max(history, key=lambda entry: entry[ACCURACY])
                text.write(
                    f"step {step} accuracy {100 * line['Split_Val_Accuracy']:.2f} macro "
                    f"{100 * line['macro_accuracy']:.2f}; best {100 * best[ACCURACY]:.2f} at step {best['step']} "
                    f"of {config['name']}", bar,
                )  # fmt: skip
            if due or stop.requested:  # DEVIATION STL-D16: saved at every test and at the end
                keep = keep_best(history)
                prefix = folder / f"model-{step}"
                tf_runtime.save_checkpoint(session, saver, prefix, keep=keep)
                link_checkpoints(config, folder, step, keep)
            if stop.requested and not at_end:
                stop.leave(folder)
    bar.close()
    log.close()
    link_checkpoints(config, folder, total, keep_best(history))  # a kill may have come between saving and linking
    return history, tested


def keep_best(history: list[dict[str, Any]]) -> list[int]:
    """The step of the best test, the first of equals; nothing before the first test."""
    return [max(history, key=lambda entry: entry[ACCURACY])["step"]] if history else []


def link_checkpoints(config: Mapping[str, Any], folder: Path, step: int, best: list[int]) -> None:
    """The authors' names for the checkpoint of `step` and for the best."""
    link_checkpoint(folder / f"model-{step}", folder / config["checkpoint_filename"])
    for kept in best:
        link_checkpoint(folder / f"model-{kept}", folder / f"{config['checkpoint_filename']}best")


def announce(text: LogFile, config: Mapping[str, Any], lists: ImageLists, total: int, first: int) -> None:
    """What is about to run."""
    verified = "" if lists.verified else ", not verified"
    text.write(
        f"{lists.name}: {len(lists.train.names)} training and {len(lists.test.names)} test images, "
        f"{lists.num_classes} classes{verified}"
    )
    text.write(f"{config['net']}, {config['train_mode']}: {model.count_parameters():,} trainable parameters")
    device = tf_runtime.gpu_name() or "CPU"
    passes = f" x {config['caffe_iter_size']}" if config["caffe_iter_size"] > 1 else ""
    text.write(f"{device}: {total - first} of {total} steps of {config['batch_size']}{passes} images to go, "
               f"lr {config['learning_rate']:g}")  # fmt: skip


def describe(values: Mapping[str, float]) -> str:
    """The scalars of a step for the log file."""
    names = {"cross_entropy": "CE", "batch_accuracy": "accuracy", "metric_loss": "metric", "positive_distance": "d+",
             "negative_distance": "d-", "active_triplets": "active"}  # fmt: skip
    return " ".join(f"{names[key]} {value:.4f}" for key, value in values.items() if key in names)


def files_due(session: tf1.Session, graph: model.Graph, config: Mapping[str, Any]) -> list[str]:
    """Files that the pipelines were about to read when one of them failed: those of an update, and those of the test.

    A pipeline reads ahead and fails in order, so the file is of the update that is not done yet.
    """
    per_update = config["caffe_iter_size"]
    done = int(session.run(tf1.train.get_global_step()))
    return [*graph.batches.upcoming(done * per_update, per_update), *graph.evaluation.batches.files()]
