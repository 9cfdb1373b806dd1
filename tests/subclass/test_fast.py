"""The fast training of the profile matched: one cycle, the fast network, equal updates, random classes, copies."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from reproduction.launch.pipeline import Request
from reproduction.runtime.loop import Training
from reproduction.runtime.outcomes import Outcomes
from reproduction.runtime.run_folder import Stop, UserError, flags_hash
from reproduction.runtime.torch_runtime import World
from reproduction.runtime.torch_states import States
from subclass_torch import flags, plots, predict, ranking, reproduce
from subclass_torch.data import images
from subclass_torch.data.augment import normalize
from subclass_torch.method.losses import class_scores
from subclass_torch.networks import build
from subclass_torch.training import evaluate, setting, stage2
from subclass_torch.training.loop import run_stage

from . import ddp_worker as worker
from .conftest import TINY, run

REQUEST = Request("matched", "cifar10", (0, 1), "cpu")


def test_new_flags_leave_the_flags_of_older_runs_alone():
    config = flags.parse(["--subclass"])
    kept = flags.of_run(config, stage1=False)
    assert not kept.keys() & flags.SINCE.keys()
    assert flags.of_run(dataclasses.replace(config, schedule="onecycle"), stage1=True)["schedule"] == "onecycle"


def test_whitened_patches_are_uncorrelated():
    torch.manual_seed(0)
    images = torch.nn.functional.avg_pool2d(torch.randn(64, 3, 40, 40), 5, 1, 2)[:, :, 4:36, 4:36] * 4
    network = build.FastVGG(10)
    network.whiten(images)
    out = network.whitening(images)[:, :12].permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.allclose(out.T @ out / len(out), torch.eye(12), atol=0.05)
    assert torch.equal(network.whitening.weight[12:], -network.whitening.weight[:12])
    assert network(images).shape == (64, 10) and network.penultim_layer(
        network.features(out.new_zeros(2, 24, 31, 31))
    ).shape == (2, 128)


def test_the_fast_network_whitens_patches_of_every_class_of_a_folder(tmp_path, monkeypatch):
    """A folder's images are sorted by class: every second one is taken, not the first half."""
    for k in range(20):
        path = tmp_path / "own" / ("train" if k < 10 else "test") / f"c{k % 10 // 5}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (25 * (k % 10), 0, 0)).save(path)
    monkeypatch.setattr(setting, "WHITENING", 5)
    monkeypatch.setattr(build.FastVGG, "whiten", lambda network, inputs: whitened.append(inputs))
    whitened: list[torch.Tensor] = []
    words = ["--dataset", f"folder:{tmp_path / 'own'}", "--model", "vgg_fast", "--data-dir", str(tmp_path)]
    made = setting.Setting(flags.parse(words), World(0, 1, torch.device("cpu")), Stop())
    made.network("stage1", 2)
    mean, std = made.constants
    reds = whitened[0][:, 0, 0, 0] * std[0] + mean[0]
    assert reds.round().tolist() == [0, 50, 100, 150, 200]


def test_random_classes_are_others_and_the_same_for_each_seed():
    assert stage2.random_classes([3, 5], 10) == stage2.random_classes([5, 3], 10)
    assert not set(stage2.random_classes([3, 5], 10)) & {3, 5}
    assert len(set(stage2.random_classes(list(range(5)), 10))) == 5


def test_a_run_is_stable_from_the_epoch_after_the_last_other_choice():
    once, never, late = [[3.0, 2.0, 1.0]], [[3.0, 1.0, 1.0], [2.0, 1.5, 1.0]], [[1.0, 2.0, 1.0], [5.0, 1.0, 1.0]]
    assert [ranking.stable_from(degrees, 1) for degrees in (once, never, late)] == [1, 1, 2]
    back = [[2.0, 1.0, 0.0], [0.0, 4.0, 0.0], [6.0, 0.0, 0.0]]  # means: 2 1 0, 1 2.5 0, 2.7 1.7 0
    assert ranking.stable_from(back, 1) == 3
    last_two_alike = [[0.0, 9.0], [2.0, 1.0], [2.0, 1.0]]  # means: class 1 in the end; of single epochs: class 0
    assert [ranking.stable_from(last_two_alike, 1, compound) for compound in (False, True)] == [1, 2]


