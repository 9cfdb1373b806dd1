"""What a finished stage writes down: records, neglected classes, pictures; and the evaluation of a checkpoint."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.record import Record, make_record, versions_of
from reproduction.runtime.run_folder import UserError, read_json, shown, write_bytes, write_json
from reproduction.runtime.torch_runtime import World
from subclass_torch import flags
from subclass_torch import plots as pictures
from subclass_torch.data import images
from subclass_torch.deviations import IMAGES, active
from subclass_torch.method import neglect
from subclass_torch.method.partition import Partition
from subclass_torch.networks import build as models
from subclass_torch.training import evaluate
from subclass_torch.training.progress import Progress


@dataclass(frozen=True)
class Outcome:
    """End of stage 2 or of the baseline: stage name, progress, partition, theta [C] or [], confusion last and best."""

    stage: str
    progress: Progress
    partition: Partition
    theta: Sequence[float]
    last: np.ndarray
    best: np.ndarray


def write_partition(folder: Path, made: Partition) -> None:
    """partition.npz: labels, mixed pairs and the subclass map, for people and for checks. No pickle."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        classes=np.array(made.classes, np.int64),
        subclass2class=made.subclass2class,
        labels=made.labels,
        source=made.source,
        partner=made.partner,
        mixed_labels=made.mixed_labels,
    )
    write_bytes(folder / "partition.npz", buffer.getvalue())


