"""Hours of each paper's full table on one GPU: an estimate from multiply-adds, nothing that was measured."""

from __future__ import annotations

import functools
import importlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Measure
from reproduction.lanes import Command
from reproduction.pipeline import DEFAULT_SEEDS, Request
from reproduction.runs import REPO_ROOT

GPU, FLOAT32, TF32, SHARE = "NVIDIA A100", 19.5e12, 156e12, 0.30  # operations/s by its data sheet
TRAINING = 3  # a training step costs about three forward passes: forward, and two products of its size backward
IMAGES = {"mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000, "svhn": 604_388, "pathmnist": 89_996}
EXPLAINED = f"""An estimate, not a measurement: hours = 2 x {TRAINING} x multiply-adds of a forward pass x images
trained on / ({SHARE:.0%} of the peak) / 3600. The peak is the float32 peak of one {GPU}, {FLOAT32 / 1e12:g} TFLOP/s;
its TF32 peak is {TF32 / 1e12:g}. Multiply-adds are counted in the convolutions and matrix products of the networks;
images are epochs x training images, or steps x batch, of every command of `make plan PROFILE=paper`, all seeds.
Evaluation, augmentation, clustering and the analyses are left out, and early stopping is not counted on. Networks for
32 x 32 images reach less than {SHARE:.0%} on such a GPU."""


def configurations(folder: str, dataset: str) -> tuple[list[tuple[Command, dict[str, Any]]], int]:
    """The commands of the first seed with what their flags resolve to, and the number of seeds."""
    module = importlib.import_module(f"{folder}.reproduce")
    defaults = getattr(module, "SEEDS", DEFAULT_SEEDS)["paper"]
    request = Request("paper", dataset, tuple(defaults)[:1], "cpu", (), False, None)
    found = []
    for command in module.commands_of(request):
        words = [sys.executable, command.script, *command.flags, "--print-config"]
        done = subprocess.run(words, cwd=REPO_ROOT, capture_output=True, text=True)
        if done.returncode == 0 and command.script.rpartition("/")[2] != "analyze.py":
            found.append((command, json.loads(done.stdout)))
    return found, len(defaults)


def torch_multiply_adds(network: Any, shape: tuple[int, ...]) -> int:
    """Multiply-adds of a forward pass of one image in convolutions and linear layers, by hooks; no pixel is computed.

    Args:
      shape: of one image, [C, H, W].
    """
    import torch

    total = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        total += output.numel() * math.prod(module.weight.shape[1:])

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    network.to("meta").eval()(torch.empty(1, *shape, device="meta"))
    return total


def tensorflow_multiply_adds(graph: Any) -> int:
    """Multiply-adds of the convolutions and matrix products of a graph whose batch is one image."""
    total = 0
    for op in graph.get_operations():
        if op.type in ("Conv2D", "MatMul", "DepthwiseConv2dNative"):
            weight = op.inputs[1].shape.as_list()
            out = op.outputs[0].shape.num_elements()
            total += out * (weight[0] * weight[1] if "Depth" in op.type else math.prod(weight[:-1]))
    return total


def _class2str(command: Command, config: dict[str, Any]) -> tuple[float, float]:
    size = (28, 28, 1) if config["dataset"] == "mnist" else (32, 32, 3)
    classes = 100 if config["dataset"] == "cifar100" else 10
    cnn, width, fc = _class2str_networks(json.dumps(config), size, classes)
    images = config["epochs"] * IMAGES[config["dataset"]]
    if "fc_classif" in command.script:
        return cnn + fc, images
    bits, hidden, lh, before = len(config_bits(classes)), 1000 if classes == 100 else 500, 0, width
    for units in config["lstm_units"]:
        lh, before = lh + 4 * units * (before + units), units
    own = bits * (lh + 2 * before) + 2 * hidden * (classes + 2 * bits)
    return own + (cnn if config["finetune"] != "none" else 0), images


def config_bits(classes: int) -> range:
    """Positions of a class string: 4 for ten classes, 7 for a hundred."""
    return range(math.ceil(math.log2(classes)))


@functools.cache
def _class2str_networks(config: str, size: tuple[int, ...], classes: int) -> tuple[int, int, int]:
    """Multiply-adds of the CNN, width of its features, multiply-adds of the FC classifier."""
    from class2str_tf import networks
    from class2str_tf.layers import tf, tf1

    settings = json.loads(config)
    with tf1.Graph().as_default() as graph:
        tf1.train.get_or_create_global_step()
        features = networks.cnn(tf1.placeholder(tf.uint8, [1, *size]), settings, training=False)
        cnn = tensorflow_multiply_adds(graph)
        networks.fc_classifier(features, settings, classes, training=False)
        return cnn, int(features.shape[-1]), tensorflow_multiply_adds(graph) - cnn


@functools.cache
def _subclass_network(model: str, dataset: str) -> int:
    from subclass_torch import models

    return torch_multiply_adds(models.build(model, dataset, 10), (3, 32, 32))


def _subclass(command: Command, config: dict[str, Any]) -> tuple[float, float]:
    epochs = config["epochs_class"] if config["stage"] == "identify" else config["epochs"]
    return _subclass_network(config["model"], config["dataset"]), epochs * IMAGES[config["dataset"]]


@functools.cache
def _finegrained_network(size: int) -> int:
    from finegrained_torch import networks

    return torch_multiply_adds(networks.build("resnet18", 10), (3, size, size))


def _finegrained(command: Command, config: dict[str, Any]) -> tuple[float, float]:
    of = {"coarse": 1, "sub": 1, "fine-tune": len(config["head"]), "multi-head": len(config["alpha"])}
    trainings = sum(of.get(stage, 0) for stage in config["stage"])
    size = 28 if config["dataset"] == "pathmnist" else 32
    return _finegrained_network(size), trainings * config["max_epochs"] * IMAGES[config["dataset"]]


@functools.cache
def _triplet_network(net: str, frame: int) -> int:
    from triplet_tf import nets
    from triplet_tf.nets.layers import tf, tf1

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
def _hierarchy_network(preset: str) -> int:
    from hierarchy_cnn_torch.models import PRESETS, Network

    return torch_multiply_adds(Network(PRESETS[preset], 3, 100), (3, 32, 32))


def _hierarchy(command: Command, config: dict[str, Any]) -> tuple[float, float]:
    count = IMAGES[config["dataset"]]
    trained = count * (config["folds"] - 1) / config["folds"] if config["folds"] else count - 5000
    return _hierarchy_network(config["preset"]), config["epochs"] * trained


# paper -> (package, data sets of its tables, (command, config) -> multiply-adds of an image and images trained on)
Counted = Callable[[Command, dict[str, Any]], tuple[float, float]]
TABLES: dict[str, tuple[str, tuple[str, ...], Counted]] = {
    "class2str": ("class2str_tf", ("mnist", "cifar10", "cifar100"), _class2str),
    "subclass": ("subclass_torch", ("cifar10", "cifar100", "svhn"), _subclass),
    "finegrained": ("finegrained_torch", ("cifar10", "cifar100", "pathmnist"), _finegrained),
    "triplet": ("triplet_tf", ("aircrafts", "flowers", "cars", "dogs", "birds"), _triplet),
    "hierarchy": ("hierarchy_cnn_torch", ("cifar100",), _hierarchy),
}


def estimate(paper: str, small: bool) -> list[Measure]:
    """Hours of every data set of a paper's table; one data set where `small`."""
    folder, datasets, counted = TABLES[paper]
    found = []
    for dataset in datasets[:1] if small else datasets:
        commands, seeds = configurations(folder, dataset)
        parts = [counted(command, config) for command, config in commands]
        operations = seeds * sum(2 * TRAINING * macs * images for macs, images in parts)
        hours, faster = (operations / (SHARE * peak) / 3600 for peak in (FLOAT32, TF32))
        largest, images = max(macs for macs, _ in parts), seeds * sum(images for _, images in parts)
        note = (
            f"{len(parts)} commands x {seeds} seeds, {images / 1e6:,.0f} million images, at most "
            f"{largest / 1e6:,.1f} million multiply-adds an image; {faster:.2g} h at the TF32 peak"
        )
        found.append(Measure(f"{paper}, {dataset}", "h (estimate)", [hours], note=note))
    return found


MEASURES = {paper: functools.partial(estimate, paper) for paper in TABLES}
