"""The real scripts: every stage, hand-over, resume, kill -9. The clustering itself has tests of its own."""

import functools
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch

from finegrained_torch import pipeline
from finegrained_torch.training import stage2
from reproduction.runtime.outcomes import Outcomes

from .conftest import ROOT, TINY, command, run

VARYING = {"seconds", "train_seconds"}


def fake_clusters(out_dir, data, features, certain, config, record_folder, input_hash):
    """Two clusters a class by the sign of a feature, in the files of the clustering stage."""
    assert features.dtype == np.float32 and features.shape == (200, 128) and certain.sum() == 180
    half = np.asarray(features)[:, 0] > np.median(np.asarray(features)[:, 0])
    labels = np.where(certain, 2 * data.train.coarse + half, -1)
    labels = np.where(labels < 0, -1, np.searchsorted(np.unique(labels[labels >= 0]), labels))
    folder = out_dir / f"sub_{data.name}"
    for place in (folder, folder / "controls" / "random"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "pseudo.csv").write_text("".join(f"{x}\n" for x in labels))
    (record_folder / "clusters.csv").write_text("2\n")
    artefacts = [{"kind": "csv", "path": "clusters.csv", "title": "Clusters"}]
    return {"ari": {"last": 0.5}}, {"num_sub": int(labels.max()) + 1}, artefacts


@pytest.fixture(scope="module", autouse=True)
def clusters():
    """Stands in for UMAP and HDBSCAN, which take half a minute to compile."""
    from datasets import mnist5k
    from finegrained_torch.training import cluster_stage, report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist5k, "load", functools.cache(mnist5k.load))  # a second each time otherwise
        patch.setattr(cluster_stage, "cluster_stage", fake_clusters)
        patch.setattr(report, "write_report", lambda out_dir, *_: (out_dir / "report.md").write_text("# here\n"))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every stage with every head, and the upper bound, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    row = ("--row", "mnist5k-smoke")
    said = run("pipeline.py", *TINY, *row, "--out_dir", out, "--head", "plain", "deep_layer", "keep_sub_head")
    run("pipeline.py", *TINY, *row, "--out_dir", out, "--no-use_pseudo", "--alpha", "0.9")
    return out, said.stdout


def trainings(out):
    return sorted(path.parent for path in out.rglob("best.ckpt"))


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]


def same_training(a, b):
    assert rows(a) == rows(b)
    first, second = (torch.load(path / "best.ckpt", weights_only=True) for path in (a, b))
    assert first.keys() == second.keys() and first["epoch"] == second["epoch"]
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    with np.load(a / "predictions.npz") as x, np.load(b / "predictions.npz") as y:
        assert all(np.array_equal(x[name], y[name]) for name in x.files)
    records = [json.loads((path / "record.json").read_text()) for path in (a, b)]
    assert records[0]["metrics"] == records[1]["metrics"]


def test_folders_and_rows(whole):
    out, _ = whole
    names = {
        str(path.relative_to(out)): json.loads((path / "record.json").read_text())["row"] for path in trainings(out)
    }
    base = "mnist5k-smoke"
    assert names == {
        "classifier/mnist5k": base,
        "classifier_sub/mnist5k/pseudo": f"{base}-ft",
        "classifier_sub/mnist5k/true": f"{base}-ft-true",
        "fine-tuning/mnist5k/pseudo/plain": f"{base}-ft",
        "fine-tuning/mnist5k/pseudo/deep_layer": f"{base}-ft-deep",
        "fine-tuning/mnist5k/pseudo/keep_sub_head": f"{base}-ft-keep",
        "fine-tuning/mnist5k/true/plain": f"{base}-ft-true",
        "multihead/mnist5k/pseudo/alpha_0.1": f"{base}-mh01",
        "multihead/mnist5k/pseudo/alpha_0.9": f"{base}-mh09",
        "multihead/mnist5k/true/alpha_0.9": f"{base}-mh09-true",
    }
    assert (out / "report.md").exists()


def test_every_record_says_how_long_its_stage_took(whole):
    out, _ = whole
    records = {str(path.relative_to(out)): json.loads(path.read_text()) for path in out.rglob("record.json")}
    assert len(records) >= 13 and all(record["seconds"] > 0 for record in records.values())
    for folder in trainings(out):  # the speed is that of the training alone
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        record = records[str(folder.relative_to(out) / "record.json")]
        images = record["details"]["training_images"] * len(lines)
        assert record["images_per_s"] == pytest.approx(images / sum(line["train_seconds"] for line in lines))


