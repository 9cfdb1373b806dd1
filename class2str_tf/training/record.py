"""What a finished stage writes: the record, the strings with their tree and plots, and a summary in a few lines."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import datasets
from class2str_tf import deviations, plots
from class2str_tf.data.images import superclasses
from class2str_tf.flags import Config, Stage2Config
from class2str_tf.method import codes, string_tree
from class2str_tf.method.layers import count_parameters
from reproduction.runtime import tf_runtime
from reproduction.runtime.outcomes import Outcomes, outcomes_of
from reproduction.runtime.record import Record, make_record, still_rising, versions_of
from reproduction.runtime.run_folder import Run, UserError, read_json, shown, write_bytes, write_json
from reproduction.runtime.tf_states import speed

ARTEFACTS = (
    {"kind": "image", "path": "tree.png", "title": "Class strings as a tree"},
    {"kind": "image", "path": "prefixes.png", "title": "Accuracy after the first bits"},
    {"kind": "text", "path": "tree.txt", "title": "Class strings as text"},
    {"kind": "json", "path": "tree.json", "title": "Class strings as nested JSON"},
    {"kind": "json", "path": "evaluation.json", "title": "Every figure of the evaluation"},
)


def describe(data: datasets.Dataset) -> None:
    """Prints the data set, and the sizes of the classifiers in the current graph."""
    shape = "x".join(str(n) for n in data.train_images.shape[1:])
    verified = "" if data.verified else ", NOT VERIFIED"
    print(f"{data.name}: {len(data.train_labels)} training and {len(data.test_labels)} test images {shape}{verified}")
    heads = {"CNN": "cnn", "FC classifier": "classifier", "reduced FC": "reduced", "LH classifier": "lh"}
    counts = {name: count_parameters(scope) for name, scope in heads.items() if count_parameters(scope)}
    print("parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))


def _record(run: Run, config: Config, dataset: Any, **fields: Any) -> Record:
    """The fields that the records of both stages share, and `fields`."""
    shared = {
        "data": dataset.digests,
        "data_verified": dataset.verified,
        "deviations": deviations.active(config),
        "versions": versions_of("tensorflow", "tf-keras", "tf-slim", "numpy"),
    }
    return make_record(
        paper="class2str",
        row=config.row,
        seed=config.seed,
        argv=sys.argv,
        config=run.config,
        deterministic=tf_runtime.gpu_name() is None,  # TensorFlow does not promise it for a session on a GPU
        gpu=tf_runtime.gpu_name(),
        **shared | fields,
    )


def finish_stage1(
    run: Run,
    config: Config,
    data: datasets.Dataset,
    history: Sequence[Mapping[str, Any]],
    total: int,
    right: np.ndarray,
    precision: str,
) -> None:
    """Writes the record of stage 1 and prints its result and run folder.

    Args:
      run: the open run.
      config: resolved flags.
      data: the data set.
      history: lines of metrics.jsonl with a test.
      total: training steps.
      right: bool [N], True for each test image that the last network classified correctly.
      precision: precision of the computation, such as "float32".
    """
    name, scope, weights = "fc_accuracy", "classifier", {}
    if config.fc_weights:
        name, scope = "reduced_fc_accuracy", "reduced"
        weights = {"reduced_fc_weights": {"last": float(count_parameters(scope, weights_only=True))}}
    accuracies = [line["test/cnn_train/acc"] for line in history]
    last, best = accuracies[-1], max(accuracies)
    record = _record(
        run,
        config,
        data,
        stage="reduced" if config.fc_weights else "fc",
        metrics={name: {"last": last, "best_on_test": best}} | weights,
        outcomes={name: outcomes_of(right, data.test_labels)},
        precision=precision,
        details={
            "parameters": {"cnn": count_parameters("cnn"), "fc": count_parameters(scope)},
            "training_images": len(data.train_labels),
            "still_rising": still_rising(accuracies),
        },
        **speed(history[-1]),
    )
    run.finish(record)
    print(
        f"{'reduced ' if config.fc_weights else ''}FC accuracy {100 * last:.2f} % (best epoch on test "
        f"{100 * best:.2f} %) after {total} steps, {history[-1]['test/seconds']:.0f} s"
    )
    print(f"run folder {shown(run.folder)}; curves: tensorboard --logdir {shown(run.folder)}", flush=True)


def finish_imagenet(
    run: Run,
    config: Config,
    data: Any,
    digests: Mapping[str, str],
    accepted: bool,
    right: np.ndarray,
    images: int,
    seconds: float,
) -> None:
    """Writes the record of ImageNet's stage 1, which trains nothing.

    Args:
      run: the open run.
      config: resolved flags.
      data: the images.
      digests: of weights and lists.
      accepted: whether weights with another checksum would have been accepted.
      right: bool [N], True for each validation image that FC classifies correctly.
      images: number of images read by this process.
      seconds: of the pass, of this process.
    """
    accuracy = int(right.sum()) / len(right)
    record = _record(
        run,
        config,
        data,
        stage="fc",
        metrics={"fc_accuracy": {"last": accuracy}},
        outcomes={"fc_accuracy": outcomes_of(right, data.test_labels)},
        details={"parameters": {"cnn": count_parameters("cnn"), "fc": count_parameters("classifier")}},
        curve=None,
        seconds=seconds,
        images_per_s=round(images / max(seconds, 1e-9), 1) if images else None,
        data=dict(digests),
        data_verified=data.verified and not accepted,
    )
    run.finish(record)
    print(f"FC accuracy {100 * accuracy:.2f} % of {len(data.test_labels)} validation images, pretrained head")
    print(f"run folder {shown(run.folder)}; pool5 features: features-train.npy, features-test.npy", flush=True)


def finish_stage2(
    run: Run,
    config: Stage2Config,
    data: datasets.Dataset,
    q: np.ndarray,
    history: Sequence[Mapping[str, Any]],
    values: Mapping[str, float],
    outcomes: Mapping[str, Outcomes],
    structure: Mapping[str, Any],
    times: Mapping[str, Any],
    precision: str,
) -> None:
    """Writes the record of stage 2, the strings and their plots.

    Args:
      run: the open run.
      config: resolved flags.
      data: the data set.
      q: distributions of Class2Str, float32 [C, L, 2].
      history: lines of the tests, of all attempts.
      values: metrics of the last state.
      outcomes: of the accuracies among them.
      structure: result of `evaluate.structure`.
      times: seconds per image of both classifiers.
      precision: of the computation.
    Raises:
      UserError: every class ended on one string.
    """
    table = codes.bits_of(q)
    strings = codes.strings(table)
    metrics: dict[str, dict[str, float | None]] = {name: {"last": value} for name, value in values.items()}
    # string match counts too many images as long as strings collide
    unique = [line["test/rnn_acc"] for line in history if line["test/distinct"] == len(table)]
    metrics["lh_accuracy"]["best_on_test"] = max(unique, default=None)
    attempts = list({line["test/attempt"]: line["test/distinct"] for line in history}.values())
    last_attempt = [line["test/rnn_acc"] for line in history if line["test/attempt"] == history[-1]["test/attempt"]]
    one_to_one = [line["test/distinct"] == len(table) for line in history]
    first = one_to_one.index(True) if any(one_to_one) else None
    write_strings(run.folder, q, data, history[-1]["step"])
    record = _record(
        run,
        config,
        data,
        stage="lh",
        metrics=metrics,
        outcomes=outcomes,
        precision=precision,
        details={
            "strings": strings,
            "class_names": list(data.class_names),
            "distinct_of_each_attempt": attempts,
            "first_one_to_one_step": None if first is None else history[first]["step"],
            "one_to_one_lost_later": first is not None and not all(one_to_one[first:]),
            "collisions": codes.collisions(table),
            "training_images": len(data.train_labels),
            "seconds_per_image": times,
            "headline_decoder": config.decode,
            "still_rising": still_rising(last_attempt),
        },
        artefacts=ARTEFACTS,
        **speed(history[-1]),
        versions=versions_of("tensorflow", "tf-keras", "tf-slim", "numpy", "scipy"),
    )
    run.finish(record, lambda: write_artefacts(run.folder, table, values, structure, data))
    print_summary(values, config, strings, data, attempts)
    print(f"run folder {shown(run.folder)}; string tree: tree.png, tree.txt; record: record.json", flush=True)
    if values["distinct_codes"] == 1 < len(table):  # finished, recorded, and an error
        raise UserError(
            f"{shown(run.folder)}: all {len(table)} classes ended on one string, so the accuracy of this run means "
            "nothing; raise --w_i or lower --w_l2 (the authors: --w_c=4 --w_i=100 --w_l2=0.1)"
        )


def write_strings(folder: Path, q: np.ndarray, data: datasets.Dataset, step: int) -> None:
    """Writes the string table of this check, one-to-one or not: JSON, and the authors' pickled list (C2S-D24)."""
    table = codes.bits_of(q)
    strings = codes.strings(table)
    name = {"imagenet": "imagenet1000"}.get(data.name, data.name.partition(":")[0])
    write_json(
        folder / f"{name}_strings.json",
        {
            "step": step,
            "distinct": codes.num_distinct(table),
            "min_confidence": float(codes.min_confidence(q)),
            "strings": strings,
            "class_names": list(data.class_names),
            "image_shape": list(data.test_images.shape[1:]),
            "maker": "class2str_tf stage 2",
        },
    )
    write_bytes(folder / f"{name}_strings.pkl", pickle.dumps(strings, protocol=0))


