"""Fast training: the narrow network, one cycle, bfloat16, all training images; older runs keep their flags."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hierarchy_cnn_torch import flags, reproduce
from hierarchy_cnn_torch.data import images
from hierarchy_cnn_torch.method.branches import Branches
from hierarchy_cnn_torch.networks import alexnet
from hierarchy_cnn_torch.report import tables
from hierarchy_cnn_torch.training import evaluate, loop
from reproduction.runtime.flags import as_dict
from reproduction.runtime.record import load_record
from reproduction.runtime.run_folder import Stop, flags_hash
from reproduction.runtime.torch_runtime import World, parameter_count

from .test_resume import worker
from .test_runs import ANALYZE, outcomes_agree, pictures, run, tree_file, words  # noqa: F401

ALONE = World(0, 1, torch.device("cpu"))
TAPS = {"conv2": 2, "conv3": 4, "conv4": 10}


def test_flags_of_older_runs_are_those_of_before():
    config = flags.resolve_train(flags.train_parser().parse_args(["--dataset", "cifar10"]))
    analysis = flags.resolve_analyze(flags.analyze_parser().parse_args(["--run", "runs/x"]))
    assert set(flags.SINCE) <= as_dict(config).keys() | as_dict(analysis).keys()
    for every in (as_dict(analysis), as_dict(config)):
        assert all(every[name] == value for name, value in flags.SINCE.items() if name in every)
    assert not flags.of_run(analysis).keys() & flags.SINCE.keys()
    kept = flags.of_run(config)
    assert not kept.keys() & flags.SINCE.keys() and kept == {k: as_dict(config)[k] for k in kept}
    changed = flags.of_run(replace(config, dropout=0.0))
    assert changed == kept | {"dropout": 0.0} and flags_hash(changed) != flags_hash(kept)


def test_a_run_folder_of_an_older_version_is_read_with_the_old_values(tmp_path):
    old = flags.of_run(flags.resolve_train(flags.train_parser().parse_args(["--dataset", "cifar10"])))
    (tmp_path / "config.json").write_text(json.dumps(old))
    read = as_dict(flags.read_config(tmp_path))
    assert {name: read[name] for name in flags.SINCE if name in read} == {
        name: value for name, value in flags.SINCE.items() if name not in ("groupings", "rates")
    }


def test_the_fast_network_pools_first_and_has_the_papers_layers():
    net = alexnet.Network(alexnet.PRESETS["fast"], 3, 100, TAPS, bn=True, seed=1, dropout=0.0).eval()
    assert list(net.response_layers()) == [*alexnet.TAPS, "fc6", "fc7", "logits"]
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits, heads = net(x)
    assert logits.shape == (2, 100) and {tap: value.shape[1] for tap, value in heads.items()} == TAPS
    for name in alexnet.TAPS:
        x = getattr(net, name)(x)
        if name in ("conv1", "conv2", "conv3"):
            x = torch.nn.functional.max_pool2d(x, 2)
        x = getattr(net, f"{name}_bn")(x).relu()
    assert x.shape == (2, 128, 4, 4)
    expected = net.fc8(net.fc7(net.fc6(x.flatten(1)).relu()).relu())
    torch.testing.assert_close(logits, expected)
    aware = parameter_count(net)
    wide = alexnet.Network(alexnet.widened(alexnet.PRESETS["fast"], 3, 100, aware), 3, 100, bn=True)
    assert abs(parameter_count(wide) - aware) / aware < 0.005


def test_one_cycle_sets_the_rate_of_each_step(monkeypatch, tmp_path):
    config = replace(worker.CONFIG, lr_schedule="onecycle")
    rates, smoothings, whole = [], [], loop.total_loss
    step = torch.optim.SGD.step

    def watched(self, *args):
        rates.append(self.param_groups[0]["lr"])
        assert self.param_groups[0]["nesterov"]
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    monkeypatch.setattr(loop, "total_loss", lambda *args: smoothings.append(args[-1]) or whole(*args))
    config = replace(config, label_smoothing=0.2)
    loop.run(config, worker.make_network(), worker.make_data(), worker.BRANCHES, ALONE, Stop(), tmp_path)
    assert rates == [loop.learning_rate(config, 0, at, 8) for at in range(8)] and set(smoothings) == {0.2}
    assert max(rates) == config.lr and rates[0] == config.lr / 2 and rates[-1] == pytest.approx(0.07 * config.lr)


def test_bf16_follows_float32_over_the_first_20_steps(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    data = worker.make_data()
    data.labels = np.arange(20 * 16 + 8) % 4
    data.images = rng.integers(0, 90, (len(data.labels), 16, 16, 3)).astype(np.uint8)
    data.images[:, 4:12, 4:12] += (data.labels[:, None, None, None] * 50).astype(np.uint8)
    data.train, data.val = np.arange(20 * 16), np.arange(20 * 16, 20 * 16 + 8)
    seen: dict = {}
    whole = loop.total_loss
    for amp in (None, "bf16"):
        losses = seen[amp] = []
        monkeypatch.setattr(loop, "total_loss", lambda *args, losses=losses: losses.append(whole(*args)) or losses[-1])
        config = replace(
            worker.CONFIG, amp=amp, epochs=1, lr=0.004, lr_schedule="onecycle", channels_last=True, image_size=16
        )
        branches = Branches(("conv2",), (np.array([0, 0, 1, 1]),))
        net = alexnet.Network(alexnet.PRESETS["fast"], 3, 4, branches.outputs(), bn=True, seed=1, dropout=0.0)
        (tmp_path / str(amp)).mkdir()
        loop.run(config, net, data, branches, ALONE, Stop(), tmp_path / str(amp))
    exact, rounded = (np.array([float(loss.detach()) for loss in seen[amp]]) for amp in (None, "bf16"))
    assert len(exact) == 20 and exact[-5:].mean() < 0.75 * exact[:5].mean()  # it learns
    assert (exact != rounded).all() and abs(rounded.mean() - exact.mean()) <= 0.02 * exact.mean()
    assert (abs(rounded - exact) <= 0.1 * exact).all()


def test_all_training_images_are_trained_on_and_nothing_is_chosen_on_them(monkeypatch):
    words = "--dataset mnist5k --tree official --held-out 300 --train-held-out".split()
    config = flags.resolve_train(flags.train_parser().parse_args(words))
    data, apart = images.load(config), images.load(replace(config, train_held_out=False))
    assert len(data.train) == len(data.labels) and len(data.val) == 300
    assert (data.val == apart.val).all() and len(apart.train) == len(data.labels) - 300
    small = replace(data, test_images=data.test_images[:40], test_labels=data.test_labels[:40], curve=np.arange(40))
    row, predicted = evaluate.evaluate_epoch(config, evaluate.rebuild(config, small), small, ALONE)
    assert row.keys() == {"test/accuracy"} and len(predicted[0]) == 40


@pytest.mark.parametrize("more", [["--folds", "2"], ["--predict", "product"]])
def test_what_needs_held_out_images_is_refused(more):
    with pytest.raises(flags.UserError, match="--train-held-out"):
        flags.resolve_train(flags.train_parser().parse_args(["--train-held-out", *more]))


def test_a_table_over_seeds_of_which_one_lacks_a_variant():
    """The further variants of matched run on fewer seeds than the core ones."""

    def seed(**accuracies):
        curves = {arm: {"metrics": {"test_accuracy": value, "parameters": 9.0}} for arm, value in accuracies.items()}
        counted = [(of, arm, at) for arm in accuracies if arm != "A0" for of, at in (("", 5), ("A0_", 6))]
        metrics = {f"{of}epochs_to_lower_end/{arm}": at for of, arm, at in counted}
        return {"arms": sorted(accuracies), "curves": curves, "metrics": metrics}

    rows = tables.t3([seed(A0=0.5, A1=0.6, A3=0.55), seed(A0=0.6, A1=0.8)])
    head, (flat, aware, deep) = rows[0], rows[1:]
    assert flat[head.index("top-1 error %")] == "45.00 ± 7.07" and deep[head.index("top-1 error %")] == "45.00"
    its, of_flat = (at for at, name in enumerate(head) if "epochs" in name)
    assert (flat[its], aware[its], deep[its]) == ("-", "5.00 ± 0.00", "5.00")
    assert (flat[of_flat], aware[of_flat], deep[of_flat]) == ("-", "6.00 ± 0.00", "6.00")
    assert aware[head.index("accuracy - A0, points")].startswith("+15.00 [") and "+5.00 (one seed)" in deep


def test_both_stages_and_the_analysis_with_the_flags_of_matched(pictures, tree_file, tmp_path):  # noqa: F811
    fast = [
        *reproduce.TRAIN["matched"].split(),
        *reproduce.WHOLE,
        "--tree",
        str(tree_file),
        "--batch",
        "16",
        "--epochs",
        "2",
    ]
    for arm, stage in (
        ("A0", ["--stage", "flat", "--similarity", "weights"]),
        ("A1", ["--stage", "aware"]),
    ):
        answer = run(words(pictures, tmp_path / arm, *stage, *fast))
        assert answer.returncode == 0, answer.stderr
        computes = "bfloat16" if "bfloat16" in answer.stdout else "float32"
        assert computes in answer.stdout.splitlines()[0]
        record = outcomes_agree(tmp_path / arm)
        assert record.precision.startswith(computes) and record.config["lr_schedule"] == "onecycle"
        assert record.metrics[f"{arm}/test_accuracy"].best_on_val is None
        assert f"{arm}/val_accuracy" not in record.metrics and f"{arm}/test_accuracy_product" not in record.metrics
        assert not (tmp_path / arm / "checkpoints" / "best.pt").exists()
    small = "--what confusion,arms,responses --permutations 99 --bootstrap 20 --threads 1 --device cpu".split()
    answer = run(["", str(ANALYZE), "--run", str(tmp_path), *small])
    assert answer.returncode == 0, answer.stderr
    metrics = load_record(tmp_path / "analysis" / "record.json").metrics
    epochs = {name for name in metrics if "epochs_to" in name}
    assert epochs == {"epochs_to_lower_end/A1", "A0_epochs_to_lower_end/A1"}
    assert {"block_lift_fine", "gap/A1", "mantel_fc7"} <= metrics.keys()
