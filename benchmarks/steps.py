"""A training step of each torch paper's network with each fast path: bf16, channels-last, both, torch.compile."""

from __future__ import annotations

import copy
import functools
import os
import shutil
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.measure import Benchmark, NotSupported, Pair, interleave, on_each_device, rate
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.faults import first_line

LAST = torch.channels_last


def synchronize(device: torch.device) -> None:
    """Waits for a GPU; a clock would otherwise measure how fast work is handed over."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def network_of(paper: str, small: bool) -> tuple[str, torch.nn.Module, torch.Tensor, int]:
    """Name of the network of a paper, the network, a batch for it and its outputs; cut down if `small`."""
    torch.manual_seed(0)
    if paper == "subclass":
        from subclass_torch.networks import build as models

        name = "vgg_small" if small else "vgg16"
        return name, models.build(name, "cifar10", 10), torch.randn(8 if small else 64, 3, 32, 32), 10
    if paper == "finegrained":
        from finegrained_torch.networks import resnet

        name = "small" if small else "resnet18"
        return name, resnet.build(name, 10), torch.randn(8 if small else 25, 3, 32, 32), 10
    from hierarchy_cnn_torch.networks.alexnet import PRESETS, Network

    name = "mini" if small else "paper32"
    return f"alexnet32 {name}", Network(PRESETS[name], 3, 100), torch.randn(8 if small else 128, 3, 32, 32), 100


def step_of(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, amp: bool, compiled: bool
) -> Callable[[], None]:
    """One update with SGD and softmax cross-entropy."""
    optimizer = torch.optim.SGD(model.parameters(), 0.001, 0.9, weight_decay=5e-4)
    net = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            outputs = net(images)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        synchronize(images.device)

    return step


def fast_path(paper: str, options: tuple[str, ...], device: str, small: bool) -> Pair:
    """Images/s of float32 in the usual layout, and of the same step with the options."""
    runtime.start(0)
    compiled = "compile" in options
    if compiled and not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++")):
        raise NotSupported("torch.compile needs a C++ compiler, and there is none")
    where = torch.device(device)
    name, model, images, outputs = network_of(paper, small)
    model, images = model.to(where), images.to(where)
    labels = torch.randint(outputs, (len(images),)).to(where)
    other, inputs = copy.deepcopy(model), images
    if "channels-last" in options:
        other = other.to(memory_format=LAST)  # type: ignore[call-overload]  # torch declares it for tensors only
        inputs = images.to(memory_format=LAST)
    fast = step_of(other, inputs, labels, "bf16" in options, compiled)
    if compiled:
        try:
            fast()
        except Exception as error:  # whatever the compiler's chain raises, eager still works
            raise NotSupported(f"torch.compile: {first_line(error)[:120]}") from None
    plain = step_of(model, images, labels, False, False)
    inner = 1 if device == "cpu" else 30
    title = f"training step, {name}, batch {len(images)}, {device}: {' + '.join(options)} against float32"
    return interleave(title, "images/s", rate(len(images), plain, inner), rate(len(images), fast, inner))


OPTIONS = (("channels-last",), ("bf16",), ("bf16", "channels-last"), ("compile",))
PAPERS = ("subclass", "finegrained", "hierarchy")


def _pairs(device: str) -> dict[str, Benchmark]:
    return {
        f"{paper} {' '.join(options)}": functools.partial(fast_path, paper, options, device)
        for paper in PAPERS
        for options in OPTIONS
    }


BENCHMARKS = on_each_device(_pairs)
