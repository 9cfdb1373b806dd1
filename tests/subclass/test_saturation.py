"""When saturated outputs revive at the authors' learning rate: "Saturation" in docs/papers/subclass.md."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subclass_torch.method import losses
from subclass_torch.networks import build as models
from subclass_torch.training.optimizer import optimizer_of

STEPS = 391  # of an epoch of 50,000 images in batches of 128
LOG_EPS = math.log(losses.EPS)


def decay(steps, rate, momentum=0.9, weight_decay=5e-4):
    """(a, b) such that a parameter is a * w + b * v after so many steps without gradient.

    w is the parameter and v its momentum buffer at the start. With g = weight_decay * w, a step of SGD with Nesterov
    momentum is v' = momentum * v + g, w' = w - rate * (g + momentum * v'): linear in (w, v), so a power of one matrix.
    """
    step = [[1 - rate * weight_decay * (1 + momentum), -rate * momentum**2], [weight_decay, momentum]]
    return np.linalg.matrix_power(np.array(step), steps)[0].tolist()


def saturate(outputs):
    """VGG16 after two steps at rate 0.1: the network, its state as (parameter, w, v), the images, the two losses."""
    torch.manual_seed(0)
    net = models.build("vgg16", "cifar", outputs).train()
    optimizer = optimizer_of(net, 0.1)
    coarse = F.interpolate(torch.randn(32, 3, 4, 4), size=32, mode="bilinear")
    images = coarse + 0.3 * torch.randn(32, 3, 32, 32)  # like photographs: large areas and some detail
    labels = torch.arange(32) % outputs
    losses_seen = []
    for _ in range(2):
        loss = losses.class_loss(net(images), labels).mean()
        losses_seen.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = [(p, p.detach().clone(), optimizer.state[p]["momentum_buffer"].clone()) for p in net.parameters()]
    return net, state, images, losses_seen


@torch.no_grad()
def largest_logit(net, state, images, epoch):
    a, b = decay(round(epoch * STEPS), 0.1)
    for parameter, w, v in state:
        parameter.copy_(a * w + b * v)
    return float(net(images).max())


def test_the_closed_form_is_what_the_optimizer_does_without_gradient():
    layer = nn.Linear(3, 2)
    optimizer = optimizer_of(layer, 0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = [(p, p.detach().clone(), optimizer.state[p]["momentum_buffer"].clone()) for p in layer.parameters()]
    for _ in range(50):
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
    a, b = decay(50, 0.1)
    for parameter, w, v in state:  # weight decay is on the bias, too
        torch.testing.assert_close(parameter.detach(), a * w + b * v)


@pytest.mark.parametrize(("outputs", "before", "after"), [(10, 3.5, 6.0), (100, 7.0, 9.0)])
def test_saturated_outputs_revive_when_weight_decay_has_shrunk_the_weights(outputs, before, after):
    """Revived: the largest p of a batch reaches eps, from where the loss of a positive, -ln(p + eps), has a slope."""
    net, state, images, losses_seen = saturate(outputs)
    assert losses_seen[1] == pytest.approx(-LOG_EPS, abs=0.01)  # in the second step already
    assert largest_logit(net, state, images, before) < LOG_EPS < largest_logit(net, state, images, after)
