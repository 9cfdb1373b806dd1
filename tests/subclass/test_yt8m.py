import contextlib
import dataclasses
import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduction.runtime.metrics_log import read_metrics
from reproduction.runtime.run_folder import Stop, UserError, write_json
from reproduction.runtime.torch_runtime import World
from subclass_torch.method import losses, neglect
from subclass_torch.yt8m import create as yt8m_create
from subclass_torch.yt8m import data as yt8m_data
from subclass_torch.yt8m import flags as yt8m_flags
from subclass_torch.yt8m import stages as yt8m_stages
from subclass_torch.yt8m import tfrecord
from subclass_torch.yt8m.loop import rate_at, train_stage
from subclass_torch.yt8m.model import VideoNetwork, unit_vectors
from subclass_torch.yt8m.stages import EVAL, PLAIN, TRAIN

from .conftest import ROOT, command, reached, run


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 6), st.integers(0, 4))
def test_class_scores_and_decision(seed, videos, classes, added):
    rng = np.random.default_rng(seed)
    mapping = np.concatenate([np.arange(classes), rng.integers(classes, size=added)])
    scores = torch.tensor(rng.random((videos, len(mapping))))
    fast = losses.class_scores(scores, torch.tensor(mapping), classes)
    slow = [
        [max(row[s] for s in range(len(mapping)) if mapping[s] == c) for c in range(classes)] for row in scores.tolist()
    ]
    assert fast.tolist() == slow
    assert (fast.argmax(1) == losses.decide(scores, torch.tensor(mapping))).all()


def test_learning_rate_falls_in_stairs():
    config = config_for([])
    assert rate_at(3906, config) == 0.001 and rate_at(3907, config) == pytest.approx(0.00095)
    assert rate_at(2 * 3907, config) == pytest.approx(0.001 * 0.95**2)


def test_normalization_twins():
    features = np.random.default_rng(0).normal(size=(4, 1152)).astype(np.float32)
    np.testing.assert_allclose(yt8m_create.unit(features), unit_vectors(torch.tensor(features)).numpy(), atol=1e-6)


