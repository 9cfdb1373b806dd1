"""Readers as their programs use them: several files of a run together, one of them damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from datasets.terminal import any_terminal
from reproduction.compare.tabular import markdown_table
from reproduction.runtime.run_folder import UserError
from tests.fuzz import framework_targets, mutate, run_targets, seeds
from tests.fuzz.engine import Target
from tests.hostile_names import NAMES as HOSTILE

WRONG = (UserError,)
NAMES = ["a", "b", "c", "d"]
FLAT = {
    "dataset": "x", "preset": "mini", "seed": 0, "epochs": 1, "tree": "derived", "data_dir": None, "image_size": 0,
    "accept_unverified": False,
}  # fmt: skip
LABELS = np.array([0, 1, 2, 3, 1, 0])
PREDICTIONS = {
    "val_logits": np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]] * 3,
    "test_labels": LABELS,
    "test_logits": np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 0]] * 3,
}
CURVES = {"curve": np.array([[0, 1, 2], [0, 1, 1]]), "curve_index": np.array([0, 1, 2])}
PROFILES = {
    "conv1__1": np.arange(12.0).reshape(4, 3),
    "top__conv1": np.array([[0, 1, 5], [2, 3, 4]]),
    "simg__conv1": np.full((1, 3), 0.5),
}
LEVEL = {"groups": 2, "accuracy": 0.5, "within": 0.5, "expected": 0.4, "lift": 1.2, "p": 0.01}
SELECTIVE = {"best": 0.5, "null_mean": 0.3, "null_95": 0.4, "level_groups": 2}
ANALYSIS = {
    "names": NAMES,
    "seed": 0,
    "levels": [[0, 0, 1, 1]],
    "arms": ["A0"],
    "metrics": {"epochs_to_lower_end/A1": 1},
    "mantel": {"conv1": {"1": {"rho": 0.2}}},
    "selectivity": {"conv1": [SELECTIVE]},
    "T1": {"A0": {"levels": [LEVEL], "height": 2.0}},
    "e90": {"conv1": {"2": 1.0, "2/0": 1.0, "classes": 1.0}},
    "gap": {"A0": {"a": [0.1, 0.0, 0.2]}},
    "gap_overall": {"A0": [0.1, 0.0, 0.2]},
    "kept_epochs": [1],
    "probes": {"conv1": {"2": {"1": 0.5}}},
    "curves": {
        "A0": {
            "metrics": {"test_accuracy": 0.5, "parameters": 9},
            "test": [0.5],
            "first_epoch_gradients": [1.0] * 5,
            "first_epoch_ratios": [0.1] * 5,
        }
    },
}
RUN = {"commit": "0" * 40, "dirty": False, "seed": 0, "data": {"x": "0" * 64}, "config": FLAT}


@cache
def _files() -> dict[str, bytes]:
    """Everything that the viewer and the summary read of a seed's folder."""
    return {
        "A0/DONE": b"{}",
        "A0/config.json": seeds.dumped(FLAT),
        "A0/tree.json": seeds.dumped(run_targets.TREE),
        "A0/predictions.npz": seeds.npz(PREDICTIONS),
        "A0/curves.npz": seeds.npz(CURVES),
        "A0/record.json": seeds.dumped(RUN),
        "analysis/DONE": b"{}",
        "analysis/analysis.json": seeds.dumped(ANALYSIS),
        "analysis/profiles.npz": seeds.npz(PROFILES),
        "analysis/record.json": seeds.dumped(RUN),
    }


def _seed_folder(path: Path, damaged: str) -> Path:
    """The folder with the input in place of one of its files."""
    folder = path.parent / "seed0"
    for name, body in _files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(path.read_bytes() if name == damaged else body)
    return folder


def viewer_of(damaged: str) -> Callable[[Path], None]:
    """The viewer on a run of this repository, page and all; its images are fuzzed by themselves."""

    def read(path: Path) -> None:
        from hierarchy_cnn_torch.viewer import from_run, view

        images = np.zeros((len(LABELS), 8, 8, 1), np.uint8)
        with mock.patch.object(from_run, "_test_images", lambda *_: images):
            found = from_run.view_of_run(_seed_folder(path, damaged), "A1", "", None)
            view.write(found, path.parent / "view.html")

    return read


