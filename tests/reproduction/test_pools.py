"""`--deterministic` on a GPU: no layer whose gradient torch refuses there, and the same outputs and gradients."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hierarchy_cnn_torch.networks.alexnet import PRESETS, Conv, Network, Trunk
from reproduction.runtime import torch_pools
from subclass_torch.networks import build

# of the list in torch.use_deterministic_algorithms, what a network of images could call
REFUSED = {
    "aten::_adaptive_avg_pool2d_backward", "aten::adaptive_max_pool2d_backward", "aten::avg_pool3d_backward",
    "aten::reflection_pad2d_backward", "aten::fractional_max_pool2d_backward", "aten::nll_loss2d_forward",
    "aten::upsample_bilinear2d_backward", "aten::grid_sampler_2d_backward", "aten::max_unpool2d", "aten::histc",
}  # fmt: skip
LAYERS = [
    *[(torch_pools.AdaptiveMean(grid), (2, 3, side, side + 1)) for grid in (1, 3, 4, 6) for side in (6, 7, 8, 13)],
    (torch_pools.GlobalMax(1), (2, 3, 5, 4)),
    *[(torch_pools.LocalResponseNorm(size, 0.1, 0.75, 2.0), (2, 7, 4, 3)) for size in (1, 4, 5)],
]


class Called(TorchDispatchMode):
    """Counts the refused operators."""

    def __init__(self):
        super().__init__()
        self.refused = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.name in REFUSED:
            self.refused[function._schema.name] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Takes the deterministic forms, which only a GPU needs."""
    return lambda: monkeypatch.setattr(torch_pools, "is_refused", lambda x: True)


def gradients(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    found = layer(x)
    weights = torch.rand(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    (found * weights).sum().backward()
    return found.detach(), x.grad


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: str(value).partition("(")[0])
def test_both_forms_of_a_layer_agree(layer, shape, as_on_a_gpu):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torchs = gradients(layer, x)
    as_on_a_gpu()
    for found, expected in zip(gradients(layer, x), torchs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_torchs_own_form_is_taken_on_a_cpu_in_deterministic_mode_too():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert not torch_pools.is_refused(torch.zeros(1))
    finally:
        torch.use_deterministic_algorithms(before)


TINY = Trunk(tuple(Conv(4, 3, 1, 1, lrn=at < 2, pool=at < 2) for at in range(5)), pool_padding=0, grid=3, fc=8)
NETWORKS = {
    "hierarchy mini": lambda: Network(PRESETS["mini"], 3, 4, {"conv2": 2, "conv4": 3}),
    "hierarchy fast": lambda: Network(PRESETS["fast"], 3, 4, {"conv2": 2, "conv4": 3}),
    "hierarchy with LRN, another grid": lambda: Network(TINY, 3, 4, {"conv3": 2}),
    **{
        f"subclass {name}": lambda name=name: build.build(name, "cifar10", 4)
        for name in ("vgg_fast", "vgg_small", "wrn_small")
    },
}
HAS_ONE = {"hierarchy mini", "hierarchy fast", "hierarchy with LRN, another grid", "subclass vgg_fast"}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_calls_what_torch_refuses(name, as_on_a_gpu):
    def calls() -> Counter:
        torch.manual_seed(0)
        with Called() as called:
            found = NETWORKS[name]()(torch.randn(2, 3, 32, 32))
            outputs = [found[0], *found[1].values()] if isinstance(found, tuple) else [found]
            torch.stack([output.square().sum() for output in outputs]).sum().backward()
        return called.refused

    assert bool(calls()) == (name in HAS_ONE)
    as_on_a_gpu()
    assert not calls()