def _seconds(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Total seconds of training and testing, and the mean and spread of an epoch."""
    epochs = [row["seconds"] for row in history]
    return {
        "train_seconds": sum(epochs),
        "test_seconds": sum(row["test_seconds"] for row in history),
        "seconds_per_epoch": float(np.mean(epochs)),
        "seconds_per_epoch_sd": float(np.std(epochs)),
    }


def _common(
    config: dict[str, Any], data: images.Images, world: World, progress: Progress, samples: int
) -> dict[str, Any]:
    """The fields that the records of all stages share."""
    times = _seconds(progress.history)
    limited = bool(config["max_steps"])
    return {
        "paper": "subclass",
        "row": config["row"],
        "seed": config["seed"],
        "argv": config["argv"],
        "seconds": times["train_seconds"] + times["test_seconds"],
        "images_per_s": None if limited else samples * len(progress.history) / times["train_seconds"],
        "data": data.digests,
        "data_verified": data.verified,
        "deviations": active(config, IMAGES),
        "versions": versions_of("torch", "numpy", "scikit-learn"),
        "deterministic": world.device.type == "cpu" or config["deterministic"],
        "precision": "bfloat16 autocast" if config["amp"] else "float32",
        "gpu": runtime.device_name(world.device),
    }


def stage1_record(
    config: dict[str, Any], data: images.Images, world: World, p: Progress, folder: Path, name: str, last: np.ndarray
) -> Record:
    """Writes the neglected classes as JSON and returns the record of stage 1; `draw_stage1` draws its picture."""
    theta, order = neglect.ranking(p.degrees, config["neglect_total"] == "compound")
    chosen = order[: config["numClasses2Repartition"]]
    neglect.warn_of_unmeasured(theta, chosen)
    if p.skipped:
        print(f"stage1: {p.skipped} non-finite neglection degrees were left out")
    write_json(
        folder / "logs" / f"{name}_neglected.json",
        {
            "args": flags.of_run(config, stage1=True) | {"data_dir": None, "runs_dir": None, "argv": None},
            "degrees": p.degrees,
            "theta": theta,
            "ranking": order,
            "class_names": list(data.class_names),
            "counts": np.bincount(data.train_labels, minlength=len(theta)).tolist(),
            "skipped": p.skipped,
        },
    )
    words = ", ".join(f"{data.class_names[c]} ({theta[c]:.3f})" for c in chosen)
    print(f"stage1: neglected classes: {words or 'none'}", flush=True)
    accuracy = evaluate.accuracy(last)
    metrics = {"identify_ccr": {"last": accuracy}, "identify_loss": {"last": p.history[-1]["loss"]}}
    return make_record(
        **_common(config, data, world, p, len(data.train_images)),
        stage="stage1",
        config=flags.of_run(config, stage1=True),
        metrics=metrics,
        artefacts=[
            {
                "kind": "image",
                "path": "neglection.png",
                "title": "Neglection degree of each class, by epoch of stage 1",
            },
            {"kind": "json", "path": f"logs/{name}_neglected.json", "title": "Neglection degrees, theta and ranking"},
            {"kind": "csv", "path": f"logs/{name}.csv", "title": "Log of stage 1"},
        ],
        details={"theta": theta, "ranking": order, "stage1_skipped": p.skipped, **_seconds(p.history)},
    )


def draw_stage1(config: dict[str, Any], data: images.Images, p: Progress, folder: Path) -> None:
    """neglection.png: the neglection degrees, with the neglected classes marked."""
    order = neglect.ranking(p.degrees, config["neglect_total"] == "compound")[1]
    chosen = order[: config["numClasses2Repartition"]]
    pictures.neglection(folder / "neglection.png", p.degrees, chosen, data.class_names)


def stage2_record(
    config: dict[str, Any], data: images.Images, world: World, outcome: Outcome, folder: Path, name: str
) -> Record:
    """Writes the evaluation (JSON) and returns the record of stage 2 or of the baseline.

    `draw_stage2` draws its pictures.
    """
    p, neglected = outcome.progress, list(outcome.partition.classes)
    last, best = evaluate.class_accuracy(outcome.last), evaluate.class_accuracy(outcome.best)
    metrics: dict[str, dict[str, float | None]] = {
        "ccr": {"last": evaluate.accuracy(outcome.last), "best_on_test": evaluate.accuracy(outcome.best)},
        "loss": {"last": p.history[-1]["loss"]},
        "trn_class_acc": {"last": p.history[-1]["trn_class_acc"]},
    }
    metrics |= {
        f"class_accuracy/{c}": {"last": a, "best_on_test": b} for c, (a, b) in enumerate(zip(last, best, strict=True))
    }
    if config["subclass"]:
        metrics["neglected_classes"] = {"last": float(len(neglected))}
    if neglected:
        metrics["neglected_accuracy"] = {"last": _mean(last, neglected), "best_on_test": _mean(best, neglected)}
    samples = len(outcome.partition.labels) + len(outcome.partition.source)
    evaluation = {
        "ccr": metrics["ccr"],
        "best_epoch": p.best_epoch,
        "class_names": list(data.class_names),
        "class_accuracy_last": last,
        "class_accuracy_best": best,
        "neglected": neglected,
        "theta": list(outcome.theta),
        "confusion_last": outcome.last.tolist(),
        "confusion_best": outcome.best.tolist(),
        **_seconds(p.history),
    }
    write_json(folder / "evaluation.json", evaluation)
    artefacts = [
        {"kind": "json", "path": "evaluation.json", "title": "CCR, accuracy of each class, confusion matrices, times"},
        {"kind": "csv", "path": f"logs/{name}.csv", "title": "Log, with the authors' columns"},
    ]
    artefacts += _before_and_after(config, data, outcome, folder, last, neglected)
    if config["subclass"]:
        artefacts.append({"kind": "npz", "path": "partition.npz", "title": "Subclass of each training image"})
    _print_table(data, last, neglected, metrics["ccr"], p)
    return make_record(
        **_common(config, data, world, p, samples),
        stage=outcome.stage,
        config=flags.of_run(config, stage1=False),
        metrics=metrics,
        artefacts=artefacts,
        details={
            **(
                {"neglected": neglected, "neglected_names": [data.class_names[c] for c in neglected]}
                if neglected
                else {}
            ),
            **({"theta": list(outcome.theta)} if neglected else {}),
            "class_names": list(data.class_names),
            "subclasses": len(outcome.partition.subclass2class),
            "training_images": samples,
            "parameters": models.parameter_count(
                models.build(config["model"], config["dataset"], len(outcome.partition.subclass2class), data.channels)
            ),
            "best_epoch": p.best_epoch,
            **_seconds(p.history),
        },
    )


def _mean(values: Sequence[float | None], of: Sequence[int]) -> float | None:
    held = [value for label in of if (value := values[label]) is not None]
    return sum(held) / len(held) if held else None


def read_beside(folder: str, classes: int) -> np.ndarray:
    """The last epoch's confusion matrix, [C, C], of the run of --beside.

    Raises:
      UserError: no evaluation.json, or one of another number of classes.
    """
    before = np.array(read_json(Path(folder) / "evaluation.json", "").get("confusion_last", []))
    if before.shape != (classes, classes):
        raise UserError(f"--beside {shown(folder)}: its evaluation.json is not of {classes} classes")
    return before


def _before_and_after(
    config: dict[str, Any], data: images.Images, outcome: Outcome, folder: Path,
    last: Sequence[float | None], neglected: list[int],
) -> list[dict[str, str]]:  # fmt: skip
    """gains.json, against the run of --beside where there is one; returns the pictures and it for the record."""
    if not config["beside"] or not config["subclass"]:
        what = "with subclasses" if config["subclass"] else "without subclasses"
        return [{"kind": "image", "path": "confusion.png", "title": f"Confusion {what}, last epoch"}]
    before = read_beside(config["beside"], len(data.class_names))
    earlier = evaluate.class_accuracy(before)
    write_json(
        folder / "gains.json",
        {
            "classes": [
                {"class": c, "name": data.class_names[c], "neglected": c in neglected, "before": a, "after": b}
                for c, (a, b) in enumerate(zip(earlier, last, strict=True))
            ],
            "ccr_before": evaluate.accuracy(before),
            "ccr_after": evaluate.accuracy(outcome.last),
        },
    )
    return [
        {"kind": "image", "path": "confusion.png", "title": "Confusion before and after, last epoch"},
        {"kind": "image", "path": "gains.png", "title": "Gain of each class in points"},
        {"kind": "json", "path": "gains.json", "title": "Accuracy of each class before and after"},
    ]


def draw_stage2(config: dict[str, Any], data: images.Images, outcome: Outcome, folder: Path) -> None:
    """confusion.png and, with --beside, gains.png."""
    neglected, names = list(outcome.partition.classes), data.class_names
    pair = [("with subclasses" if config["subclass"] else "without subclasses", outcome.last)]
    if config["beside"] and config["subclass"]:
        pair = [("without subclasses", read_beside(config["beside"], len(names))), *pair]
        before, after = ([v or 0.0 for v in evaluate.class_accuracy(matrix)] for _, matrix in pair)
        pictures.gains(folder / "gains.png", before, after, neglected, names)
    pictures.confusions(folder / "confusion.png", pair, neglected, names)


def _print_table(
    data: images.Images,
    last: Sequence[float | None],
    neglected: list[int],
    ccr: Mapping[str, float | None],
    p: Progress,
) -> None:
    print("class accuracy, last epoch (* neglected):")
    for label, value in enumerate(last):
        if len(last) <= 20 or label in neglected:
            text = "no test images" if value is None else f"{100 * value:6.2f} %"
            print(f"  {'*' if label in neglected else ' '} {label:>3} {data.class_names[label]:<20} {text}")
    print(
        f"CCR last {100 * (ccr['last'] or 0):.2f} %, best {100 * (ccr['best_on_test'] or 0):.2f} % "
        f"(epoch {p.best_epoch}, chosen on the test split); {_seconds(p.history)['seconds_per_epoch']:.2f} s per epoch",
        flush=True,
    )


def print_evaluation(config: dict[str, Any], world: World) -> None:
    """--eval CHECKPOINT: the accuracy on the whole test split, which must be the logged one.

    Raises:
      UserError: bad checkpoint, or a data set with other classes.
    """
    model, content = evaluate.load_network(Path(config["eval"]), world.device)
    settings = {
        **config,
        **{key: content["args"][key] for key in ("dataset", "subset", "batch_size", "amp", "channels_last")},
    }
    data = images.load({**settings, "subclass": False})
    if len(data.class_names) != len(content["class_names"]):
        raise UserError(
            f"--eval: the checkpoint knows {len(content['class_names'])} classes, "
            f"{data.name} has {len(data.class_names)}"
        )
    mean, std = (torch.tensor(content[key], device=world.device) for key in ("mean", "std"))
    matrix = evaluate.confusion(
        model, evaluate.tensor_of(data.test_images), evaluate.tensor_of(data.test_labels),
        content["subclass2class"].to(world.device), len(data.class_names), (mean, std), settings, world,
    )  # fmt: skip
    if world.rank != 0:
        return
    accuracy, logged = evaluate.accuracy(matrix), content["accuracy"]
    last = evaluate.class_accuracy(matrix)
    for label, value in enumerate(last):
        mark = "*" if label in content["neglected"] else " "
        text = "no test images" if value is None else f"{100 * value:6.2f} %"
        print(f"  {mark} {label:>3} {data.class_names[label]:<20} {text}")
    same = "equal to" if accuracy == logged else "differs from"
    print(f"CCR {100 * accuracy:.4f} % on {int(matrix.sum()):,} test images of {data.name}, {same} the logged "
          f"{100 * logged:.4f} % (epoch {content['epoch']})")  # fmt: skip
    if accuracy != logged:
        raise UserError("--eval: other data, device or library than the run's; see its record.json")
