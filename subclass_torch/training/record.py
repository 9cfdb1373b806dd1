"""What a stage writes down: log, checkpoints for use, partition, neglected classes, record."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from torch import nn

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.arrays import write_npz
from reproduction.runtime.deviations import active
from reproduction.runtime.loop import Training
from reproduction.runtime.outcomes import Outcomes, outcomes_of
from reproduction.runtime.record import Record, make_record, versions_of
from reproduction.runtime.run_folder import UserError, read_json, shown, write_bytes, write_json
from reproduction.runtime.torch_runtime import World
from subclass_torch import flags, plots
from subclass_torch.data.images import Images
from subclass_torch.deviations import IMAGES
from subclass_torch.flags import Config
from subclass_torch.method import neglect
from subclass_torch.method.partition import Partition
from subclass_torch.networks import build

CHECKPOINT_KEYS = {
    "state_dict", "subclass2class", "neglected", "args", "epoch", "accuracy", "class_names", "mean", "std",
}  # fmt: skip


class Outcome(NamedTuple):
    """End of stage 2 or of the plain network.

    Attributes:
      training: the finished training.
      partition: the partition that it was trained on.
      theta: float [C], or empty without neglected classes.
      last: int64 [C, C], confusion of the last epoch.
      best: int64 [C, C], confusion of the best epoch.
      decided: int64 [M], class that the last epoch's network decides for.
      neglected: the neglected classes, in descending theta.
      others: as many other classes, drawn at random, where both come from a file of --neglected.
    """

    training: Training
    partition: Partition
    theta: Sequence[float]
    last: np.ndarray
    best: np.ndarray
    decided: np.ndarray
    neglected: Sequence[int]
    others: Sequence[int]


def accuracy(matrix: np.ndarray) -> float:
    """CCR as a fraction in [0, 1]: correct over all, from integer counts."""
    return float(np.trace(matrix)) / float(matrix.sum())


def class_accuracy(matrix: np.ndarray) -> list[float | None]:
    """Accuracy of each class, None for a class without test images."""
    totals = matrix.sum(1)
    return [float(matrix[c, c]) / float(n) if n else None for c, n in enumerate(totals)]


def outcomes_by_class(decided: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> Outcomes:
    """Which test images of some classes were classified correctly."""
    rows = np.isin(labels, classes)
    return outcomes_of(decided[rows] == labels[rows], labels[rows])


def print_epoch(stage: str, epochs: int, row: Mapping[str, Any], samples: int) -> None:
    """Prints an epoch's numbers in one line."""
    tested = "" if row["tst_acc"] is None else f", test {100 * row['tst_acc']:.2f} %"
    print(
        f"{stage} epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, train {100 * row['trn_class_acc']:.2f} %"
        f"{tested}, {row['seconds']:.1f} s, {samples / row['seconds']:.0f} images/s",
        flush=True,
    )


