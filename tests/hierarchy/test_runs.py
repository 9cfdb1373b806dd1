"""The scripts as a user runs them: both stages, kill and resume, two processes, refusals, analysis and viewer."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hierarchy_cnn_torch import analyze, flags, plots
from hierarchy_cnn_torch.data import images, tree_files
from hierarchy_cnn_torch.report import measure, summary
from hierarchy_cnn_torch.report.label_study import study_labels
from hierarchy_cnn_torch.training import evaluate
from hierarchy_cnn_torch.viewer.from_run import view_of_run
from hierarchy_cnn_torch.viewer.view import write
from reproduction.runtime.flags import finish_parsing
from reproduction.runtime.outcomes import outcomes_of
from reproduction.runtime.record import load_record
from reproduction.runtime.run_folder import REPO_ROOT, UserError
from tests import scripts
from tests.hierarchy.controls import controls_agree
from tests.hierarchy.viewer_page import read_page

TRAIN = REPO_ROOT / "hierarchy_cnn_torch" / "train.py"
ANALYZE = REPO_ROOT / "hierarchy_cnn_torch" / "analyze.py"
SMALL = (
    "--preset mini --epochs 2 --batch 16 --lr 0.003 --threads 1 --device cpu --image-size 28 --curve-images 40".split()
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 4 easy classes, 16 training and 6 test pictures each: colour gives the group, shape the class."""
    from PIL import Image

    top = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for label, name in enumerate(("red_tall", "red_wide", "blue_tall", "blue_wide")):
            folder = top / split / name
            folder.mkdir(parents=True)
            for at in range(count):
                image = rng.integers(0, 30, (28, 28, 3)).astype(np.uint8)
                y, x = rng.integers(2, 14, 2)
                height, width = (12, 4) if label % 2 == 0 else (4, 12)
                image[y : y + height, x : x + width] = (230, 30, 30) if label < 2 else (30, 30, 230)
                Image.fromarray(image).save(folder / f"{at}.png")
    return top


@pytest.fixture(scope="module")
def tree_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tree") / "tree.json"
    # class ids are alphabetical: blue_tall, blue_wide, red_tall, red_wide
    groups = [{"name": "blue", "classes": [0, 1]}, {"name": "red", "classes": [2, 3]}]
    path.write_text(json.dumps({"name": "all", "children": groups}))
    return path


def words(pictures, folder, *more):
    return [
        sys.executable,
        str(TRAIN),
        "--dataset",
        f"folder:{pictures}",
        *SMALL,
        "--out",
        str(folder),
        *map(str, more),
    ]


def run(command, **options):
    """Runs a script of the paper in this process (see tests/scripts.py), anything else as a process."""
    _, script, *flags = command
    if script in (str(TRAIN), str(ANALYZE)):
        return scripts.run("hierarchy_cnn_torch", Path(script).name, *flags, code=None)
    return subprocess.run(command, capture_output=True, text=True, cwd=REPO_ROOT, **options)


def outcome(folder):
    """What must be equal after a kill: weights, history, predictions."""
    record = json.loads((folder / "record.json").read_text())
    figures = {k: v for k, v in record["metrics"].items() if "seconds" not in k}
    with np.load(folder / "predictions.npz") as data:
        arrays = {key: data[key] for key in data.files}
    return figures, (folder / "metrics.jsonl").read_text(), arrays


def same(a, b):
    assert a[:2] == b[:2]
    assert all((a[2][key] == b[2][key]).all() for key in a[2])


def outcomes_agree(folder):
    """Every test accuracy of a record has its outcomes, whose mean is `last`, in the order of the test split."""
    record = load_record(folder / "record.json")
    wanted = {name for name in record.metrics if "accuracy" in name and not re.search("(train|val)_accuracy", name)}
    assert record.outcomes.keys() == wanted and len(wanted) >= (1 if "fold" in record.stage else 2)
    for name, outcomes in record.outcomes.items():
        assert outcomes.bits().mean() == pytest.approx(record.metrics[name].last, abs=1e-12)
    assert len({outcomes.order for outcomes in record.outcomes.values()}) == 1
    return record


