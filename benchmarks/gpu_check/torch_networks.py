"""The networks of the PyTorch papers as they are trained: weights, loss, optimizer, and their real loops on noise."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_check.clock import EPOCHS, Clock, timed_loop
from benchmarks.gpu_check.usage import watch_gpu
from benchmarks.hierarchy import data_of
from benchmarks.hours import matched_flags
from benchmarks.steps import synchronize
from finegrained_torch import flags as finegrained_flags
from finegrained_torch.data.images import Items
from finegrained_torch.networks import resnet
from finegrained_torch.training import loop as finegrained_loop
from finegrained_torch.training.modules import RELEASED, LitResnet, Optimization
from finegrained_torch.training.setting import Task as LightningTask
from hierarchy_cnn_torch import flags as hierarchy_flags
from hierarchy_cnn_torch.method.branches import Branches, total_loss
from hierarchy_cnn_torch.networks.alexnet import PRESETS, Network
from hierarchy_cnn_torch.training import loop as hierarchy_loop
from hierarchy_cnn_torch.training.optimizer import MOMENTUM, WEIGHT_DECAY
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.flags import finish_parsing
from reproduction.runtime.run_folder import Stop
from reproduction.runtime.torch_runtime import World
from subclass_torch import flags as subclass_flags
from subclass_torch.method.losses import class_loss
from subclass_torch.networks import build as subclass_networks
from subclass_torch.training import loop as subclass_loop
from subclass_torch.training.optimizer import optimizer_of
from subclass_torch.training.setting import Task

RATE = 0.001  # at 0.1, on few images, VGG16's outputs saturate: gradients vanish, and nothing can be compared


class Case(NamedTuple):
    """A network of a paper.

    Attributes:
      paper: as in `make reproduce-<paper>`.
      name: of the network.
      network: at its initial weights, without dropout, whose draws differ between devices.
      loss: (network, images float [B, 3, 32, 32], labels int64 [B]) -> scalar.
      optimizer: network -> the paper's optimizer, at a low rate.
      classes: outputs.
      batch: images that the CPU can follow.
    """

    paper: str
    name: str
    network: nn.Module
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    classes: int
    batch: int = 16


def without_dropout(network: nn.Module) -> nn.Module:
    """Sets every probability to zero."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0  # type: ignore[assignment]
    return network


def _subclass(model: str) -> Case:
    network = without_dropout(subclass_networks.build(model, "cifar10", 10))
    return Case(
        "subclass",
        model,
        network,
        lambda net, images, labels: class_loss(net(images), labels).mean(),
        lambda net: optimizer_of(net, RATE),
        10,
    )


def _finegrained(network: str) -> Case:
    return Case(
        "finegrained",
        network,
        resnet.build(network, 2),
        lambda net, images, labels: nn.functional.cross_entropy(net(images).float(), labels),
        lambda net: RELEASED.of(net.parameters(), RATE),
        2,
    )


