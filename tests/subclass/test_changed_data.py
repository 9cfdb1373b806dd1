"""The real script on a folder that changes between two calls: finished, stopped, between the stages, elsewhere."""

import os
import subprocess
import sys
import time

import pytest

from tests.changing_pictures import add_pictures, assert_refused, touch_pictures, write_pictures

from .conftest import command, run

FLAGS = (
    "--device cpu --model vgg_small --batch_size 8 --epochs 1 --epochs_class 1 --chance-epochs 0 --threads 1 "
    "--learning_rate 0.01 --dataset folder:set --name m"
).split()


def script(place, *more, code=0):
    """Runs notebook.py in the folder `place`, which holds set/ and runs/."""
    flags = [*FLAGS, "--data-dir", place / "data", "--runs-dir", place.parent / "runs", *more]
    return run("notebook.py", *flags, code=code, cwd=place)


@pytest.fixture
def place(tmp_path):
    write_pictures(tmp_path / "here" / "set")
    return tmp_path / "here"


def test_a_finished_run_and_its_folder(place):
    script(place)
    assert "finished before" in script(place).stdout
    touch_pictures(place / "set")
    touched = script(place)
    assert "finished before" in touched.stdout and not touched.stderr
    # the same words elsewhere name other images
    write_pictures(place.parent / "there" / "set", first=100)
    assert_refused(script(place.parent / "there", code=2).stderr, "runs/m")
    (place.parent / "runs" / "m" / "data.json").unlink()  # as an earlier version left it
    old = script(place)
    assert "finished before" in old.stdout and old.stderr.count("warning: ") == 1 == len(old.stderr.splitlines())
    assert not script(place).stderr
    add_pictures(place / "set")
    refused = script(place, code=2)
    assert_refused(refused.stderr, "runs/m")
    assert "finished before" not in refused.stdout
    anew = script(place, "--overwrite")
    assert "finished before" not in anew.stdout and "26 training and 6 test images" in anew.stdout
    assert "finished before" in script(place).stdout


def test_a_stopped_run_goes_on_with_its_own_images_only(place):
    argv = [*FLAGS, "--data-dir", place / "data", "--runs-dir", place.parent / "runs"]
    argv += ["--epochs", "300", "--checkpoint-steps", "1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command("notebook.py", *argv), cwd=place, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not list((place.parent / "runs" / "m" / "checkpoints").glob("state-*.pt")):
        assert child.poll() is None
        time.sleep(0.01)
    child.terminate()
    assert "the same command goes on" in child.communicate(timeout=100)[1] and child.returncode == 143
    add_pictures(place / "set")
    assert_refused(script(place, "--epochs", "300", "--checkpoint-steps", "1", code=2).stderr, "runs/m")


def test_neglected_classes_of_other_images_are_not_taken(place):
    method = ("--subclass", "--numClasses2Repartition", "1")
    script(place, *method, "--stage", "identify")
    add_pictures(place / "set")
    assert_refused(script(place, *method, "--stage", "train", code=2).stderr, "runs/m/stage1")
    script(place, *method, "--stage", "identify", "--overwrite")
    assert "stage2" not in script(place, *method, "--stage", "train").stderr


def test_all_processes_leave_where_the_first_refuses(place, loopback):
    script(place)
    add_pictures(place / "set")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv = command("notebook.py", *FLAGS, "--data-dir", place / "data", "--runs-dir", place.parent / "runs")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    # other flags are refused where the folder is opened: this run is of two processes from its start
    subprocess.run([*launch, *argv[1:], "--overwrite"], cwd=place, env=env, check=True, capture_output=True)
    write_pictures(place / "set", first=700, count=1)
    done = subprocess.run([*launch, *argv[1:]], cwd=place, env=env, capture_output=True, text=True, timeout=200)
    said = [line for line in done.stderr.splitlines() if line.startswith("notebook.py: error: ")]
    assert done.returncode != 0 and len(said) == 1 and "other data" in said[0], done.stderr[-3000:]
    assert "in run_main" not in done.stderr  # no traceback of ours