@pytest.mark.parametrize(
    ("ends", "images"),
    [
        ([8, 16], 2 * 1024),  # four processes leave out the batch of one image
        ([9, 18], 2 * 1025),
        ([9, 10], 1025 + 128),
    ],
)
def test_images_of_a_last_batch_that_is_left_out_are_not_counted(tmp_path, ends, images):
    states = States(tmp_path, World(0, 1, torch.device("cpu")), {})
    training = Training("stage2", tmp_path, ends, 128, states, Stop())
    for _ in training.epochs():
        for _ in training.batches(range(1025)):
            pass
        training.end_epoch({})
    assert training.images == images


def test_the_mean_ranking_orders_by_rank_then_theta():
    ranks, mean, order = ranking.mean_ranking([[3.0, 2.0, 1.0], [2.0, 9.0, 1.0]])
    assert ranks == [[1, 2, 3], [2, 1, 3]] and mean == [1.5, 1.5, 3.0] and order == [1, 0, 2]
    assert ranking.correlation([1, 2, 3], [3, 2, 1]) == -1 and ranking.correlation([1, 2, 3], [1, 2, 3]) == 1


def test_every_variant_takes_the_one_file_which_is_made_before():
    commands = reproduce.commands_of(REQUEST)
    alone = [at for at, command in enumerate(commands) if command.worker is None]
    assert [commands[at].script for at in alone] == [reproduce.RANKING]
    before, after = commands[: alone[0]], commands[alone[0] + 1 :]
    assert len(before) == reproduce.RANKED and all("identify" in command.flags for command in before)
    file = f"runs/subclass/{commands[alone[0]].row}/mean/neglected.json"
    assert [command.row for command in after] == 2 * [
        "cifar10-matched-baseline",
        "cifar10-matched",
        "cifar10-matched-doubled",
        "cifar10-matched-random",
    ]
    for command in after:
        words = list(command.flags)
        assert words[words.index("--neglected") + 1] == file
        assert words[words.index("--max_steps") + 1] == str(reproduce.UPDATES)
        flags.parse(words)  # valid
    further = reproduce.commands_of(dataclasses.replace(REQUEST, all_rows=True))[len(commands) :]
    own = [command for command in further if command.row.startswith("cifar10-")]
    assert [command.row.removeprefix("cifar10-matched-") for command in own] == 2 * list(reproduce.FURTHER)
    hundred = reproduce.commands_of(dataclasses.replace(REQUEST, dataset="cifar100"))
    assert further[len(own) :] == hundred and all(command.row.startswith("cifar100-") for command in hundred)


@pytest.mark.parametrize("profile", ["matched", "cpu", "smoke", "paper"])
@pytest.mark.parametrize("extra", ["", "--compat official", "--compat=official", "--always_subclass", "--gamma 0.3"])
def test_a_baseline_is_a_plain_network_and_is_compared_with_only_if_it_is_trained(profile, extra):
    request = dataclasses.replace(REQUEST, profile=profile, extra=tuple(extra.split()), all_rows=profile == "matched")
    commands = reproduce.commands_of(request)
    trained = {f"runs/subclass/{command.row}/{command.folder.name}" for command in commands}
    plain, first_stages = set(), {}
    for command in commands:
        if command.script == reproduce.SCRIPT:
            config = flags.parse(list(command.flags))
            if config.stage == "identify":
                first_stages[command.folder] = flags_hash(flags.of_run(config, stage1=True))
            elif config.stage == "train" and not config.neglected:  # else stage 2 refuses its stage 1
                assert first_stages[command.folder] == flags_hash(flags.of_run(config, stage1=True))
            assert config.subclass == ("--subclass" in command.flags)
            assert config.beside is None or config.beside in trained
            plain |= set() if config.subclass else {command.row}
    assert bool(plain) == (extra in ("", "--gamma 0.3"))
    if profile == "matched" and not plain:
        with pytest.raises(UserError, match="--rows settings: trains the plain network"):
            reproduce.commands_of(dataclasses.replace(request, settings=True))


def test_agreement_against_chance():
    ranks = [[1, 2, 3, 4], [1, 2, 4, 3], [2, 1, 3, 4]]
    alike, same = ranking.agreement(ranks, [0, 1, 2, 3], 2)
    assert same == 1 and alike == pytest.approx((0.8 + 0.8 + 0.6) / 3)
    chance = ranking.by_chance(10, 10, 2)
    assert 0.03 < chance["rank_correlation"] < 0.15 and 0.1 <= chance["same_classes"] <= 0.4


