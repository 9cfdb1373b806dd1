"""VGG16-BN for 32x32 images and wide residual networks, with the authors' parameter names; small ones by arguments.

The penultimate layer is a module named `penultim_layer` in both, so that one hook reads the features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reproduction.runtime.torch_pools import GlobalMax

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
VGG_SMALL = (16, "M", 32, "M", 64, "M")


class VGG(nn.Module):
    """VGG with batch norm for small images.

    Source: authors' vgg.py, configuration D. `penultim_layer` ends before the classifier's dropout, so the features of
    the neglection degree are not dropped.
    """

    def __init__(
        self,
        outputs: int,
        plan: tuple[int | str, ...] = VGG16,
        width: int = 4096,
        channels: int = 3,
        size: int = 32,
        dropout: float = 0.5,
    ):
        """Args:
        outputs: S.
        plan: channels of each 3x3 convolution, "M" for a 2x2 max-pool.
        width: F.
        channels: of the input images.
        size: side of the input images in pixels.
        dropout: in front of both linear layers.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for item in plan:
            if item == "M":
                layers.append(nn.MaxPool2d(2))
                size //= 2
            else:
                layers += [
                    nn.Conv2d(channels, int(item), 3, padding=1),
                    nn.BatchNorm2d(int(item)),
                    nn.ReLU(inplace=True),
                ]
                channels = int(item)
        self.features = nn.Sequential(*layers)
        # Not in place: the hook keeps the last ReLU's output, which nothing after it may change.
        self.penultim_layer = nn.Sequential(
            nn.Linear(channels * size * size, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Maps float [B, C, H, W] to logits [B, S]."""
        return self.classifier(self.penultim_layer(self.features(images).flatten(1)))


class FastVGG(nn.Module):
    """Six 3x3 convolutions with batch norm behind fixed whitening filters, pooled early; for a few epochs on CPUs.

    Source: ours, after the public speed records on CIFAR-10. The first layer decorrelates 2x2 patches, the convolutions
    start as identities and batch norm keeps its scale of 1: a short training has less to learn.
    """

    def __init__(self, outputs: int, widths: tuple[int, int, int] = (32, 64, 128), channels: int = 3):
        """Args:
        outputs: S.
        widths: of the three pairs of convolutions; the last is F.
        channels: of the input images.
        """
        super().__init__()
        count = 2 * 4 * channels
        self.whitening = nn.Conv2d(channels, count, 2, bias=False).requires_grad_(False)
        layers: list[nn.Module] = [nn.GELU()]
        for width in widths:
            for inside, pool in ((count, [nn.MaxPool2d(2)]), (width, [])):
                conv = nn.Conv2d(inside, width, 3, padding=1, bias=False)
                nn.init.dirac_(conv.weight.data[:inside])
                norm = nn.BatchNorm2d(width)
                norm.weight.requires_grad = False
                layers += [conv, *pool, norm, nn.GELU()]
            count = width
        self.features = nn.Sequential(*layers)
        self.penultim_layer = nn.Sequential(GlobalMax(1), nn.Flatten())
        self.classifier = nn.Linear(widths[-1], outputs)

    @torch.no_grad()
    def whiten(self, inputs: Tensor) -> None:
        """Sets the first layer from images: eigenvectors of their 2x2 patches over standard deviation, in both signs.

        Args:
          inputs: float [B, C, H, W], normalized.
        """
        patches = inputs.double().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
        variance, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (variance + 5e-4).sqrt()).T.reshape(-1, *self.whitening.weight.shape[1:])
        self.whitening.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor) -> Tensor:
        """Maps float [B, C, H, W] to logits [B, S]."""
        return self.classifier(self.penultim_layer(self.features(self.whitening(images))))


class _Block(nn.Module):
    """BN-ReLU-conv-BN-ReLU-dropout-conv with a 1x1 shortcut, from the activated input, where the width changes."""

    def __init__(self, inside: int, outside: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.dropout = dropout
        self.convShortcut = nn.Conv2d(inside, outside, 1, stride, bias=False) if inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(active)))
        out = self.conv2(F.dropout(out, self.dropout, self.training))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class _Group(nn.Module):
    """`count` blocks of one width, the first with the stride; named `layer` as in the released checkpoints."""

    def __init__(self, count: int, inside: int, outside: int, stride: int, dropout: float):
        super().__init__()
        self.layer = nn.Sequential(
            *(_Block(inside if j == 0 else outside, outside, stride if j == 0 else 1, dropout) for j in range(count))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """Pre-activation wide residual network; F = 64 * widen. Source: authors' wide_resnet.py."""

    def __init__(self, outputs: int, depth: int = 28, widen: int = 10, dropout: float = 0.3, channels: int = 3):
        """Args:
        outputs: S.
        depth: 6 n + 4.
        widen: k.
        dropout: inside the blocks.
        channels: of the input images.
        """
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth {depth} is not 6 n + 4 with n >= 1")
        count, widths = (depth - 4) // 6, (16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.block1 = _Group(count, 16, widths[0], 1, dropout)
        self.block2 = _Group(count, widths[0], widths[1], 2, dropout)
        self.block3 = _Group(count, widths[1], widths[2], 2, dropout)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.penultim_layer = nn.Flatten()
        self.fc = nn.Linear(widths[2], outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Maps float [B, C, 32, 32] to logits [B, S]."""
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        x = F.avg_pool2d(F.relu(self.bn1(x)), 8)
        return self.fc(self.penultim_layer(x))


# Arguments of each --model; WRN depth and width go by data set as in the authors' notebook.py.
WRN_SVHN: dict[str, Any] = {"depth": 16, "widen": 8, "dropout": 0.4}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "vgg16": {},
    "vgg_small": {"plan": VGG_SMALL, "width": 128, "dropout": 0.2},
    "wideresnet": {"depth": 28, "widen": 10, "dropout": 0.3},
    "wrn_small": {"depth": 10, "widen": 1, "dropout": 0.1},
    "vgg_fast": {},
}


def build(model: str, dataset: str, outputs: int, channels: int = 3) -> VGG | FastVGG | WideResNet:
    """Builds the network of `--model` for a data set.

    Args:
      model: vgg16, vgg_small, vgg_fast, wideresnet or wrn_small.
      dataset: name of the data set; for svhn the WRN is WRN-16-8.
      outputs: S.
      channels: of the images.
    Returns:
      The network with PyTorch's (VGG) or the authors' (WRN) initialization.
    """
    arguments = WRN_SVHN if (model, dataset) == ("wideresnet", "svhn") else ARGUMENTS[model]
    kind = FastVGG if model == "vgg_fast" else VGG if model.startswith("vgg") else WideResNet
    return kind(outputs, channels=channels, **arguments)


def place(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """Moves a network to a device, in the memory format of `--channels-last` or torch's own."""
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model  # type: ignore[call-overload]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict under the authors' names, whatever wraps the network (compile, DDP)."""
    while wrapped := getattr(model, "module", None) or getattr(model, "_orig_mod", None):
        model = wrapped
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def scores(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits in evaluation mode."""
    model.eval()
    return model(inputs)
