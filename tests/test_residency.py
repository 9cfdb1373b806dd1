"""No step of a PyTorch loop waits for the device, and no step of a TensorFlow loop feeds the graph."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_check import torch_networks
from finegrained_torch.training import loop as lightning_loop
from finegrained_torch.training.modules import MultiHead
from hierarchy_cnn_torch.method.branches import Branches
from reproduction.runtime.loop import Training
from subclass_torch.method import losses, neglect
from tests.test_layout import ROOT

WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::bincount")  # the last reads its largest value
READERS = {"cpu", "numpy", "item", "tolist", "nonzero", "bincount"}
CPU = torch.device("cpu")


class Watch(TorchDispatchMode):
    """Counts the operators of the steps, while it is on."""

    def __init__(self):
        super().__init__()
        self.on, self.seen = False, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.on:
            self.seen[function._schema.name] += 1
        return function(*args, **(kwargs or {}))


def watched(watch: Watch) -> type[Training]:
    """A Training that lets operators be counted in the body of the steps; its own look at the losses is named."""

    class Watched(Training):
        def steps(self, *images):
            for step in super().steps(*images):
                watch.on = True
                yield step
                watch.on = False

    return Watched


def seen_in(paper: str, folder: Path, *more: str) -> Counter:
    """Returns the operators that one paper's training steps call, on noise."""
    folder.mkdir()
    watch = Watch()
    if paper == "finegrained":

        class Module(torch_networks._Timed):  # between batches the loader draws its seed, on the CPU, once an epoch
            def on_train_batch_start(self, batch, batch_idx) -> None:
                watch.on = True
                super().on_train_batch_start(batch, batch_idx)

            def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
                watch.on = False

        parse = torch_networks.finegrained_flags.parse_pipeline
        named = mock.patch.object(lightning_loop, "check_losses", lambda *words: None)
        kind = mock.patch.object(torch_networks, "_Timed", Module)
        flags = mock.patch.object(
            torch_networks.finegrained_flags, "parse_pipeline", lambda argv: parse([*argv, *more])
        )
        with named, kind, flags, watch:
            torch_networks.run_finegrained("small", "float32", CPU, 2, folder)
        return watch.seen
    loop, run, network = {
        "subclass": (torch_networks.subclass_loop, torch_networks.run_subclass, "vgg_small"),
        "hierarchy": (torch_networks.hierarchy_loop, torch_networks.run_hierarchy, "mini"),
    }[paper]
    timed = mock.patch.object(
        torch_networks, "timed_loop", lambda *_: mock.patch.object(loop, "Training", watched(watch))
    )
    with timed, mock.patch.object(torch_networks.Clock, "rates", [1.0], create=True), watch:
        run(network, "float32", CPU, 2, folder)
    return watch.seen


@pytest.mark.parametrize("paper", ["subclass", "hierarchy", "finegrained"])
def test_no_step_reads_a_value_back_or_depends_on_one(paper, tmp_path):
    seen = seen_in(paper, tmp_path / "run")
    assert seen["aten::convolution"] >= 4 and seen["aten::convolution_backward"] >= 4  # the steps were watched
    assert not {name: seen[name] for name in WAITING if seen[name]}