def _hierarchy(preset: str) -> Case:
    def loss(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return total_loss(net(images)[0].float(), [], labels, [], [1.0]) / len(labels)

    return Case(
        "hierarchy",
        f"alexnet32 {preset}",
        Network(PRESETS[preset], 3, 100, bn=preset == "fast", dropout=0.0),
        loss,
        lambda net: torch.optim.SGD(
            net.parameters(),
            0.01,
            MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            fused=runtime.fused(net.parameters()),
        ),
        100,
    )


def cases(small: bool) -> list[Callable[[], Case]]:
    """What makes each network, so that one is in memory at a time.

    Args:
      small: a rehearsal: small ones instead of those of profile `paper`; those of `matched` are small.
    """
    torch.manual_seed(0)
    matched = [lambda: _subclass("vgg_fast"), lambda: _finegrained("resnet10n"), lambda: _hierarchy("fast")]
    if small:
        return [lambda: _subclass("vgg_small"), lambda: _finegrained("small"), lambda: _hierarchy("mini"), *matched]
    return [
        lambda: _subclass("vgg16"),
        lambda: _subclass("wideresnet"),
        lambda: _finegrained("resnet18"),
        lambda: _hierarchy("paper32"),
        *matched,
    ]


def noise(count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Random images uint8 [N, 32, 32, 3] and labels int64 [N]."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), generator=draw, dtype=torch.uint8)
    return images, torch.arange(count) % classes


# Steps of an epoch that takes about two seconds on a data-centre GPU: projected, untried.
STEPS = {
    "vgg16": 200, "wideresnet": 40, "resnet18": 60, "alexnet32 paper32": 400,
    "vgg_fast": 400, "resnet10n": 200, "alexnet32 fast": 400,
}  # fmt: skip
MATCHED = ("vgg_fast", "resnet10n", "fast")  # trained with the flags of profile `matched`
AMP = {"float32": None, "tf32": "tf32", "bf16": "bf16"}


def run_subclass(model: str, precision: str, device: torch.device, steps: int, folder: Path) -> Clock:
    """Trains for EPOCHS short epochs by the loop of the paper, with the flags of the network's profile."""
    words = matched_flags("subclass") if model in MATCHED else ["--model", model, "--cutout", "--data_augmentation"]
    words += ["--device", device.type, "--epochs", str(EPOCHS), "--learning_rate", "0.0001"]
    config = dataclasses.replace(subclass_flags.parse(words), amp=AMP[precision], chance_epochs=0)
    if steps < 10:
        config = dataclasses.replace(config, batch_size=8)
    images, labels = noise(steps * config.batch_size, 10)
    network = subclass_networks.place(subclass_networks.build(model, "cifar10", 10), device, config.channels_last)
    constants = torch.full((3,), 120.0, device=device), torch.full((3,), 60.0, device=device)
    task = Task(
        "speed",
        images.to(device),
        labels.to(device),
        images[:8],
        labels[:8],
        torch.arange(10, device=device),
        constants,
        class_loss,
        EPOCHS,
        lambda epoch: 1e-4,
        EPOCHS + 1,
        observe=False,
    )
    clock = Clock()
    with timed_loop(subclass_loop, clock, functools.partial(refuse_waits, device)):
        subclass_loop.run_stage(task, config, network, World(0, 1, device), Stop(), folder, folder / "log.csv")
    return clock


def run_hierarchy(preset: str, precision: str, device: torch.device, steps: int, folder: Path) -> Clock:
    """As `run_subclass`, of the flat network on 100 classes."""
    words = matched_flags("hierarchy") if preset in MATCHED else ["--dataset", "cifar100", "--preset", preset]
    words += ["--epochs", str(EPOCHS), "--lr", "0.0001", "--keep-epochs", "none", "--device", device.type]
    config = finish_parsing(hierarchy_flags.train_parser(), hierarchy_flags.resolve_train, words)
    config = dataclasses.replace(config, amp=AMP[precision])
    if steps < 10:
        config = dataclasses.replace(config, batch=8)
    images, labels = noise(steps * config.batch, 100)
    data = data_of(images.numpy(), labels.numpy(), np.arange(len(images)), np.arange(8))
    network = Network(PRESETS[preset], 3, 100, bn=config.bn, dropout=config.dropout).to(device)
    clock = Clock()
    with timed_loop(hierarchy_loop, clock, functools.partial(refuse_waits, device)):
        hierarchy_loop.run(config, network, data, Branches((), ()), World(0, 1, device), Stop(), folder)
    return clock


def refuse_waits(device: torch.device, refused: bool) -> None:
    """Lets torch raise an error wherever the host would wait for the GPU, or no longer; untried without a GPU."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error" if refused else "default")


class _Timed(LitResnet):
    """Notes how long the steps of an epoch take, and how long the GPU waits meanwhile."""

    clock: Clock
    count: int

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        synchronize(self.device)
        self.began = time.perf_counter()
        self.watch = contextlib.ExitStack()
        self.waiting = self.watch.enter_context(watch_gpu())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Forward, backward and update: Lightning runs all three in here."""
        refuse_waits(self.device, self.global_step > 0)  # Lightning makes the sums of its log at the first step
        try:
            super().optimizer_step(*args, **kwargs)
        finally:
            refuse_waits(self.device, False)

    def on_validation_start(self) -> None:
        synchronize(self.device)
        self.clock.rates.append(self.count / (time.perf_counter() - self.began))
        self.watch.close()
        self.clock.waiting += self.waiting if self.current_epoch else []


def run_finegrained(network: str, precision: str, device: torch.device, steps: int, folder: Path) -> Clock:
    """As `run_subclass`, by Lightning, of the coarse network."""
    words = matched_flags("finegrained") if network in MATCHED else ["--network", network]
    words += ["--lr", "0.0001", "--max_epochs", str(EPOCHS), "--min_epochs", str(EPOCHS)]
    words += ["--precision", {"float32": "32-true", "tf32": "tf32", "bf16": "bf16-mixed"}[precision]]
    config = finegrained_flags.parse_pipeline([*words, "--device", device.type, "--out_dir", str(folder)])
    if steps < 10:
        config = dataclasses.replace(config, batch_size=8)
    count = steps * config.batch_size
    images, labels = noise(count, 2)
    items = Items(images.permute(0, 3, 1, 2).contiguous(), labels, labels)
    key = (0, "coarse")
    how = Optimization(config.optimizer, config.schedule, EPOCHS, key, config.augment)
    module = _Timed(1e-4, num_classes=2, network=network, optimization=how)
    module.clock, module.count = Clock(), count
    task = LightningTask("speed", folder, module, (items, np.arange(count)), (items, np.arange(8)), key, {})
    finegrained_loop.train(task, config)
    return module.clock


def run_loop(case: Case, precision: str, device: torch.device, small: bool, folder: Path) -> Clock:
    """Trains a case's network by its paper's loop on noise, for EPOCHS short epochs."""
    folder.mkdir(parents=True)
    runtime.allow_tf32(precision == "tf32")
    # as `runtime.start` leaves it for a run; the loop of fine-grained sets its own
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    steps = 2 if small else STEPS[case.name]
    run = {"subclass": run_subclass, "finegrained": run_finegrained, "hierarchy": run_hierarchy}[case.paper]
    return run(case.name.removeprefix("alexnet32 "), precision, device, steps, folder)
