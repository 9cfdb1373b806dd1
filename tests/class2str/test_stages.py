"""Both stages as a user runs them: chain, kill and resume, cached features, checkpoints, bad input."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reproduction.runtime.outcomes import Outcomes
from reproduction.runtime.run_folder import UserError

ROOT = Path(__file__).resolve().parents[2]
FC = "class2str_tf/train_fc_classifier.py"
RNN = "class2str_tf/train_rnn_classifer_mnist.py"
STAGE1 = ("--B=200", "--dataset", "mnist5k", "--model", "lenet", "--lr", "1e-3", "--max-steps", "45")
STAGE2 = ("--B=200", "--dataset", "mnist5k", "--model", "lenet", "--lr", "1e-3", "--lstm-units", "16",
          "--finetune", "none")  # fmt: skip


def curve(folder: Path) -> list[dict]:
    """Metrics without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in lines]


def results(folder: Path) -> dict:
    record = json.loads((folder / "record.json").read_text())
    return {name: value for name, value in record["metrics"].items() if name != "time_change"}


def best_one_to_one(folder: Path) -> float | None:
    """The highest string match among the tests at which each of ten classes has its own string."""
    return max((line["test/rnn_acc"] for line in curve(folder) if line.get("test/distinct") == 10), default=None)


@pytest.fixture(scope="module")
def runs(script, tmp_path_factory) -> Path:
    """A finished stage 1 and stage 2 under <runs>/exp1."""
    folder = tmp_path_factory.mktemp("runs with spaces")
    script(FC, *STAGE1, "--name", "exp1", "--runs_dir", folder, fresh=True)
    done = script(RNN, *STAGE2, "--max-steps", "45", "--name", "exp1", "--runs_dir", folder, fresh=True)
    assert "distinct strings" in done.stdout
    return folder


def test_stage2_leaves_everything_a_user_needs(runs):
    rnn = runs / "exp1" / "rnn"
    table = json.loads((rnn / "mnist5k_strings.json").read_text())
    assert pickle.loads((rnn / "mnist5k_strings.pkl").read_bytes()) == table["strings"]
    assert len(table["strings"]) == 10 and {len(s) for s in table["strings"]} == {4}
    assert table["distinct"] == len(set(table["strings"])) and table["step"] == 45
    record = json.loads((rnn / "record.json").read_text())
    for item in record["artefacts"]:
        assert (rnn / item["path"]).stat().st_size > 0, item
    metrics = {name: value["last"] for name, value in record["metrics"].items()}
    assert metrics["fc_parameters"] == 266_610 and metrics["classes"] == 10
    prefixes = [metrics[f"prefix_accuracy/{i}"] for i in range(1, 5)]
    assert prefixes == sorted(prefixes, reverse=True) and prefixes[-1] == metrics["lh_accuracy"]
    assert metrics["distinct_codes"] < 10 or metrics["class_accuracy_exact"] == metrics["lh_accuracy"]
    assert metrics["reduced_fc_weights"] <= metrics["lh_weights"]
    assert "/" not in json.dumps(record["argv"]).replace("class2str_tf/", "").replace("<path>", "")
    assert record["metrics"]["lh_accuracy"]["best_on_test"] == best_one_to_one(rnn)
    assert (rnn / "checkpoint").exists() and len(list(rnn.glob("model-*.meta"))) == 1