def write_csv(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Rewrites the authors' log file: their four columns first, then ours; epochs count from 0."""
    columns = ["epoch", "lr", "trn_acc", "tst_acc", "trn_class_acc", "loss", "seconds"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()  # DEVIATION SDN-D24: csv writer, not DataFrame.append
    writer.writerows({**row, "epoch": row["epoch"] - 1} for row in history)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.getvalue().encode())


def write_network(path: Path, model: nn.Module, facts: Mapping[str, Any], epoch: int, accuracy: float) -> None:
    """Writes a checkpoint for use: weights, subclass map and how to feed the network.

    Args:
      path: the file.
      model: its weights are written under the authors' names.
      facts: the other entries of `CHECKPOINT_KEYS`.
      epoch: counted from 1.
      accuracy: on the test split, in [0, 1].
    """
    # DEVIATION SDN-D22: with the subclass map
    content = {"state_dict": build.state_of(model), **facts, "epoch": epoch, "accuracy": accuracy}
    assert content.keys() == CHECKPOINT_KEYS, content.keys() ^ CHECKPOINT_KEYS
    runtime.write_checkpoint(path, content)


def write_partition(folder: Path, partition: Partition) -> None:
    """Writes partition.npz without pickle: labels, mixed pairs and the subclass map, to look at and for checks."""
    names = ("subclass2class", "labels", "source", "partner", "mixed_labels")
    arrays = {name: getattr(partition, name) for name in names}
    write_npz(folder / "partition.npz", {"classes": np.array(partition.classes, np.int64), **arrays})


def warn_of_unmeasured(theta: Sequence[float], chosen: Sequence[int]) -> None:
    """Warns if classes were chosen whose degree was never measured: their theta is 0, a measured one is 1 or more."""
    if unmeasured := [label for label in chosen if not theta[label]]:
        print(
            f"warning: stage1: no neglection degree could be measured for {len(unmeasured)} of the {len(chosen)} "
            f"classes chosen, the first is {unmeasured[0]}: they are chosen by their number alone",
            file=sys.stderr,
            flush=True,
        )


def seconds_of(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Total seconds of training and testing, and the mean and spread of an epoch."""
    epochs = [row["seconds"] for row in history]
    return {
        "train_seconds": sum(epochs),
        "test_seconds": sum(row["test_seconds"] for row in history),
        "seconds_per_epoch": float(np.mean(epochs)),
        "seconds_per_epoch_sd": float(np.std(epochs)),
    }


def record_of(
    config: Config,
    data: Images,
    world: World,
    training: Training,
    stage: str,
    details: Mapping[str, Any],
    **fields: Any,
) -> Record:
    """Builds a record from what all stages share and the stage's own fields.

    Args:
      config: the resolved flags.
      data: the data set.
      world: the processes.
      training: the finished training.
      stage: "stage1", "stage2" or "baseline".
      details: the stage's own details; the times are added.
      **fields: other fields of the record.
    """
    print(f"{stage}: {training.step:,} updates, {training.images:,} images seen", flush=True)
    return make_record(
        paper="subclass",
        row=config.row,
        stage=stage,
        seed=config.seed,
        argv=[sys.argv[0], *config.argv],
        config=flags.of_run(config, stage1=stage == "stage1"),
        seconds=training.seconds,
        images_per_s=training.images_per_s,
        data=data.digests,
        data_verified=data.verified,
        deviations=active(config, IMAGES),
        versions=versions_of("torch", "numpy", "scikit-learn"),
        deterministic=world.device.type == "cpu" or config.deterministic,
        precision=runtime.precision(world.device, config.amp),
        gpu=runtime.device_name(world.device),
        details={
            **details,
            **seconds_of(training.history),
            "updates": training.step,
            "images_seen": training.images,
        },
        **fields,
    )


def stage1_record(
    config: Config, data: Images, world: World, training: Training, folder: Path, name: str, decided: np.ndarray
) -> Record:
    """Writes the neglected classes as JSON and returns the record of stage 1; `draw_stage1` draws the plot.

    Args:
      config: the resolved flags.
      data: the data set.
      world: the processes.
      training: the finished training.
      folder: the stage's run folder.
      name: the run's id, for file names.
      decided: int64 [M], class that the network decides for at the end.
    """
    degrees, skipped = training.state["degrees"], training.state["skipped"]
    theta, order = neglect.ranking(degrees, config.neglect_total == "compound")
    chosen = order[: config.numClasses2Repartition]
    warn_of_unmeasured(theta, chosen)
    if skipped:
        print(f"stage1: {skipped} non-finite neglection degrees were left out")
    content = {
        "args": flags.of_run(config, stage1=True) | {"data_dir": None, "runs_dir": None, "argv": None},
        "degrees": degrees,
        "theta": theta,
        "ranking": order,
        "class_names": list(data.class_names),
        "counts": np.bincount(data.train_labels, minlength=len(theta)).tolist(),
        "skipped": skipped,
    }
    write_json(folder / "logs" / f"{name}_neglected.json", content)
    words = ", ".join(f"{data.class_names[c]} ({theta[c]:.3f})" for c in chosen)
    print(f"stage1: neglected classes: {words or 'none'}", flush=True)
    last = training.history[-1]
    title = "Neglection degree of each class, by epoch of stage 1"
    return record_of(
        config,
        data,
        world,
        training,
        "stage1",
        {"theta": theta, "ranking": order, "stage1_skipped": skipped},
        metrics={"identify_ccr": {"last": last["tst_acc"]}, "identify_loss": {"last": last["loss"]}},
        outcomes={"identify_ccr": outcomes_of(decided == data.test_labels, data.test_labels)},
        artefacts=[
            {"kind": "image", "path": "neglection.png", "title": title},
            {"kind": "json", "path": f"logs/{name}_neglected.json", "title": "Neglection degrees, theta and ranking"},
            {"kind": "csv", "path": f"logs/{name}.csv", "title": "Log of stage 1"},
        ],
    )


def stage2_record(config: Config, data: Images, world: World, outcome: Outcome, folder: Path, name: str) -> Record:
    """Writes the evaluation as JSON and returns the record of stage 2 or of the plain network; see `draw_stage2`.

    Args:
      config: the resolved flags.
      data: the data set.
      world: the processes.
      outcome: of the training.
      folder: the run folder.
      name: the run's id, for file names.
    """
    training, partition, theta = outcome.training, outcome.partition, list(outcome.theta)
    neglected, best_epoch = list(outcome.neglected), training.state["best_epoch"]
    last, best = class_accuracy(outcome.last), class_accuracy(outcome.best)
    final = training.history[-1]
    metrics: dict[str, dict[str, float | None]] = {
        "ccr": {"last": accuracy(outcome.last), "best_on_test": accuracy(outcome.best)},
        "loss": {"last": final["loss"]},
        "trn_class_acc": {"last": final["trn_class_acc"]},
    }
    groups = {f"class_accuracy/{c}": [c] for c in range(len(last))}
    groups |= {"neglected_accuracy": neglected} if neglected else {}
    groups |= {"random_accuracy": list(outcome.others)} if outcome.others else {}
    metrics |= {name: {"last": _mean(last, of), "best_on_test": _mean(best, of)} for name, of in groups.items()}
    outcomes = {name: of for name, of in groups.items() if metrics[name]["last"] is not None}
    outcomes["ccr"] = list(range(len(last)))
    if config.subclass:
        metrics["neglected_classes"] = {"last": float(len(neglected))}
    elif theta and None not in last:  # do the classes neglected early end as the worst ones?
        correlation = float(stats.spearmanr(theta, [-value for value in last if value is not None]).statistic)
        metrics["neglect_error_correlation"] = {"last": correlation if math.isfinite(correlation) else None}
    evaluation = {
        "ccr": metrics["ccr"],
        "best_epoch": best_epoch,
        "class_names": list(data.class_names),
        "class_accuracy_last": last,
        "class_accuracy_best": best,
        "neglected": neglected,
        "theta": theta,
        "confusion_last": outcome.last.tolist(),
        "confusion_best": outcome.best.tolist(),
        **seconds_of(training.history),
    }
    write_json(folder / "evaluation.json", evaluation)
    artefacts = [
        {"kind": "json", "path": "evaluation.json", "title": "CCR, accuracy of each class, confusion matrices, times"},
        {"kind": "csv", "path": f"logs/{name}.csv", "title": "Log, with the authors' columns"},
        *_before_and_after(config, data, outcome, folder, last, neglected),
    ]
    if config.subclass:
        artefacts.append({"kind": "npz", "path": "partition.npz", "title": "Subclass of each training image"})
    print("class accuracy, last epoch (* neglected):")
    shown_classes = [c for c in range(len(last)) if len(last) <= 20 or c in neglected]
    print_classes(shown_classes, last, neglected, data.class_names)
    print(
        f"CCR last {100 * accuracy(outcome.last):.2f} %, best {100 * accuracy(outcome.best):.2f} % (epoch {best_epoch},"
        f" chosen on the test split); {seconds_of(training.history)['seconds_per_epoch']:.2f} s per epoch",
        flush=True,
    )
    outputs, samples = len(partition.subclass2class), len(partition.labels) + len(partition.source)
    network = build.build(config.model, config.dataset, outputs, data.channels)
    neglected_names = [data.class_names[c] for c in neglected]
    ranked = {"neglected": neglected, "neglected_names": neglected_names, "theta": theta}
    if config.subclass:
        ranked["repartitioned"] = list(partition.classes)
    details = {
        **(ranked if neglected else {}),
        "class_names": list(data.class_names),
        "subclasses": outputs,
        "training_images": samples,
        "best_epoch": best_epoch,
        "parameters": runtime.parameter_count(network, trainable=True),
    }
    return record_of(
        config,
        data,
        world,
        training,
        "stage2" if config.subclass else "baseline",
        details,
        metrics=metrics,
        artefacts=artefacts,
        outcomes={name: outcomes_by_class(outcome.decided, data.test_labels, of) for name, of in outcomes.items()},
    )


def draw_stage1(config: Config, data: Images, training: Training, folder: Path) -> None:
    """Draws neglection.png: the neglection degrees, with the neglected classes marked."""
    degrees = training.state["degrees"]
    chosen = neglect.ranking(degrees, config.neglect_total == "compound")[1][: config.numClasses2Repartition]
    plots.neglection(folder / "neglection.png", degrees, chosen, data.class_names)


def draw_stage2(config: Config, data: Images, outcome: Outcome, folder: Path) -> None:
    """Draws confusion.png and, with --beside, gains.png."""
    neglected, names = list(outcome.neglected), data.class_names
    pair = [("with subclasses" if config.subclass else "without subclasses", outcome.last)]
    if config.beside and config.subclass:
        pair = [("without subclasses", read_beside(config.beside, len(names))), *pair]
        before, after = ([v or 0.0 for v in class_accuracy(matrix)] for _, matrix in pair)
        plots.gains(folder / "gains.png", before, after, neglected, names)
    plots.confusions(folder / "confusion.png", pair, neglected, names)


def print_classes(
    classes: Sequence[int], values: Sequence[float | None], neglected: Sequence[int], names: Sequence[str]
) -> None:
    """Prints the accuracy of some classes, one a line; a star marks the neglected ones."""
    for label in classes:
        value = values[label]
        text = "no test images" if value is None else f"{100 * value:6.2f} %"
        print(f"  {'*' if label in neglected else ' '} {label:>3} {names[label]:<20} {text}")


def _mean(values: Sequence[float | None], classes: Sequence[int]) -> float | None:
    present = [value for label in classes if (value := values[label]) is not None]
    return sum(present) / len(present) if present else None


def read_beside(folder: str, classes: int) -> np.ndarray:
    """Reads the last epoch's confusion matrix, [C, C], of the run of --beside.

    Raises:
      UserError: no evaluation.json, or one of another number of classes.
    """
    before = np.array(read_json(Path(folder) / "evaluation.json", "").get("confusion_last", []))
    if before.shape != (classes, classes):
        raise UserError(f"--beside {shown(folder)}: its evaluation.json is not of {classes} classes")
    return before


def _before_and_after(
    config: Config, data: Images, outcome: Outcome, folder: Path, last: Sequence[float | None], neglected: list[int]
) -> list[dict[str, str]]:
    """Writes gains.json, against the run of --beside where there is one; returns it and the plots as artefacts."""
    names = data.class_names
    if not config.beside or not config.subclass:
        what = "with subclasses" if config.subclass else "without subclasses"
        return [{"kind": "image", "path": "confusion.png", "title": f"Confusion {what}, last epoch"}]
    before = read_beside(config.beside, len(names))
    earlier = class_accuracy(before)
    content = {
        "classes": [
            {"class": c, "name": names[c], "neglected": c in neglected, "before": a, "after": b}
            for c, (a, b) in enumerate(zip(earlier, last, strict=True))
        ],
        "ccr_before": accuracy(before),
        "ccr_after": accuracy(outcome.last),
    }
    write_json(folder / "gains.json", content)
    return [
        {"kind": "image", "path": "confusion.png", "title": "Confusion before and after, last epoch"},
        {"kind": "image", "path": "gains.png", "title": "Gain of each class in points"},
        {"kind": "json", "path": "gains.json", "title": "Accuracy of each class before and after"},
    ]