def test_what_each_training_saw_and_wrote(whole):
    out, said = whole
    with np.load(out / "split.npz") as kept:
        train, val = kept["train"], kept["val"]
    labels = np.loadtxt(out / "sub_mnist5k" / "pseudo.csv", dtype=int)
    certain_train = int((labels[train] >= 0).sum())
    orders: dict[str, set] = {}  # accuracy -> images and order of their labels
    for folder in trainings(out):
        manifest = json.loads((folder / "manifest.json").read_text())
        record = json.loads((folder / "record.json").read_text())
        name = str(folder.relative_to(out))
        limited = "pseudo" in name and not name.startswith("fine-tuning")
        assert manifest["training_images"] == (certain_train if limited else 180), name
        assert manifest["epochs"] == 3 and 1 <= manifest["best_epoch"] <= 3 and manifest["lr_source"] == "flag"
        assert manifest["maker"] == "finegrained_torch" and manifest["versions"]["lightning"] and manifest["inputs"]
        assert ("FGL-D27" in record["deviations"]) == ("deep_layer" in name or "keep_sub_head" in name)
        with np.load(folder / "predictions.npz") as predictions:
            right = (predictions["predicted"] == predictions["labels"]).mean()
            assert predictions["log_probabilities"].dtype == np.float32
            np.testing.assert_allclose(np.exp(predictions["log_probabilities"]).sum(1), 1, atol=1e-5)
            assert np.array_equal(predictions["log_probabilities"].argmax(1), predictions["predicted"])
        key = "sub_accuracy" if "classifier_sub" in name else "accuracy"
        assert record["metrics"][key]["best_on_val"] == right and 0 <= record["metrics"][key]["last"] <= 1
        if "classifier_sub/mnist5k/pseudo" in name:  # test images have no pseudo-labels
            assert record["outcomes"] == {}
        else:
            which = Outcomes(**record["outcomes"].pop(key))
            assert record["outcomes"] == {} and which.bits().mean() == record["metrics"][key]["last"]
            orders.setdefault(key, set()).add((which.count, which.order))
        curve = rows(folder)
        trained = record["metrics"][key.replace("accuracy", "train_accuracy")]
        assert trained["best_on_val"] == curve[manifest["best_epoch"] - 1]["train_acc"]
        assert trained["last"] == curve[-1]["train_acc"]
        best = max(curve, key=lambda row: row["val_acc"])
        assert [row["step"] for row in curve] == [1, 2, 3] and manifest["best_epoch"] == best["step"]
        measured = record["metrics"][key.replace("accuracy", "val_accuracy")]["best_on_val"]
        np.testing.assert_allclose(measured, best["val_acc"], atol=1e-6)
        assert str(ROOT) not in (folder / "record.json").read_text() and len(list(folder.glob("state-*.ckpt"))) == 2
    assert [len(found) for found in orders.values()] == [1, 1] and not set.intersection(*orders.values())
    sub = json.loads((out / "classifier_sub/mnist5k/pseudo/manifest.json").read_text())
    assert sub["tested_on"] == "val" and sub["num_sub"] == labels.max() + 1
    true = json.loads((out / "classifier_sub/mnist5k/true/manifest.json").read_text())
    counts = [true[f"{part}_images"] for part in ("training", "validation", "test")]
    assert counts == [180, 20, 1000] and true["tested_on"] == "test" and true["num_sub"] == 10
    assert "coarse epoch 3/3" in said and "fine-tune ft-deep: test accuracy" in said
    assert len(set(train) & set(val)) == 0 and len(train) == 180


def test_step_one_artefacts(whole):
    out, _ = whole
    tables = out / "sub_mnist5k"
    features = np.load(tables / "activations.npy", mmap_mode="r")
    assert features.shape == (200, 128) and features.dtype == np.float32
    with np.load(tables / "uncertainty.npz") as kept:
        found = {name: kept[name] for name in kept.files}
    column = np.loadtxt(tables / "incertezza.csv")
    assert np.array_equal(column, found["uncertainty"]) and found["certain"].sum() == 180
    wrong = found["mean_prediction"].argmax(1) != found["coarse"]
    assert np.array_equal(found["uncertainty"] > 1, wrong)
    assert np.loadtxt(tables / "superclassi.csv", dtype=int).tolist() == found["coarse"].tolist()
    for stage in ("features", "uncertainty", "cluster"):
        manifest = json.loads((tables / "stages" / stage / "manifest.json").read_text())
        assert manifest["stage"] == stage and (tables / "stages" / stage / "DONE").exists()
    assert json.loads((tables / "stages/cluster/record.json").read_text())["metrics"]["ari"]["last"] == 0.5
    a, b = (json.loads((tables / f"stages/{name}/record.json").read_text()) for name in ("features", "cluster"))
    assert a["details"]["features_sha256"] == b["details"]["inputs"]["features"]


