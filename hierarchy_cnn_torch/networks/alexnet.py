"""AlexNet trunks with optional branches at intermediate layers that fit coarser labels.

Symbols: conv1..conv5 are the convolutions, fc6 and fc7 the hidden fully connected layers; a branch taps the output of
one of the convolutions, after its pooling if it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from reproduction.runtime.torch_pools import AdaptiveMean, LocalResponseNorm
from reproduction.runtime.torch_runtime import generator

TAPS = ("conv1", "conv2", "conv3", "conv4", "conv5")


@dataclass(frozen=True)
class Conv:
    """One convolution: width, kernel, stride, padding, groups; then ReLU, and LRN and max pooling where set."""

    width: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    lrn: bool = False
    pool: bool = False


@dataclass(frozen=True)
class Trunk:
    """The shape of a network.

    Attributes:
      convs: five convolutions.
      pool_padding: of the max pools.
      grid: side of the map that goes into fc6 (adaptive average pooling if it differs).
      fc: width of fc6 and fc7.
      pool: side of the max pools, whose stride is 2.
      pool_first: pool before batch norm and ReLU, which then see a quarter of the positions.
    """

    convs: tuple[Conv, ...]
    pool_padding: int
    grid: int
    fc: int
    pool: int = 3
    pool_first: bool = False


def _small(widths: tuple[int, ...], kernels: tuple[int, ...], fc: int, pooled: tuple[int, ...] = (1, 2, 5)) -> Trunk:
    pools = tuple(at in pooled for at in range(1, 6))
    convs = tuple(Conv(w, k, 1, k // 2, pool=p) for w, k, p in zip(widths, kernels, pools, strict=True))
    return Trunk(convs, pool_padding=1, grid=4, fc=fc)


# DEVIATION HCN-D02: AlexNet's convolutions for 32 pixels, narrower, without local response normalisation
PRESETS = {
    "paper32": _small((64, 192, 384, 256, 256), (5, 5, 3, 3, 3), 1024),
    "small": _small((64, 96, 128, 128, 96), (5, 5, 3, 3, 3), 512),
    "mini": _small((32, 48, 64, 64, 64), (5, 3, 3, 3, 3), 256),
    # the third pool behind conv3 instead of conv5: conv4 and conv5 see a quarter of the positions
    "fast": replace(_small((32, 64, 96, 128, 128), (3,) * 5, 512, (1, 2, 3)), pool_padding=0, pool=2, pool_first=True),
}
TRUNKS = {
    # DEVIATION HCN-D03: the paper's own layer table could not be read; this is the common Caffe layout
    "alexnet": Trunk(
        (
            Conv(96, 11, 4, lrn=True, pool=True),
            Conv(256, 5, 1, 2, 2, lrn=True, pool=True),
            Conv(384, 3, 1, 1),
            Conv(384, 3, 1, 1, 2),
            Conv(256, 3, 1, 1, 2, pool=True),
        ),
        pool_padding=0,
        grid=6,
        fc=4096,
    ),
    "torchvision": Trunk(
        (
            Conv(64, 11, 4, 2, pool=True),
            Conv(192, 5, 1, 2, pool=True),
            Conv(384, 3, 1, 1),
            Conv(256, 3, 1, 1),
            Conv(256, 3, 1, 1, pool=True),
        ),
        pool_padding=0,
        grid=6,
        fc=4096,
    ),
}


def trunk_of(name: str, preset: str) -> Trunk:
    """The trunk of --trunk and --preset."""
    return PRESETS[preset] if name == "alexnet32" else TRUNKS[name]


class Network(nn.Module):
    """The flat network, or, with branches, the hierarchy-aware one."""

    def __init__(
        self,
        trunk: Trunk,
        channels: int,
        num_classes: int,
        branches: Mapping[str, int] | None = None,
        bn: bool = False,
        seed: int = 0,
        hidden: int = 128,
        dropout: float = 0.5,
    ):
        """Builds and initialises.

        Args:
          trunk: shape.
          channels: of the images, 1 or 3.
          num_classes: outputs of the last layer.
          branches: tap -> outputs of the branch head there.
          bn: batch normalisation after each convolution (an ablation: it masks vanishing gradients).
          seed: every layer's weights are a pure function of (seed, layer name), so variants share their common layers.
          hidden: width of a branch's hidden layer.
          dropout: probability, before each fully connected layer but the first of a branch and fc8.
        """
        super().__init__()
        self.names = TAPS[: len(trunk.convs)]
        width, widths = channels, dict[str, int]()
        for name, conv in zip(self.names, trunk.convs, strict=True):
            layer = nn.Conv2d(
                width, conv.width, conv.kernel, conv.stride, conv.padding, groups=conv.groups, bias=not bn
            )
            self.add_module(name, layer)
            self.add_module(f"{name}_bn", nn.BatchNorm2d(conv.width) if bn else nn.Identity())
            self.add_module(f"{name}_relu", nn.ReLU(inplace=True))
            self.add_module(f"{name}_lrn", LocalResponseNorm(5, 1e-4, 0.75) if conv.lrn else nn.Identity())
            pool = nn.MaxPool2d(trunk.pool, 2, trunk.pool_padding) if conv.pool else nn.Identity()
            self.add_module(f"{name}_pool", pool)
            widths[name] = width = conv.width
        self.parts = (
            ("", "_pool", "_bn", "_relu", "_lrn") if trunk.pool_first else ("", "_bn", "_relu", "_lrn", "_pool")
        )
        self.to_grid = AdaptiveMean(trunk.grid)
        self.grid = trunk.grid
        self.dropout = nn.Dropout(dropout)
        self.fc6 = nn.Linear(width * trunk.grid**2, trunk.fc)
        self.fc6_relu = nn.ReLU(inplace=True)
        self.fc7 = nn.Linear(trunk.fc, trunk.fc)
        self.fc7_relu = nn.ReLU(inplace=True)
        self.fc8 = nn.Linear(trunk.fc, num_classes)
        self.heads = nn.ModuleDict()
        for tap, outputs in (branches or {}).items():
            # DEVIATION HCN-D04: head layers of the paper unknown; pooling, one hidden layer, softmax
            self.heads[tap] = nn.Sequential(
                AdaptiveMean(4),
                nn.Flatten(),
                nn.Linear(widths[tap] * 16, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, outputs),
            )
        initialise(self, seed)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Class logits float32 [B, K], and tap -> branch logits.

        Args:
          x: float32 [B, C, S, S].
        """
        tapped: dict[str, Tensor] = {}
        for name in self.names:
            for part in self.parts:
                x = getattr(self, name + part)(x)
            if name in self.heads:
                tapped[name] = x
        if x.shape[-1] != self.grid:
            x = self.to_grid(x)
        x = self.fc6_relu(self.fc6(self.dropout(x.flatten(1))))
        x = self.fc7_relu(self.fc7(self.dropout(x)))
        logits = self.fc8(x)  # before the branches: the trunk's dropout draws are the same in every variant
        return logits, {tap: self.heads[tap](value) for tap, value in tapped.items()}

    def response_layers(self) -> dict[str, nn.Module]:
        """Layer name -> module whose output is the response (post-ReLU), and the logits."""
        layers: dict[str, nn.Module] = {name: getattr(self, f"{name}_relu") for name in (*self.names, "fc6", "fc7")}
        return {**layers, "logits": self.fc8}


