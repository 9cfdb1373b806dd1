"""Every layer starts He-normal with zero biases: a choice of ours, as the paper's initial values could not be read."""

import pytest
from torch import nn

from hierarchy_cnn_torch.networks.alexnet import PRESETS, TRUNKS, Network
from tests.initial_values import Initial, check


@pytest.mark.parametrize("trunk", [*PRESETS.values(), TRUNKS["alexnet"]], ids=[*PRESETS, "alexnet"])
@pytest.mark.parametrize("bn", [False, True])
def test_networks(trunk, bn):
    net = Network(trunk, 3, 100, {"conv2": 2, "conv3": 9, "conv4": 20}, bn=bn)
    last = {"fc8", "heads.conv2.5", "heads.conv3.5", "heads.conv4.5"}
    seen = set()
    for place, layer in net.named_modules():
        for name, value in layer.named_parameters(recurse=False):
            if isinstance(layer, nn.BatchNorm2d):
                initial = Initial("constant", float(name == "weight"))
            elif name == "bias":
                initial = Initial("constant", 0.0)
            else:
                initial = Initial("normal", ((1 if place in last else 2) / layer.weight[0].numel()) ** 0.5)
            check(f"{place}.{name}", value.detach().numpy(), initial)
            seen.add(place)
    assert last | {"conv1", "conv5", "fc6", "fc7", "heads.conv2.2"} <= seen
