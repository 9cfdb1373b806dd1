"""Targets whose readers import torch or TensorFlow; nothing is imported before a target is used."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import glob
import io
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from datasets.core import DatasetError
from reproduction.runtime.run_folder import UserError
from tests.fuzz import mutate, seeds
from tests.fuzz.engine import Target

WRONG = (UserError,)
EITHER = (UserError, DatasetError)


# --- torch ---------------------------------------------------------------------------------------------------------


def _saved(content: Any, legacy: bool = False) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def evil_checkpoints() -> list[bytes]:
    """Checkpoints with code in them, in both formats and as a bare pickle, and a tensor larger than its storage."""
    code = [_saved({"model": item}, legacy) for item in seeds.planted() for legacy in (False, True)]
    return [*code, *seeds.evil_pickles()[:27], b"PK\x03\x04", b"", bytes(100), _claims()]


def _claims() -> bytes:
    """A checkpoint whose tensor says that it has 2^31 values; its storage has four."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_saved({"x": _four()}))) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            body = old.read(info)
            if info.filename.endswith("data.pkl"):  # the tensor's size (4,) stands as K\x04\x85
                body = body.replace(b"K\x04\x85", b"J" + struct.pack("<i", 2**31 - 1) + b"\x85", 1)
            new.writestr(info, body)
    return out.getvalue()


def _four() -> Any:
    import torch

    return torch.arange(4.0)


def _tensors() -> list[bytes]:
    content = {"model": {"w": _four(), "n": 3}, "step": 2, "list": [1.5, "x", None]}
    return [_saved(content), _saved(content, legacy=True)]


def _read(path: Path) -> None:
    from reproduction.runtime.torch_runtime import read_checkpoint

    read_checkpoint(path)


def _state(path: Path) -> None:
    from reproduction.runtime.torch_runtime import load_state

    state = load_state(path.parent, needs=("model", "step"))
    assert state is None or {"model", "step"} <= state.keys()


@cache
def _subclass() -> list[bytes]:
    import torch

    from subclass_torch.networks import build as models

    torch.manual_seed(0)
    config = {"model": "vgg_small", "dataset": "mnist5k", "channels_last": False}
    network = models.build("vgg_small", "mnist5k", 10, 1)
    content = {
        "args": config,
        "subclass2class": torch.arange(10),
        "mean": torch.zeros(1),
        "std": torch.ones(1),
        "state_dict": network.state_dict(),
        "epoch": 1,
        "id": "x",
        "class_names": list("0123456789"),
    }
    from subclass_torch.training.record import CHECKPOINT_KEYS

    return [_saved({**dict.fromkeys(CHECKPOINT_KEYS, 0), **content})]


def _load_subclass(path: Path) -> None:
    import torch

    from subclass_torch.training.evaluate import load_network

    load_network(path, torch.device("cpu"))


@cache
def _finegrained() -> list[bytes]:
    import torch

    from finegrained_torch.training.modules import LitResnet

    torch.manual_seed(0)
    facts = {
        "stage": "coarse",
        "network": "small",
        "classes": 3,
        "mean": [0.5],
        "std": [0.5],
        "coarse_names": list("abc"),
    }
    module = LitResnet(num_classes=3, mode="sup", network="small", mean=[0.5], std=[0.5])
    return [_saved({**facts, "dataset": "x", "state_dict": module.state_dict()})]


def _load_finegrained(path: Path) -> None:
    from finegrained_torch.training.evaluate import load

    load(path)


def _newest_state(path: Path) -> None:
    from finegrained_torch.training.states import newest_state

    found = newest_state(path.parent)
    assert found is None or isinstance(found[1], list)


def _pretrained(path: Path) -> None:
    from finegrained_torch.networks.resnet import find_pretrained

    find_pretrained(str(path), "")


def _split(path: Path) -> None:
    from finegrained_torch.data.splits import stored_split

    stored_split(path, 40, 0)


def _split_seed() -> list[bytes]:
    from finegrained_torch.data.splits import fixed_split

    return [seeds.npz(dict(zip(("train", "val"), fixed_split(40, 0), strict=True)))]


def _labels(path: Path) -> None:
    from finegrained_torch.training.setting import read_labels

    read_labels(path, np.array([0, 0, 1, 1]))


def _map(path: Path) -> None:
    from subclass_torch.yt8m.create import read_map

    assert read_map(path, 4, 6).shape == (6,)


def _ranking(path: Path) -> None:
    from subclass_torch.training.stage2 import neglected_classes

    neglected_classes(path, 2)


def _videos(path: Path) -> None:
    from subclass_torch.yt8m.data import batches, shards

    count = 0
    for videos in batches(shards(glob.escape(str(path)), "train_data_pattern_glob"), 2, 6):
        assert np.isfinite(videos.features).all() and all((labels < 6).all() for labels in videos.labels)
        count += len(videos.labels)
    assert count, "a training on no videos"


# --- TensorFlow ----------------------------------------------------------------------------------------------------


@cache
def _tf_files() -> dict[str, bytes]:
    """The files of one small checkpoint: model-5.index, its data, and `checkpoint`."""
    from reproduction.runtime.tf import tf1

    with tempfile.TemporaryDirectory() as folder, tf1.Graph().as_default():
        tf1.get_variable("w", initializer=np.arange(6.0, dtype=np.float32).reshape(2, 3))
        step = tf1.train.get_or_create_global_step()
        with tf1.Session() as session:
            session.run([tf1.global_variables_initializer(), step.assign(5)])
            tf1.train.Saver().save(session, f"{folder}/model-5", write_meta_graph=False, latest_filename="checkpoint")
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@contextlib.contextmanager
def _graph() -> Iterator[Any]:
    from reproduction.runtime import tf_runtime
    from reproduction.runtime.tf import tf1

    with tf1.Graph().as_default():
        tf1.get_variable("w", shape=(2, 3))
        tf1.train.get_or_create_global_step()
        with tf_runtime.session() as session:
            yield session


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What passes over a damaged file says so on stderr, once an input."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def _beside(path: Path) -> None:
    for name, body in _tf_files().items():
        if name != path.name:
            (path.parent / name).write_bytes(body)


