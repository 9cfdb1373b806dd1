"""Learning-rate rule, early stopping, losses, schedules, splits, batches."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from finegrained_torch.data import images as data
from finegrained_torch.data import splits
from finegrained_torch.training import learning_rate
from finegrained_torch.training.loop import stops_early
from finegrained_torch.training.modules import (
    Callback,
    LightningModule,
    LitResnet,
    MultiHead,
    Optimization,
    Trainer,
    quiet,
)
from reproduction.runtime.run_folder import UserError


def grid():
    return [10 ** (-8 + 0.08 * i) for i in range(100)]


@pytest.mark.parametrize("seed", range(5))
def test_index_rule_equals_numpys_gradient(seed):
    losses = np.random.default_rng(seed).normal(size=100).cumsum()
    expected = int(np.gradient(losses[10:-1]).argmin()) + 10
    assert learning_rate.steepest_by_index(losses.tolist()) == expected


@pytest.mark.parametrize(("at", "rate"), [(75, 0.01), (80, 0.0251189), (81, 0.0301995)])
def test_rates_of_the_notebook_are_points_of_the_grid(at, rate):
    losses = [3 - 1 / (1 + math.exp(-(i - at))) for i in range(100)]  # steepest at step `at`
    found, source = learning_rate.suggestion(grid(), losses)
    assert found == pytest.approx(rate, rel=1e-5) and source == "finder"


def test_per_index_is_not_per_rate():
    """Divided by the learning-rate spacing the same curve would give a far smaller rate."""
    losses = [2 - 0.01 * i - 1 / (1 + math.exp(-(i - 80))) for i in range(100)]
    found, _ = learning_rate.suggestion(grid(), losses)
    modern = grid()[10 + int(np.gradient(losses[10:-1], grid()[10:-1]).argmin())]
    assert found > 1e3 * modern


def test_ends_are_dropped_and_non_finite_points_left_out():
    losses = [100.0] + [2.0] * 9 + [1.9, 1.8, 1.2, 1.1] + [1.0] * 10 + [-50.0]
    assert learning_rate.steepest_by_index(losses) == 11
    losses[11] = math.nan  # its neighbours are then next to each other
    assert learning_rate.steepest_by_index(losses) == 10
    for short in ([], [1.0] * 12, [math.nan] * 100):
        assert learning_rate.suggestion(grid(), short) == (learning_rate.FALLBACK, "fallback")
    assert learning_rate.steepest_by_index([math.inf] * 40 + [3.0, 2.0, 1.0] + [math.inf] * 5) == 40


def items(count=120, size=8, classes=3):
    generator = torch.Generator().manual_seed(5)
    coarse = torch.arange(count) % classes
    images = torch.randint(0, 60, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    images += (coarse * 80).byte()[:, None, None, None]
    return data.Items(images, coarse.clone(), coarse)


def test_range_test_on_a_network_leaves_it_as_it_was(tmp_path):
    quiet()
    module = LitResnet(num_classes=3, network="small", mean=(0.5,) * 3, std=(0.3,) * 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batches = data.Batches(np.arange(120), 40, (0, "test"))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=tmp_path, enable_model_summary=False, max_epochs=50, **options)
    curve = learning_rate.find(module, data.loader(items(), batches), trainer)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.learning_rate == 0.1 and not list(tmp_path.iterdir())
    assert 20 < len(curve["lr"]) <= 100 and len(curve["loss"]) == len(curve["lr"])
    points = [10 ** (-8 + 0.08 * i) for i in (0, *range(2, len(curve["lr"]) + 1))]  # Lightning leaves out the second
    np.testing.assert_allclose(curve["lr"], points)
    at = curve["lr"].index(curve["suggestion"])
    assert at == learning_rate.steepest_by_index(curve["loss"]) and curve["source"] == "finder"


class Scripted(LightningModule):
    """Logs a scripted validation loss."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.losses[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stopping(Callback):
    """Our rule, asked at the end of each epoch as the training does."""

    def __init__(self, patience):
        self.patience, self.losses = patience, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.losses.append(float(trainer.callback_metrics["val_loss"]))
        trainer.should_stop = stops_early(self.losses, self.patience, trainer.min_epochs)