def test_creation(videos):
    paths = yt8m_data.shards(str(videos / "train" / "train*.tfrecord"), "x")
    config = config_for(
        [*"--num_classes 6 --num_subclasses 8 --records-per-shard 20".split(), *made_flags(videos / "train_subclass")]
    )
    neglected = [4, 1]
    count = yt8m_create.create(paths, neglected, config)
    made = sorted((videos / "train_subclass").glob("train*.tfrecord"))
    mapping = yt8m_create.read_map(videos / "train_subclass" / "map.npz", 6, 8)
    assert mapping.tolist() == [0, 1, 2, 3, 4, 5, 4, 1]
    before = [tfrecord.parse_example(p) for path in paths for _, p in tfrecord.records(path)]
    after = [tfrecord.parse_example(p) for path in made for _, p in tfrecord.records(path)]
    hit = [bool({1, 4} & set(e["labels"].tolist())) for e in before]
    assert len(after) == count == len(before) + sum(hit)
    assert len(made) == -(-count // 20)
    at, used = 0, set()
    for number, (old, changed) in enumerate(zip(before, hit, strict=True)):
        new = after[at]
        assert mapping[new["labels"]].tolist() == old["labels"].tolist()
        assert (new["mean_rgb"] == old["mean_rgb"]).all() and new["id"] == old["id"]
        used |= set(new["labels"].tolist())
        at += 1
        if changed:
            partner = before[yt8m_create.partner_of(number, len(before), 0)]
            mixed = after[at]
            assert mapping[mixed["labels"]].tolist() == old["labels"].tolist()
            np.testing.assert_allclose(mixed["mean_rgb"], (old["mean_rgb"] + partner["mean_rgb"]) / 2, atol=1e-6)
            np.testing.assert_allclose(mixed["mean_audio"], (old["mean_audio"] + partner["mean_audio"]) / 2, atol=1e-6)
            at += 1
    assert {6, 7} <= used  # both new labels occur
    content = [path.read_bytes() for path in made]
    yt8m_create.create(paths, neglected, config)
    assert [path.read_bytes() for path in sorted((videos / "train_subclass").glob("train*"))] == content


@pytest.mark.parametrize("start", [".", "subclass_torch"])
def test_default_files_are_the_repositorys_and_given_ones_the_working_directorys(videos, tmp_path, monkeypatch, start):
    monkeypatch.setattr(yt8m_data, "REPO_ROOT", tmp_path)
    (tmp_path / "subclass_torch" / "data").mkdir(parents=True)  # a folder of the code has the name of one of the data
    stored = tmp_path / "data" / "yt8m" / "video"
    shutil.copytree(videos / "train", stored / "train")
    classes = ["--num_classes", 6, "--num_subclasses", 8]
    monkeypatch.chdir(tmp_path / start)
    for flags, made in (([], stored / "train_subclass"), (made_flags("mine\\files"), Path("mine/files").absolute())):
        config = config_for([*classes, *flags])
        yt8m_create.create(yt8m_data.shards(config.plain_data_pattern_glob, "x"), [4, 1], config)
        files = {path.resolve().parent for path in yt8m_data.shards(config.train_data_pattern_glob, "x")}
        assert files == {made} and yt8m_create.map_of(config).resolve().parent == made
        assert yt8m_create.read_map(yt8m_create.map_of(config), 6, 8).tolist() == [*range(6), 4, 1]
    monkeypatch.chdir(videos)  # from elsewhere
    config = config_for(classes)
    assert yt8m_create.is_finished(yt8m_data.shards(config.plain_data_pattern_glob, "x"), [4, 1], config)
    assert not list((tmp_path / "subclass_torch" / "data").rglob("*"))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("*.tfrecord", "matches validate00.tfrecord, which is no shard"),  # those files would be removed
        ("*", "matches validate00.tfrecord, which is no shard"),
        ("m*", "matches the subclass map map.npz"),
        ("train*-*.tfrecord", "needs one \\*"),
        ("train[0-9]*.tfrecord", "needs one \\*"),
    ],
)
def test_create_writes_where_its_shards_are_alone_and_removes_nothing_else(videos, pattern, said):
    config = config_for(["--num_classes", 6, "--num_subclasses", 8, *made_flags(videos / "validate")])
    config = dataclasses.replace(config, train_data_pattern_glob=str(videos / "validate" / pattern))
    before = {path: path.read_bytes() for path in videos.rglob("*.tfrecord")}
    with pytest.raises(UserError, match=said):
        yt8m_create.create(yt8m_data.shards(str(videos / "train" / "train*.tfrecord"), "x"), [4, 1], config)
    assert {path: path.read_bytes() for path in videos.rglob("*.tfrecord")} == before


def test_a_gpu_may_round_the_logged_scores_and_a_cpu_may_not():
    logged = {"gap": 0.5, "map": 0.25}
    near, far = logged | {"gap": 0.5 + 1e-7}, logged | {"gap": 0.501}
    for device, expected in (("cpu", [True, False, False, False]), ("cuda", [True, True, False, False])):
        assert [yt8m_stages.are_logged(s, logged, device) for s in (logged, near, far, {"gap": 0.5})] == expected


