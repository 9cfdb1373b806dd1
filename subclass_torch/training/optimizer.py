"""How the weights move: optimizer, learning rate, and the network as several processes or the compiler call it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.torch_runtime import World
from subclass_torch.flags import Config
from subclass_torch.training.setting import Task


def learning_rate(epoch: int, base: float, milestones: Sequence[int], gamma: float) -> float:
    """base * gamma^(number of milestones <= epoch), epoch counted from 0: the rate that is used is the one logged."""
    # DEVIATION SDN-D19: a function of the epoch, not a scheduler. DEVIATION SDN-D20: so no get_lr() is logged
    return base * gamma ** sum(milestone <= epoch for milestone in milestones)


def rate_at(task: Task, config: Config, epoch: int, step: int, steps: int) -> float:
    """Learning rate of a step: the stage's rate for this epoch, or one cycle over all `steps`."""
    return runtime.one_cycle(step, steps, config.learning_rate) if config.schedule == "onecycle" else task.lr_at(epoch)


def optimizer_of(model: nn.Module, lr: float) -> torch.optim.SGD:
    """SGD, Nesterov momentum 0.9, weight decay 5e-4 on everything [authors' notebook.py]."""
    return torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        fused=runtime.fused(model.parameters()),
    )


def parallel(model: nn.Module, config: Config, world: World) -> nn.Module:
    """The network as it is called in a step: compiled with --compile, wrapped by DDP where there are more processes."""
    net: nn.Module = torch.compile(model) if config.compile else model  # type: ignore[assignment]
    if world.size == 1:
        return net
    on_gpu = world.device.type == "cuda"
    return nn.parallel.DistributedDataParallel(net, device_ids=[world.device.index] if on_gpu else None)
