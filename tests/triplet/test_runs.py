"""Whole runs on tiny JPEG files: every mode, kill and resume, evaluation of checkpoints, faults.

One process pays for TensorFlow's import: most runs call the script's main() here; only what needs a kill is a process.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from reproduction.runtime import loop as shared_loop
from reproduction.runtime.outcomes import Outcomes
from reproduction.runtime.run_folder import REPO_ROOT, UserError
from tests.triplet.conftest import CLASSES, TEST
from triplet_tf import eval as eval_script
from triplet_tf import fast_fgvr_semi_train
from triplet_tf.config.base_config import parse, training_parser
from triplet_tf.data_sampling import loader
from triplet_tf.training import loop, record
from triplet_tf.training.run_files import LogFile, milder_flags

TRAIN = "triplet_tf/fast_fgvr_semi_train.py"
NET = ("--net", "mobile", "--aug_style", "img", "--frame_size", "32", "--resize_sides", "34,40", "--init", "random",
       "--emb_dim", "8", "--batch_size", "4", "--Triplet_K", "2", "--device", "cpu", "--bn_decay", "0.5")  # fmt: skip
STEPS = ("--train_iters", "6", "--logging_threshold", "1", "--test_interval", "2")
MODES = ("vanilla", "semi_hard", "hard", "hard_awtl", "cntr")


def flags_of(tiny: Path, runs: Path, mode: str, *more: str) -> list[str]:
    places = ["--db_name", "csv:tiny", "--datasets_dir", str(tiny), "--models_dir", str(runs)]
    return [*places, *NET, "--train_mode", mode, *more]


def run_here(*flags: str) -> None:
    """The training script in this process."""
    fast_fgvr_semi_train.main(list(flags))


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory) -> Path:
    """<runs>/<mode>: hard with six steps, the others with two."""
    folder = tmp_path_factory.mktemp("runs with spaces")
    for mode in MODES:
        steps = STEPS if mode == "hard" else ("--train_iters", "2", "--logging_threshold", "1", "--test_interval", "9")
        more = ("--eval_split", "val") if mode == "semi_hard" else ("--caffe_iter_size", "2") if mode == "cntr" else ()
        run_here(*flags_of(tiny, folder, mode, *steps, *more, "--checkpoint_dir", mode))
    return folder


def record_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def curve(folder: Path) -> list[dict]:
    """Metrics without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in lines]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_tests_and_records(runs, mode):
    folder = runs / mode
    record = record_of(folder)
    last = {name: value["last"] for name, value in record["metrics"].items()}
    assert 0 <= last["accuracy"] <= last["top5_accuracy"] == 1.0  # five classes
    pooled = [(last[f"pooled_{name}"], last[name]) for name in ("recall_at_1", "nmi")]
    assert all(0 <= value <= 1 and (value == embedded or mode != "vanilla") for value, embedded in pooled)
    assert {"nmi", "macro_accuracy", "positive_distance"} | {f"recall_at_{k}" for k in (1, 2, 4, 8, 16, 32)} <= set(
        last
    )
    outcomes = {name: Outcomes(**value) for name, value in record["outcomes"].items()}
    assert set(outcomes) == {"accuracy", "top5_accuracy", "recall_at_1", "pooled_recall_at_1"}
    assert mode != "vanilla" or outcomes["pooled_recall_at_1"] == outcomes["recall_at_1"]
    for name, value in outcomes.items():  # every image of the test list, of the last step's network
        assert value.count == CLASSES * TEST and value.bits().mean() == pytest.approx(last[name])
    for item in record["artefacts"]:
        assert (folder / item["path"]).stat().st_size > 0
    assert (folder / "DONE").exists() and record["stage"] == ("softmax" if mode == "vanilla" else "two-head")
    first = curve(folder)[0]
    assert first["step"] == 1 and ("train/active_triplets" in first) == (mode != "vanilla")
    parts = first["train/cross_entropy"] + first.get("train/metric_loss", 0)
    assert first["train/loss"] == pytest.approx(parts, rel=1e-6)  # no weight decay unless asked for (STL-D02)
    assert all(np.isfinite(value) for line in curve(folder) for value in line.values())
    with np.load(folder / "embeddings.npz") as saved:
        assert saved["emb"].shape == (CLASSES * TEST, 1024 if mode == "vanilla" else 8)
        np.testing.assert_allclose(np.linalg.norm(saved["emb"], axis=1), 1, atol=1e-5)
        assert saved["file_name"][0] == "test_0_0.jpg" and saved["label"].tolist() == sorted(saved["label"])


