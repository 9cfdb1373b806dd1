"""Hours of each paper's full table on one GPU: an estimate from multiply-adds, nothing that was measured."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import math
import shlex
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

from benchmarks.measure import Benchmark, Measure, number
from class2str_tf.flags import FIRST
from datasets import manifest
from reproduction.compare.tables import paper_of
from reproduction.launch.jobs import Command
from reproduction.launch.measured import key_of
from reproduction.launch.pipeline import DEFAULT_SEEDS, Request
from reproduction.runtime.flags import run_main
from reproduction.runtime.run_folder import REPO_ROOT

GPU, FLOAT32, TF32, SHARE = "NVIDIA A100", 19.5e12, 156e12, 0.30  # operations/s by its data sheet
TRAINING = 3  # a training step costs about three forward passes: forward, and two products of its size backward
SCRIPTS = ("train_fc_classifer_imagenet.py", "train_rnn_classifer_imagenet.py")  # of the row without a make command


def explained() -> str:
    """What stands above the table of hours."""
    left_out = ", ".join(f"`{row}` of {paper}" for paper in TABLES for row in cells(paper)[1])
    return f"""These hours are estimates, not measurements: hours = 2 x {TRAINING} x multiply-adds of a forward pass x
images trained on / ({SHARE:.0%} of the peak) / 3600. The peak is the float32 peak of one {GPU}, {FLOAT32 / 1e12:g}
TFLOP/s; its TF32 peak is {TF32 / 1e12:g}. Multiply-adds are counted in the convolutions and matrix products of the
networks. The number of images is epochs x training images, or steps x batch, summed over every command behind the rows
of profile `paper` in `reproduction/tables` and over all seeds, without early stopping. ImageNet's one forward pass, for
its features, counts as a third of a training pass. Not included: evaluation, augmentation, decoding of files,
clustering, the analyses, and the rows that are shortened for a CPU ({left_out}).