def test_tensorboard_scalars_have_the_authors_names_and_axis(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(folder: Path) -> EventAccumulator:
        events = EventAccumulator(str(folder))
        events.Reload()
        return events

    stage1 = scalars(runs / "exp1" / "logs" / "train")
    assert set(stage1.Tags()["scalars"]) == {
        f"cnn_train/{name}" for name in ("loss_classifier", "regularizer", "loss", "acc")
    }
    assert [event.step for event in stage1.Scalars("cnn_train/loss")] == [0, 2000, 4000, 6000, 8000]
    stage2 = set(scalars(runs / "exp1" / "rnn" / "logs" / "train").Tags()["scalars"])
    assert stage2 == {"inverse_loss", "inverse_acc", "rnn_classification_loss", "l2_z", "loss", "rnn_acc"}


def test_finished_stages_are_not_run_again_and_other_flags_are_refused(script, runs):
    before = (runs / "exp1" / "record.json").read_bytes()
    again = script(FC, *STAGE1, "--name", "exp1", "--runs_dir", runs)
    assert "finished before" in again.stdout and (runs / "exp1" / "record.json").read_bytes() == before
    other = script(FC, *STAGE1, "--B=100", "--name", "exp1", "--runs_dir", runs, code=2)
    assert other.returncode == 2 and "B 200 there, 100 here" in other.stderr and "Traceback" not in other.stderr
    assert (runs / "exp1" / "record.json").read_bytes() == before


def test_a_picture_that_fails_does_not_cost_the_record(script, runs, unfinished):
    picture = unfinished(runs, "tree.png")
    words = [RNN, *STAGE2, "--max-steps", "45", "--name", "exp1", "--runs_dir", picture.parents[2]]
    said = script(*words).stderr
    assert "the record is complete, but a picture" in said and "Traceback" not in said
    assert results(picture.parent) == results(runs / "exp1" / "rnn")
    picture.rmdir()
    script(*words)
    assert picture.is_file() and "finished before" in script(*words).stdout


def test_evaluation_of_a_checkpoint_gives_the_recorded_accuracy(script, runs):
    newest = next((runs / "exp1").glob("model-*.meta")).with_suffix("")
    said = script(FC, "--dataset", "mnist5k", "--eval", newest).stdout
    recorded = results(runs / "exp1")["fc_accuracy"]["last"]
    assert f"{100 * recorded:.2f} % of 1000" in said
    rnn = runs / "exp1" / "rnn"
    newest = next(rnn.glob("model-*.meta")).with_suffix("")
    for more in ((), ("--augment",)):  # features are those of whole images
        said = script(RNN, *STAGE2, *more, "--name", "exp1", "--runs_dir", runs, "--eval", newest).stdout
        shown = dict(line.split() for line in said.splitlines() if line[:1].isalpha() and len(line.split()) == 2)
        assert float(shown["lh_accuracy"]) == pytest.approx(results(rnn)["lh_accuracy"]["last"], abs=1e-4)
    written = {path.name: path.stat().st_mtime_ns for path in rnn.iterdir()}
    said = script(RNN, "--dataset", "mnist5k", "--eval", newest).stdout  # sizes and CNN are those of the run
    assert f"lh_accuracy {results(rnn)['lh_accuracy']['last']:.4f}" in " ".join(said.split())
    assert written == {path.name: path.stat().st_mtime_ns for path in rnn.iterdir()}
    said = script(RNN, "--dataset", "mnist5k", "--eval", newest, "--lstm-units", "3", code=2).stderr
    assert "--lstm_units [3]: the run in" in said


def test_a_stage_1_that_was_trained_again_is_not_mixed_with_the_old_lh(script, runs, tmp_path):
    shutil.copytree(runs / "exp1", tmp_path / "exp1")
    config = json.loads((tmp_path / "exp1/rnn/config.json").read_text())
    changed = config | {"stage1": "0123456789abcdef", "cnn_dir": str(tmp_path / "exp1"), "finetune": "none"}
    (tmp_path / "exp1/rnn/config.json").write_text(json.dumps(changed))
    newest = next((tmp_path / "exp1/rnn").glob("model-*.meta")).with_suffix("")
    said = script(RNN, "--dataset", "mnist5k", "--eval", newest, code=2).stderr
    assert "belongs to another stage 1" in said
    image = tmp_path / "digit.png"
    Image.new("L", (28, 28)).save(image)
    said = script("class2str_tf/predict.py", "--run", tmp_path / "exp1/rnn", "--image", image, code=2).stderr
    assert "was trained again since" in said


def test_predict_one_image(script, runs, tmp_path):
    """From image files, the string and the class that the run itself gave these test images."""
    import datasets

    data, record = datasets.load("mnist5k"), json.loads((runs / "exp1" / "rnn" / "record.json").read_text())
    strings, names = record["details"]["strings"], record["details"]["class_names"]
    right = [Outcomes(**record["outcomes"][f"prefix_accuracy/{length}"]).bits() for length in range(1, 5)]
    flags = ("--run", runs / "exp1" / "rnn", "--image")
    for at in range(700, -1, -100):
        Image.fromarray(data.test_images[at, :, :, 0]).save(tmp_path / "digit.png")
        said = script("class2str_tf/predict.py", *flags, tmp_path / "digit.png").stdout
        string, owner = re.match(r"string ([01]{4}): (.+)\n", said).groups()
        own = strings[data.test_labels[at]]
        assert [string[:length] == own[:length] for length in range(1, 5)] == [bits[at] for bits in right], at
        assert owner == dict(zip(strings[::-1], names[::-1], strict=True)).get(string, "no class owns it")
        assert said.count("likelihood") == 3
    assert 0.2 < right[-1].mean() < 0.9  # so agreement is not chance
    copied = shutil.copytree(runs / "exp1" / "rnn", tmp_path / "rnn")  # of a run that was started in the repository
    config = json.loads((copied / "config.json").read_text())
    config["cnn_dir"] = os.path.relpath(runs / "exp1", ROOT)
    (copied / "config.json").write_text(json.dumps(config))
    elsewhere = script("class2str_tf/predict.py", "--run", copied, "--image", tmp_path / "digit.png", cwd=tmp_path)
    assert elsewhere.stdout == said
    (tmp_path / "text.png").write_text("no image")
    bad = script("class2str_tf/predict.py", *flags, tmp_path / "text.png", code=2)
    assert bad.returncode == 2 and "not a readable image" in bad.stderr


def test_kill_and_resume_of_stage1_is_bit_identical(script, killed_when, runs, tmp_path):
    flags = (*STAGE1, "--name", "exp1", "--runs_dir", tmp_path)
    killed_when(FC, *flags, seen=lambda: any((tmp_path / "exp1").glob("model-4000.index")))
    assert not (tmp_path / "exp1" / "DONE").exists()
    script(FC, *flags, fresh=True)
    assert curve(tmp_path / "exp1") == curve(runs / "exp1")
    assert results(tmp_path / "exp1") == results(runs / "exp1")


def test_kill_and_resume_of_stage2_with_a_truncated_newest_checkpoint(script, killed_when, runs, tmp_path):
    flags = (*STAGE2, "--max-steps", "45", "--name", "exp1", "--runs_dir", tmp_path, "--cnn-dir", runs / "exp1")
    rnn = tmp_path / "exp1" / "rnn"
    killed_when(RNN, *flags, seen=lambda: any(rnn.glob("model-8000.index")))
    newest = sorted(rnn.glob("model-*.data-*"), key=os.path.getmtime)[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    done = script(RNN, *flags, fresh=True)
    assert "trying the one before" in done.stderr or "not a readable checkpoint" in done.stderr
    assert curve(rnn) == curve(runs / "exp1" / "rnn")
    assert results(rnn) == results(runs / "exp1" / "rnn")


@pytest.mark.parametrize("program", [FC, RNN])
def test_a_run_whose_checkpoints_are_all_damaged_is_left_as_it_is(script, runs, tmp_path, program):
    shutil.copytree(runs / "exp1", tmp_path / "exp1")
    folder = tmp_path / "exp1" / ("rnn" if program == RNN else "")
    (folder / "DONE").unlink()
    for index in folder.glob("model-*.index"):
        index.write_bytes(index.read_bytes()[:20])
    logs = [path for path in folder.rglob("*") if path.name == "metrics.jsonl" or "tfevents" in path.name]
    before = {path: path.read_bytes() for path in logs}
    flags = STAGE1 if program == FC else (*STAGE2, "--max-steps", "45", "--cnn-dir", runs / "exp1")
    done = script(program, *flags, "--name", "exp1", "--runs_dir", tmp_path, code=2)
    assert "no checkpoint can be restored; --overwrite starts anew" in done.stderr
    assert before and all(path.read_bytes() == content for path, content in before.items())


def test_features_of_other_training_images_are_computed_anew(runs, tmp_path):
    """Those in the rnn/ of stage 1, too, of a run from before features.json named --train-images."""
    from class2str_tf.data import images
    from class2str_tf.flags import parse_rnn, rnn_parser
    from class2str_tf.training import frozen_features
    from reproduction.runtime import tf_runtime

    cnn_dir = shutil.copytree(runs / "exp1", tmp_path / "exp1")
    session_config = tf_runtime.start(0, "cpu")

    def compute(train_images: str) -> tuple[Path, np.ndarray, np.ndarray]:
        argv = ["--dataset", "mnist5k", "--finetune", "none", "--cnn-dir", str(cnn_dir), "--train-images", train_images]
        config = parse_rnn(rnn_parser("s", "mnist", "lenet", flavour="mnist"), argv)
        data, prefix = images.load(config), frozen_features.newest_checkpoint(config)
        (folder := tmp_path / train_images).mkdir()
        return folder, frozen_features.compute(config, data, prefix, folder, session_config).train, data.train_labels

    folder, whole, labels = compute("0")
    assert not any(folder.iterdir())  # they are in the rnn/ of stage 1
    for part in ("1000", "first:1000"):
        folder, features, of = compute(part)
        found = [np.flatnonzero((whole == row).all(axis=1)) for row in features]
        assert len(features) == len(of) == 1000 and all(
            label in labels[places] for label, places in zip(of, found, strict=True)
        )
    for path in folder.iterdir():
        shutil.copy(path, cnn_dir / "rnn")
    stamp = json.loads((folder / "features.json").read_text())
    assert stamp.pop("train_images") == part
    (cnn_dir / "rnn" / "features.json").write_text(json.dumps(stamp))
    (tmp_path / "0").rmdir()
    assert np.array_equal(compute("0")[1], whole)


def test_cached_and_uncached_features_train_alike_over_20_steps(script, runs, tmp_path):
    curves = []
    for name, flags in {"cached": (), "uncached": ("--no-cache-features",)}.items():
        common = (*STAGE2, "--max-steps", "21", "--no-reduced-fc", "--cnn-dir", runs / "exp1", "--runs_dir", tmp_path)
        script(RNN, *common, "--name", name, *flags)
        curves.append(curve(tmp_path / name / "rnn"))
    assert len(curves[0]) == len(curves[1]) >= 5
    for cached, uncached in zip(*curves, strict=True):
        assert cached.keys() == uncached.keys()
        np.testing.assert_allclose(list(cached.values()), list(uncached.values()), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(
    "flags",
    [
        ["--name", "x"],
        ["--name", "a", "--cnn-dir", "no where/x", "--lenet", "poster", "--lenet-relu", "--pixels", "raw"],
        ["--cnn-dir", "x", "--model", "vgg16", "--F", "8", "--train-images", "first:9", "--hold-out"],
        ["--cnn-dir", "x", "--data-dir", "other data", "--accept-unverified"],
    ],
)
@pytest.mark.parametrize("program", [FC, RNN])
def test_missing_stage1_names_the_command_that_makes_it(tmp_path, monkeypatch, program, flags):
    from class2str_tf.flags import ARCHITECTURE, fc_parser, parse_fc, parse_rnn, rnn_parser
    from class2str_tf.training import stage1, stage2

    for module in (stage1, stage2):
        monkeypatch.setattr(module, "load", lambda *_: pytest.fail("data are read first"))
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset", "mnist5k", "--runs_dir", str(tmp_path), *flags]
    if program == FC and "--cnn-dir" not in flags:
        argv += ["--cnn-dir", "x"]
    needed = (
        parse_fc(fc_parser(FC), argv)
        if program == FC
        else parse_rnn(rnn_parser(RNN, "mnist", "lenet", flavour="mnist"), argv)
    )
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        (stage1.run_stage1 if program == FC else stage2.run_stage2)(needed)
    script_name, *words = shlex.split(str(error.value).partition("run first: python ")[2])
    made = parse_fc(fc_parser(script_name), words)
    assert script_name == FC and made.folder.resolve() == Path(str(needed.cnn_dir)).resolve()
    shared = [flag.removeprefix("--").replace("-", "_") for flag in ARCHITECTURE]
    for name in ("dataset", "model", "F", "train_images", "hold_out", "data_dir", "accept_unverified", *shared):
        assert getattr(made, name) == getattr(needed, name)


def test_checkpoint_of_another_architecture(script, runs, tmp_path):
    shutil.copytree(runs / "exp1", tmp_path / "exp1")
    (tmp_path / "exp1" / "config.json").unlink()
    newest = next((tmp_path / "exp1").glob("model-*.meta")).with_suffix("")
    done = script(FC, "--dataset", "mnist5k", "--model", "lenet", "--lenet", "poster", "--eval", newest, code=2)
    assert done.returncode == 2 and "does not fit lenet on mnist5k" in done.stderr and done.stderr.count("\n") == 1


def test_run_folder_that_cannot_be_made(script, tmp_path):
    (tmp_path / "runs").write_text("a file in its place")
    done = script(FC, *STAGE1, "--runs-dir", tmp_path / "runs", code=2)
    assert done.returncode == 2 and "cannot write the run folder" in done.stderr and done.stderr.count("\n") == 1


def test_collapsing_weights_warn_and_end_in_an_error_but_leave_the_record(script, runs, tmp_path):
    flags = (*STAGE2, "--max-steps", "500", "--w_inv_loss=1", "--w_l2=1", "--no-reduced-fc", "--name", "c")
    done = script(RNN, *flags, "--runs_dir", tmp_path, "--cnn-dir", runs / "exp1", code=2)
    assert done.returncode == 2 and "warning: --w_l2 1 against --w_i 1" in done.stderr
    assert "all 10 classes ended on one string" in done.stderr
    found = results(tmp_path / "c" / "rnn")
    assert found["distinct_codes"]["last"] == found["lh_accuracy"]["last"] == 1
    assert found["lh_accuracy"]["best_on_test"] == best_one_to_one(tmp_path / "c" / "rnn")
    assert best_one_to_one(tmp_path / "c" / "rnn") != 1


def test_two_runs_of_one_folder_at_once(script, tmp_path):
    import filelock

    (tmp_path / "x").mkdir()
    with filelock.FileLock(tmp_path / "x" / ".lock"):
        done = script(FC, *STAGE1, "--name", "x", "--runs_dir", tmp_path, code=2)
    assert done.returncode == 2 and "another process is running in this folder" in done.stderr


def test_finetuning_trains_the_cnn_and_resumes_from_stage1(script, runs, tmp_path):
    from reproduction.runtime.tf import tf1

    flags = (*STAGE2, "--finetune", "all", "--max-steps", "3", "--no-reduced-fc", "--cnn-dir", runs / "exp1")
    script(RNN, *flags, "--name", "f", "--runs_dir", tmp_path)
    before = tf1.train.load_checkpoint(str(next((runs / "exp1").glob("model-*.meta")).with_suffix("")))
    after = tf1.train.load_checkpoint(str(next((tmp_path / "f" / "rnn").glob("model-*.meta")).with_suffix("")))
    change = np.abs(before.get_tensor("cnn/conv1/weights") - after.get_tensor("cnn/conv1/weights")).max()
    assert 1e-5 < change < 0.01  # three Adam steps of 1e-3 away from stage 1's weights, not from new ones


def test_bn_in_training_mode_moves_the_statistics_of_a_frozen_cnn(script, runs, tmp_path):
    """--finetune bn, as the released MNIST script (C2S-D31)."""
    from reproduction.runtime.tf import tf1

    flags = (*STAGE2, "--finetune", "bn", "--max-steps", "3", "--no-reduced-fc", "--cnn-dir", runs / "exp1")
    script(RNN, *flags, "--name", "b", "--runs_dir", tmp_path)
    prefix = next((tmp_path / "b" / "rnn").glob("model-*.meta")).with_suffix("")
    before = tf1.train.load_checkpoint(str(next((runs / "exp1").glob("model-*.meta")).with_suffix("")))
    after = tf1.train.load_checkpoint(str(prefix))
    names = [name for name in after.get_variable_to_shape_map() if name.startswith("cnn/")]
    assert not any("Adam" in name for name in names)
    moved = {name for name in names if not np.array_equal(before.get_tensor(name), after.get_tensor(name))}
    assert moved == {name for name in names if "moving_" in name} and len(moved) == 4
    record = json.loads((tmp_path / "b" / "rnn" / "record.json").read_text())
    assert record["details"]["training_images"] == 4000 and "C2S-D31" not in record["deviations"]
    shown = script(RNN, *flags, "--name", "b", "--runs_dir", tmp_path, "--eval", prefix).stdout
    accuracy = dict(line.split() for line in shown.splitlines() if len(line.split()) == 2)["lh_accuracy"]
    assert float(accuracy) == pytest.approx(record["metrics"]["lh_accuracy"]["last"], abs=1e-4)


def test_full_disk_while_saving_is_one_line_and_keeps_the_checkpoint_before(tmp_path):
    import resource
    import subprocess
    import sys

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    flags = [*STAGE1, "--name", "x", "--runs-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, FC, *flags],
        preexec_fn=small_files,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2 and "cannot be saved" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "x").glob("*tempstate*")) and not (tmp_path / "x" / "DONE").exists()


def test_sigterm_stops_cleanly_and_the_run_goes_on_to_the_same_end(script, runs, tmp_path):
    import signal
    import subprocess
    import sys
    import time

    flags = [*STAGE1, "--name", "exp1", "--runs_dir", str(tmp_path)]
    process = subprocess.Popen([sys.executable, FC, *flags], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not any((tmp_path / "exp1").glob("model-4000.index")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143 and "stopped by SIGTERM" in said
    script(FC, *flags, fresh=True)
    assert curve(tmp_path / "exp1") == curve(runs / "exp1")