def with_method(paper: str) -> contextlib.ExitStack:
    """Lets the run of a paper train with the paper's method, not the network alone: for a `with` statement."""
    net, stack = torch_networks, contextlib.ExitStack()
    if paper == "subclass":  # its loss, and the neglection degree of every step
        weights = losses.label_weights(torch.arange(10) // 2, 0.5)
        changes = {"criterion": functools.partial(losses.subclass_loss, weights=weights), "observe": True}
        task = net.Task
        stack.enter_context(
            mock.patch.object(net, "Task", lambda *a, **k: dataclasses.replace(task(*a, **k), **changes))
        )
    elif paper == "hierarchy":  # two branches
        branches = Branches(("conv2", "conv3"), (np.arange(100) // 50, np.arange(100) // 25))
        stack.enter_context(mock.patch.object(net, "Branches", lambda *_: branches))
        network = functools.partial(net.Network, branches=branches.outputs())
        stack.enter_context(mock.patch.object(net, "Network", network))
    else:  # two heads

        class Heads(MultiHead):
            clock: Any
            count: int

            def __init__(self, rate: float, *, num_classes: int, **more: Any):
                super().__init__(rate, num_classes=num_classes, num_superclasses=num_classes, **more)

        stack.enter_context(mock.patch.object(net, "_Timed", Heads))
    return stack


@pytest.mark.parametrize("paper", ["subclass", "hierarchy", "finegrained"])
def test_no_step_of_a_papers_method_does_either(paper, tmp_path):
    plain = seen_in(paper, tmp_path / "plain")
    with with_method(paper):
        seen = seen_in(paper, tmp_path / "run")
    assert sum(seen.values()) > sum(plain.values()) and seen["aten::convolution"] >= 4  # the method was watched
    assert not {name: seen[name] for name in WAITING if seen[name]}


def test_the_shifts_of_fine_grained_are_drawn_once_an_epoch_and_wait_for_nothing(tmp_path):
    plain, moved = (seen_in("finegrained", tmp_path / name, "--augment", name) for name in ("none", "shifts"))
    steps = moved["aten::index"] - plain["aten::index"]
    assert steps >= 4 and moved["aten::convolution"] == plain["aten::convolution"]
    draws = {name for name in moved if name.startswith(("aten::rand", "aten::random", "aten::bernoulli"))}
    assert not draws and not any(moved[name] for name in WAITING)


def test_a_step_that_waits_would_be_counted():
    watch = Watch()
    with watch:
        torch.ones(3).sum().item()
        watch.on = True
        torch.ones(3).nonzero()
        torch.ones(3).sum().item()
        torch.arange(3).bincount()
    assert [watch.seen[name] for name in WAITING] == [1, 1, 1]


def test_the_neglection_degree_of_a_step_waits_for_nothing():
    labels, watch = torch.tensor([2, 0, 2, 4]), Watch()
    totals = neglect.new_totals(6, CPU)
    with watch:
        watch.on = True
        r, count = neglect.batch_degree(torch.rand(4, 8), torch.randn(4, 6), labels)
        neglect.add_batch(totals, r, count, len(labels))
        watch.on = False
    assert watch.seen["aten::index_add_"] and not any(watch.seen[name] for name in WAITING)
    assert count.dtype == torch.float32 and torch.equal(count, torch.bincount(labels, minlength=6).float())


STEP_BODIES = {  # file -> the functions that run once a step, or None for the bodies of its loops over steps
    "subclass_torch/training/loop.py": None,
    "subclass_torch/yt8m/loop.py": None,
    "hierarchy_cnn_torch/training/loop.py": None,
    "finegrained_torch/training/modules.py": {"_step", "training_step", "augmented", "prepare", "log_epoch"},
    "subclass_torch/method/neglect.py": {"gradient_parts", "degree", "batch_degree", "add_batch"},
    "subclass_torch/data/augment.py": {"crop_flip", "normalize", "cut_holes", "training_batch", "of"},
    "hierarchy_cnn_torch/data/images.py": {"prepared", "__call__"},
    "finegrained_torch/data/images.py": {"normalize", "shifted", "__getitem__"},
}


def bodies(tree: ast.Module, functions: set[str] | None) -> list[ast.AST]:
    """What runs in every step."""
    if functions is not None:
        return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in functions]
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.For)
        and any(f"training.{name}(" in ast.unparse(node.iter) for name in ("batches", "steps"))
    ]


def readers(nodes: list[ast.AST]) -> list[str]:
    """Calls that read a value back from the device."""
    calls = [call for node in nodes for call in ast.walk(node) if isinstance(call, ast.Call)]
    return [ast.unparse(call) for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in READERS]


@pytest.mark.parametrize("file", STEP_BODIES)
def test_the_body_of_a_step_calls_nothing_that_reads_back(file):
    found = bodies(ast.parse((ROOT / file).read_text(encoding="utf-8")), STEP_BODIES[file])
    assert len(found) >= len(STEP_BODIES[file] or {1})
    assert not readers(found)


@pytest.mark.parametrize("file", ["class2str_tf/training/loop.py", "triplet_tf/training/loop.py"])
def test_no_step_of_a_tensorflow_loop_feeds_the_graph(file):
    calls = [
        node for body in bodies(ast.parse((ROOT / file).read_text(encoding="utf-8")), None) for node in ast.walk(body)
    ]
    runs = [call for call in calls if isinstance(call, ast.Call) and ast.unparse(call.func) == "session.run"]
    assert runs and all(len(call.args) == 1 and not call.keywords for call in runs)


def test_the_search_for_readers_finds_what_it_should():
    text = "for b in training.batches(order):\n    loss.item(); x.cpu(); y.detach().numpy(); z.sum()\nw.item()"
    assert readers(bodies(ast.parse(text), None)) == ["loss.item()", "x.cpu()", "y.detach().numpy()"]
