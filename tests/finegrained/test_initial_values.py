"""Every layer starts as in the released construction order: torchvision's network, then what replaces its parts."""

import pytest
import torch
from torch import nn

from finegrained_torch.flags import HEADS
from finegrained_torch.networks import heads as head
from finegrained_torch.networks import resnet as networks
from finegrained_torch.training.modules import MultiHead
from tests.initial_values import Initial, check, he, torch_default


def expected(module: nn.Module, name: str, layer: nn.Module, kaiming: bool) -> Initial:
    if isinstance(layer, nn.BatchNorm2d):
        return Initial("constant", float(name == "weight"))
    fan_in = layer.weight[0].numel()
    if isinstance(layer, nn.Conv2d) and kaiming:
        return Initial("normal", he(layer.out_channels * layer.kernel_size[0] ** 2))
    return torch_default(fan_in)


def check_all(module: nn.Module, by_default: tuple[str, ...] = ()) -> None:
    """All parameters; convolutions as torchvision draws them, except those that torch's default applies to."""
    names = []
    for place, layer in module.named_modules():
        for name, value in layer.named_parameters(recurse=False):
            kaiming = not place.startswith(by_default) if by_default else True
            check(f"{place}.{name}", value.detach().numpy(), expected(module, name, layer, kaiming))
            names.append(f"{place}.{name}")
    assert len(names) == len(list(module.parameters()))


def as_released(outputs: int) -> nn.Module:
    """The release's own order, on torchvision's class."""
    from torchvision import models

    net = models.resnet18()
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    net.fc = nn.Linear(512, outputs)
    return net


@pytest.mark.parametrize("make", [as_released, lambda outputs: networks.build("resnet18", outputs)])
def test_resnet18_with_the_replaced_stem(make):
    torch.manual_seed(0)
    net = make(59)
    check_all(net, by_default=("conv1",))
    assert net.conv1.weight.std().item() == pytest.approx(0.111, abs=0.004)  # 0.059 with Kaiming's fan-out


def test_the_older_network_keeps_torchvisions_stem():
    torch.manual_seed(0)
    check_all(networks.build("legacy", 12))


def test_the_small_network_has_torchs_defaults():
    torch.manual_seed(0)
    check_all(networks.build("small", 7), by_default=("layers",))


@pytest.mark.parametrize("variant", HEADS)
def test_heads(variant):
    torch.manual_seed(0)
    net = networks.build("resnet18", 59)
    head.replace_head(net, variant, 59, 9)
    check_all(net, by_default=("conv1",))


def test_two_heads():
    torch.manual_seed(0)
    check_all(MultiHead(num_classes=100, num_superclasses=20), by_default=("network.conv1",))


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_backbone_is_the_same_whatever_the_number_of_outputs(name):
    """Stages share it: `setting.module` seeds the generator alike."""
    states = []
    for outputs in (2, 13):
        torch.manual_seed(1)
        states.append(networks.build(name, outputs).state_dict())
    for key, value in states[0].items():
        if not key.startswith("fc."):
            assert torch.equal(value, states[1][key]), key