def _tf_read(path: Path) -> None:
    """Names, newest checkpoint, restoring for use and for going on."""
    from reproduction.runtime import tf_runtime
    from reproduction.runtime.tf import tf1

    _beside(path)
    prefix = path.parent / "model-5"
    newest = tf_runtime.newest_name(path.parent)
    assert newest is None or newest.parent == path.parent
    with _silent(), _graph() as session:
        tf_runtime.checkpoints(path.parent)
        tf_runtime.restore_for_evaluation(session, prefix, "a network")
        tf_runtime.restore_newest(session, tf1.train.Saver(), path.parent)


def _tf_state(path: Path) -> None:
    from reproduction.runtime import tf_runtime

    newest = tf_runtime.newest_name(path.parent)
    assert newest is None or newest.parent == path.parent


def _tf_weights(path: Path) -> None:
    """vgg16_weights.npz into the variables of a small network."""
    from class2str_tf.networks.vgg16_imagenet import assign_weights
    from reproduction.runtime import tf_runtime
    from reproduction.runtime.tf import tf1

    with tf1.Graph().as_default():
        with tf1.variable_scope("cnn/conv1_1"):
            tf1.get_variable("weights", shape=(3, 3, 3, 4))
            tf1.get_variable("biases", shape=(4,))
        with tf_runtime.session() as session:
            assign_weights(session, path)


def _features(path: Path) -> None:
    from class2str_tf.training.frozen_features import _open

    _open(path)


def _one(name: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [_tf_files()[name]]


DATA = "model-5.data-00000-of-00001"
WEIGHTS = {"conv1_1_W": np.ones((3, 3, 3, 4), np.float32), "conv1_1_b": np.ones(4, np.float32)}
STATES = [
    b'model_checkpoint_path: "' + name + b'"\n' for name in (b"../../up", b"/etc/passwd", b"model-5", b"a\\0b", b"")
]


def targets() -> list[Target]:
    """Checkpoints and the files next to them."""
    from tests.fuzz.run_targets import evil_records, examples

    zip_in, t = (mutate.zip_member,), Target
    labels = [start + b"0\n-1\n1\n1\n" for start in (b"", codecs.BOM_UTF8)]
    column = (b"x", b"9" * 30, b"9" * 5000, b"\xff", b"0\n0\n1\n", b"0\n2\n0\n2\n", b"0\n0\n0\n0\n", b"")
    ranking = seeds.dumped({"ranking": [2, 0, 1], "theta": [0.1, 0.2, 0.3]})
    torch = [
        t("checkpoint", "c.pt", _tensors, _read, WRONG, evil_checkpoints, zip_in),
        t("state", "state-0000000002.pt", _tensors, _state, WRONG, evil_checkpoints, zip_in),
        t(
            "lightning state",
            "state-0002.ckpt",
            lambda: [_saved({"callbacks": {"Keeper": {"history": [{"a": 1}]}}})],
            _newest_state,
            WRONG,
            evil_checkpoints,
            zip_in,
        ),
        t("subclass network", "n.pt", _subclass, _load_subclass, WRONG, evil_checkpoints, zip_in, share=0.3),
        t(
            "finegrained network",
            "best.ckpt",
            _finegrained,
            _load_finegrained,
            WRONG,
            evil_checkpoints,
            zip_in,
            share=0.5,
        ),
        t("pretrained", "r.pth", lambda: [_saved({"w": _four()})], _pretrained, WRONG, evil_checkpoints, zip_in),
        t("split", "split.npz", _split_seed, _split, WRONG, lambda: seeds.evil_npz(["train", "val"]), zip_in),
        t("pseudo-labels", "p.csv", lambda: labels, _labels, WRONG, lambda: column),
        t(
            "subclass map",
            "m.npz",
            lambda: [seeds.npz({"subclass2class": np.array([0, 1, 2, 3, 1, 2])})],
            _map,
            WRONG,
            lambda: seeds.evil_npz(["subclass2class"]),
            zip_in,
        ),
        t("ranking", "r.json", lambda: [ranking], _ranking, WRONG, seeds.deep_json, (mutate.json_value,)),
        t("yt8m", "v.tfrecord", examples, _videos, WRONG, lambda: [b"", *evil_records()], (mutate.records,)),
    ]
    tensorflow = [
        t("tf index", "model-5.index", _one("model-5.index"), _tf_read, WRONG, share=0.1),
        t("tf data", DATA, _one(DATA), _tf_read, WRONG, share=0.1),
        t("tf state file", "checkpoint", _one("checkpoint"), _tf_state, (), lambda: (), share=1),
        t(
            "tf weights",
            "w.npz",
            lambda: [seeds.npz(WEIGHTS)],
            _tf_weights,
            EITHER,
            lambda: seeds.evil_npz(list(WEIGHTS)),
            zip_in,
            share=0.2,
        ),
        t("tf features", "f.npy", lambda: [seeds.npy(np.ones((3, 2), np.float32))], _features, WRONG, seeds.evil_npy),
    ]
    return [
        *(dataclasses.replace(target, framework="torch") for target in torch),
        *(dataclasses.replace(target, framework="tf") for target in tensorflow),
    ]
