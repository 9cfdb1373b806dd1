"""Networks, branches, losses, schedules, variants."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hierarchy_cnn_torch import flags
from hierarchy_cnn_torch.data import images
from hierarchy_cnn_torch.method import branches as losses
from hierarchy_cnn_torch.networks import alexnet
from hierarchy_cnn_torch.networks.alexnet import Network
from hierarchy_cnn_torch.training import loop
from reproduction.runtime.run_folder import UserError
from reproduction.runtime.torch_runtime import parameter_count

LEVELS = [np.arange(20) // 10, np.arange(20) // 5, np.arange(20) // 2]


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
@pytest.mark.parametrize("preset", ["mini", "small"])
def test_branch_shapes(preset, size, channels):
    net = Network(alexnet.PRESETS[preset], channels, 20, {"conv2": 2, "conv3": 4, "conv4": 10})
    logits, heads = net(torch.zeros(2, channels, size, size))
    assert logits.shape == (2, 20)
    assert {tap: tuple(v.shape) for tap, v in heads.items()} == {"conv2": (2, 2), "conv3": (2, 4), "conv4": (2, 10)}


@pytest.mark.parametrize(("preset", "millions"), [("paper32", 9.5), ("small", 2.35), ("mini", 0.84)])
def test_parameter_counts_of_the_presets(preset, millions):
    net = Network(alexnet.PRESETS[preset], 3, 100, {"conv2": 2, "conv3": 9, "conv4": 20})
    assert parameter_count(net) / 1e6 == pytest.approx(millions, rel=0.02)


def test_torchvision_trunk_has_torchvisions_61_million_parameters():
    with torch.device("meta"):  # shapes alone; initial values could not be drawn there
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(alexnet, "initialise", lambda *_: None)
            assert parameter_count(Network(alexnet.TRUNKS["torchvision"], 3, 1000)) == 61_100_840


def test_flags_name_the_same_presets_and_trunks():
    assert set(flags.PRESETS) == set(alexnet.PRESETS)
    assert set(flags.TRUNKS) == {"alexnet32", *alexnet.TRUNKS}


@pytest.mark.parametrize(
    ("trunk", "preset"), [*(("alexnet32", p) for p in flags.PRESETS), *((t, "") for t in alexnet.TRUNKS)]
)
def test_an_image_of_the_trunks_size_gives_a_map_that_needs_no_pooling(trunk, preset):
    network = Network(replace(alexnet.trunk_of(trunk, preset), fc=8), 3, 5)
    network.to_grid = None  # cannot be called
    size = flags.SIZES[trunk]
    assert network(torch.zeros(1, 3, size, size))[0].shape == (1, 5)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradients_reach_conv1_from_each_loss_alone(which):
    torch.manual_seed(0)
    net = Network(alexnet.PRESETS["mini"], 1, 20, {"conv2": 2, "conv3": 4})
    weights = [0.0, 0.0, 0.0]
    weights[which] = 1.0
    logits, heads = net(torch.randn(4, 1, 32, 32))
    maps = [torch.from_numpy(LEVELS[0]), torch.from_numpy(LEVELS[1])]
    losses.total_loss(logits, list(heads.values()), torch.tensor([0, 5, 11, 19]), maps, weights).backward()
    assert losses.gradient_norms(net, ["conv1"])[0, 0] > 0
    if which == 0:
        assert float(net.conv3.weight.grad.abs().sum()) == float(net.fc8.weight.grad.abs().sum()) == 0


def test_loss_equals_a_loop_over_heads_and_images():
    rng = torch.Generator().manual_seed(1)
    logits, coarse = torch.randn(5, 20, generator=rng), torch.randn(5, 4, generator=rng)
    labels, table = torch.tensor([0, 4, 9, 13, 19]), torch.from_numpy(LEVELS[1])
    slow = 0.0
    for i in range(5):
        slow += -float(logits[i].log_softmax(0)[labels[i]])
        slow += 0.3 * -float(coarse[i].log_softmax(0)[table[labels[i]]])
    assert float(losses.total_loss(logits, [coarse], labels, [table], [0.3, 1.0])) == pytest.approx(slow, rel=1e-5)


def test_shared_layers_start_equal_in_every_arm():
    nets = {}
    for arm in flags.ARMS[:5]:
        branches = losses.branches_of(arm, LEVELS, [], 3)
        nets[arm] = Network(alexnet.PRESETS["mini"], 1, 20, branches.outputs(), seed=3)
    for arm, net in nets.items():
        for name in ("conv1", "conv5", "fc6", "fc8"):
            assert torch.equal(getattr(net, name).weight, getattr(nets["A0"], name).weight), (arm, name)
    assert not torch.equal(Network(alexnet.PRESETS["mini"], 1, 20, seed=4).conv1.weight, nets["A0"].conv1.weight)


def test_arms_fit_what_they_should():
    a1, a2, a3, a4 = (losses.branches_of(arm, LEVELS, [], 0) for arm in ("A1", "A2", "A3", "A4"))
    assert a1.outputs() == {"conv2": 2, "conv3": 4, "conv4": 10}
    assert a2.outputs() == a1.outputs() and any((x != y).any() for x, y in zip(a1.labels, a2.labels, strict=True))
    assert a3.outputs() == {"conv2": 20, "conv3": 20, "conv4": 20}
    assert a4.outputs() == {"conv2": 10, "conv3": 4, "conv4": 2}
    assert losses.branches_of("A5", LEVELS, [], 0).taps == losses.branches_of("A0", LEVELS, [], 0).taps == ()
    chosen = losses.branches_of("A1", LEVELS, flags.parse_taps("conv5:10,conv1:2"), 0)
    assert chosen.outputs() == {"conv1": 2, "conv5": 10}
    with pytest.raises(ValueError, match=r"levels of \[2, 4, 10\] groups"):
        losses.branches_of("A1", LEVELS, [("conv2", 3)], 0)
    with pytest.raises(ValueError, match="no level between"):
        losses.branches_of("A1", [], [], 0)


def test_a5_has_as_many_parameters_as_a1():
    trunk = alexnet.PRESETS["mini"]
    aware = parameter_count(Network(trunk, 1, 20, losses.branches_of("A1", LEVELS, [], 0).outputs()))
    wide = parameter_count(Network(alexnet.widened(trunk, 1, 20, aware), 1, 20))
    assert abs(wide - aware) / aware < 0.005


@pytest.mark.parametrize("text", ["conv6:2", "conv2", "conv2:x", "conv2:²", "conv2:2,conv2:4"])
def test_bad_taps(text):
    with pytest.raises(UserError, match="--taps"):
        flags.parse_taps(text)


def test_bt_is_b_cnns_schedule_at_its_switch_epochs():
    expected = [(0.98, 0.01, 0.01), (0.1, 0.8, 0.1), (0.1, 0.2, 0.7), (0.0, 0.0, 1.0)]
    for epochs, switches in ((60, [8, 18, 28]), (80, [13, 23, 33])):
        given = switches if epochs == 80 else []
        starts = [s + 1 for s in switches]
        for phase, (begin, end) in enumerate(zip([0, *starts], [*starts, epochs], strict=True)):
            for epoch in (begin, end - 1):
                weights = losses.loss_weights("bt", 2, 1.0, epoch, epochs, given)
                assert weights == pytest.approx(expected[phase])
    assert losses.bt_switches(2, 60) == losses.bt_switches(2, 60, [8, 18, 28])
    assert losses.loss_weights("joint", 2, 0.5, 3, 10) == [0.5, 0.5, 1.0]
    for branches in (1, 2, 3):
        assert all(sum(row) == pytest.approx(1) for row in losses.bt_phases(branches))
        assert len(losses.bt_switches(branches, 60)) == branches + 1
    with pytest.raises(ValueError, match="3 ascending epochs"):
        losses.bt_switches(2, 60, [8, 18])


def test_product_prediction_and_its_betas():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 20, 500)
    logs = np.log(rng.dirichlet(np.ones(20), 500))
    sure = np.log(np.where(np.arange(4)[None] == LEVELS[1][truth][:, None], 0.97, 0.01))
    betas = losses.choose_betas(logs, [sure], [LEVELS[1]], truth)
    assert betas[0] > 0
    out = losses.joined(logs, [sure], [LEVELS[1]], betas)
    assert out[3, 7] == pytest.approx(logs[3, 7] + betas[0] * sure[3, LEVELS[1][7]])
    useless = np.log(rng.dirichlet(np.ones(4), 500))
    perfect = np.where(np.arange(20)[None] == truth[:, None], 0.0, -9.0)
    assert losses.choose_betas(perfect, [useless], [LEVELS[1]], truth) == [0.0]


def test_augmentation_moves_and_mirrors_but_keeps_the_pixels():
    draw = images.Augment(0, 0, 50)
    pictures = torch.randint(1, 255, (50, 12, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = draw(pictures, torch.arange(50))
    for i in range(50):
        framed = torch.nn.functional.pad(pictures[i], (0, 0, 4, 4, 4, 4))
        y, x = draw.shift[i].tolist()
        expected = framed[y : y + 12, x : x + 12]
        assert torch.equal(out[i], expected.flip(1) if draw.flip[i] else expected)
    assert torch.equal(out[7:8], images.Augment(0, 0, 50)(pictures[7:8], torch.tensor([7])))
    assert not torch.equal(draw.shift, images.Augment(0, 1, 50).shift)


def test_preparing_pads_and_normalises():
    batch = torch.full((2, 28, 28, 1), 255, dtype=torch.uint8)
    out = images.prepared(batch, torch.tensor([0.5]), torch.tensor([0.25]), 32)
    assert out.shape == (2, 1, 32, 32) and float(out[0, 0, 16, 16]) == 2.0 and float(out[0, 0, 0, 0]) == -2.0
    assert images.prepared(batch, torch.tensor([0.5]), torch.tensor([0.25]), 28).shape[-1] == 28


def test_learning_rate_drops_twice():
    words = ["--epochs", "20", "--lr", "1"]
    config = flags.resolve_train(flags.train_parser().parse_args(words))
    rates = [loop.learning_rate(config, epoch) for epoch in range(20)]
    assert rates[:12] == [1.0] * 12 and rates[12:17] == [0.1] * 5 and rates[17:] == pytest.approx([0.01] * 3)


def test_two_epochs_overfit_images_whose_colour_gives_the_group():
    """The group head learns colour before the classes are told apart by shape."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 4
    pixels = np.zeros((64, 32, 32, 3), np.uint8)
    for i, label in enumerate(labels):
        colour = [220, 40, 40] if label < 2 else [40, 40, 220]
        y, x = rng.integers(4, 20, 2)
        height, width = (8, 3) if label % 2 else (3, 8)
        pixels[i, y : y + height, x : x + width] = colour
    torch.manual_seed(0)
    net = Network(alexnet.PRESETS["mini"], 3, 4, {"conv2": 2}, seed=1)
    table = torch.tensor([0, 0, 1, 1])
    x = images.prepared(torch.from_numpy(pixels), torch.tensor([0.1] * 3), torch.tensor([0.2] * 3), 32)
    y = torch.from_numpy(labels)
    optimizer = torch.optim.SGD(net.parameters(), 0.02, 0.9)
    for _ in range(2 * 8):
        order = torch.randperm(64)[:16]
        logits, heads = net(x[order])
        optimizer.zero_grad()
        (losses.total_loss(logits, [heads["conv2"]], y[order], [table], [1.0, 1.0]) / 16).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        logits, heads = net(x)
    group = float((heads["conv2"].argmax(1) == table[y]).float().mean())
    assert group > 0.95 and group > float((logits.argmax(1) == y).float().mean()) - 1e-6


@pytest.mark.parametrize(
    ("visible", "listed", "preset"),
    [
        (None, "a card", "paper32"),
        (None, None, "mini"),
        ("0", None, "paper32"),
        ("", "a card", "mini"),
        ("-1", "a card", "mini"),
    ],
)
def test_the_preset_follows_the_gpus_that_are_not_hidden(monkeypatch, visible, listed, preset):
    monkeypatch.setattr(flags, "first_gpu", lambda: listed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = flags.resolve_train(flags.train_parser().parse_args(["--dataset", "cifar10"]))
    assert config.preset == preset
