"""Every layer starts as in the authors' vgg.py, wide_resnet.py and (Keras) subclasscnn.py."""

import pytest
import torch
from torch import nn

from subclass_torch.networks import build as models
from subclass_torch.yt8m.model import VideoNetwork
from tests.initial_values import Initial, check, glorot, he, torch_default


def expected(layer: nn.Module, name: str, wide: bool) -> Initial:
    if isinstance(layer, nn.BatchNorm2d):
        return Initial("constant", float(name == "weight"))
    if wide and isinstance(layer, nn.Conv2d):
        return Initial("normal", he(layer.out_channels * layer.kernel_size[0] ** 2))
    if wide and name == "bias":
        return Initial("constant", 0.0)
    return torch_default(layer.weight[0].numel())


@pytest.mark.parametrize("model", ["vgg16", "wideresnet", "vgg_small", "wrn_small"])
@pytest.mark.parametrize("dataset", ["cifar10", "svhn"])
def test_networks(model, dataset):
    torch.manual_seed(0)
    net = models.build(model, dataset, 12)
    for place, layer in net.named_modules():
        for name, value in layer.named_parameters(recurse=False):
            wide = isinstance(net, models.WideResNet)
            check(f"{place}.{name}", value.detach().numpy(), expected(layer, name, wide))


def test_video_network_has_keras_initial_values():
    torch.manual_seed(0)
    net = VideoNetwork(50)
    check("conv", net.conv.weight.detach().numpy(), glorot(3 * 1, 3 * 64))
    check("dense", net.dense.weight.detach().numpy(), glorot(36_864, 50))
    assert not net.conv.bias.any() and not net.dense.bias.any()
