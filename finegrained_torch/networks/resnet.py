"""ResNet-18 with torchvision's parameter names, the network of the authors' main.py, and two small ones of ours.

Every network has `features(x)` (of step 1b: the output of average pooling), `feature_dim` (their width), `fc` (the
head, replaced by heads.py) and `embed_dim` (width of what the head sees).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.utils.mkldnn import to_mkldnn

import datasets
from datasets import weights as weight_files
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.torch_runtime import read_checkpoint

# Channels of the first of four stages with one block each, GELU; at 32x32, 9.51 and 4.38 million multiply-adds
NARROW = {"resnet10": 24, "resnet10n": 16}
NETWORKS = ("resnet18", *NARROW, "small", "legacy")
PRETRAINED_FILE = "resnet18-f37072fd.pth"  # torchvision's ImageNet-1k weights
LEGACY_WIDTH = 512


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut around them; torchvision's BasicBlock with the same parameter names."""

    def __init__(self, inputs: int, outputs: int, stride: int, gelu: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.activation = nn.GELU() if gelu else nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.activation(self.bn1(self.conv1(x)))))
        return self.activation(out + shortcut)


class ResNet18(nn.Module):
    """ResNet-18: `small_images` has the authors' stem (3x3, stride 1, no max-pool), else torchvision's 7x7.

    Source: authors' models/Classifier.py (torchvision's ResNet-18 with conv1 replaced and maxpool an identity).
    """

    def __init__(self, outputs: int, small_images: bool = True, width: int = 64, blocks: int = 2, ours: bool = False):
        """Builds the network.

        Args:
          outputs: width of the head.
          small_images: whether the stem is the authors' one.
          width: channels of stem and first stage; each further stage has twice as many.
          blocks: in each stage; 2 is ResNet-18.
          ours: keep the max-pool behind the authors' stem, for a quarter of the time, and use GELU instead of ReLU, for
            more accuracy in it.
        """
        super().__init__()
        self.feature_dim = self.embed_dim = 8 * width
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.activation = nn.GELU() if ours else nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if ours or not small_images else nn.Identity()
        widths = (width, width, 2 * width, 4 * width, 8 * width)
        for number in (1, 2, 3, 4):
            first = Block(widths[number - 1], widths[number], 1 if number == 1 else 2, ours)
            others = [Block(widths[number], widths[number], 1, ours) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *others))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as torchvision initializes; batch norm and linear keep torch's defaults
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if small_images:  # replaced after that by the authors, so torch's default applies: std 0.11 instead of 0.06
            self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.fc: nn.Module = nn.Linear(self.feature_dim, outputs)  # last: the backbone does not depend on `outputs`

    def features(self, x: Tensor) -> Tensor:
        """Features of images, float32 [B, 3, H, W] -> [B, 8 * width]."""
        x = self.maxpool(self.activation(self.bn1(self.conv1(x))))
        for number in (1, 2, 3, 4):
            x = getattr(self, f"layer{number}")(x)
        return self.avgpool(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class SharedLinear(nn.Linear):
    """One linear layer for fine and coarse labels, of which one part is read; the other keeps its initial weights.

    Source: authors' main.py (a last layer of S + C outputs).
    """

    def __init__(self, width: int, outputs: int, before: int = 0, after: int = 0):
        """Builds the layer.

        Args:
          width: inputs.
          outputs: outputs that `forward` gives.
          before: outputs in front of them.
          after: outputs behind them.
        """
        super().__init__(width, before + outputs + after)
        self.part = slice(before, before + outputs)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight[self.part], self.bias[self.part])

    def plain(self) -> nn.Linear:
        """A linear layer with the weights of the part that is read."""
        layer = nn.Linear(self.in_features, self.part.stop - self.part.start, device=self.weight.device)
        layer.weight = nn.Parameter(self.weight[self.part].clone())
        layer.bias = nn.Parameter(self.bias[self.part].clone())
        return layer