@pytest.mark.parametrize("written", range(6))
def test_a_killed_create_leaves_no_map_and_is_done_again(videos, monkeypatch, written):
    config = config_for(
        [*"--num_classes 6 --num_subclasses 8 --records-per-shard 20".split(), *made_flags(videos / "train_subclass")]
    )
    paths = yt8m_data.shards(str(videos / "train" / "train*.tfrecord"), "x")
    yt8m_create.create(paths, [4, 1], config)
    files = sorted((videos / "train_subclass").iterdir())
    before, shards = [path.read_bytes() for path in files if path.suffix != ".json"], len(files) - 2
    whole, calls = yt8m_create.write_bytes, []

    def killed(path, content):
        calls.append(path)
        if len(calls) > written:
            raise KeyboardInterrupt
        whole(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(yt8m_create, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt) if written < shards else contextlib.nullcontext():
            yt8m_create.create(paths, [4, 1], config)
    assert yt8m_create.map_of(config).exists() == yt8m_create.is_finished(paths, [4, 1], config) == (written >= shards)
    yt8m_create.create(paths, [4, 1], config)
    assert [path.read_bytes() for path in files if path.suffix != ".json"] == before
    assert yt8m_create.is_finished(paths, [4, 1], config) and not yt8m_create.is_finished(paths, [1, 4], config)
    assert not yt8m_create.is_finished(paths, [4, 1], dataclasses.replace(config, seed=1))
    assert not yt8m_create.is_finished(paths[1:], [4, 1], config)
    files[0].unlink() if written % 2 else files[0].write_bytes(b"")
    assert not yt8m_create.is_finished(paths, [4, 1], config)


def test_a_run_folder_belongs_to_the_flags_that_its_stage_reads(tmp_path):
    first = config_for([])
    for folder in (tmp_path, tmp_path / "stage1"):  # as older versions left it
        folder.mkdir(exist_ok=True)
        write_json(folder / "config.json", yt8m_stages.run_flags(first, tmp_path / "none"))
    stage2 = {name: "other" for name in yt8m_flags.STAGE2_ONLY}
    nothing = {"checkpoint_steps": 7, "num_train_observations": 1, "ignored": ["num_train_observations"]}
    for name, value in (stage2 | nothing | {"seed": 1, "batch_size": 3, "max_steps": 2}).items():
        config = dataclasses.replace(first, **{name: value})
        same = [
            yt8m_stages.run_flags(config, at) == yt8m_stages.run_flags(first, at)
            for at in (tmp_path, tmp_path / "stage1")
        ]
        assert same == [name in nothing, name in nothing or name in stage2], name


def test_maps(tmp_path):
    assert yt8m_create.read_map(tmp_path / "none.npz", 5, 5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="no subclass map"):
        yt8m_create.read_map(tmp_path / "none.npz", 5, 6)
    old = tmp_path / "old.npz"
    np.savez(old, class2subclassDict=np.array({2: 5, 0: 6}, dtype=object), subclass2classLbl=np.zeros(3))
    with pytest.raises(UserError, match="--trust-pickle"):
        yt8m_create.read_map(old, 5, 7)
    assert yt8m_create.read_map(old, 5, 7, trust_pickle=True).tolist() == [0, 1, 2, 3, 4, 2, 0]
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="bad.npz: not a subclass map"):
        yt8m_create.read_map(tmp_path / "bad.npz", 5, 6)
    yt8m_create.write_map(tmp_path / "map.npz", [3], 5)
    with pytest.raises(UserError, match="maps 6 subclasses, --num_subclasses is 9"):
        yt8m_create.read_map(tmp_path / "map.npz", 5, 9)


def made_flags(made):
    return [
        "--train_data_pattern_glob",
        f"{made}/train*.tfrecord",
        "--subclass_labelling_data_save_fname",
        f"{made}/map.npz",
    ]


def flags_for(videos, tmp_path):
    plain = ["--plain-data-pattern-glob", f"{videos}/train/train*.tfrecord"]
    tested = ["--eval_data_pattern_glob", f"{videos}/validate/validate*.tfrecord"]
    small = "--num_classes 6 --num_subclasses 8 --batch_size 16 --shuffle_buffer_size 20 --threads 1 --device cpu"
    return [*plain, *made_flags(videos / "train_subclass"), *tested, *small.split(), "--runs-dir", f"{tmp_path}/runs"]


def config_for(flags):
    return yt8m_flags.resolve(yt8m_flags.make_parser().parse_args([str(word) for word in flags]))


def test_whole_pipeline_and_eval(videos, tmp_path):
    flags = flags_for(videos, tmp_path)
    done = run("notebook_yt8m.py", *flags, "--stage", "all", "--max_steps", "2")
    lines = [line for line in done.stdout.splitlines() if line.startswith("Hit@1: ")]
    assert len(lines) == 1 and "GAP: " in lines[0]
    checkpoint = next((tmp_path / "runs" / "yt8m" / "checkpoints").glob("model-2.pt"))
    again = run("notebook_yt8m.py", *flags, "--eval", checkpoint)
    assert lines[0] in again.stdout and "equal to the logged scores" in again.stdout
    other = run("notebook_yt8m.py", *flags, "--eval", checkpoint, "--top_k", "1", code=2)
    assert "differs from the logged" in other.stdout and "--eval: other files, flags, device" in other.stderr
    done = run("notebook_yt8m.py", *flags, "--stage", "all", "--max_steps", "2", "--checkpoint-steps", "7")
    assert done.stdout.count("finished before") == 3
    for stage, read in (("stage1", {PLAIN}), (".", {TRAIN, EVAL})):
        folder = tmp_path / "runs" / "yt8m" / stage
        record = json.loads((folder / "record.json").read_text())
        assert record["data"] == json.loads((folder / "data.json").read_text())["digests"]
        assert record["data"].keys() == read and not record["data_verified"]
    plain = [*flags, "--num_subclasses", "6", "--train_data_pattern_glob", f"{videos}/train/train*.tfrecord"]
    plain += ["--name", "plain", "--max_steps", "2", "--compat", "official", "--optimizer", "Sgd"]
    done = run("notebook_yt8m.py", *plain)
    assert "--optimizer has no effect" in done.stdout and "Hit@1: " in done.stdout