def test_uncertain_images_never_reach_a_pseudo_label_training(whole, monkeypatch):
    out, _ = whole
    seen = []
    monkeypatch.setattr(stage2, "train", lambda task, config: seen.append((task.train, task.val)) or 1 / 0)
    for extra in (["--stage", "sub"], ["--stage", "multi-head", "--alpha", "0.5"]):
        with pytest.raises(ZeroDivisionError):
            run("pipeline.py", *TINY, "--out_dir", out, "--sub_labels", "random", *extra)
    for where in seen:
        for items, positions in where:
            assert len(positions) and (items.fine[positions] >= 0).all() and (items.fine < 0).any()


def test_same_flags_do_nothing_and_others_are_refused(whole):
    out, _ = whole
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("best.ckpt")}
    again = run("pipeline.py", *TINY, "--row", "mnist5k-smoke", "--out_dir", out)
    assert again.stdout.count("finished before") == 8 and "epoch 1" not in again.stdout
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("best.ckpt")}
    said = run("pipeline.py", *TINY, "--out_dir", out, "--lr", "0.01", "--stage", "coarse", code=2).stderr
    assert "holds a run with other flags (lr 0.05 there, 0.01 here)" in said
    said = run("pipeline.py", *TINY, "--out_dir", out, "--threshold", "80", "--stage", "cluster", code=2).stderr
    assert "--threshold 80.0: stage uncertainty ran with 90" in said
    said = run("pipeline.py", *TINY, "--out_dir", out, "--limit_train", "210", "--stage", "fine-tune", code=2).stderr
    assert "holds a run with other flags" in said


def cut_back(folder, epoch):
    """What a kill right after the state of `epoch` leaves, with rubbish of a later one."""
    for name in ("DONE", "record.json", "manifest.json", "predictions.npz"):
        (folder / name).unlink()
    for path in folder.glob("state-*.ckpt"):
        if int(path.stem[-4:]) > epoch:
            path.unlink()
    (folder / ".state-0003.partial").write_bytes(b"half")


def test_a_resumed_training_with_dropout_equals_the_straight_one(whole, tmp_path):
    """Base and multi-head: see the kills below."""
    out, _ = whole
    copy, name = tmp_path / "out", "fine-tuning/mnist5k/pseudo/deep_layer"
    shutil.copytree(out, copy)
    cut_back(copy / name, 2)
    flags = [*TINY, "--row", "mnist5k-smoke", "--out_dir", copy, "--stage", "fine-tune"]
    said = run("pipeline.py", *flags, "--head", "plain", "deep_layer").stdout
    assert "fine-tune: going on after epoch 2" in said and "epoch 2/3" not in said
    same_training(out / name, copy / name)
    assert not list((copy / name).glob(".*.partial"))


def test_weights_of_another_epoch_than_the_best_are_refused(whole, tmp_path):
    """A kill after best.ckpt and before the state, and then other hardware: the epoch may not be the best one again."""
    out, _ = whole
    copy = tmp_path / "out"
    shutil.copytree(out / "classifier", copy / "classifier")
    shutil.copy(out / "split.npz", copy)
    cut_back(copy / "classifier/mnist5k", 3)
    path = copy / "classifier/mnist5k/best.ckpt"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "epoch": content["epoch"] % 3 + 1}, path)
    flags = [*TINY, "--row", "mnist5k-smoke", "--out_dir", copy, "--stage", "coarse"]
    said = run("pipeline.py", *flags, code=2).stderr
    assert f"best.ckpt: of epoch {content['epoch'] % 3 + 1}, but epoch {content['epoch']} has the best" in said
    assert not (copy / "classifier/mnist5k/DONE").exists()


