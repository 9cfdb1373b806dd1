"""The real scripts in subprocesses: both stages, hand-over, evaluation, kill -9 and resume, bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from PIL import Image

from subclass_torch.training.evaluate import load_network

from .conftest import ROOT, TINY, command, reached, run

VARYING = {"seconds", "test_seconds"}


def metrics(folder):
    """metrics.jsonl without the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]


def weights(folder, last=True):
    (path,) = [p for p in (folder / "checkpoints").glob("mnist5k*.pt") if p.stem.endswith("_last") == last]
    return torch.load(path, weights_only=True)


def same_run(a, b):
    for stage in ("stage1", "."):
        if (a / stage / "metrics.jsonl").exists():
            assert metrics(a / stage) == metrics(b / stage)
    for last in (True, False):
        first, second = weights(a, last), weights(b, last)
        assert first["accuracy"] == second["accuracy"]
        for name, value in first["state_dict"].items():
            assert torch.equal(value, second["state_dict"][name]), name
    degrees = [
        json.loads(next((x / "stage1" / "logs").glob("*_neglected.json")).read_text())["degrees"]
        for x in (a, b)
        if (x / "stage1").exists()
    ]
    assert all(d == degrees[0] for d in degrees)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Baseline and both stages of the method, undisturbed."""
    runs = tmp_path_factory.mktemp("whole")
    run("notebook.py", *TINY, "--runs-dir", runs, "--name", "base", fresh=True)
    said = run(
        "notebook.py", *TINY, "--subclass", "--cutout", "--runs-dir", runs, "--name", "sub", "--beside", runs / "base"
    )
    return runs, said


def test_what_a_run_writes(whole):
    runs, said = whole
    assert "stage1: neglected classes: " in said.stdout and "CCR last " in said.stdout
    folder = runs / "sub"
    record = json.loads((folder / "record.json").read_text())
    assert record["stage"] == "stage2" and record["details"]["subclasses"] == 12
    assert record["details"]["training_images"] == 400 + 2 * 40
    neglected = record["details"]["neglected"]
    gains = json.loads((folder / "gains.json").read_text())
    base = json.loads((runs / "base" / "record.json").read_text())
    for row in gains["classes"]:
        key = f"class_accuracy/{row['class']}"
        assert row["neglected"] == (row["class"] in neglected)
        assert row["after"] == record["metrics"][key]["last"] and row["before"] == base["metrics"][key]["last"]
    assert record["metrics"]["ccr"]["best_on_test"] >= record["metrics"]["ccr"]["last"]
    assert record["metrics"]["neglected_classes"]["last"] == 2
    for item in record["artefacts"]:
        assert (folder / item["path"]).exists(), item
    first = json.loads((folder / "stage1" / "record.json").read_text())
    assert (folder / "stage1" / first["artefacts"][0]["path"]).stat().st_size > 5000
    listing = json.loads((folder / "stage1" / first["artefacts"][1]["path"]).read_text())
    assert np.array(listing["degrees"]).shape == (2, 10) and listing["counts"] == [40] * 10
    assert listing["ranking"][:2] == neglected and min(listing["theta"]) >= 1
    np.testing.assert_allclose(np.mean(listing["degrees"], 0), listing["theta"])
    log = next((folder / "logs").glob("mnist5k_vgg_small_*.csv")).read_text().splitlines()
    assert re.fullmatch(r"mnist5k_vgg_small_\d{8}_\d{6}", weights_id(folder))
    assert log[0].startswith("epoch,lr,trn_acc,tst_acc") and len(log) == 3
    assert [line.split(",")[0] for line in log[1:]] == ["0", "1"]  # as released; metrics.jsonl counts from 1
    assert [line["step"] for line in metrics(folder)] == [1, 2]
    with np.load(folder / "partition.npz") as made:
        assert made["subclass2class"].tolist() == [*range(10), *neglected]
    assert json.loads((runs / "base" / "record.json").read_text())["stage"] == "baseline"
    assert "/tmp" not in (folder / "record.json").read_text()


def weights_id(folder):
    return json.loads((folder / "id.json").read_text())["id"]


def test_same_flags_do_nothing_other_flags_are_refused(whole):
    runs, _ = whole
    again = run("notebook.py", *TINY, "--runs-dir", runs, "--name", "base")
    assert "finished before" in again.stdout and "epoch 1" not in again.stdout
    other = run("notebook.py", *TINY, "--runs-dir", runs, "--name", "base", "--seed", "7", code=2)
    assert "holds a run with other flags" in other.stderr


@pytest.mark.parametrize("file", ["neglection.png", "gains.png"])
def test_a_picture_that_fails_does_not_cost_the_record(whole, unfinished, file):
    picture = unfinished(whole[0], file)
    runs = next(folder for folder in picture.parents if folder.name == whole[0].name)
    flags = [*TINY, "--subclass", "--cutout", "--runs-dir", runs, "--name", "sub", "--beside", runs / "base"]
    said = run("notebook.py", *flags)
    assert "the record is complete, but a picture" in said.stderr and "epoch 1" not in said.stdout
    before, after = (json.loads((at / "sub" / "record.json").read_text())["metrics"] for at in (whole[0], runs))
    assert before == after and (picture.parent / "record.json").exists()
    picture.rmdir()
    run("notebook.py", *flags)
    assert picture.is_file() and run("notebook.py", *flags).stdout.count("finished before") == 2


def test_eval_returns_the_logged_accuracy(whole):
    runs, _ = whole
    record = json.loads((runs / "sub" / "record.json").read_text())
    last = next((runs / "sub" / "checkpoints").glob("*_last.pt"))
    for target, key in ((last, "last"), (runs / "sub", "best_on_test")):
        said = run("notebook.py", "--eval", target, "--threads", "1", "--device", "cpu", fresh=key == "last").stdout
        percent = f"{100 * record['metrics']['ccr'][key]:.4f} %"
        assert f"CCR {percent} on 1,000 test images of mnist5k, equal to the logged {percent}" in said


def test_seeds_differ_and_repeat(whole, tmp_path):
    runs, _ = whole
    run("notebook.py", *TINY, "--runs-dir", tmp_path, "--name", "again")
    same_run(runs / "base", tmp_path / "again")
    run("notebook.py", *TINY, "--runs-dir", tmp_path, "--name", "other", "--seed", "1")
    assert metrics(tmp_path / "other") != metrics(runs / "base")


def kill_in(checkpoints, step, *flags):
    """Starts the script and kills it with SIGKILL as soon as the folder holds a state of this step or a later one."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command("notebook.py", *flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=env
    )
    deadline = time.monotonic() + 120
    while not reached(checkpoints, step):
        assert child.poll() is None, child.stdout.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_kill_and_resume_in_both_stages(whole, tmp_path):
    runs, _ = whole
    flags = [*TINY, "--subclass", "--cutout", "--runs-dir", tmp_path, "--name", "sub", "--checkpoint-steps", "3"]
    folder = tmp_path / "sub"
    kill_in(folder / "stage1" / "checkpoints", 3, *flags)
    assert not (folder / "stage1" / "DONE").exists()
    kill_in(folder / "stage1" / "checkpoints", 9, *flags)
    kill_in(folder / "checkpoints", 3, *flags)
    assert (folder / "stage1" / "DONE").exists() and not (folder / "DONE").exists()
    newest = sorted((folder / "checkpoints").glob("state-*.pt"))[-1]
    later = newest.with_name(f"state-{int(newest.stem[-10:]) + 1:010d}.pt")
    later.write_bytes(newest.read_bytes()[:2000])  # cut off by a full disk, say
    said = run("notebook.py", *flags)
    assert f"{later.name}: not a readable checkpoint" in said.stderr
    assert "going on from the one before" in said.stderr and "stage2: going on at epoch " in said.stdout
    same_run(runs / "sub", folder)
    assert len(list((folder / "checkpoints").glob("state-*.pt"))) <= 2