def summary_of(damaged: str) -> Callable[[Path], None]:
    """analyze.py --summary: tables and figures over the seeds of a row."""

    def read(path: Path) -> None:
        from hierarchy_cnn_torch.report import summary

        _seed_folder(path, damaged)
        with (
            open(os.devnull, "w", errors="backslashreplace", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            summary.summarise(path.parent)

    return read


def picture(path: Path) -> None:
    """The picture of predict.py, for both kinds of network."""
    from subclass_torch.predict import read_image

    for channels in (1, 3):
        assert read_image(path, channels).shape == (1, 32, 32, channels)


def predicted(path: Path) -> None:
    """predict.py with a damaged checkpoint and a whole picture."""
    from subclass_torch.predict import predict

    (path.parent / "a.png").write_bytes(seeds.picture("PNG"))
    for name, score, _ in predict(path, path.parent / "a.png"):
        assert isinstance(name, str) and isinstance(score, float)


@cache
def _hierarchy() -> list[bytes]:
    from hierarchy_cnn_torch.networks.alexnet import Network, trunk_of

    weights = [Network(trunk_of("alexnet32", "mini"), 1, 4, heads).state_dict() for heads in ({}, {"conv2": 2})]
    return [framework_targets._saved(weights[0]), framework_targets._saved({"model": weights[1], "step": 1})]


def evaluated(path: Path) -> None:
    """train.py --eval of the hierarchy networks."""
    import torch

    from hierarchy_cnn_torch import flags
    from hierarchy_cnn_torch.training.evaluate import evaluate_checkpoint
    from reproduction.runtime.torch_runtime import World

    data: Any = SimpleNamespace(
        images=np.zeros((1, 32, 32, 1), np.uint8),
        names=NAMES,
        test_images=np.zeros((4, 32, 32, 1), np.uint8),
        test_labels=np.arange(4),
        mean=torch.zeros(1),
        sd=torch.ones(1),
    )
    words = ["--preset", "mini", "--image-size", "32", "--eval", str(path)]
    config = flags.resolve_train(flags.train_parser().parse_args(words))
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        evaluate_checkpoint(config, data, World(0, 1, torch.device("cpu")))


MAKER = {"imagenet-train.json": "1", "imagenet-val.json": "2"}
NOTE = seeds.dumped({"maker": MAKER, "done": 3})
POOL5 = {
    "train.progress": NOTE,
    "val.progress": NOTE,
    "features-train.npy": seeds.npy(np.ones((3, 2), np.float32)),
    "features-test.npy": seeds.npy(np.ones((3, 2), np.float32)),
    "fc-logits-test.npy": seeds.npy(np.ones((3, 4), np.float32)),
}


def pool5(path: Path) -> None:
    """The features of ImageNet as stage 2 opens them."""
    from class2str_tf.training.imagenet_features import open_features

    for name, body in POOL5.items():
        if name != path.name:
            (path.parent / name).write_bytes(body)
    data: Any = SimpleNamespace(train_labels=range(3), test_labels=range(3), digests=MAKER)
    train, test, logits = open_features(path.parent, data, "x.py")
    assert len(train) == len(test) == len(logits) == 3


def growing(path: Path) -> None:
    """The features of a killed stage 1, which it goes on with or makes anew."""
    from class2str_tf.training.imagenet_features import _open_partial

    for name, body in (
        ("train.progress", seeds.dumped({"maker": MAKER, "done": 2})),
        ("features-train.partial", _HALF),
    ):
        if name != path.name:
            (path.parent / name).write_bytes(body)
    tables, done = _open_partial(path.parent, "train", MAKER, 3, [2])
    assert 0 <= done <= 3 and all(table.shape == (3, 2) and table.flags.writeable for table in tables)


_HALF = seeds.npy(np.ones((3, 2), np.float32))


def printed_names(path: Path) -> None:
    """Names on terminals of several locales: nothing is lost, and no character ends the program."""
    names = path.read_bytes().decode("utf-8", errors="surrogateescape").splitlines()
    for encoding in ("ascii", "iso-8859-1", "cp1252", "utf-8"):
        terminal = io.TextIOWrapper(io.BytesIO(), encoding)
        with mock.patch.object(sys, "stdout", terminal), any_terminal():
            print(markdown_table(("class", "accuracy"), [(name, "0.5") for name in names]))
            for name in names:
                print(f"  {name:<20} 50.00 %")
        assert terminal.buffer.getvalue().count(b"50.00 %") >= len(names)  # type: ignore[attr-defined]


def drawn_names(path: Path) -> None:
    """Class names along an axis and in a legend, as every paper draws them; none may fail."""
    import warnings

    from reproduction.runtime.figures import new_figure, save_figure

    names = path.read_bytes()[:400].decode("utf-8", "replace").splitlines()[:4] or [""]
    figure, axes = new_figure(2, 2)
    lines = [axes[0, 0].plot([0, at], label=name)[0] for at, name in enumerate(names)]
    axes[0, 0].legend(handles=lines, title=names[0])
    axes[0, 0].set_xticks(range(len(names)), names, rotation=60)
    with warnings.catch_warnings(action="ignore"):  # glyphs that the font lacks, no room
        save_figure(figure, path.with_name("names.png"), dpi=30)
    figure.clear()


def targets() -> list[Target]:
    """Viewer, summary, prediction, evaluation, pool5."""
    json_in, zip_in, t = (mutate.json_value,), (mutate.zip_member,), Target
    evil, subclass = framework_targets.evil_checkpoints, framework_targets._subclass
    kinds = [*seeds.deep_json(), b"[]", b"7"]

    def one(name: str) -> Callable[[], Sequence[bytes]]:
        return lambda: [_files()[name]]

    plain, torch = [], []
    for name, hostile, inside in (
        ("A0/config.json", kinds, json_in),
        ("A0/tree.json", kinds, json_in),
        ("analysis/analysis.json", kinds, json_in),
        ("A0/curves.npz", seeds.evil_npz(list(CURVES)), zip_in),
        ("A0/predictions.npz", seeds.evil_npz(list(PREDICTIONS)), zip_in),
        ("analysis/profiles.npz", seeds.evil_npz(["conv1__1"]), zip_in),
    ):
        label = f"run viewer {name.rpartition('/')[2]}"
        torch.append(
            t(label, "in", one(name), viewer_of(name), WRONG, lambda hostile=hostile: hostile, inside, share=0.3)
        )
    for name in ("analysis/analysis.json", "A0/record.json", "analysis/record.json"):
        label = f"summary {name.replace('/', ' ')}"
        plain.append(t(label, "in", one(name), summary_of(name), WRONG, lambda: kinds, json_in, share=0.05))
    pictures = [seeds.picture("PNG"), seeds.picture("JPEG"), seeds.picture("PNG", (28, 28), "L"), seeds.rotated(6)]
    plain.append(t("predict picture", "a.png", lambda: pictures, picture, WRONG, seeds.evil_pictures))
    plain.append(t("printed class names", "names.txt", lambda: [name.encode() for name in HOSTILE], printed_names, ()))
    plain.append(
        t("drawn class names", "names.txt", lambda: [name.encode() for name in HOSTILE], drawn_names, (), share=0.01)
    )
    torch += [
        t("predict checkpoint", "n.pt", subclass, predicted, WRONG, evil, zip_in, share=0.2),
        t("hierarchy --eval", "n.pt", _hierarchy, evaluated, WRONG, evil, zip_in, share=0.2),
    ]
    tensorflow = [
        t("pool5 note", "val.progress", lambda: [NOTE], pool5, WRONG, lambda: [*kinds, b"{}"], json_in),
        t(
            "pool5 features",
            "features-train.npy",
            lambda: [POOL5["features-train.npy"]],
            pool5,
            WRONG,
            lambda: [*seeds.evil_npy(), seeds.npy(np.array(True))],
        ),
        t(
            "pool5 half note",
            "train.progress",
            lambda: [seeds.dumped({"maker": MAKER, "done": 2})],
            growing,
            WRONG,
            seeds.deep_json,
            json_in,
        ),
        t("pool5 half features", "features-train.partial", lambda: [_HALF], growing, WRONG),
    ]
    return [
        *plain,
        *(dataclasses.replace(target, framework="torch") for target in torch),
        *(dataclasses.replace(target, framework="tf") for target in tensorflow),
    ]