def test_bf16_follows_float32_over_the_first_20_steps(tmp_path):
    world, losses = World(0, 1, torch.device("cpu")), {}
    for amp in (None, "bf16"):
        torch.manual_seed(1)
        model = build.place(build.FastVGG(worker.CLASSES, (8, 8, 16)), world.device, True)
        task = dataclasses.replace(worker.make_task(world.device), epochs=20, observe=False, first_test=99)
        changes = {"batch_size": 57, "schedule": "onecycle", "learning_rate": 0.01, "channels_last": True, "amp": amp}
        folder = tmp_path / str(amp)
        folder.mkdir()
        config = dataclasses.replace(worker.CONFIG, **changes)
        training = run_stage(task, config, model, world, Stop(), folder, folder / "log.csv")
        losses[amp] = [row["loss"] for row in training.history]
    assert len(losses[None]) == 20 and losses[None][-1] < 0.9 * losses[None][0]
    np.testing.assert_allclose(losses["bf16"], losses[None], rtol=0.02)
    assert losses["bf16"] != losses[None]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of the variants' runs; while it is in use, vgg_fast has half the width and no confusions are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.ARGUMENTS, "vgg_fast", {"widths": (16, 32, 64)})
        patch.setattr(plots, "confusions", lambda *_: None)  # test_stages looks at them
        yield tmp_path_factory.mktemp("variants")


@pytest.fixture(scope="module")
def variants(runs):
    """Records of the profile's commands at a small size, by their last word; `file` is the one of neglected classes."""
    small = [*TINY, "--model", "vgg_fast", "--schedule", "onecycle", "--amp", "auto", "--channels-last"]
    small += ["--eval-batch", "100", "--runs-dir", runs]
    for seed in (0, 1):
        words = ["--subclass", "--stage", "identify", "--epochs_class", 1, "--seed", seed, "--name", f"rank/seed{seed}"]
        run("notebook.py", *small, *words, "--row", "mnist5k-matched-ranking")
    folders = [runs / "rank" / "seed0", runs / "rank" / "seed1"]
    words = ["--runs", *folders, "--runs-dir", runs, "--name", "rank/mean", "--row", "mnist5k-matched-ranking"]
    typo = run("ranking.py", *words, "--runs", folders[0], runs / "none", code=2)
    assert "stage 1 has not finished" in typo.stderr
    assert "--classes 11: the runs rank 10 classes" in run("ranking.py", *words, "--classes", 11, code=2).stderr
    printed = json.loads(run("ranking.py", *words, "--print-config").stdout)
    assert printed["runs"] == [str(folder) for folder in folders] and printed["classes"] == 2
    assert not (runs / "rank" / "mean").exists()  # neither has left a folder
    run("ranking.py", *words)
    assert "finished before" in run("ranking.py", *words).stdout
    small += ["--neglected", runs / "rank" / "mean" / "neglected.json", "--max_steps", 9, "--epochs", 5]
    found = {"ranking": json.loads((runs / "rank" / "mean" / "record.json").read_text())}
    for name, more in {**reproduce.PLAIN, **reproduce.SPLIT}.items():
        method = ["--subclass", "--stage", "train"] if name in reproduce.SPLIT else []
        row = f"mnist5k-matched-{name}".rstrip("-")
        said = run("notebook.py", *small, *more, *method, "--name", row, "--row", row)
        found[name] = json.loads((runs / row / "record.json").read_text())
        assert f"{found[name]['details']['updates']:,} updates" in said.stdout
    return found


def test_every_variant_makes_the_same_updates_from_the_same_file(variants):
    neglected = variants["ranking"]["details"]["neglected"]
    assert variants["ranking"]["profile"] == "matched" and len(neglected) == 2
    for name in (*reproduce.CORE, "copied", "undoubled", "softmax"):
        details = variants[name]["details"]
        assert details["updates"] == 9 and details["neglected"] == neglected
        assert details["images_seen"] == {400: 400 + 2 * 64, 480: 480 + 64}[details["training_images"]]
    assert variants["epochs"]["details"]["updates"] == 5 * 8
    outputs = {name: variants[name]["details"]["subclasses"] for name in reproduce.CORE}
    assert outputs == {"baseline": 10, "": 12, "doubled": 10, "random": 12}
    images = {name: variants[name]["details"]["training_images"] for name in ("", "copied", "undoubled")}
    assert images == {"": 480, "copied": 480, "undoubled": 400}
    assert not set(variants["random"]["details"]["repartitioned"]) & set(neglected)
    assert variants[""]["details"]["repartitioned"] == neglected