**Plan with `make plan`, not with this table.** The hours of `make plan`, in the last column, were set by hand from the
authors' timings and include all waiting. The hours of this table include the arithmetic alone, at an assumed share of
the peak. For small networks they are a lower bound and much too low, because a GPU then waits for kernels to start and
for data, as with LeNet on MNIST. For large networks the true time is nearer to the one at the TF32 peak, if the
framework computes in TF32. If ARGS name another network, `make plan` takes it into account only for
Class2Str and for `--model wideresnet`. It has no hours for ImageNet: there this table is the only estimate."""


def cells(paper: str, profile: str = "paper") -> tuple[dict[str, list[str]], list[str]]:
    """The commands behind the rows of one profile in the table of a paper.

    Returns:
      (command -> its rows, in the table's order; rows left out, because they are shortened for a CPU).
    """
    commands: dict[str, list[str]] = {}
    left_out = []
    for row in paper_of(paper).row:
        if f"-{profile}" not in row.row:
            continue
        if "DEVICE=cpu" in row.command:
            left_out.append(row.row)
        else:
            commands.setdefault(row.command, []).append(row.row)
    return commands, left_out


def request_of(folder: str, line: str) -> Request:
    """What a command of the table asks for: all seeds; of profile `matched` the core rows, on the published data."""
    module = importlib.import_module(f"{folder}.reproduce")
    words = dict(word.split("=", 1) for word in shlex.split(line) if word.isupper() or word.partition("=")[0].isupper())
    profile, extra = words.get("PROFILE", "paper"), tuple(shlex.split(words.get("ARGS", "")))
    seeds = getattr(module, "SEEDS", DEFAULT_SEEDS)[profile]
    return Request(profile, words.get("DATASET", module.DATASETS[profile]), tuple(seeds), extra=extra)


def matched_flags(paper: str) -> list[str]:
    """Flags of the first training in profile `matched` of one paper."""
    folder = TABLES[paper][0]
    request = request_of(folder, f"make reproduce-{paper} PROFILE=matched")
    return list(importlib.import_module(f"{folder}.reproduce").commands_of(request)[0].flags)


def configurations(folder: str, line: str) -> tuple[str, list[tuple[Command, dict[str, Any]]], int, float]:
    """What a command of the table runs.

    Args:
      folder: package of the paper.
      line: `make reproduce-... NAME=value ...`, or a script for ImageNet.
    Returns:
      (data set with its ARGS, the commands of the first seed with what their flags resolve to, those that differ in
      seeds and folders only once, number of seeds, hours of `make plan`).
    Raises:
      RuntimeError: a command does not resolve.
    """
    module = importlib.import_module(f"{folder}.reproduce")
    request = request_of(folder, line)
    dataset, planned = request.dataset, math.fsum(command.gpu_hours for command in module.commands_of(request))
    if line.startswith("make "):
        commands = module.commands_of(dataclasses.replace(request, seeds=request.seeds[:1]))
    else:
        dataset, planned = "imagenet", 0.0
        commands = [Command("imagenet-paper", "", f"{folder}/{script}", (), REPO_ROOT) for script in SCRIPTS]
    trainings: list[tuple[Command, dict[str, Any]]] = []
    different: dict[tuple[str, str], Command] = {}
    for command in commands:
        different.setdefault(key_of(command), command)
    for command in different.values():
        if command.script.rpartition("/")[2] in ("analyze.py", "ranking.py"):  # read runs, train nothing
            continue
        trainings.append((command, resolved(command)))
    return " ".join((dataset, *request.extra)), trainings, len(request.seeds), planned


def resolved(command: Command) -> dict[str, Any]:
    """What the flags of a command resolve to, by its script's --print-config, in this process: that imports nothing.

    Raises:
      RuntimeError: they do not resolve.
    """
    main = importlib.import_module(command.script.removesuffix(".py").replace("/", ".")).main
    words, out, error = [command.script, *command.flags, "--print-config"], io.StringIO(), io.StringIO()
    quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(error)
    with contextlib.chdir(REPO_ROOT), mock.patch.object(sys, "argv", words), quiet[0], quiet[1]:
        try:
            run_main(main)
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(f"{command.line()}: {error.getvalue().strip()}") from None
    config: dict[str, Any] = json.loads(out.getvalue())
    return config


def torch_multiply_adds(network: Any, shape: tuple[int, ...]) -> int:
    """Multiply-adds of a forward pass of one image in convolutions and linear layers; no pixel is computed.

    Args:
      shape: of one image, [C, H, W].
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network.to("meta").eval()(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() // 2


def tensorflow_multiply_adds(graph: Any) -> int:
    """Multiply-adds of the convolutions and matrix products of a graph whose batch is one image."""
    total = 0
    for op in graph.get_operations():
        if op.type in ("Conv2D", "MatMul", "DepthwiseConv2dNative"):
            weight = op.inputs[1].shape.as_list()
            out = op.outputs[0].shape.num_elements()
            total += out * (weight[0] * weight[1] if "Depth" in op.type else math.prod(weight[:-1]))
    return total


def class2str_images(config: dict[str, Any]) -> int:
    """Images of an epoch of Class2Str: --train-images is 0 for all, N, or first:N."""
    return int(str(config["train_images"]).removeprefix(FIRST)) or manifest.entry(config["dataset"]).train


# Flags of Class2Str that its networks read; commands that differ in others share one count.
NETWORK_FLAGS = ("dataset", "pixels", "F", "model", "lenet", "lenet_relu", "features", "seed", "weight_decay")


def _class2str(command: Command, config: dict[str, Any]) -> tuple[float, float]:
    side, channels = {"mnist": (28, 1), "imagenet": (224, 3)}.get(config["dataset"], (32, 3))
    classes, count = manifest.entry(config["dataset"]).classes, class2str_images(config)
    settings = json.dumps({name: config[name] for name in NETWORK_FLAGS if name in config})
    cnn, width, fc = _class2str_networks(settings, (side, side, channels), classes)
    images = config["epochs"] * count
    if "fc_classif" in command.script:
        return cnn + fc, count / TRAINING if config["dataset"] == "imagenet" else images  # there only forward
    hidden, lh, before = config["hidden"], 0, width
    for units in config["lstm_units"]:
        lh, before = lh + 4 * units * (before + units), units
    rnn = config["n_sequence"] * (lh + 2 * before) + 2 * hidden * (classes + 2 * config["n_sequence"])
    return rnn + (cnn if config["finetune"] != "none" else 0), images


@functools.cache
def _class2str_networks(config: str, size: tuple[int, ...], classes: int) -> tuple[int, int, int]:
    """Multiply-adds of the CNN, width of its features, multiply-adds of the FC classifier."""
    from class2str_tf.networks import build as networks
    from reproduction.runtime.tf import tf, tf1

    settings: Any = types.SimpleNamespace(**json.loads(config))
    with tf1.Graph().as_default() as graph:
        tf1.train.get_or_create_global_step()
        features = networks.cnn(tf1.placeholder(tf.uint8, [1, *size]), settings, training=False)
        cnn = tensorflow_multiply_adds(graph)
        networks.fc_classifier(features, settings, classes, training=False)
        return cnn, int(features.shape[-1]), tensorflow_multiply_adds(graph) - cnn


@functools.cache
def _subclass_network(model: str, dataset: str) -> int:
    from subclass_torch.networks import build as models

    return torch_multiply_adds(models.build(model, dataset, 10), (3, 32, 32))


def _subclass(command: Command, config: dict[str, Any]) -> tuple[float, float]:
    epochs = config["epochs_class"] if config["stage"] == "identify" else config["epochs"]
    images = epochs * manifest.entry(config["dataset"]).train
    if config["max_steps"]:
        images = min(images, config["max_steps"] * config["batch_size"])
    return _subclass_network(config["model"], config["dataset"]), images


@functools.cache
def _finegrained_network(network: str, size: int) -> int:
    from finegrained_torch.networks import resnet

    return torch_multiply_adds(resnet.build(network, 10), (3, size, size))


def _finegrained(command: Command, config: dict[str, Any]) -> tuple[float, float]:
    of = {"coarse": 1, "sub": 1, "fine-tune": len(config["head"]), "multi-head": len(config["alpha"])}
    trainings = sum(of.get(stage, 0) for stage in config["stage"])
    size = 28 if config["dataset"] == "pathmnist" else 32
    images = trainings * config["max_epochs"] * manifest.entry(config["dataset"]).train
    return _finegrained_network(config["network"], size), images


@functools.cache
def _triplet_network(net: str, frame: int) -> int:
    from reproduction.runtime.tf import tf, tf1
    from triplet_tf import nets

    with tf1.Graph().as_default() as graph:
        tf1.train.get_or_create_global_step()
        image = tf1.placeholder(tf.float32, [1, frame, frame, 3])
        _, feature_map, _ = nets.backbone(net, image, 100, is_training=False)
        nets.embedding_head(feature_map, 256)
        return tensorflow_multiply_adds(graph)


def _triplet(command: Command, config: dict[str, Any]) -> tuple[float, float]:
    images = config["train_iters"] * config["batch_size"] * config["caffe_iter_size"]
    return _triplet_network(config["net"], config["frame_size"]), images


@functools.cache
def _hierarchy_network(preset: str, classes: int) -> int:
    from hierarchy_cnn_torch.networks.alexnet import PRESETS, Network

    return torch_multiply_adds(Network(PRESETS[preset], 3, classes), (3, 32, 32))


def _hierarchy(command: Command, config: dict[str, Any]) -> tuple[float, float]:
    data = manifest.entry(config["dataset"])
    held_out = 0 if config["train_held_out"] else config["held_out"] or 5000
    trained = data.train * (config["folds"] - 1) / config["folds"] if config["folds"] else data.train - held_out
    return _hierarchy_network(config["preset"], data.classes), config["epochs"] * trained


# paper -> (package, (command, config) -> multiply-adds of an image and images trained on)
Counted = Callable[[Command, dict[str, Any]], tuple[float, float]]
TABLES: dict[str, tuple[str, Counted]] = {
    "class2str": ("class2str_tf", _class2str),
    "subclass": ("subclass_torch", _subclass),
    "finegrained": ("finegrained_torch", _finegrained),
    "triplet": ("triplet_tf", _triplet),
    "hierarchy": ("hierarchy_cnn_torch", _hierarchy),
}


def estimate(paper: str, small: bool) -> list[Measure]:
    """Hours of every row in a table, those of one command together; of one command if `small`."""
    folder, counted = TABLES[paper]
    measures = []
    for line in list(cells(paper)[0])[: 1 if small else None]:
        name, commands, seeds, planned = configurations(folder, line)
        parts = [counted(command, config) for command, config in commands]
        operations = seeds * sum(2 * TRAINING * macs * images for macs, images in parts)
        hours, faster = (operations / (SHARE * peak) / 3600 for peak in (FLOAT32, TF32))
        largest, images = max(macs for macs, _ in parts), seeds * sum(images for _, images in parts)
        note = (
            f"{len(parts)} commands x {seeds} seeds, {images / 1e6:,.0f} million images, at most "
            f"{largest / 1e6:,.1f} million multiply-adds an image; {number(faster, 2)} h at the TF32 peak; "
            + (f"`make plan` {number(planned, 2)} h" if planned else "in no plan")
        )
        measures.append(Measure(f"{paper}, {name}", "h (estimate)", [hours], note=note))
    return measures


BENCHMARKS: dict[str, Benchmark] = {paper: functools.partial(estimate, paper) for paper in TABLES}