def test_files_of_a_run_agree(runs):
    folder = runs / "hard"
    rows = list(csv.reader((folder / "confusion.csv").open()))
    matrix = np.array([row[1:] for row in rows[1:]], int)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert matrix.sum() == CLASSES * TEST == metrics["images"]
    assert metrics["metrics"]["accuracy"] == np.trace(matrix) / matrix.sum()
    shares = {row[0]: matrix[i, i] / matrix[i].sum() for i, row in enumerate(rows[1:])}
    assert metrics["class_accuracy"] == pytest.approx(shares) and set(shares) == {"1", "2", "3", "4", "5"}
    for pair in metrics["largest_confusions"]:
        true, predicted = (rows[0][1:].index(pair[key]) for key in ("true", "predicted"))
        assert true != predicted and matrix[true, predicted] == pair["images"] > 0
    assert metrics["embedding"].startswith("embedding head, 8-d") and metrics["versions"]["scikit-learn"]
    assert metrics["metrics"] == {name: v["last"] for name, v in record_of(folder)["metrics"].items()}
    tests = [line for line in curve(folder) if "test/Split_Val_Accuracy" in line]
    assert [line["step"] for line in tests] == [2, 4, 6]
    last = metrics["metrics"]
    assert (tests[-1]["test/embedding_ratio"], tests[-1]["test/recall_at_1"]) == (
        last["embedding_ratio"],
        last["recall_at_1"],
    )
    ratios = record_of(folder)["details"]["embedding_ratios"]
    assert ratios == [[line["step"], line["test/embedding_ratio"]] for line in tests]
    assert record_of(folder)["details"]["lowest_ratio"] == [min(ratio for step, ratio in ratios if step >= 4)]
    best = max(line["test/Split_Val_Accuracy"] for line in tests)
    assert record_of(folder)["metrics"]["accuracy"] == {
        "last": tests[-1]["test/Split_Val_Accuracy"],
        "best_on_val": None,
        "best_on_test": best,
    }
    args = json.loads((folder / "args.json").read_text())
    assert list(args) == sorted(args) and args["test_interval"] == 2 and args["Triplet_K"] == 2
    text = (folder / "logger.txt").read_text()
    assert "step 6 accuracy" in text and "best" in text and "CE" in text
    for name in ("model.ckpt", "model.ckptbest"):
        assert (folder / f"{name}.index").exists() and list(folder.glob(f"{name}.data-*"))
    assert (folder / "model.ckpt.index").read_bytes() == (folder / "model-6.index").read_bytes()
    assert not list(folder.rglob("*.partial")) and not list(folder.glob("*.meta"))  # the graph is never written


def test_an_embedding_that_stays_collapsed_is_warned_of(tmp_path, capsys):
    config = parse(training_parser(), ["--train_mode", "hard"])
    log = LogFile(tmp_path / "log.txt")
    lines = [
        {"step": n, "test/Split_Val_Accuracy": 0.5, "test/macro_accuracy": 0.5, "test/embedding_ratio": ratio}
        for n, ratio in enumerate((1.0, 1.5, 1.03, 1.04))
    ]
    for place, line in enumerate(lines):
        log.test(config, line, lines[:place])
    warned = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "collapsing" in line]
    assert len(warned) == 1 and "across / within 1.04" in warned[0] and "--triplet_loss_lambda 0.1" in warned[0]
    log.test(dataclasses.replace(config, train_mode="vanilla"), lines[3], lines[:3])
    assert (tmp_path / "log.txt").read_text().count("collapsing") == 1
    log.test(dataclasses.replace(config, train_iters=5), lines[2], lines[:2])  # late in a run one test is enough
    text = (tmp_path / "log.txt").read_text()
    assert text.count("collapsing") == 2 and "1.03; see docs/papers/triplet.md, try --first_third semi_hard" in text