def epochs_with(stopping, losses, tmp_path, least=12, most=20):
    quiet()
    loader = DataLoader(TensorDataset(torch.zeros(2, 1)))
    trainer = Trainer(
        max_epochs=most,
        min_epochs=least,
        callbacks=[stopping],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(Scripted(losses), loader, loader)
    return trainer.current_epoch


def test_a_plateau_before_min_epochs_does_not_end_the_training(tmp_path):
    """Plateau in epochs 4 to 9, then improvement: stock Lightning 2.6 stops at 12; as in 1.5.10 it goes to 20."""
    losses = [1.0, 0.9, 0.8] + [0.85] * 6 + [0.7 - 0.01 * i for i in range(11)]
    from lightning.pytorch.callbacks import EarlyStopping

    assert epochs_with(EarlyStopping("val_loss", patience=4), losses, tmp_path) == 12
    assert epochs_with(Stopping(4), losses, tmp_path) == 20


@pytest.mark.parametrize(
    ("losses", "least", "expected"),
    [
        ([1.0] * 20, 0, 5),
        ([1.0] * 20, 12, 12),  # a plateau that lasts ends it at min_epochs
        ([1 - 0.01 * i for i in range(14)] + [2.0] * 6, 12, 18),  # a later one after patience
        ([1.0, math.nan, 0.9, math.nan], 3, 4),  # a loss that is not finite ends it, not before min_epochs
    ],
)
def test_epochs_after_which_a_training_ends(losses, least, expected):
    ends = [count for count in range(1, len(losses) + 1) if stops_early(losses[:count], 4, least)]
    assert ends[0] == expected


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("restarts", lambda e: 1e-6 + (0.1 - 1e-6) * (1 + math.cos(math.pi * (e % 10) / 10)) / 2),
        ("cosine", lambda e: 1e-6 + (0.1 - 1e-6) * (1 + math.cos(math.pi * e / 24)) / 2),
        ("constant", lambda e: 0.1),
    ],
)
def test_schedules(schedule, expected):
    made = Optimization(schedule=schedule, max_epochs=24)
    optimizer = made.of([torch.nn.Parameter(torch.zeros(1))], 0.1)
    scheduler = made.scheduler(optimizer)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 5e-4)
    for epoch in range(24):
        assert group["lr"] == pytest.approx(expected(epoch), rel=1e-6), epoch
        optimizer.step()
        if scheduler:
            scheduler.step()
    adam = Optimization(optimizer="adam").of([torch.nn.Parameter(torch.zeros(1))], 1e-3)
    assert isinstance(adam, torch.optim.Adam) and adam.defaults["weight_decay"] == 1e-4


def batch(count=12):
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 5, torch.arange(count) % 2


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_multi_head_loss_and_gradients(alpha, monkeypatch):
    module = MultiHead(num_classes=5, num_superclasses=2, alpha=alpha, network="small", mean=(0.5,) * 3, std=(0.2,) * 3)
    monkeypatch.setattr(module, "log", lambda *a, **k: None)
    images, fine, coarse = batch()
    loss = module.training_step((images, fine, coarse), 0)
    sub, sup = module(images)
    expected = alpha * F.nll_loss(sup, coarse) + (1 - alpha) * F.nll_loss(sub, fine)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert bool(module.clsub.weight.grad.any()) == (alpha < 1)
    assert bool(module.clsup.weight.grad.any()) == (alpha > 0)
    assert module.network.layers[0].weight.grad.any()


@pytest.mark.parametrize(("mode", "outputs"), [("sup", 2), ("sub", 5)])
def test_one_head_learns_the_label_of_its_mode(mode, outputs, monkeypatch):
    module = LitResnet(num_classes=outputs, mode=mode, network="small")
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **k: logged.update({name: value}))
    images, fine, coarse = batch()
    loss = module.training_step((images, fine, coarse), 0)
    scores = module(images)
    torch.testing.assert_close(loss, F.nll_loss(scores, fine if mode == "sub" else coarse))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(12))
    assert logged["train_acc"] == (scores.argmax(1) == (fine if mode == "sub" else coarse)).float().mean()


