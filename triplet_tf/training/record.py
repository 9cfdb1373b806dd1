"""What a finished run is worth: figures over the test list, files in the run folder, the record. And --eval."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets.lists import ImageLists
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import Run, UserError, read_json, shown, write_bytes, write_json
from triplet_tf import deviations, plots
from triplet_tf.config.base_config import describe, frame_side
from triplet_tf.data_sampling.augment import tf, tf1
from triplet_tf.data_sampling.image_lists import digests, open_lists
from triplet_tf.data_sampling.loader import explained, file_paths
from triplet_tf.nets import TABLE
from triplet_tf.training import evaluate as measures
from triplet_tf.training import graph as model
from triplet_tf.training import initial_weights

SHOWN = 8  # neighbours of a query in the picture


def figures(tested: measures.Tested, num_classes: int) -> tuple[dict[str, float], np.ndarray]:
    """Every figure of a list, and the nearest others of each image.

    Returns:
      (metric name -> value, neighbours int64 [N, <= 32]).
    """
    neighbours = measures.nearest(tested.embeddings, max(measures.RECALLS))
    return {
        **measures.accuracies(tested, num_classes),
        **measures.recall_at(tested.labels, neighbours),
        "nmi": measures.nmi(tested.embeddings, tested.labels, num_classes),
        **measures.mean_distances(tested.embeddings, tested.labels),
    }, neighbours


def embedding_text(config: Mapping[str, Any], tested: measures.Tested) -> str:
    """What the embedding is, for people: vanilla networks have no head."""
    size = tested.embeddings.shape[1]
    if config["train_mode"] == "vanilla":
        return f"pooled feature of the last map, {size}-d, scaled to unit length (this network has no embedding head)"
    return f"embedding head, {size}-d, unit length"


def write_files(
    folder: Path, config: Mapping[str, Any], lists: ImageLists, tested: measures.Tested, checkpoint: str,
    values: Mapping[str, float], neighbours: np.ndarray,
) -> None:  # fmt: skip
    """metrics.json, confusion.csv, embeddings.npz and the two pictures of one checkpoint.

    Args:
      values, neighbours: of `figures`.
    """
    matrix = measures.confusion(tested.labels, tested.ranked[:, 0], lists.num_classes)
    names = lists.class_names
    write_json(folder / "metrics.json", {
        "checkpoint": checkpoint,
        "metrics": values,
        "class_accuracy": {name: None if np.isnan(value) else float(value)
                           for name, value in zip(names, measures.class_accuracy(matrix), strict=True)},
        "largest_confusions": measures.largest_confusions(matrix, names),
        "embedding": embedding_text(config, tested),
        "images": len(tested.labels),
        "versions": versions_of("scikit-learn", "tensorflow", "tf-slim"),
    })  # fmt: skip
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["true \\ predicted", *names])
    table.writerows([name, *map(int, row)] for name, row in zip(names, matrix, strict=True))
    write_bytes(folder / "confusion.csv", text.getvalue().encode())
    packed = io.BytesIO()
    np.savez(packed, emb=tested.embeddings, label=tested.labels, file_name=np.array(lists.test.names))
    write_bytes(folder / "embeddings.npz", packed.getvalue())
    paths = [Path(path) for path in file_paths(lists.images, lists.test.names)]
    plots.neighbours(folder / "neighbours.png", paths, tested.labels, neighbours[:, :SHOWN], names)
    plots.confusion(folder / "confusion.png", matrix, names, values["accuracy"])


ARTEFACTS = (
    {"kind": "image", "path": "neighbours.png", "title": "Test images and their nearest others (green: same class)"},
    {"kind": "image", "path": "confusion.png", "title": "Confusion over the whole test list"},
    {"kind": "json", "path": "metrics.json", "title": "Every figure, per-class accuracy, the ten largest confusions"},
    {"kind": "csv", "path": "confusion.csv", "title": "Confusion matrix, rows are true classes"},
    {"kind": "npz", "path": "embeddings.npz", "title": "Embeddings, labels and file names of the test list"},
)


def finish(
    session: tf1.Session, graph: model.Graph, run: Run, lists: ImageLists, history: list[dict[str, Any]],
    tested: measures.Tested | None,
) -> None:  # fmt: skip
    """Evaluates the last weights (and, under --eval_split val, the best ones) on the test list; writes the record.

    Args:
      tested: what the last test of the loop found, where its list is the test list; None runs it.
    """
    config, folder = run.config, run.folder
    values_best: dict[str, float] = {}
    if config["eval_split"] == "val":
        graph.evaluation.batches.lists = lists = open_lists(config, final=True)
        tested = None
    tested = tested or measures.over_list(session, graph.evaluation)
    last, neighbours = figures(tested, lists.num_classes)
    best = max(history, key=lambda line: line["test/Split_Val_Accuracy"])
    if config["eval_split"] == "val":
        tf1.train.Saver().restore(session, str(folder / f"model-{best['step']}"))
        values_best = figures(measures.over_list(session, graph.evaluation), lists.num_classes)[0]
    metrics: dict[str, dict[str, float | None]] = {
        name: {"last": value, "best_on_val": values_best.get(name), "best_on_test": None}
        for name, value in last.items()
    }
    if config["eval_split"] == "test":
        for name, logged in (("accuracy", "Split_Val_Accuracy"), ("macro_accuracy", "macro_accuracy")):
            metrics[name]["best_on_test"] = best[f"test/{logged}"]
    matrix = measures.confusion(tested.labels, tested.ranked[:, 0], lists.num_classes)
    seconds = history[-1]["test/seconds"]
    run.finish(
        make_record(
            paper="triplet",
            row=config["row"] or f"{config['db_name'].replace(':', '-')}-custom",
            stage="softmax" if config["train_mode"] == "vanilla" else "two-head",
            seed=config["seed"],
            argv=sys.argv,
            config=config,
            metrics=metrics,
            details={
                "mode": config["train_mode"],
                "embedding": embedding_text(config, tested),
                "tap": config["tap"] or "as released",
                "best_step": best["step"],
                "steps": config["train_iters"],
                "largest_confusions": measures.largest_confusions(matrix, lists.class_names),
                "parameters": model.count_parameters(),
                "initial_weights": read_json(folder / initial_weights.FILE) if config["init"] == "imagenet" else {},
            },
            artefacts=ARTEFACTS,
            seconds=seconds,
            images_per_s=round(config["train_iters"] * config["batch_size"] * config["caffe_iter_size"]
                               / max(seconds, 1e-9), 1),
            data=lists.digests,
            data_verified=lists.verified,
            deviations=deviations.active(config),
            versions=versions_of("tensorflow", "tf-keras", "tf-slim", "numpy", "scikit-learn"),
            deterministic=True,
            gpu=tf_runtime.gpu_name(),
        ),
        lambda: write_files(
            folder, config, lists, tested, f"{config['checkpoint_filename']} (last)", last, neighbours
        ),
    )  # fmt: skip
    say(config, last, f"last of {config['train_iters']} steps")
    print(f"best test of the run: {100 * best['test/Split_Val_Accuracy']:.2f} % at step {best['step']} "
          f"(list: {config['eval_split']})")  # fmt: skip
    print(f"run folder {shown(folder)}; pictures: neighbours.png, confusion.png; record: record.json", flush=True)


def say(config: Mapping[str, Any], values: Mapping[str, float], what: str) -> None:
    """The figures of a checkpoint in two lines."""
    print(
        f"{config['train_mode']} ({what}): accuracy {100 * values['accuracy']:.2f} %, macro "
        f"{100 * values['macro_accuracy']:.2f}, top-5 {100 * values['top5_accuracy']:.2f}, NMI {values['nmi']:.4f}"
    )
    recalls = ", ".join(f"@{k} {100 * values[f'recall_at_{k}']:.2f}" for k in measures.RECALLS)
    print(f"recall {recalls}; mean squared distance {values['positive_distance']:.3f} in a class, "
          f"{values['negative_distance']:.3f} across")  # fmt: skip


def evaluate_checkpoint(config: dict[str, Any]) -> None:
    """--eval and eval.py: restores one checkpoint and writes its files into `eval-<checkpoint>/` of its folder.

    Raises:
      UserError: no such checkpoint, or one of another network, class count or frame size.
    """
    prefix = Path(config["eval"])
    prefix = prefix.with_suffix("") if prefix.suffix == ".index" else prefix
    if not prefix.with_name(f"{prefix.name}.index").exists():
        raise UserError(f"{shown(prefix)}: no such checkpoint (expected {prefix.name}.index beside its data file)")
    folder = prefix.with_name(f"eval-{prefix.name}")
    if not os.access(prefix.parent, os.W_OK):
        raise UserError(f"{shown(prefix.parent)}: cannot be written; copy the checkpoint and its config.json elsewhere")
    lists = open_lists(config, final=True)
    shapes = shapes_in(prefix)
    if config["train_mode"] != "vanilla" and shapes and "W" not in shapes:
        raise UserError(f"{shown(prefix)}: has no embedding head (W); give --train_mode vanilla")
    session_config = tf_runtime.start(config["seed"], config["device"])
    with tf1.Graph().as_default():
        tf1.set_random_seed(config["seed"])
        evaluation = model.evaluation(config, lists, reuse=False)
        check_frame(prefix, config, shapes)
        with tf_runtime.session(session_config) as session:
            tf_runtime.restore_for_evaluation(session, prefix, describe(config))
            try:
                tested = measures.over_list(session, evaluation)
            except tf.errors.OpError as error:
                raise explained(error, evaluation.batches.files()) from None
    warn_of_other_data(prefix.parent, config)
    folder.mkdir(exist_ok=True)
    values, neighbours = figures(tested, lists.num_classes)
    write_files(folder, config, lists, tested, prefix.name, values, neighbours)
    say(config, values, f"{shown(prefix)}, {len(tested.labels)} test images")
    print(f"written to {shown(folder)}: metrics.json, confusion.csv, embeddings.npz, neighbours.png, confusion.png")


def warn_of_other_data(folder: Path, config: Mapping[str, Any]) -> None:
    """Prints a line if the set that a checkpoint's run was trained on has changed since."""
    if not (folder / run_data.FILE).exists():
        return
    trained = {**config, "eval_split": read_json(folder / "config.json", "db_name", "eval_split")["eval_split"]}
    if read_json(folder / "config.json")["db_name"] != config["db_name"]:
        return  # asked for
    if names := run_data.differing(folder, digests(trained, open_lists(trained))):
        print(f"warning: {shown(folder)} was trained on other data ({', '.join(names)} differs)", file=sys.stderr)


def shapes_in(prefix: Path) -> dict[str, list[int]]:
    """Shapes of a checkpoint's variables by name; nothing for a file that cannot be read (restoring says why)."""
    try:
        return tf1.train.load_checkpoint(str(prefix)).get_variable_to_shape_map()
    except Exception:  # noqa: BLE001 - whatever a damaged file raises
        return {}


def check_frame(prefix: Path, config: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> None:
    """Says which frame size a two-head checkpoint was trained at, where it is another one of the same network.

    Raises:
      UserError: W has another number of rows in the current graph.
    """
    here = {v.op.name: v.shape.as_list() for v in tf1.global_variables()}.get("W")
    there = shapes.get("W")
    same_net = any(name.startswith(f"{TABLE[config['net']].scope}/") for name in shapes)
    if same_net and here and there and there[0] != here[0]:
        raise UserError(
            f"--frame_size {frame_side(config)}: the embedding head W is {there} in {shown(prefix)} and {here} here; "
            "a two-head checkpoint restores only at the frame size that it was trained with"
        )