@pytest.mark.parametrize(
    "flags",
    [
        *(mode + more for mode in MODES[1:] for more in ("", " --triplet_loss_lambda 0.1")),
        "hard --margin soft",
        "hard --distance euclidean",
        "hard --first_third semi_hard",
        "hard --first_third lambda",
    ],
)
def test_every_advised_flag_is_one_that_the_run_takes_and_that_changes_it(flags):
    words = ["--train_mode", *flags.split()]
    config = parse(training_parser(), words)
    advised = [parse(training_parser(), [*words, *more.split()]) for more in milder_flags(config)]
    assert config not in advised and (config.train_mode != "cntr" or not advised)


def test_validation_split_never_selects_on_the_test_list(runs):
    record = record_of(runs / "semi_hard")
    accuracy = record["metrics"]["accuracy"]
    assert accuracy["best_on_test"] is None and accuracy["best_on_val"] is not None
    assert "STL-D06" in record["deviations"] and "test_all_sub_list.csv" in record["data"]


def test_finished_runs_are_not_run_again_and_other_flags_are_refused(runs, tiny, capsys):
    flags = flags_of(tiny, runs, "hard", *STEPS, "--checkpoint_dir", "hard")
    run_here(*flags, "--yes")
    assert "finished before" in capsys.readouterr().out
    with pytest.raises(UserError, match="frame_size 32 there, 24 here"):
        run_here(*flags, "--frame_size", "24")


def test_a_picture_that_fails_does_not_cost_the_record(runs, tiny, unfinished, capsys):
    picture = unfinished(runs / "hard", "confusion.png")
    flags = flags_of(tiny, picture.parents[1], "hard", *STEPS, "--checkpoint_dir", "hard")
    run_here(*flags)
    assert "the record is complete, but a picture" in capsys.readouterr().err
    assert record_of(picture.parent)["metrics"] == record_of(runs / "hard")["metrics"]
    picture.rmdir()
    run_here(*flags)
    run_here(*flags)
    assert picture.is_file() and "finished before" in capsys.readouterr().out