class Legacy(nn.Module):
    """The network of the authors' main.py: an unmodified ResNet-18 with 1,000 outputs, then 512, ReLU, S + C."""

    feature_dim, embed_dim = 512, LEGACY_WIDTH

    def __init__(self, outputs: int, before: int = 0, after: int = 0):
        super().__init__()
        self.resnet = ResNet18(1000, small_images=False)
        self.hidden = nn.Linear(1000, LEGACY_WIDTH)
        self.fc: nn.Module = SharedLinear(LEGACY_WIDTH, outputs, before, after)

    def features(self, x: Tensor) -> Tensor:
        """Features of the ResNet-18, [B, 3, H, W] -> [B, 512]."""
        return self.resnet.features(x)

    def embed(self, x: Tensor) -> Tensor:
        """What the head sees, [B, 3, H, W] -> [B, 512]."""
        return torch.relu(self.hidden(self.resnet(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.embed(x))


class Small(nn.Module):
    """Three 3x3 convolutions of 32, 64 and 128 channels, each with batch norm, ReLU and max-pool: minutes on a CPU."""

    feature_dim = embed_dim = 128

    def __init__(self, outputs: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc: nn.Module = nn.Linear(self.feature_dim, outputs)

    def features(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 128]."""
        return self.avgpool(self.layers(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


Network = ResNet18 | Legacy | Small


def build(
    name: str, outputs: int, pretrained: Mapping[str, Tensor] | None = None, *, before: int = 0, after: int = 0
) -> Network:
    """A fresh network.

    Args:
      name: one of NETWORKS.
      outputs: width of the head.
      pretrained: state dict of torchvision's ResNet-18; its conv1 (and fc, for the authors' stem) are left out.
      before: see `SharedLinear`; network legacy only.
      after: see `SharedLinear`; network legacy only.
    Returns:
      The network; its weights are a function of torch's global generator, the head drawn last.
    Raises:
      UserError: pre-trained weights for a network of ours, or weights that do not fit.
    """
    network: Network
    if name == "small" or name in NARROW:
        if pretrained is not None:
            raise UserError(f"--network {name}: there are no pre-trained weights for it; use --no-pretrained")
        if name == "small":
            return Small(outputs)
        network = ResNet18(outputs, width=NARROW[name], blocks=1, ours=True)
        # channels-last: faster on CPUs, and what GPUs and bfloat16 prefer
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    network = ResNet18(outputs) if name == "resnet18" else Legacy(outputs, before, after)
    if pretrained is not None:
        load_pretrained(network, pretrained)
    return network


def load_pretrained(network: ResNet18 | Legacy, state: Mapping[str, Tensor]) -> None:
    """Loads torchvision's ResNet-18 by name; stem and head of the authors' network keep their fresh weights.

    Raises:
      UserError: names or shapes are not those of ResNet-18.
    """
    target = network.resnet if isinstance(network, Legacy) else network
    skipped = ("conv1.", "fc.") if target is network else ()
    wanted = {name for name in target.state_dict() if not name.startswith(skipped or ("\0",))}
    weights = {name: value for name, value in state.items() if name in wanted}
    if missing := sorted(name for name in wanted - weights.keys() if not name.endswith("num_batches_tracked")):
        raise UserError(f"--weights: not the state dict of ResNet-18: lacks {missing[0]} and {len(missing) - 1} more")
    try:
        target.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"--weights: does not fit ResNet-18 ({str(error).splitlines()[-1].strip()})") from None


def find_pretrained(file: str | None, data_dir: str, accept_unverified: bool = False) -> tuple[dict[str, Tensor], str]:
    """The ImageNet weights: `--weights FILE`, or the checked file in data/weights.

    Returns:
      State dict, and the file's sha256.
    Raises:
      UserError, DatasetError: no such file, not a state dict; the message says how to get it or do without.
    """
    if file:
        path, digest = Path(file), ""
    else:
        try:
            path, digest = weight_files.find(PRETRAINED_FILE, Path(data_dir), None, accept_unverified)
        except datasets.DatasetError as error:
            raise UserError(f"--pretrained: {error}; or start from random weights with --no-pretrained") from None
    # DEVIATION FGL-D29: weights only, with a map location
    state = read_checkpoint(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"--weights {shown(path)}: not a state dict of tensors")
    if file:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return state, digest


def inference_copy(network: nn.Module) -> nn.Module:
    """A copy for evaluation alone, with the same outputs up to rounding and fewer passes over memory.

    Batch norms are folded into the convolutions before them (in networks of this file; others are only copied). In
    float32 on a CPU the weights are packed once for oneDNN, and activations keep its layout from layer to layer.

    Args:
      network: any network; left as it is.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    if not isinstance(copied, Network):
        return copied
    if isinstance(copied.fc, SharedLinear):
        copied.fc = copied.fc.plain()
    folded = fuse(copied)
    weights = next(folded.parameters())
    return Packed(folded) if weights.device.type == "cpu" and weights.dtype == torch.float32 else folded


class Packed(nn.Module):
    """A float32 network for inference on a CPU: its weights packed once for oneDNN instead of at every call."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = to_mkldnn(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.to_mkldnn()).to_dense()