@pytest.mark.parametrize(
    ("stage", "name", "flag"),
    [
        ("identify", "train", "plain-data-pattern-glob"),
        ("create", "train", "plain-data-pattern-glob"),
        ("train", "train_subclass", "train_data_pattern_glob"),
        ("train", "validate", "eval_data_pattern_glob"),
    ],
)
def test_empty_files_are_refused_before_anything_is_trained(videos, tmp_path, capsys, stage, name, flag):
    shutil.copytree(videos / "train", videos / "train_subclass")
    for path in (videos / name).iterdir():
        path.write_bytes(b"")
    config = config_for([*flags_for(videos, tmp_path), "--num_subclasses", "6", "--stage", stage])
    (tmp_path / "runs" / "yt8m" / "stage1").mkdir(parents=True)
    (tmp_path / "runs" / "yt8m" / "stage1" / "neglected.json").write_text('{"ranking": [0, 1, 2, 3, 4, 5]}')
    with pytest.raises(UserError, match=rf"^--{flag} .*: no records, all matching files \(\d\) are empty"):
        yt8m_stages.run(config)
    assert not list(tmp_path.rglob("record.json")) and not list(tmp_path.rglob("*.pt"))


def test_one_empty_file_among_others_is_counted(videos, capsys):
    (videos / "train" / "train00.tfrecord").write_bytes(b"")
    paths = yt8m_data.shards(str(videos / "train" / "train*.tfrecord"), "train_data_pattern_glob")
    assert len(paths) == 2 and sum(len(batch.labels) for batch in yt8m_data.batches(paths, 8, 6)) == 25
    assert "--train_data_pattern_glob: 1 of 2 files are empty, the first is" in capsys.readouterr().err


def test_adam_is_that_of_tensorflow_1(videos, tmp_path, capsys):
    """A slow oracle of tf.train.AdamOptimizer: epsilon is added to the square root of the uncorrected moment."""
    config = config_for([*flags_for(videos, tmp_path), "--max_steps", "3", "--num_subclasses", "6", "--l2", "none"])
    paths = yt8m_data.shards(config.plain_data_pattern_glob, "x")
    torch.manual_seed(0)
    model = VideoNetwork(6)
    value = model.dense.weight.detach().double().numpy().copy()
    gradients = []
    model.dense.weight.register_hook(lambda gradient: gradients.append(gradient.double().numpy().copy()))

    def criterion(logits, truth):  # gradients near epsilon, where its place shows
        return 1e-5 * losses.multilabel_loss(logits, truth, torch.arange(6), 0.0)

    world = World(0, 1, torch.device("cpu"))
    train_stage(config, "stage2", model, paths, criterion, world, Stop(), tmp_path, observe=False)
    start, m, v = value.copy(), np.zeros_like(value), np.zeros_like(value)
    for t, gradient in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        value -= 0.001 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)
    moved = model.dense.weight.detach().double().numpy() - start
    assert len(gradients) == 3 and 1e-5 < np.abs(moved).mean() < 3e-3
    np.testing.assert_allclose(moved, value - start, atol=2e-8)


