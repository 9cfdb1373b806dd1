"""How the weights move: optimizer, learning rate, and gradients of several processes."""

from __future__ import annotations

import torch

from hierarchy_cnn_torch.flags import Config
from hierarchy_cnn_torch.networks.alexnet import Network
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.torch_runtime import World

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4


def optimizer_of(network: Network, config: Config) -> torch.optim.SGD:
    """SGD with momentum, Nesterov's where the rate goes through one cycle."""
    return torch.optim.SGD(
        network.parameters(),
        config.lr,
        MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        nesterov=config.lr_schedule == "onecycle",
        fused=runtime.fused(network.parameters()),
    )


def learning_rate(config: Config, epoch: int, step: int = 0, steps: int = 1) -> float:
    """Returns the rate of a step: two drops by ten, after 60 and 85 % of the epochs, or one cycle over all steps.

    Args:
      config: resolved flags.
      epoch: counted from 0.
      step: counted from 0 over all epochs.
      steps: of the whole training.
    """
    # DEVIATION HCN-D05: optimiser and schedule of the paper unknown; AlexNet's habit
    if config.lr_schedule == "onecycle":
        return runtime.one_cycle(step, steps, config.lr)
    done = epoch / config.epochs
    return config.lr * 0.1 ** ((done >= 0.6) + (done >= 0.85))


def share_gradients(network: torch.nn.Module, world: World) -> None:
    """Sums the gradients of all processes; each has divided its loss by the whole batch."""
    if world.size == 1:
        return
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    runtime.reduce_sum(world, flat)
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))