@pytest.fixture(scope="module")
def flat(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seed0") / "A0"
    answer = run(words(pictures, folder, "--stage", "flat"))
    assert answer.returncode == 0, answer.stderr
    return folder


@pytest.fixture(scope="module")
def aware(pictures, flat, tree_file):
    folder = flat.parent / "A1"
    answer = run(words(pictures, folder, "--stage", "aware", "--tree", tree_file))
    assert answer.returncode == 0, answer.stderr
    return folder


def test_both_stages_write_records_and_artefacts(flat, aware):
    for folder, arm in ((flat, "A0"), (aware, "A1")):
        record = json.loads((folder / "record.json").read_text())
        assert record["paper"] == "hierarchy" and record["stage"] == arm
        assert set(record["metrics"][f"{arm}/test_accuracy"]) == {"last", "best_on_val", "best_on_test"}
        assert (folder / "tree.json").exists() and (folder / "DONE").exists()
        outcomes_agree(folder)
    assert json.loads((aware / "record.json").read_text())["details"]["branches"] == {"conv2": 2}
    assert sorted(path.name for path in (flat / "weights").iterdir())[0] == "epoch-0000.pt"


def test_the_same_command_says_done_and_other_flags_are_refused(pictures, flat):
    answer = run(words(pictures, flat, "--stage", "flat"))
    assert answer.returncode == 0 and "finished before" in answer.stdout
    answer = run(words(pictures, flat, "--stage", "flat", "--lr", "0.5"))
    assert answer.returncode == 2 and "other flags" in answer.stderr and len(answer.stderr.strip().splitlines()) == 1


def test_kill_9_and_the_same_command_end_bit_for_bit_the_same(pictures, flat, aware, tree_file, tmp_path):
    """Stage 2; stage 1 goes on after a signal below, and after kills at the end of an epoch in test_resume.py."""
    more = ["--stage", "aware", "--checkpoint-steps", 1, "--tree", tree_file, "--flat-run", flat]
    command = words(pictures, tmp_path / "run", *more)
    child = subprocess.Popen(command, cwd=REPO_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list((tmp_path / "run" / "checkpoints").glob("state-*.pt")):
        assert child.poll() is None and time.time() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "run" / "DONE").exists()
    answer = run(command)
    assert answer.returncode == 0, answer.stderr
    assert "going on" in answer.stdout
    same(outcome(tmp_path / "run"), outcome(aware))


def test_a_term_signal_stops_cleanly_and_a_truncated_checkpoint_falls_back(pictures, flat, tmp_path):
    command = words(pictures, tmp_path / "run", "--stage", "flat", "--checkpoint-steps", 1)
    child = subprocess.Popen(command, cwd=REPO_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while len(list((tmp_path / "run" / "checkpoints").glob("state-*.pt"))) < 2:
        assert child.poll() is None and time.time() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGTERM)
    _, message = child.communicate()
    assert child.returncode == 143 and "the same command goes on" in message
    newest = sorted((tmp_path / "run" / "checkpoints").glob("state-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    answer = run(command)
    assert answer.returncode == 0, answer.stderr
    assert f"{newest.name}: not a readable checkpoint" in answer.stderr
    same(outcome(tmp_path / "run"), outcome(flat))


def test_two_processes_train_together(loopback, pictures, flat, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # dropout draws belong to a process, so the losses are near, not equal
    command += words(pictures, tmp_path / "two", "--stage", "flat")[1:]
    answer = run(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert answer.returncode == 0, answer.stderr[-2000:]
    one = json.loads((flat / "metrics.jsonl").read_text().splitlines()[-1])
    two = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[-1])
    assert abs(one["train/loss"] - two["train/loss"]) < 0.5
    assert (tmp_path / "two" / "DONE").exists()


def test_stage_aware_without_stage_1_names_the_command(pictures, tmp_path):
    answer = run(words(pictures, tmp_path / "x" / "A1", "--stage", "aware"))
    assert answer.returncode == 2 and "--stage flat" in answer.stderr and "A0" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_a_tree_that_misses_a_class_is_refused(pictures, flat, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text(
        json.dumps({"name": "all", "children": [{"name": "a", "classes": [0, 1]}, {"name": "b", "classes": [2]}]})
    )
    answer = run(words(pictures, tmp_path / "A1", "--stage", "aware", "--tree", bad, "--flat-run", flat))
    assert answer.returncode == 2 and "tree misses class 3 (red_wide)" in answer.stderr


def test_eval_prints_the_recorded_accuracy(pictures, flat):
    newest = sorted((flat / "checkpoints").glob("state-*.pt"))[-1]
    answer = run(words(pictures, flat, "--eval", newest))
    record = json.loads((flat / "record.json").read_text())
    assert f"{100 * record['metrics']['A0/test_accuracy']['last']:.2f} %" in answer.stdout, answer.stderr


def test_analysis_viewer_and_summary(pictures, flat, aware, tree_file, monkeypatch, capsys):
    for fold in (0, 1):
        more = ["--stage", "flat", "--tree", tree_file, "--label-noise", "0.1", "--folds", 2, "--fold", fold]
        answer = run(words(pictures, flat.parent / f"fold{fold}", *more, "--epochs", "1"))
        assert answer.returncode == 0, answer.stderr
        if fold == 0:
            assert study_labels(flat.parent, None) == {}  # one of two folds
        record = outcomes_agree(flat.parent / f"fold{fold}")
        with np.load(flat.parent / f"fold{fold}" / "fold.npz") as saved:  # planted labels differ from seed to seed
            right = saved["probabilities"].argmax(1) == saved["labels"]
            assert record.outcomes[f"fold{fold}/fold_accuracy"] == outcomes_of(right, saved["true_labels"])
    small = "--probe-images 100 --permutations 99 --bootstrap 20 --groupings 3 --threads 1 --device cpu".split()
    answer = run([sys.executable, str(ANALYZE), "--run", str(flat.parent), *small])
    assert answer.returncode == 0, answer.stderr
    again = run([sys.executable, str(ANALYZE), "--run", str(flat.parent), *small])
    assert again.returncode == 0 and "finished before" in again.stdout, again.stderr
    out = flat.parent / "analysis"
    figures = (
        {f"F{n}.png" for n in range(1, 10)} | {f"T{n}.md" for n in range(1, 5)} | {f"T{n}.csv" for n in range(1, 5)}
    )
    assert figures <= {path.name for path in out.iterdir()}
    record = json.loads((out / "record.json").read_text())
    assert {"block_lift_fine", "e90_early_coarse", "quality_auroc_far", "gap/A0"} <= record["metrics"].keys()
    rises = json.loads((out / "analysis.json").read_text())["e90"]["conv2"]
    early = [epoch for name, epoch in rises.items() if "/random" in name and name.startswith(next(iter(rises)))]
    written = record["metrics"]["e90_early_random"]["last"]  # null if a curve never rises, so has no epoch
    assert (written is None) == any(math.isnan(epoch) for epoch in early)
    controls_agree(out)
    meta, arrays = read_page(out / "view.html")
    assert [r["name"] for r in meta["runs"]] == ["A0", "A1"] and len(meta["layers"]) == 8
    with np.load(flat / "predictions.npz") as saved:
        labels, predicted = saved["test_labels"], saved["test_logits"].argmax(1)
    key = meta["runs"][0]["epochs"][-1]["key"]
    counts = np.zeros((4, 4), int)
    counts[arrays[f"{key}_row"], arrays[f"{key}_col"]] = arrays[f"{key}_n"]
    assert (counts == np.array([[((labels == i) & (predicted == j)).sum() for j in range(4)] for i in range(4)])).all()
    (out / "DONE").unlink()
    config = finish_parsing(flags.analyze_parser(), flags.resolve_analyze, ["--run", str(flat.parent), *small])
    with monkeypatch.context() as patch:
        patch.setattr(plots, "f1_confusion", lambda *_: 1 / 0)
        analyze.analyze_seed(config)
    assert "the record is complete, but a picture" in capsys.readouterr().err
    assert json.loads((out / "record.json").read_text())["metrics"] == record["metrics"]
    assert (out / "DONE").exists() and not (out / "F1.png").exists()
    analyze.analyze_seed(config)
    assert (out / "F1.png").exists() and "undrawn" not in json.loads((out / "DONE").read_text())
    row = flat.parent.parent / "row"
    row.mkdir(exist_ok=True)
    if not (row / "seed0").exists():
        (row / "seed0").symlink_to(flat.parent)
    (row / "summary").mkdir(exist_ok=True)
    (row / "summary" / "T9.md").write_text("of an earlier analysis")
    answer = run([sys.executable, str(ANALYZE), "--summary", str(row)])
    assert answer.returncode == 0, answer.stderr
    assert not (row / "summary" / "T9.md").exists() and not (out / "T9.md").exists()
    assert "view.html in a browser" in answer.stdout.splitlines()[-1]
    assert "recalled" in (row / "summary" / "T3.md").read_text()


def test_analysis_without_stage_1_names_the_command(tmp_path):
    answer = run([sys.executable, str(ANALYZE), "--run", str(tmp_path)])
    assert answer.returncode == 2 and "train.py --stage flat" in answer.stderr


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("A0/predictions.npz", None),
        ("A0/record.json", b"{}"),
        ("A0/config.json", b"{}"),
        ("A0/config.json", b'{"dataset": "mnist5k", "seed": 0}'),
    ],
)
def test_analysis_of_damaged_files_is_one_line(flat, tmp_path, monkeypatch, part, content):
    shutil.copytree(flat, tmp_path / "seed0" / "A0", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    if content is None:
        np.savez(tmp_path / "seed0" / part, test_labels=np.arange(3))
    else:
        (tmp_path / "seed0" / part).write_bytes(content)
    monkeypatch.setattr("reproduction.runtime.torch_runtime.start", lambda *_: None)  # it sets up the whole process
    small = "--what confusion,arms --permutations 99 --bootstrap 20 --device cpu".split()
    config = finish_parsing(flags.analyze_parser(), flags.resolve_analyze, ["--run", str(tmp_path / "seed0"), *small])
    with pytest.raises(UserError, match="seed0.*damaged"):
        analyze.analyze_seed(config)


def test_a_summary_of_a_table_without_layers_is_one_line(tmp_path):
    analysis = tmp_path / "seed0" / "analysis"
    for place, content in (
        (analysis / "DONE", {}),
        (analysis / "record.json", {"commit": "0" * 40, "dirty": False, "seed": 0}),
        (analysis / "analysis.json", {"seed": 0, "levels": [], "T1": {"A0": {"levels": [], "height": 1.0}}, "e90": {}}),
        (tmp_path / "seed0/A0/record.json", {"data": {}, "config": {"dataset": "x", "preset": "mini", "epochs": 1}}),
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(content))
    with pytest.raises(UserError, match="damaged or do not fit each other .StopIteration"):
        summary.summarise(tmp_path)


@pytest.mark.parametrize("more", [["--held-out", "80"], ["--held-out", "500"], ["--subset", "4"]])
def test_nothing_to_train_on_or_to_hold_out_is_one_line(pictures, more):
    argv = ["--dataset", f"folder:{pictures}", *SMALL, *more]
    config = finish_parsing(flags.train_parser(), flags.resolve_train, argv)
    with pytest.raises(UserError, match=r"\d+ images to train on, \d+ held out of \d+: both need some"):
        images.load(config)


def test_a_page_that_cannot_be_written_is_one_line(flat, tmp_path):
    (tmp_path / "file").write_text("")
    for thumbs in ("none", "folder"):
        with pytest.raises(UserError, match="file/v.*: cannot be written"):
            write(view_of_run(flat.parent, None, "", None), tmp_path / "file" / "v.html", thumbs)


def test_missing_images_are_named_by_the_viewer(flat, pictures, tmp_path):
    copy = tmp_path / "seed0"
    shutil.copytree(flat.parent, copy, ignore=shutil.ignore_patterns("fold*", "analysis", "weights", "tensorboard"))
    config = json.loads((copy / "A0" / "config.json").read_text())
    config["dataset"] = f"folder:{tmp_path / 'gone'}"
    (copy / "A0" / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "hierarchy_cnn_torch.viewer.export", "--run", str(copy), "--out"]
    answer = run([*command, str(tmp_path / "v.html")])
    assert answer.returncode == 2 and "images of" in answer.stderr and "missing" in answer.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arm", "A3"], "A1 to A5 are stage aware"),
        (["--lambda", "-1"], "not a number >= 0"),
        (["--tree", "nowhere.json"], "no such file"),
        (["--taps", "conv9:2"], "--taps"),
        (["--levels", "two"], "--levels"),
        (["--label-noise", "0.1"], "--folds"),
        (["--dataset", "nope"], "choose"),
        (["--epochs", "0"], "whole number >= 1"),
    ],
)
def test_bad_flags_are_one_line(more, message):
    answer = run([sys.executable, str(TRAIN), *more])
    assert answer.returncode == 2 and message in answer.stderr and len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("kept", [[], [2], [0, 2], [1, 2], [4, 8]])
def test_without_the_untrained_network_or_the_first_epoch_layers_are_not_measured(tmp_path, kept):
    (tmp_path / "weights").mkdir()
    for epoch in kept:
        (tmp_path / "weights" / f"epoch-{epoch:04d}.pt").touch()
    with pytest.raises(UserError, match="--keep-epochs auto"):
        evaluate.kept_epochs(tmp_path)


def test_statistics_refer_to_the_tree_file_of_stage_1(flat, tree_file):
    names = ["blue_tall", "blue_wide", "red_tall", "red_wide"]
    for tree, used in (("derived", flat / "tree.json"), ("random", flat / "tree.json"), (str(tree_file), tree_file)):
        config = dataclasses.replace(flags.read_config(flat), tree=tree)
        assert measure.study_tree(flat.parent, config, names) == tree_files.load_tree(used, names)


def test_kept_epochs():
    assert flags.keep_epochs("auto", 6) == [0, 1, 2, 3, 5, 6]
    assert flags.keep_epochs("auto", 60) == [0, 1, 2, 3, 5, 8, 12, 20, 30, 40, 50, 60]
    assert flags.keep_epochs("none", 9) == [] and flags.keep_epochs("2,99", 9) == [2]