def test_sigterm_leaves_a_checkpoint(whole, tmp_path):
    runs, _ = whole
    flags = [*TINY, "--runs-dir", tmp_path, "--name", "base", "--checkpoint-steps", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command("notebook.py", *flags), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env
    )
    while not list((tmp_path / "base" / "checkpoints").glob("state-*.pt")):
        assert child.poll() is None
        time.sleep(0.002)
    child.terminate()
    _, said = child.communicate(timeout=60)
    assert child.returncode == 143 and "the same command goes on" in said
    run("notebook.py", *flags)
    same_run(runs / "base", tmp_path / "base")


def test_stages_by_themselves(whole, tmp_path):
    runs, _ = whole
    flags = [*TINY, "--subclass", "--cutout", "--runs-dir", tmp_path, "--name", "sub"]
    early = run("notebook.py", *flags, "--stage", "train", code=2)
    assert "stage 1 has not finished there; run: python subclass_torch/notebook.py" in early.stderr
    assert "--stage identify" in early.stderr
    run("notebook.py", *flags, "--stage", "identify")
    source = next((tmp_path / "sub" / "stage1" / "logs").glob("*_neglected.json"))
    other = run("notebook.py", *flags, "--stage", "train", "--seed", "1", code=2)
    assert "holds a stage 1 with other flags" in other.stderr and f"--neglected {source}" in other.stderr
    run("notebook.py", *flags, "--stage", "train")
    same_run(runs / "sub", tmp_path / "sub")
    bad = tmp_path / "bad.json"
    bad.write_text('{"ranking": [1, 0], "theta": [2.0, 1.0]}')
    said = run("notebook.py", *flags, "--stage", "train", "--neglected", bad, "--name", "x", code=2)
    assert "bad.json: ranks 2 classes, the data set has 10" in said.stderr
    other = json.loads(source.read_text())
    bad.write_text(json.dumps({**other, "class_names": other["class_names"][::-1]}))
    said = run("notebook.py", *flags, "--stage", "train", "--neglected", bad, "--name", "y", code=2)
    assert "bad.json: ranks other classes than those of mnist5k" in said.stderr
    bad.write_text("[]")
    said = run("notebook.py", *flags, "--stage", "train", "--neglected", bad, "--name", "x", code=2)
    assert "bad.json: holds no ranking" in said.stderr
    assert source.exists()