def initialise(network: nn.Module, seed: int) -> None:
    """He-normal weights and zero biases; each layer draws from its own generator (seed, "init", name)."""
    with torch.no_grad():  # DEVIATION HCN-D05: the paper's initial values are unknown
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fan = layer.weight[0].numel()
                draw = torch.randn(layer.weight.shape, generator=generator(seed, "init", name))
                gain = 2.0 if name != "fc8" and not name.endswith(".5") else 1.0
                layer.weight.copy_(draw * (gain / fan) ** 0.5)
                if layer.bias is not None:
                    layer.bias.zero_()


def widened(trunk: Trunk, channels: int, num_classes: int, budget: int) -> Trunk:
    """The trunk with the fully connected width that comes nearest to a number of parameters (A5).

    Args:
      budget: parameters of the whole network without branches.
    """
    widths = [channels, *(c.width for c in trunk.convs)]
    convs = sum((a // c.groups * c.kernel**2 + 1) * c.width for a, c in zip(widths[:-1], trunk.convs, strict=True))
    flat = widths[-1] * trunk.grid**2

    def total(fc: int) -> int:
        return convs + (flat + 1) * fc + (fc + 1) * fc + (fc + 1) * num_classes

    best = min(range(trunk.fc, 16 * trunk.fc), key=lambda fc: abs(total(fc) - budget))
    return replace(trunk, fc=best)