def test_dropout_is_a_function_of_seed_stage_and_step():
    module = LitResnet(num_classes=5, network="small", optimization=Optimization(key=(1, "fine-tune")))
    module.fine_tuning(2, dim_sub=5, deep_layer=True)
    draws = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        module.on_train_batch_start(None, 0)
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


@pytest.mark.parametrize("count", [10, 99, 50_000])
def test_fixed_split_is_disjoint_and_whole(count):
    train, val = splits.fixed_split(count, 42)
    assert len(val) == count // 10 and sorted([*train, *val]) == list(range(count))
    again, _ = splits.fixed_split(count, 42)
    assert np.array_equal(train, again)
    assert count == 10 or not np.array_equal(train, splits.fixed_split(count, 43)[0])


def test_legacy_split_overlaps_as_counted_in_the_release():
    train, val = splits.legacy_split(50_000, 42, "coarse")
    assert len(train) == 45_000 and len(val) == 5_000
    assert len(np.intersect1d(train, val)) == 4_489
    other, _ = splits.legacy_split(50_000, 42, "sub")
    assert not np.array_equal(train, other)
    assert [len(part) for part in splits.legacy_split(45_000, 42, "sub")] == [40_500, 4_500]


def test_split_is_stored_and_another_one_refused(tmp_path):
    path = tmp_path / "split.npz"
    train, _ = splits.stored_split(path, 100, 1)
    assert np.array_equal(splits.stored_split(path, 100, 1)[0], train)
    with pytest.raises(UserError, match="holds another split"):
        splits.stored_split(path, 100, 2)
    other, _ = splits.stored_split(path, 100, 2, overwrite=True)
    assert np.array_equal(splits.stored_split(path, 100, 2)[0], other) and not np.array_equal(other, train)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="not a readable split"):
        splits.stored_split(path, 100, 1)
    with pytest.raises(UserError, match="9 training images: at least 10"):
        splits.fixed_split(9, 0)


def test_batches_are_a_permutation_keyed_on_stage_and_epoch():
    positions = np.arange(5, 35)
    batches = data.Batches(positions, 8, (0, "coarse"))

    def order(epoch, made=batches):
        made.set_epoch(epoch)
        return torch.cat(list(made)).tolist()

    assert sorted(order(0)) == positions.tolist() and len(batches) == 4
    assert order(0) == order(0) != order(1)
    assert order(0, data.Batches(positions, 8, (0, "sub"))) != order(0)
    assert order(0, data.Batches(positions, 8, (1, "coarse"))) != order(0)
    assert order(3, data.Batches(positions, 8, None)) == positions.tolist()
    loader = data.loader(items(), data.Batches(np.arange(120), 50, None))
    assert [len(fine) for _, fine, _ in loader] == [50, 50, 20]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("least", [1, 2])
def test_a_last_batch_that_is_too_small_is_left_out(processes, least, monkeypatch):
    monkeypatch.setattr(data.Batches, "_processes", staticmethod(lambda: (processes - 1, processes)))
    for count in range(8, 33):
        sizes = [len(part) for part in data.Batches(np.arange(count), 8, (0, "x"), least)]
        assert sizes[: count // 8] == [8 // processes] * (count // 8) and min(sizes) >= least
        assert len(sizes) == count // 8 + (count % 8 >= least * processes)


@pytest.mark.parametrize(("count", "full"), [(30, 4), (25, 3), (26, 4)])
def test_processes_share_every_batch(count, full, monkeypatch):
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(data.Batches, "_processes", staticmethod(lambda rank=rank: (rank, 2)))
        shares.append([part.tolist() for part in data.Batches(np.arange(count), 8, (0, "x"))])
    monkeypatch.setattr(data.Batches, "_processes", staticmethod(lambda: (0, 1)))
    alone = [part.tolist() for part in data.Batches(np.arange(count), 8, (0, "x"))]
    assert len(shares[0]) == len(shares[1]) == full
    for number in range(full):
        assert sorted(shares[0][number] + shares[1][number]) == sorted(alone[number])