def test_outcomes_are_those_of_the_metric(variants):
    names = {"ccr", "neglected_accuracy", "random_accuracy", *(f"class_accuracy/{c}" for c in range(10))}
    for name in (*reproduce.CORE, *reproduce.FURTHER):
        record = variants[name]
        assert record["outcomes"].keys() == names
        for metric, stored in record["outcomes"].items():
            right = Outcomes(**stored).bits()
            if metric == "ccr" or metric.startswith("class"):
                assert right.mean() == pytest.approx(record["metrics"][metric]["last"])
        assert Outcomes(**record["outcomes"]["neglected_accuracy"]).bits().sum() == sum(
            Outcomes(**record["outcomes"][f"class_accuracy/{c}"]).bits().sum() for c in record["details"]["neglected"]
        )


def test_predict_decides_as_the_run_did(variants, runs, tmp_path):
    """From image files, through its own reading, with the scores of the run's own images and normalisation."""
    own, names = images.load(flags.parse(TINY)), []
    right = Outcomes(**variants["epochs"]["outcomes"]["ccr"]).bits()
    (checkpoint,) = (runs / "mnist5k-matched-epochs" / "checkpoints").glob("*_last.pt")
    network, content = evaluate.load_network(checkpoint, torch.device("cpu"))
    inputs = normalize(torch.tensor(own.test_images[::80]), torch.tensor(own.mean), torch.tensor(own.std))
    p = torch.sigmoid(build.scores(network, inputs.contiguous()))
    for at, scores in zip(range(0, 1000, 80), class_scores(p, content["subclass2class"], 10), strict=True):
        Image.fromarray(own.test_images[at, 2:30, 2:30, 0]).save(tmp_path / "digit.png")  # without the border
        (name, score, subclass), (_, second, _) = predict.predict(checkpoint, tmp_path / "digit.png", top=2)
        assert (name, score) == (own.class_names[scores.argmax()], pytest.approx(float(scores.max()), abs=1e-4))
        assert own.class_names[content["subclass2class"][subclass]] == name
        if score - second > 0.05:  # with bfloat16, where this CPU has it, the run may decide near ties otherwise
            names.append(name)
            assert (name == own.class_names[own.test_labels[at]]) == right[at], at
    assert len(names) >= 8 and len(set(names)) >= 4 and 0.3 < right.mean() < 0.9  # so agreement is not chance


def test_scores_of_a_softmax_network_are_one_distribution(variants, runs, tmp_path):
    Image.fromarray(images.load(flags.parse(TINY)).test_images[0, 2:30, 2:30, 0]).save(tmp_path / "digit.png")
    for name, one in (("softmax", True), ("baseline", False)):
        (checkpoint,) = (runs / f"mnist5k-matched-{name}" / "checkpoints").glob("*_last.pt")
        total = sum(score for _, score, _ in predict.predict(checkpoint, tmp_path / "digit.png", top=10))
        assert (abs(total - 1) < 1e-5) == one


def test_neglect_is_compared_with_the_final_error_of_the_plain_network(variants):
    record = variants["baseline"]
    theta = record["details"]["theta"]
    errors = [1 - record["metrics"][f"class_accuracy/{c}"]["last"] for c in range(10)]
    ranks = [
        [sum(a < b for a in values) + sum(a == b for a in values) / 2 for b in values] for values in (theta, errors)
    ]
    expected = np.corrcoef(ranks)[0, 1]
    assert record["metrics"]["neglect_error_correlation"]["last"] == pytest.approx(expected)
    assert "neglect_error_correlation" not in variants[""]["metrics"]


def test_a_held_out_part_replaces_the_test_split(tmp_path):
    run("notebook.py", *TINY, "--holdout", 300, "--max_steps", 1, "--runs-dir", tmp_path, "--name", "held")
    record = json.loads((tmp_path / "held" / "record.json").read_text())
    assert record["outcomes"]["ccr"]["count"] == 300 and record["config"]["holdout"] == 300
    error = run("notebook.py", *TINY, "--holdout", 99999, "--runs-dir", tmp_path, "--name", "all", code=2).stderr
    assert "--holdout 99999: mnist5k has" in error
