"""Fast training: the narrow network, one cycle, augmentation on the device, bfloat16; and that older runs go on."""

import itertools
import json

import numpy as np
import pytest
import torch

from finegrained_torch import flags
from finegrained_torch.data.images import SHIFT, Batches, Items, draw_shifts, shifted
from finegrained_torch.networks import resnet
from finegrained_torch.training import loop
from finegrained_torch.training.modules import LitResnet, MultiHead, Optimization
from finegrained_torch.training.setting import Task
from reproduction.runtime.run_folder import flags_hash
from reproduction.runtime.torch_runtime import generator, one_cycle, parameter_count

from .conftest import run

FAST = (
    "--dataset mnist5k --network resnet10 --limit_train 200 --batch_size 50 --max_epochs 2 --min_epochs 2 --lr 0.1 "
    "--schedule onecycle --augment shifts --precision auto --aug_set shifts --min_cluster_size 10 --device cpu --seed 0"
).split()


def test_every_image_is_moved_within_reach_and_mirrored_or_not():
    images = torch.arange(64 * 3 * 8 * 8).remainder(251).to(torch.uint8).view(64, 3, 8, 8)
    draws = draw_shifts(64, generator(1))
    found = shifted(images, draws)
    seen = set()
    drawn = [(SHIFT - down, SHIFT - right, 1 - 2 * mirrored) for down, right, mirrored in draws.T.tolist()]
    for before, after, move in zip(images.numpy(), found.numpy(), drawn, strict=True):
        padded = np.pad(before, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="edge")
        moves = [
            (top, left, mirror)
            for top, left, mirror in itertools.product(range(2 * SHIFT + 1), range(2 * SHIFT + 1), (1, -1))
            if np.array_equal(padded[:, top : top + 8, left : left + 8][..., ::mirror], after)
        ]
        assert moves == [move]
        seen.add(move)
    assert len(seen) > 30  # of 50
    assert torch.equal(draws, draw_shifts(64, generator(1))) and not torch.equal(draws, draw_shifts(64, generator(2)))


def multiply_adds(network):
    """Products of an image of 32x32 in convolutions and linear layers."""
    counts = []

    def count(module, inputs, output):
        positions = output[0, 0].numel() if output.dim() == 4 else 1
        counts.append(positions * module.weight.numel())

    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 32, 32))
    return sum(counts)


@pytest.mark.parametrize(
    ("name", "width", "parameters", "products"),
    [("resnet10", 192, 694_412, 9_514_752), ("resnet10n", 128, 310_116, 4_377_088)],
)
def test_the_narrow_networks_are_the_same_family_at_a_fraction_of_the_work(name, width, parameters, products):
    torch.manual_seed(0)
    network, released = resnet.build(name, 20), resnet.build("resnet18", 20)
    names = {name for name in network.state_dict()}
    assert names < set(released.state_dict()) and network.feature_dim == network.embed_dim == width
    assert parameter_count(network) == parameters
    assert network.layer4[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 32, 32)
    network.eval()
    with torch.no_grad():
        copied = resnet.inference_copy(network)
        torch.testing.assert_close(copied(images), network(images), rtol=1e-4, atol=1e-4)
    assert multiply_adds(network) == products < multiply_adds(released) / 50
    with pytest.raises(resnet.UserError, match=f"--network {name}: there are no pre-trained weights"):
        resnet.build(name, 20, {})


def test_the_rate_follows_one_cycle_step_by_step():
    parameter = torch.nn.Parameter(torch.zeros(1))
    made = Optimization(schedule="onecycle")
    optimizer = made.of([parameter], 0.3)
    scheduler = made.scheduler(optimizer, 20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([one_cycle(step, 20, 0.3) for step in range(20)])
    assert optimizer.param_groups[0]["lr"] == rates[-1]


@pytest.mark.parametrize("kind", [LitResnet, MultiHead])
def test_only_training_images_are_augmented(kind, monkeypatch):
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    batch = (images, torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64))
    module = kind(num_classes=3, network="small", optimization=Optimization(augment="shifts", key=(5, "coarse")))
    seen = []
    monkeypatch.setattr(type(module), "prepare", lambda self, images: seen.append(images) or images.float())
    monkeypatch.setattr(type(module), "log_epoch", lambda *_: None)
    module.draw_augmentation(16)
    module.training_step(batch, 0)
    module.training_step(batch, 1)
    module.validation_step(batch, 0)
    draws = draw_shifts(16, generator(5, "coarse", "augment", 0, 0))
    assert torch.equal(seen[0], shifted(images, draws[:, :8])) and torch.equal(seen[1], shifted(images, draws[:, 8:]))
    assert torch.equal(seen[2], images)
    assert torch.equal(kind(num_classes=3, network="small").augmented(images), images)  # off by default