def read_strings(folder: Path) -> dict[str, Any]:
    """The newest string table of a stage-2 run, with `strings`, `class_names` and `image_shape`.

    Raises:
      UserError: there is none, or it is damaged.
    """
    for path in folder.glob("*_strings.json"):
        return dict(read_json(path, "strings", "class_names", "image_shape"))
    raise UserError(f"{shown(folder)}: no *_strings.json; expected the rnn/ folder of a stage-2 run")


def write_artefacts(
    folder: Path, table: np.ndarray, values: Mapping[str, float], structure: Mapping[str, Any], data: datasets.Dataset
) -> None:
    """Writes evaluation.json, tree.{json,txt,dot,png} and prefixes.png."""
    write_json(folder / "evaluation.json", {"metrics": values, "structure": structure})
    names = data.class_names
    prefix = [values[f"prefix_accuracy/{i}"] for i in range(1, table.shape[1] + 1)]
    tree = string_tree.trie(table, names)
    write_json(folder / "tree.json", tree)
    write_bytes(folder / "tree.txt", string_tree.trie_text(tree).encode())
    write_bytes(folder / "tree.dot", string_tree.trie_dot(tree).encode())
    plots.draw_tree(table, names, folder / "tree.png", superclasses(data), data.coarse_names)
    plots.draw_prefix_curve(prefix, folder / "prefixes.png", dataset=data.name)


def print_summary(
    values: Mapping[str, float],
    config: Stage2Config,
    strings: list[str],
    data: datasets.Dataset,
    attempts: list[int],
) -> None:
    """The run in a few lines."""
    headline = f"class_accuracy_{config.decode}"
    reduced = f", reduced FC {100 * values['reduced_fc_accuracy']:.2f}" if "reduced_fc_accuracy" in values else ""
    print(
        f"FC {100 * values['fc_accuracy']:.2f} %, LH {100 * values['class_accuracy_ml']:.2f} (most likely string), "
        f"{100 * values['lh_accuracy']:.2f} (string match), {100 * values[headline]:.2f} (decoded, {config.decode})"
        + reduced
    )
    print(
        f"{values['distinct_codes']} distinct strings for {values['classes']} classes"
        + (f" after {len(attempts)} attempts" if len(attempts) > 1 else "")
        + f"; classifier parameters LH/FC {values['parameter_ratio']:.3f}, whole network {values['network_ratio']:.3f}"
    )
    print("strings: " + ", ".join(f"{n} {s}" for n, s in list(zip(data.class_names, strings, strict=True))[:20]))
