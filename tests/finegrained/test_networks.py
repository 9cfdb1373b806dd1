"""Parameter counts, torchvision's names, heads, freezing."""

import pytest
import torch
from torch import nn

from finegrained_torch.flags import HEADS
from finegrained_torch.networks import heads as head
from finegrained_torch.networks import resnet as networks
from finegrained_torch.training import evaluate
from finegrained_torch.training.modules import LitResnet, MultiHead
from reproduction.runtime.run_folder import UserError
from reproduction.runtime.torch_runtime import parameter_count


def count(name, outputs):
    with torch.device("meta"):
        return parameter_count(networks.build(name, outputs))


@pytest.mark.parametrize(
    ("outputs", "parameters"),
    [
        (2, 11_169_858),
        (9, 11_173_449),
        (10, 11_173_962),
        (13, 11_175_501),
        (20, 11_179_092),
        (59, 11_199_099),
        (100, 11_220_132),
    ],
)
def test_counts_of_the_heads(outputs, parameters):
    assert count("resnet18", outputs) == parameters


def test_count_of_the_backbone_and_of_the_notebook_prints():
    with torch.device("meta"):
        net = networks.build("resnet18", 9)
        net.fc = nn.Identity()
    assert parameter_count(net) == 11_168_832 and deep() == 11_199_639
    for megabytes, parameters in ((44.694, count("resnet18", 9)), (44.796, count("resnet18", 59)), (44.799, deep())):
        assert round(4 * parameters / 1e6, 3) == megabytes


def deep():
    with torch.device("meta"):
        net = networks.build("resnet18", 59)
        head.replace_head(net, "deep_layer", 59, 9)
    return parameter_count(net)


@pytest.mark.parametrize(
    ("fine", "coarse", "parameters"), [(10, 2, 11_174_988), (100, 20, 11_230_392), (13, 2, 11_176_527)]
)
def test_counts_of_multi_head(fine, coarse, parameters):
    with torch.device("meta"):
        assert parameter_count(MultiHead(num_classes=fine, num_superclasses=coarse)) == parameters


@pytest.mark.parametrize(("fine", "coarse", "parameters"), [(10, 2, 12_208_180), (100, 20, 12_263_584)])
def test_counts_of_the_older_network(fine, coarse, parameters):
    """One linear layer of S + C outputs in base and transfer; the two heads of multihead are as large."""
    with torch.device("meta"):
        base = LitResnet(num_classes=coarse, network="legacy", other_classes=fine)
        sub = LitResnet(num_classes=fine, network="legacy", mode="sub", other_classes=coarse)
        both = MultiHead(num_classes=fine, num_superclasses=coarse, network="legacy")
        assert [parameter_count(module) for module in (base, sub, both)] == [parameters] * 3
        sub.fine_tuning(coarse, dim_sub=fine)
    assert parameter_count(sub) == parameters


def test_one_layer_for_both_kinds_of_labels_gives_the_part_of_its_mode():
    images = torch.rand(2, 3, 32, 32)
    base = LitResnet(num_classes=2, network="legacy", other_classes=10).eval()
    sub = LitResnet(num_classes=10, network="legacy", mode="sub", other_classes=2).eval()
    sub.load_state_dict(base.state_dict())
    with torch.no_grad():
        layer, hidden = base.network.fc, base.network.embed(images)
        whole = hidden @ layer.weight.T + layer.bias
        assert whole.shape == (2, 12)
        torch.testing.assert_close(base.network(images), whole[:, 10:])
        torch.testing.assert_close(sub.network(images), whole[:, :10])
        torch.testing.assert_close(networks.inference_copy(base.network)(images), whole[:, 10:], rtol=1e-4, atol=1e-4)
        sub.fine_tuning(2, dim_sub=10)
        assert sub.network(images).shape == (2, 2) and sub.network.fc.weight.shape == (12, 512)


def test_names_shapes_and_outputs_are_torchvisions():
    from torchvision import models

    theirs, ours = models.resnet18(num_classes=7), networks.ResNet18(7, small_images=False)
    state = theirs.state_dict()
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }
    ours.load_state_dict(state)
    images = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(theirs.eval()(images), ours.eval()(images))


def test_pretrained_weights_reach_all_but_stem_and_head():
    state = networks.ResNet18(1000, small_images=False).state_dict()
    torch.manual_seed(1)
    fresh = networks.build("resnet18", 4)
    torch.manual_seed(1)
    net = networks.build("resnet18", 4, state)
    for name, value in net.state_dict().items():
        source = fresh.state_dict() if name.startswith(("conv1.", "fc.")) else state
        assert torch.equal(value, source[name]), name
    assert net.conv1.weight.shape == (64, 3, 3, 3) and isinstance(net.maxpool, nn.Identity)
    older = networks.build("legacy", 4, state)
    assert all(torch.equal(older.resnet.state_dict()[name], value) for name, value in state.items())