def test_eval_gives_the_recorded_figures(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eval.py", "--checkpoint", str(runs / "hard" / "model.ckpt")])
    eval_script.main()
    written = json.loads((runs / "hard" / "eval-model.ckpt" / "metrics.json").read_text())["metrics"]
    assert written == json.loads((runs / "hard" / "metrics.json").read_text())["metrics"]
    assert f"accuracy {100 * written['accuracy']:.2f} %" in capsys.readouterr().out


def evaluate_here(*flags: str) -> None:
    record.evaluate_checkpoint(parse(training_parser("eval.py"), list(flags)))


def test_a_record_never_names_the_folders_above_the_images():
    for db, row in (("folder:/home/alice/photos", "folder-photos"), ("csv:mine", "csv-mine"), ("dogs", "dogs")):
        assert record.record_row(parse(training_parser(), ["--db_name", db])) == f"{row}-custom"


def test_eval_computes_as_the_flags_for_speed_say(runs, monkeypatch):
    def start(seed: int, device: str, xla: bool = False, amp: str | None = None) -> None:
        raise UserError(f"xla {xla}, amp {amp}")

    monkeypatch.setattr(record.tf_runtime, "start", start)
    with pytest.raises(UserError, match="xla True, amp bf16"):
        evaluate_here("--checkpoint", str(runs / "hard" / "model.ckpt"), "--xla", "--amp", "bf16")


def test_checkpoint_of_another_frame_size_is_one_clear_line(runs):
    with pytest.raises(UserError) as error:
        evaluate_here(
            "--checkpoint", str(runs / "hard" / "model.ckpt"), "--frame_size", "34", "--resize_sides", "34,40"
        )
    message = str(error.value)
    assert "--frame_size 34: the embedding head W is [1024, 8]" in message and "[4096, 8] here" in message
    with pytest.raises(UserError, match="does not fit resnet50 with a 8-d embedding"):  # and not: another frame size
        evaluate_here("--checkpoint", str(runs / "hard" / "model.ckpt"), "--net", "resnet50")
    with pytest.raises(UserError, match="no such checkpoint"):
        evaluate_here("--checkpoint", str(runs / "hard" / "model-99"))
    with pytest.raises(UserError, match="has no embedding head"):
        evaluate_here("--checkpoint", str(runs / "vanilla" / "model.ckpt"), "--train_mode", "hard")


def test_killed_and_stopped_run_ends_bit_identical(killed_when, runs, tiny, tmp_path, monkeypatch):
    """Kill -9 after step 2, SIGTERM at a later step that has no test, then to the end: as the undisturbed run."""
    folder = tmp_path / "hard"
    flags = flags_of(tiny, tmp_path, "hard", *STEPS, "--checkpoint_dir", "hard")
    killed_when(TRAIN, *flags, seen=lambda: any(folder.glob("model-2.index")), timeout=300)
    assert not (folder / "DONE").exists()
    for later in (folder / "model-4", folder / "model-6"):  # had it gone on: their damage must not matter either
        for path in folder.glob(f"{later.name}.data-*"):
            path.write_bytes(b"cut")

    real, clock, started = loop.Training.log, [0.0], loader.TrainBatches.start

    def slow_start(batches: loader.TrainBatches, *begin) -> None:
        started(batches, *begin)
        clock[0] += 1000  # a cache is filled

    def signal_at_three(training: loop.Training, loss: float) -> None:
        real(training, loss)
        clock[0] += 1
        if training.step == 2:  # steps that are done; the third runs
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "log", signal_at_three)
        with pytest.raises(SystemExit) as stopped:
            run_here(*flags)
        assert stopped.value.code == 143 and (folder / "model-3.index").exists()
        for module in (loop, shared_loop):
            patch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
        patch.setattr(loader.TrainBatches, "start", slow_start)
        run_here(*flags)
    before, record = json.loads((folder / "clock.json").read_text())["3"], record_of(folder)
    steps = record["details"]["steps"]
    assert before["images"] == 3 * 4  # of two processes
    assert record["seconds"] == pytest.approx(before["seconds"] + steps - 3, abs=2e-3)  # a step is a second
    assert record["images_per_s"] == pytest.approx(4 * steps / record["seconds"])
    assert curve(folder) == curve(runs / "hard")
    assert record_of(folder)["metrics"] == record_of(runs / "hard")["metrics"]
    with np.load(folder / "embeddings.npz") as ours, np.load(runs / "hard" / "embeddings.npz") as theirs:
        np.testing.assert_array_equal(ours["emb"], theirs["emb"])
    assert (folder / "model.ckpt.index").read_bytes() == (runs / "hard" / "model.ckpt.index").read_bytes()


def test_a_finished_run_without_its_metrics_is_one_line(runs, tiny, tmp_path):
    shutil.copytree(runs / "cntr", tmp_path / "cntr")
    for name in ("DONE", "metrics.jsonl"):
        (tmp_path / "cntr" / name).unlink()
    steps = ("--train_iters", "2", "--logging_threshold", "1", "--test_interval", "9", "--caffe_iter_size", "2")
    with pytest.raises(UserError, match=r"metrics\.jsonl: the tests of this run are lost; --overwrite starts anew"):
        run_here(*flags_of(tiny, tmp_path, "cntr", *steps, "--checkpoint_dir", "cntr"))


