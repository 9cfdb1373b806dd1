import pytest
import torch

from reproduction.runtime.torch_runtime import parameter_count
from subclass_torch.networks import build as models
from subclass_torch.yt8m.model import VideoNetwork, network_input

COUNTS = [
    ("vgg16", "cifar10", 10, 33_646_666),
    ("vgg16", "cifar10", 12, 33_654_860),
    ("vgg16", "cifar100", 100, 34_015_396),
    ("vgg16", "cifar100", 110, 34_056_366),
    ("wideresnet", "cifar10", 10, 36_479_194),
    ("wideresnet", "cifar10", 12, 36_480_476),
    ("wideresnet", "cifar100", 100, 36_536_884),
    ("wideresnet", "cifar100", 110, 36_543_294),
    ("wideresnet", "svhn", 10, 10_961_370),
    ("wideresnet", "svhn", 12, 10_962_396),
]


@pytest.mark.parametrize(("model", "dataset", "outputs", "count"), COUNTS)
def test_parameter_counts(model, dataset, outputs, count):
    with torch.device("meta"):
        assert parameter_count(models.build(model, dataset, outputs), trainable=True) == count


def test_video_network_counts():
    with torch.device("meta"):
        assert parameter_count(VideoNetwork(3862), trainable=True) == 142_372_886
        assert parameter_count(VideoNetwork(3962), trainable=True) == 146_059_386


def test_parameter_names():
    with torch.device("meta"):
        vgg, wrn = (dict(models.build(name, "cifar10", 12).named_parameters()) for name in ("vgg16", "wideresnet"))
    assert {name.rpartition(".")[0] for name in vgg if not name.startswith("features.")} == {
        "penultim_layer.0",
        "penultim_layer.3",
        "classifier.1",
    }
    convolutions = [name for name, value in vgg.items() if value.ndim == 4]
    assert len(convolutions) == 13 and all(name.startswith("features.") for name in convolutions)
    assert vgg["penultim_layer.0.weight"].shape == (4096, 512)
    for block in (1, 2, 3):
        for j in range(4):
            names = {n.split(".")[3] for n in wrn if n.startswith(f"block{block}.layer.{j}.")}
            assert names == {"bn1", "conv1", "bn2", "conv2"} | ({"convShortcut"} if j == 0 else set())
    assert {"conv1.weight", "bn1.weight", "bn1.bias", "fc.weight", "fc.bias"} <= wrn.keys()
    assert wrn["fc.weight"].shape == (12, 640)


@pytest.mark.parametrize("name", ["vgg_small", "wrn_small"])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_networks_are_the_same_classes(name, channels):
    net = models.build(name, "mnist5k", 12, channels)
    assert isinstance(net, models.VGG if name == "vgg_small" else models.WideResNet)
    assert models.scores(net, torch.randn(2, channels, 32, 32)).shape == (2, 12)
    assert not net.training


def test_shortcut_takes_the_activated_input():
    block = models._Block(4, 8, 2, 0.0).eval()
    x = torch.randn(2, 4, 8, 8)
    active = torch.relu(block.bn1(x))
    expected = block.conv2(torch.relu(block.bn2(block.conv1(active)))) + block.convShortcut(active)
    torch.testing.assert_close(block(x), expected)


def test_wide_resnet_initialization():
    torch.manual_seed(0)
    net = models.WideResNet(10, depth=16, widen=4)
    conv = net.block3.layer[1].conv1
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    assert conv.bias is None and net.fc.bias.abs().sum() == 0
    with pytest.raises(ValueError, match="6 n"):
        models.WideResNet(10, depth=15)


def test_video_input():
    features = torch.randn(3, 1152) * 5
    clean, noisy = network_input(features), network_input(features, torch.randn(3, 1152))
    torch.testing.assert_close(clean.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(noisy.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(clean[:, :1024].norm(dim=1), torch.full((3,), 0.5**0.5))
    assert not torch.equal(clean, noisy)