def test_predict(whole, tmp_path):
    runs, _ = whole
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    said = run("predict.py", "--checkpoint", runs / "sub", "--image", tmp_path / "a.png", "--top", "3").stdout
    assert len(said.splitlines()) == 3 and all("(output " in line for line in said.splitlines())
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert (
        "b.png: not a readable image"
        in run("predict.py", "--checkpoint", runs / "sub", "--image", tmp_path / "b.png", code=2).stderr
    )


def test_checkpoints_that_cannot_be_evaluated(whole, tmp_path):
    runs, _ = whole
    torch.save(weights(runs / "sub")["state_dict"], tmp_path / "bare.pt")
    assert "bare.pt: has no subclass map" in run("notebook.py", "--eval", tmp_path / "bare.pt", code=2).stderr
    (tmp_path / "cut.pt").write_bytes((tmp_path / "bare.pt").read_bytes()[:5000])
    assert "cut.pt: not a readable checkpoint" in run("notebook.py", "--eval", tmp_path / "cut.pt", code=2).stderr
    assert "no such checkpoint" in run("notebook.py", "--eval", tmp_path / "none.pt", code=2).stderr


def test_the_best_checkpoint_of_a_run_is_found_whatever_the_data_set_is_called(whole, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (best,) = [p for p in (whole[0] / "sub" / "checkpoints").glob("mnist5k*.pt") if not p.stem.endswith("_last")]
    (tmp_path / "checkpoints" / "state-0000000001.pt").write_bytes(b"")  # a full state
    shutil.copy(best, tmp_path / "checkpoints" / "state-farm_vgg_small_20260101_000000.pt")
    assert load_network(tmp_path, torch.device("cpu"))[1]["path"].name.startswith("state-farm")


def test_a_non_finite_loss_stops(tmp_path):
    said = run(
        "notebook.py",
        *TINY,
        "--runs-dir",
        tmp_path,
        "--name",
        "nan",
        "--learning_rate",
        "1e20",
        "--epochs",
        "3",
        code=2,
    )
    assert re.search(
        r"stage2: non-finite loss at step \d+ \(batch of \d+\); (no checkpoint yet|last checkpoint)", said.stderr
    )


def test_no_classes_and_folder_data(tmp_path):
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("bright", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for n in range(10):
            pixels = np.clip(rng.normal(level, 30, (36, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{n}.png")
    flags = (
        f"--dataset folder:{tmp_path}/pictures --model wrn_small --epochs 1 --epochs_class 1 --batch_size 8 --threads 1"
    )
    done = run(
        "notebook.py",
        *flags.split(),
        "--subclass",
        "--numClasses2Repartition",
        "0",
        "--runs-dir",
        tmp_path,
        "--name",
        "f",
        "--learning_rate",
        "0.01",
    )
    assert "neglected classes: none" in done.stdout
    assert json.loads((tmp_path / "f" / "record.json").read_text())["details"]["subclasses"] == 2
    many = run(
        "notebook.py",
        *flags.split(),
        "--subclass",
        "--numClasses2Repartition",
        "3",
        "--runs-dir",
        tmp_path,
        "--name",
        "g",
        code=2,
    )
    assert "--numClasses2Repartition 3: " in many.stderr and "has 2 classes" in many.stderr