def test_imagenet_weights_are_restored_and_named_in_the_record(runs, tiny, tmp_path):
    """A checkpoint of another run stands for the public one: same names; a step of rate 1e-9 leaves it as it was."""
    import hashlib

    from reproduction.runtime.tf import tf1

    home = tmp_path / "weights" / "mobilenet_v1_1.0_224"
    home.mkdir(parents=True)
    for path in (runs / "vanilla").glob("model.ckpt.*"):
        shutil.copy(path, home / path.name.replace("model.ckpt", "mobilenet_v1_1.0_224.ckpt"))
    flags = flags_of(tiny, tmp_path, "hard", "--train_iters", "1", "--learning_rate", "1e-9", "--checkpoint_dir", "x")
    run_here(*flags, "--init", "imagenet", "--pretrained_dir", str(tmp_path / "weights"))
    ours, theirs = (tf1.train.load_checkpoint(str(f / "model.ckpt")) for f in (tmp_path / "x", runs / "vanilla"))
    for name in ("MobilenetV1/Conv2d_0/weights", "MobilenetV1/Conv2d_13_pointwise/BatchNorm/gamma"):
        np.testing.assert_allclose(ours.get_tensor(name), theirs.get_tensor(name), atol=1e-6)
    logits = "MobilenetV1/Logits/Conv2d_1c_1x1/weights"
    assert np.abs(ours.get_tensor(logits) - theirs.get_tensor(logits)).max() > 1e-3  # not restored
    index = home / "mobilenet_v1_1.0_224.ckpt.index"
    found = record_of(tmp_path / "x")["details"]["initial_weights"]
    assert found[index.name] == hashlib.sha256(index.read_bytes()).hexdigest() and len(found) == 2
    shutil.copytree(tmp_path / "weights", tmp_path / "moved")
    again = [*flags, "--init", "imagenet", "--pretrained_dir", str(tmp_path / "moved")]
    stamp = (tmp_path / "x" / "DONE").read_text()
    run_here(*again)  # the same weights in another place
    index = tmp_path / "moved" / "mobilenet_v1_1.0_224" / index.name
    index.write_bytes(index.read_bytes() + b" ")
    with pytest.raises(UserError, match="--pretrained_dir: .*x started from other weights than"):
        run_here(*again)
    assert (tmp_path / "x" / "DONE").read_text() == stamp
    run_here(*again, "--eval", str(tmp_path / "x" / "model.ckpt"))  # needs no ImageNet weights
    assert (tmp_path / "x" / "eval-model.ckpt" / "metrics.json").is_file()


def test_fast_flags_from_the_command_line(tiny, tmp_path):
    """P x K batches for softmax, and a milder first third; stopped and resumed; the record says what was used."""
    fast = ("--amp", "auto", "--eval-batch", "7", "--row", "tiny-matched", "--image-cache", *STEPS)
    tiny = shutil.copytree(tiny, tmp_path / "data")  # the cache goes there
    flags = flags_of(tiny, tmp_path, "hard", "--first-third", "semi_hard", *fast, "--name", "healthy")
    done = subprocess.run([sys.executable, TRAIN, *flags], cwd=REPO_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    record = record_of(tmp_path / "healthy")
    assert f"precision: {record['precision']}" in done.stdout and record["profile"] == "matched"
    assert {"STL-D21", "STL-D24"} <= set(record["deviations"]) and set(record["outcomes"]) >= {
        "accuracy",
        "recall_at_1",
    }
    for name in ("DONE", "record.json", *(path.name for path in (tmp_path / "healthy").glob("model-6.*"))):
        (tmp_path / "healthy" / name).unlink()
    run_here(*flags)
    resumed = record_of(tmp_path / "healthy")
    assert (resumed["metrics"], resumed["outcomes"]) == (record["metrics"], record["outcomes"])
    run_here(*flags_of(tiny, tmp_path, "vanilla", "--vanilla-batches", "grouped", *fast, "--name", "softmax"))
    assert "STL-D22" in record_of(tmp_path / "softmax")["deviations"]
    plans = [
        loader.batch_plan(parse(training_parser(), flags_of(tiny, tmp_path, *mode)), np.repeat(np.arange(5), 6))
        for mode in (("vanilla", "--vanilla-batches", "grouped"), ("hard",))
    ]
    assert all(np.array_equal(plans[0](number), plans[1](number)) for number in range(4))