def test_foreign_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match="not the state dict of ResNet-18"):
        networks.build("resnet18", 2, {"conv1.weight": torch.zeros(1)})
    state = networks.ResNet18(10).state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match="does not fit ResNet-18"):
        networks.build("resnet18", 2, state)
    with pytest.raises(UserError, match="no pre-trained weights"):
        networks.build("small", 2, state)
    with pytest.raises(UserError, match="or start from random weights with --no-pretrained"):
        networks.find_pretrained(None, str(tmp_path))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="list.pt: not a state dict"):
        networks.find_pretrained(str(tmp_path / "list.pt"), str(tmp_path))
    digests = []
    for value in (0.0, 1.0, 0.0):  # a file is known by its content
        torch.save({"fc.bias": torch.full((2,), value)}, tmp_path / "weights.pt")
        digests.append(networks.find_pretrained(str(tmp_path / "weights.pt"), str(tmp_path))[1])
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_features_are_what_average_pooling_gives_in_a_forward_pass(name):
    net, images, seen = networks.build(name, 3).eval(), torch.rand(2, 3, 32, 32), []
    (pooling,) = (module for module in net.modules() if isinstance(module, torch.nn.AdaptiveAvgPool2d))
    handle = pooling.register_forward_hook(lambda module, inputs, output: seen.append(output.flatten(1)))
    with torch.no_grad():
        outputs = net(images)
        handle.remove()
        assert torch.equal(net.features(images), seen[0]) and seen[0].shape == (2, net.feature_dim)
        before_head = net.embed(images) if name == "legacy" else net.features(images)
        assert torch.equal(net.fc(before_head), outputs)


@pytest.mark.parametrize("variant", HEADS)
def test_heads_keep_the_backbone_bit_equal(variant):
    net = networks.build("small", 6)
    trained = net.fc
    before = {name: value.clone() for name, value in net.state_dict().items() if not name.startswith("fc.")}
    head.replace_head(net, variant, 6, 2)
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert net(torch.rand(3, 3, 32, 32)).shape == (3, 2)
    kinds = [type(layer).__name__ for layer in net.fc] if variant != "plain" else [type(net.fc).__name__]
    assert (
        kinds
        == {"plain": ["Linear"], "deep_layer": ["Dropout", "Linear", "Linear"], "keep_sub_head": ["Linear", "Linear"]}[
            variant
        ]
    )
    assert (variant == "keep_sub_head") == (variant != "plain" and net.fc[0] is trained)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_copy_for_inference_folds_batch_norms_and_gives_the_same(name):
    torch.manual_seed(0)
    net = networks.build(name, 3).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.bias.data):
                value.normal_()
            for value in (module.running_var, module.weight.data):
                value.uniform_(0.5, 2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fast = networks.inference_copy(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fast(images), net.eval()(images), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    single, images = net.float(), images.float()
    packed = networks.inference_copy(single)
    assert isinstance(packed, networks.Packed)
    with torch.no_grad():
        torch.testing.assert_close(packed(images), single(images), rtol=1e-4, atol=1e-4)
    foreign = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert isinstance(networks.inference_copy(foreign)[1], nn.BatchNorm2d)


@pytest.mark.parametrize("variant", HEADS)
@pytest.mark.parametrize(("name", "other"), [("small", 0), ("legacy", 2)])
def test_a_network_read_back_computes_what_it_computed_in_training(tmp_path, name, other, variant):
    torch.manual_seed(0)
    module = LitResnet(num_classes=5, network=name, mode="sub", other_classes=other)
    facts = {"network": name, "other_classes": other, "mean": [0.5] * 3, "std": [0.5] * 3}
    facts |= {"coarse_names": ["a", "b"], "dataset": "toy"}
    images = torch.rand(2, 3, 32, 32)
    for stage in ({"stage": "sub", "classes": 5}, {"stage": "fine-tune", "classes": 2, "num_sub": 5, "head": variant}):
        if stage["stage"] == "fine-tune":
            module.fine_tuning(2, dim_sub=5, variant=variant)
        torch.save({"state_dict": module.state_dict(), **facts, **stage}, tmp_path / "best.ckpt")
        read, _ = evaluate.load(tmp_path)
        with torch.no_grad():
            assert torch.equal(read.network(images), module.eval().network(images))


def test_unknown_head():
    with pytest.raises(ValueError, match="'other' is not one of plain, deep_layer, keep_sub_head"):
        head.replace_head(networks.build("small", 6), "other", 6, 2)


def test_freeze_goes_by_module_type():
    """By name, as released, 8,834 parameters train; the batch norms of the shortcuts are 1,792 more."""
    with torch.device("meta"):
        net = networks.build("resnet18", 2)
    by_name = sum(p.numel() for name, p in net.named_parameters() if "bn" in name or "fc" in name)
    assert by_name == 8_834
    head.freeze_backbone(net)
    assert parameter_count(net, trainable=True) == 8_834 + 2 * (128 + 256 + 512)
    assert not net.conv1.weight.requires_grad and net.fc.weight.requires_grad


def test_released_constructor_defaults():
    module = LitResnet()
    assert module.network.fc.out_features == 10 and module.learning_rate == 0.1
    assert module.mode == "sup" and module.batch_size == 200
    module.fine_tuning(dim_out=4, dim_sub=10, deep_layer=True)
    assert module.network.fc[2].out_features == 4
    both = MultiHead()
    assert (both.clsub.out_features, both.clsup.out_features, both.alpha) == (10, 2, 0.5)
    with pytest.raises(ValueError, match="mode 'both': sup or sub"):
        LitResnet(mode="both")
    with pytest.raises(ValueError, match="alpha 1.5: 0 to 1"):
        MultiHead(alpha=1.5)
