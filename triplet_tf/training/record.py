"""What a finished run writes: metrics over the test list, files in the run folder, the record. And --eval."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets.lists import ImageLists
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.arrays import confusion_counts, write_npz
from reproduction.runtime.outcomes import outcomes_of
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import Run, UserError, read_json, shown, write_bytes, write_json
from reproduction.runtime.tf import tf, tf1
from reproduction.runtime.tf_states import speed
from triplet_tf import deviations, plots
from triplet_tf.config.base_config import Config, describe
from triplet_tf.config.initial_weights import DIGESTS
from triplet_tf.data_sampling.image_lists import digests, open_lists
from triplet_tf.data_sampling.loader import explained, file_paths
from triplet_tf.training import evaluate
from triplet_tf.training.evaluate import Tested, run_test
from triplet_tf.training.graph import Graph, build_evaluation, count_parameters
from triplet_tf.training.run_files import ACCURACY, best_test, ratio_history

SHOWN = 8  # neighbours of a query in the plot
ARTEFACTS = (
    {"kind": "image", "path": "neighbours.png", "title": "Test images and their nearest others (green: same class)"},
    {"kind": "image", "path": "confusion.png", "title": "Confusion over the whole test list"},
    {"kind": "json", "path": "metrics.json", "title": "All metrics, per-class accuracy, the ten largest confusions"},
    {"kind": "csv", "path": "confusion.csv", "title": "Confusion matrix, rows are true classes"},
    {"kind": "npz", "path": "embeddings.npz", "title": "Embeddings, labels and file names of the test list"},
)


def all_metrics(tested: Tested, num_classes: int) -> tuple[dict[str, float], np.ndarray, dict[str, np.ndarray]]:
    """Computes every metric of a list, the nearest others of each image, and what is right about it.

    Returns:
      (metric name -> value, neighbours int64 [N, <= 32], name of an accuracy or recall@1 -> bool [N]).
    """
    neighbours = of_pooled = evaluate.nearest(tested.embeddings, max(evaluate.RECALLS))
    nmi = pooled_nmi = evaluate.nmi(tested.embeddings, tested.labels, num_classes)
    if tested.pooled is not None:  # what a network without a second head is measured by
        of_pooled = evaluate.nearest(tested.pooled, 1)
        pooled_nmi = evaluate.nmi(tested.pooled, tested.labels, num_classes)
    right = evaluate.right_by_metric(tested, neighbours, of_pooled)
    metrics = {
        **evaluate.accuracies(tested, num_classes),
        **evaluate.recall_at(tested.labels, neighbours),
        "nmi": nmi,
        "pooled_recall_at_1": float(right["pooled_recall_at_1"].mean()),
        "pooled_nmi": pooled_nmi,
        **evaluate.mean_distances(tested.embeddings, tested.labels),
    }
    return metrics, neighbours, right


def embedding_text(config: Config, tested: Tested) -> str:
    """Describes the embedding for people: vanilla networks have no head."""
    size = tested.embeddings.shape[1]
    if config.train_mode == "vanilla":
        return f"pooled feature of the last map, {size}-d, scaled to unit length (this network has no embedding head)"
    return f"embedding head, {size}-d, unit length"


def write_files(
    folder: Path,
    config: Config,
    lists: ImageLists,
    tested: Tested,
    checkpoint: str,
    metrics: Mapping[str, float],
    neighbours: np.ndarray,
) -> None:
    """Writes metrics.json, confusion.csv, embeddings.npz and the two plots of one checkpoint.

    Args:
      folder: where to write.
      config: resolved flags.
      lists: whose test list was evaluated.
      tested: answers for that list.
      checkpoint: name of the checkpoint, for people.
      metrics: of `all_metrics`.
      neighbours: of `all_metrics`.
    """
    matrix = confusion_counts(tested.labels, tested.ranked[:, 0], lists.num_classes)
    names = lists.class_names
    shares = zip(names, map(float, evaluate.class_accuracy(matrix)), strict=True)
    write_json(
        folder / "metrics.json",
        {
            "checkpoint": checkpoint,
            "metrics": metrics,
            "class_accuracy": {name: None if np.isnan(share) else share for name, share in shares},
            "largest_confusions": evaluate.largest_confusions(matrix, names),
            "embedding": embedding_text(config, tested),
            "images": len(tested.labels),
            "versions": versions_of("scikit-learn", "tensorflow", "tf-slim"),
        },
    )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["true \\ predicted", *names])
    table.writerows([name, *map(int, row)] for name, row in zip(names, matrix, strict=True))
    write_bytes(folder / "confusion.csv", text.getvalue().encode())
    arrays = {"emb": tested.embeddings, "label": tested.labels, "file_name": np.array(lists.test.names)}
    write_npz(folder / "embeddings.npz", arrays, compress=False)
    paths = [Path(path) for path in file_paths(lists.images, lists.test.names)]
    plots.neighbours(folder / "neighbours.png", paths, tested.labels, neighbours[:, :SHOWN], names)
    plots.confusion(folder / "confusion.png", matrix, names, metrics["accuracy"])


def record_row(config: Config) -> str:
    """Returns the row of a run's record: --row, or the data set's name, without the folders above it."""
    return config.row or "-".join([*(Path(part).name for part in config.db_name.split(":", 1)), "custom"])


def write_record(
    session: tf1.Session,
    graph: Graph,
    run: Run,
    config: Config,
    lists: ImageLists,
    history: list[dict[str, Any]],
    tested: Tested | None,
    precision: str,
) -> None:
    """Evaluates the last weights (and, under --eval_split val, the best ones) on the test list; writes the record.

    Args:
      session: with the last weights.
      graph: of the training.
      run: open run folder.
      config: resolved flags.
      lists: of the training.
      history: lines of the tests in metrics.jsonl.
      tested: answers of the training's last test; None runs it again.
      precision: what the session computes in.
    """
    folder, total, on_val = run.folder, config.train_iters, config.eval_split == "val"
    if on_val:
        graph.evaluation.batches.lists = lists = open_lists(config, final=True)
    if on_val or tested is None:
        tested = run_test(session, graph.evaluation)
    last, neighbours, right = all_metrics(tested, lists.num_classes)
    best, best_on_val = best_test(history), {}
    if on_val:
        tf1.train.Saver().restore(session, str(folder / f"model-{best['step']}"))
        best_on_val = all_metrics(run_test(session, graph.evaluation), lists.num_classes)[0]
        best_on_test: dict[str, float] = {}
    else:
        best_on_test = {"accuracy": best[ACCURACY], "macro_accuracy": best["test/macro_accuracy"]}
    matrix = confusion_counts(tested.labels, tested.ranked[:, 0], lists.num_classes)
    run.finish(
        make_record(
            paper="triplet",
            row=record_row(config),
            stage="softmax" if config.train_mode == "vanilla" else "two-head",
            seed=config.seed,
            argv=sys.argv,
            config=run.config,
            metrics={
                name: {"last": value, "best_on_val": best_on_val.get(name), "best_on_test": best_on_test.get(name)}
                for name, value in last.items()
            },
            details={
                "mode": config.train_mode,
                "embedding": embedding_text(config, tested),
                "tap": config.tap or "as released",
                "best_step": best["step"],
                "steps": total,
                "largest_confusions": evaluate.largest_confusions(matrix, lists.class_names),
                "parameters": count_parameters(),
                **ratio_history(history, total),
                "validation_accuracy": [history[-1][ACCURACY]] if on_val else [],
                "initial_weights": read_json(folder / DIGESTS) if config.init == "imagenet" else {},
            },
            outcomes={name: outcomes_of(bits, tested.labels) for name, bits in right.items()},
            artefacts=ARTEFACTS,
            **speed(history[-1]),
            data=lists.digests,
            data_verified=lists.verified,
            deviations=deviations.active(config),
            versions=versions_of("tensorflow", "tf-keras", "tf-slim", "numpy", "scikit-learn"),
            deterministic=tf_runtime.gpu_name() is None,  # TensorFlow does not promise it for a session on a GPU
            precision=precision,
            gpu=tf_runtime.gpu_name(),
        ),
        functools.partial(
            write_files, folder, config, lists, tested, f"{config.checkpoint_filename} (last)", last, neighbours
        ),
    )
    print_metrics(config, last, f"last of {total} steps")
    print(
        f"best test of the run: {100 * best['test/Split_Val_Accuracy']:.2f} % at step {best['step']} "
        f"(list: {config.eval_split})"
    )
    print(f"run folder {shown(folder)}; plots: neighbours.png, confusion.png; record: record.json", flush=True)


def print_metrics(config: Config, metrics: Mapping[str, float], checkpoint: str) -> None:
    """Prints the metrics of a checkpoint in two lines."""
    print(
        f"{config.train_mode} ({checkpoint}): accuracy {100 * metrics['accuracy']:.2f} %, macro "
        f"{100 * metrics['macro_accuracy']:.2f}, top-5 {100 * metrics['top5_accuracy']:.2f}, NMI {metrics['nmi']:.4f}"
    )
    recalls = ", ".join(f"@{k} {100 * metrics[f'recall_at_{k}']:.2f}" for k in evaluate.RECALLS)
    print(
        f"recall {recalls}; mean squared distance {metrics['positive_distance']:.3f} in a class, "
        f"{metrics['negative_distance']:.3f} across, ratio {metrics['embedding_ratio']:.2f}"
    )


def evaluate_checkpoint(config: Config) -> None:
    """--eval and eval.py: restores one checkpoint and writes its files into `eval-<checkpoint>/` of its folder.

    Raises:
      UserError: no such checkpoint, or one of another network, class count or frame size.
    """
    assert config.eval is not None  # the script has seen to it
    prefix = tf_runtime.checkpoint_prefix(Path(config.eval))
    folder = prefix.with_name(f"eval-{prefix.name}")
    if not os.access(prefix.parent, os.W_OK):
        raise UserError(f"{shown(prefix.parent)}: cannot be written; copy the checkpoint and its config.json elsewhere")
    lists = open_lists(config, final=True)
    shapes = shapes_in(prefix)
    if config.train_mode != "vanilla" and shapes and "W" not in shapes:
        raise UserError(f"{shown(prefix)}: has no embedding head (W); give --train_mode vanilla")
    session_config = tf_runtime.start(config.seed, config.device, config.xla, config.amp)
    with tf1.Graph().as_default():
        tf1.set_random_seed(config.seed)
        evaluation = build_evaluation(config, lists, reuse=False)
        check_frame(prefix, config, shapes)
        with tf_runtime.session(session_config) as session:
            tf_runtime.restore_for_evaluation(session, prefix, describe(config))
            try:
                tested = run_test(session, evaluation)
            except tf.errors.OpError as error:
                raise explained(error, evaluation.batches.files()) from None
    warn_of_other_data(prefix.parent, config)
    folder.mkdir(exist_ok=True)
    metrics, neighbours, _ = all_metrics(tested, lists.num_classes)
    write_files(folder, config, lists, tested, prefix.name, metrics, neighbours)
    print_metrics(config, metrics, f"{shown(prefix)}, {len(tested.labels)} test images")
    print(f"written to {shown(folder)}: metrics.json, confusion.csv, embeddings.npz, neighbours.png, confusion.png")


def warn_of_other_data(folder: Path, config: Config) -> None:
    """Prints a line if the data set of a checkpoint's run has changed since it was trained."""
    if not (folder / run_data.FILE).exists():
        return
    flags = read_json(folder / "config.json", "db_name", "eval_split")
    if flags["db_name"] != config.db_name:
        return  # asked for
    trained = dataclasses.replace(config, eval_split=flags["eval_split"])
    if names := run_data.differing(folder, digests(trained, open_lists(trained))):
        print(f"warning: {shown(folder)} was trained on other data ({', '.join(names)} differs)", file=sys.stderr)


def shapes_in(prefix: Path) -> dict[str, list[int]]:
    """Returns the shapes of a checkpoint's variables; none for a damaged file (restoring it says why)."""
    try:
        return tf1.train.load_checkpoint(str(prefix)).get_variable_to_shape_map()
    except Exception:  # whatever a damaged file raises
        return {}


def check_frame(prefix: Path, config: Config, shapes: Mapping[str, list[int]]) -> None:
    """Refuses a two-head checkpoint of the same network that was trained at another frame size.

    Raises:
      UserError: W has another number of rows in the current graph.
    """
    here = {v.op.name: v.shape.as_list() for v in tf1.global_variables()}.get("W")
    there = shapes.get("W")
    same_net = any(name.startswith(f"{config.network.scope}/") for name in shapes)
    if same_net and here and there and there[0] != here[0]:
        raise UserError(
            f"--frame_size {config.frame_side}: the embedding head W is {there} in {shown(prefix)} and {here} here; "
            "a two-head checkpoint restores only at the frame size that it was trained with"
        )