def test_a_damaged_state_is_passed_over(whole, tmp_path):
    out, _ = whole
    copy = tmp_path / "out"
    shutil.copytree(out / "classifier", copy / "classifier")
    shutil.copy(out / "split.npz", copy)
    folder = copy / "classifier/mnist5k"
    cut_back(folder, 3)
    newest = folder / "state-0003.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    said = run("pipeline.py", *TINY, "--row", "mnist5k-smoke", "--out_dir", copy, "--stage", "coarse")
    assert "state-0003.ckpt: not a readable checkpoint" in said.stderr and "going on after epoch 2" in said.stdout
    same_training(out / "classifier/mnist5k", folder)


def kill_when(seen, *flags, sent=signal.SIGKILL):
    """Starts the script and sends it a signal, that which kills by default, as soon as `seen` exists."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command("pipeline.py", *flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=env
    )
    deadline = time.monotonic() + 240
    while not seen.exists():
        assert child.poll() is None, child.stdout.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(sent)
    child.wait()
    child.stdout.close()


def test_kill_9_and_the_same_command(whole, tmp_path):
    """Killed in the base training, then in the multi-head one; the folder ends as that of the undisturbed run."""
    out, _ = whole
    flags = [*TINY, "--row", "mnist5k-smoke", "--out_dir", tmp_path / "out"]
    copy = tmp_path / "out"
    kill_when(copy / "classifier/mnist5k/state-0001.ckpt", *flags, "--stage", "coarse")
    assert not (copy / "classifier/mnist5k/DONE").exists()
    run("pipeline.py", *flags, "--stage", "coarse", "features", "uncertainty", "cluster")
    for name in ("activations.npy", "incertezza.csv", "pseudo.csv"):
        assert (copy / "sub_mnist5k" / name).read_bytes() == (out / "sub_mnist5k" / name).read_bytes()
    kill_when(copy / "multihead/mnist5k/pseudo/alpha_0.1/best.ckpt", *flags, "--stage", "multi-head")
    run("pipeline.py", *flags, "--stage", "multi-head")
    for name in ("classifier/mnist5k", "multihead/mnist5k/pseudo/alpha_0.1", "multihead/mnist5k/pseudo/alpha_0.9"):
        same_training(out / name, copy / name)


def test_base_controls(whole, tmp_path):
    out, _ = whole
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    few = ["--max_epochs", "2", "--min_epochs", "1"]
    flags = [*TINY, "--row", "mnist5k-smoke", "--out_dir", copy, "--stage", "coarse", *few]
    for control, images in (("budget", 180), ("certain", None)):
        run("pipeline.py", *flags, "--control", control)
        manifest = json.loads((copy / "classifier/mnist5k" / control / "manifest.json").read_text())
        assert manifest["variant"] == f"base-{control}" and (images is None or manifest["training_images"] == images)
    assert manifest["training_images"] < 180
    same_training(out / "classifier/mnist5k", copy / "classifier/mnist5k")


def test_main_py_and_the_class(whole, tmp_path, capsys):
    out, _ = whole
    flags = [*TINY, "--out_dir", tmp_path / "out"]
    run("main.py", *flags, "--strategy", "transfer")
    same_training(out / "fine-tuning/mnist5k/true/plain", tmp_path / "out/fine-tuning/mnist5k/true/plain")
    words = {
        "dataset": "mnist5k", "max_epochs": 3, "min_epochs": 3, "batch_size": 50, "pretrained": False, "lr": 0.05,
        "network": "small", "limit_train": 200, "schedule": "cosine", "threads": 1, "device": "cpu",
    }  # fmt: skip
    made = pipeline.Pipeline(**words, out_dir=str(tmp_path / "mine"), aug_set="shifts")
    made.classify()
    made.features_extraction()
    made.uncertain_extraction()
    torch.set_flush_denormal(False)
    same_training(out / "classifier/mnist5k", tmp_path / "mine/classifier/mnist5k")
    made.get_pseudo_labels()
    made.final_super("multi-head", alpha=0.1)
    torch.set_flush_denormal(False)
    same_training(out / "multihead/mnist5k/pseudo/alpha_0.1", tmp_path / "mine/multihead/mnist5k/pseudo/alpha_0.1")
    assert made.config["alpha"] == [0.1, 0.9]
    with pytest.raises(ValueError, match="mode 'both'"):
        made.classify("both")


def test_the_older_network_through_its_stages(tmp_path):
    """--legacy-net: S + C outputs in every network, read back by the next stage and by --eval.

    129 training images: a batch of 128 and one image, on which batch norm cannot be trained.
    """
    words = "--dataset mnist5k --limit_train 143 --max_epochs 1 --no-pretrained --threads 1 --device cpu --legacy-net"
    flags = [*words.split(), "--out_dir", tmp_path]
    run("main.py", *flags, "--strategy", "transfer")
    run("main.py", *flags, "--strategy", "base")
    for name in ("classifier/mnist5k", "classifier_sub/mnist5k/true", "fine-tuning/mnist5k/true/plain"):
        content = torch.load(tmp_path / name / "best.ckpt", weights_only=True)
        assert content["state_dict"]["network.fc.weight"].shape == (12, 512), name
        assert json.loads((tmp_path / name / "manifest.json").read_text())["settings"]["batch_size"] == 128
    said = run("main.py", *flags, "--eval", tmp_path / "fine-tuning/mnist5k/true/plain").stdout
    assert "on 1,000 test images of mnist5k" in said


def test_evaluation_of_a_checkpoint(whole, tmp_path):
    out, _ = whole
    trained = "classifier/mnist5k fine-tuning/mnist5k/pseudo/deep_layer multihead/mnist5k/true/alpha_0.9"
    for name in (*trained.split(), "classifier_sub/mnist5k/true"):
        metrics = json.loads((out / name / "record.json").read_text())["metrics"]
        logged = metrics["sub_accuracy" if "sub" in name else "accuracy"]["best_on_val"]
        said = run("pipeline.py", *TINY, "--eval", out / name, "--out_dir", tmp_path).stdout
        assert f"accuracy {100 * logged:.4f} % on 1,000 test images of mnist5k" in said
    said = run("pipeline.py", *TINY, "--eval", out / "classifier_sub/mnist5k/pseudo", code=2).stderr
    assert "learned pseudo-labels, which test images do not have" in said
    said = run("pipeline.py", *TINY, "--eval", out / "classifier/mnist5k", "--hold-out", code=2).stderr
    assert "trained without --hold-out" in said
    content = torch.load(out / "classifier/mnist5k/best.ckpt", weights_only=True)
    assert content["hold_out"] is False and content["limit_train"] == 200
    torch.save({**content, "coarse_names": ["cat", "dog"]}, tmp_path / "pets.ckpt")
    said = run("pipeline.py", *TINY, "--eval", tmp_path / "pets.ckpt", code=2).stderr
    assert "the checkpoint knows the classes cat, dog, --dataset has " in said
    (tmp_path / "empty").mkdir()
    said = run("pipeline.py", *TINY, "--eval", tmp_path / "empty", code=2).stderr
    assert "holds no best.ckpt" in said
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    assert "bare.ckpt: lacks " in run("pipeline.py", *TINY, "--eval", tmp_path / "bare.ckpt", code=2).stderr


def test_step_one_again(whole, tmp_path):
    """Text of older features goes; a filter that leaves nothing and features of another network are refused."""
    shutil.copytree(whole[0], tmp_path / "out")
    flags = [*TINY, "--row", "mnist5k-smoke", "--out_dir", tmp_path / "out", "--stage"]
    tables = tmp_path / "out" / "sub_mnist5k"
    stale, features = tables / "activations.csv", (tables / "activations.npy").read_bytes()
    stale.write_text("0.5\n")
    run("pipeline.py", *flags, "features", "--overwrite")
    assert not stale.exists() and (tables / "activations.npy").read_bytes() == features
    path = tables / "stages" / "features" / "manifest.json"
    path.write_text(path.read_text().replace('"base": "', '"base": "0'))
    assert "ran on different base networks" in run("pipeline.py", *flags, "cluster", code=2).stderr
    said = run("pipeline.py", *flags, "uncertainty", "--overwrite", "--threshold", "0.5", code=2).stderr
    assert "--threshold 0.5: no class has a certain image" in said


def test_legacy_split_and_learning_rate_search(tmp_path):
    flags = [word for word in TINY if word not in ("--lr", "0.05")]
    short = "--split legacy --stage coarse --max_epochs 1 --min_epochs 1"
    run("pipeline.py", *flags, *short.split(), "--out_dir", tmp_path)
    folder = tmp_path / "classifier/mnist5k"
    curve = json.loads((folder / "lr_find.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["lr"] == curve["suggestion"] and manifest["lr_source"] == "finder" and len(curve["lr"]) > 20
    assert rows(folder)[0]["lr"] == curve["suggestion"] and not (tmp_path / "split.npz").exists()
    assert manifest["training_images"] == 180