def test_bfloat16_learns_as_float32_does():
    losses = {}
    for amp in (False, True):
        torch.manual_seed(0)
        module = LitResnet(num_classes=2, network="resnet10")
        optimizer = Optimization().of(module.parameters(), 0.05)
        images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        labels = (images.mean((1, 2, 3)) > images.mean()).long()
        losses[amp] = []
        for _ in range(20):
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                loss = torch.nn.functional.cross_entropy(module.network(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[amp].append(float(loss.detach()))
    assert np.mean(losses[True]) == pytest.approx(np.mean(losses[False]), rel=0.02)
    assert losses[True] != losses[False] and losses[False][-1] < losses[False][0] / 2


def test_channels_last_and_larger_tests_are_the_same_training_up_to_rounding(tmp_path, monkeypatch):
    draw, history, sizes = torch.Generator().manual_seed(1), {}, []
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=draw)
    items = Items(images, torch.arange(40) % 2, torch.arange(40) % 2)
    words = "--network small --lr 0.01 --batch_size 16 --max_epochs 2 --threads 1 --device cpu".split()
    monkeypatch.setattr(loop, "Batches", lambda at, size, *more: sizes.append(size) or Batches(at, size, *more))
    for switch in ("", "--channels-last", "--eval-batch 3"):
        config = flags.parse_pipeline([*words, *switch.split(), "--out_dir", str(tmp_path)])
        torch.manual_seed(0)
        module = LitResnet(0.01, num_classes=2, network="small", optimization=Optimization(max_epochs=2))
        folder = tmp_path / f"run{len(history)}"
        folder.mkdir()
        task = Task("coarse", folder, module, (items, np.arange(32)), (items, np.arange(32, 40)), (0, "coarse"), {})
        rows = loop.train(task, config).history
        history[switch] = [row[name] for row in rows for name in ("train_loss", "val_loss", "val_acc")]
        strides = {weight.is_contiguous() for weight in module.parameters() if weight.dim() == 4 and weight.size(1) > 1}
        assert strides == {switch != "--channels-last"}
    assert sizes == [16, 16, 16, 16, 16, 3]  # of training and validation
    for switch in history:
        assert history[switch] == pytest.approx(history[""], rel=1e-4)


def test_flags_of_older_runs_stay_what_they_were():
    default = flags.parse_pipeline([])
    for stage in ("coarse", "sub", "fine-tune", "multi-head", "cluster"):
        assert set(flags.of_stage(default, stage)) == set(flags.STAGE_FLAGS[stage])
    assert flags_hash(flags.of_stage(default, "coarse")) == "202ca890dcd1352c"
    fast = flags.of_stage(flags.parse_pipeline([*FAST, "--no-use_pseudo", "--true-images", "certain"]), "sub")
    assert (fast["augment"], fast["true_images"], fast["schedule"]) == ("shifts", "certain", "onecycle")
    fast = flags.parse_pipeline(["--channels-last", "--eval-batch", "999"])
    for stage in ("coarse", "sub", "fine-tune", "multi-head"):  # another run, not to be mixed with the former
        other = {"channels_last": True, "eval_batch": 999}
        assert flags.of_stage(fast, stage) == flags.of_stage(default, stage) | other
    assert flags.of_stage(fast, "features") == flags.of_stage(default, "features")


def test_a_fast_pipeline_from_the_command_line(tmp_path):
    """Base, uncertainty, and step 2 on the true subclasses of the certain images; stopped and resumed; the record."""
    out = ["--out_dir", tmp_path, "--row", "mnist5k-matched"]
    said = run("pipeline.py", *FAST, *out, "--stage", "coarse", "uncertainty", fresh=True).stdout
    assert "training in float32" in said or "training in bfloat16 autocast" in said
    first = json.loads((tmp_path / "classifier/mnist5k/record.json").read_text())
    assert first["profile"] == "matched" and first["precision"] in said and "accuracy" in first["outcomes"]
    rates = [json.loads(line)["lr"] for line in (tmp_path / "classifier/mnist5k/metrics.jsonl").open()]
    assert rates == pytest.approx([one_cycle(step, 8, 0.1) for step in (0, 4)])
    true = ["--no-use_pseudo", "--true_images", "certain"]
    run("pipeline.py", *FAST, *out, *true, "--stage", "sub", "fine-tune")
    sub = tmp_path / "classifier_sub/mnist5k/true"
    with np.load(tmp_path / "sub_mnist5k/uncertainty.npz") as kept, np.load(tmp_path / "split.npz") as split:
        certain = int(kept["certain"][split["train"]].sum())
    straight = json.loads((sub / "record.json").read_text())
    weights = torch.load(sub / "state-0002.ckpt", weights_only=True)["state_dict"]
    assert straight["details"]["training_images"] == certain < 180 and "sub_accuracy" in straight["outcomes"]
    for name in ("DONE", "record.json", "state-0002.ckpt"):
        (sub / name).unlink()
    assert "going on after epoch 1" in run("pipeline.py", *FAST, *out, *true, "--stage", "sub").stdout
    resumed = json.loads((sub / "record.json").read_text())
    assert (resumed["metrics"], resumed["outcomes"]) == (straight["metrics"], straight["outcomes"])
    again = torch.load(sub / "state-0002.ckpt", weights_only=True)["state_dict"]  # drawn as in the straight run
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    said = run("pipeline.py", *FAST, *out, "--no-use_pseudo", "--stage", "sub", code=2).stderr
    assert "true_images certain there, not set here" in said