def test_non_finite_degrees_are_reported(videos, tmp_path, capsys, monkeypatch):
    config = config_for([*flags_for(videos, tmp_path), "--stage", "identify"])
    monkeypatch.setattr(
        neglect, "batch_degree", lambda *_, **__: (torch.tensor([torch.inf, *[2.0] * 5]), torch.tensor([1.0] * 6))
    )
    yt8m_stages.identify(config, World(0, 1, torch.device("cpu")), Stop(), tmp_path / "stage1")
    assert "stage1: 4 non-finite neglection degrees were left out" in capsys.readouterr().out  # one for each batch
    record = json.loads((tmp_path / "stage1" / "record.json").read_text())
    assert record["details"]["stage1_skipped"] == 4 and record["details"]["ranking"][-1] == 0


def test_broken_shard_stops_the_script(videos, tmp_path):
    path = videos / "train" / "train01.tfrecord"
    path.write_bytes(path.read_bytes()[:-9])
    done = run("notebook_yt8m.py", *flags_for(videos, tmp_path), "--stage", "identify", code=2)
    assert "train01.tfrecord: record 24: truncated" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_kill_and_resume(videos, tmp_path):
    flags = [*flags_for(videos, tmp_path), "--num_subclasses", "6", "--num_epochs", "3"]
    flags += ["--train_data_pattern_glob", f"{videos}/train/train*.tfrecord", "--checkpoint-steps", "1"]
    whole = run("notebook_yt8m.py", *flags, "--name", "whole").stdout.splitlines()[-1]
    folder = tmp_path / "runs" / "killed"
    argv = command("notebook_yt8m.py", *flags, "--name", "killed")
    for step in (1, 6):  # in the first epoch and in the second
        child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not reached(folder / "checkpoints", step):
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.002)
        child.kill()
        child.wait()
        child.stderr.close()
    assert not (folder / "DONE").exists()
    done = run("notebook_yt8m.py", *flags, "--name", "killed")
    assert "stage2: going on at epoch " in done.stdout and done.stdout.splitlines()[-1] == whole
    states = [
        torch.load(tmp_path / "runs" / name / "checkpoints" / "model-12.pt", weights_only=True)
        for name in ("whole", "killed")
    ]
    assert states[0]["scores"] == states[1]["scores"] and whole.startswith("Hit@1: ")
    logs = [read_metrics(tmp_path / "runs" / name) for name in ("whole", "killed")]
    assert logs[0] == logs[1] and [line["step"] for line in logs[0]] == [12]
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name]), name


def test_a_state_from_before_the_shared_loop_goes_on(videos, tmp_path):
    config = config_for([*flags_for(videos, tmp_path), "--num_subclasses", "6", "--num_epochs", "2"])
    paths = yt8m_data.shards(config.plain_data_pattern_glob, "x")

    def train(name, stop_at=0):
        (tmp_path / name).mkdir(exist_ok=True)
        torch.manual_seed(0)
        model, stop, steps = VideoNetwork(6), Stop(), []

        def criterion(logits, truth):
            steps.append(len(truth))
            stop.signal_number = 15 * (len(steps) == stop_at)
            return losses.multilabel_loss(logits, truth, torch.arange(6), 0.0)

        world = World(0, 1, torch.device("cpu"))
        training = train_stage(config, "stage1", model, paths, criterion, world, stop, tmp_path / name, observe=True)
        return training.state["degrees"], training.images, model.state_dict()

    degrees, count, weights = train("calm")
    with pytest.raises(SystemExit):
        train("old", stop_at=6)
    path = max((tmp_path / "old" / "checkpoints").glob("state-*.pt"))
    new = torch.load(path, weights_only=True)
    position = new.pop("position")
    assert (position["epoch"], position["step"]) == (1, 6)  # 55 videos in batches of 16
    torch.save({**new, **position["state"], "epoch": 1, "step": 6, "in_epoch": 2}, path)
    again = train("old")
    assert again[:2] == (degrees, count) and count == 2 * 55
    assert all(torch.equal(value, weights[name]) for name, value in again[2].items())


def test_the_buffer_bounds_what_is_held(videos):
    paths = yt8m_data.shards(str(videos / "train" / "train*.tfrecord"), "x")
    stream = yt8m_data.payloads(paths, seed=0, epoch=0, shuffle=True, buffer=7)
    next(stream)
    assert len(stream.gi_frame.f_locals["waiting"]) == 7
    assert sum(1 for _ in stream) == 54
