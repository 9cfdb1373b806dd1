"""Training at chance: a warning by default, an error on request; the authors' command lines run to their end."""

import json

import pytest
import torch

from reproduction.runtime.run_folder import UserError
from reproduction.runtime.torch_runtime import World
from subclass_torch import flags
from subclass_torch.training.chance import check_chance, working_rate
from subclass_torch.training.record import warn_of_unmeasured

from .conftest import TINY, run

WORLD = World(0, 1, torch.device("cpu"))
AUTHORS = (
    "--dataset cifar100 --model vgg16 --data_augmentation --cutout --length 8 --subclass --numClasses2Repartition 10"
)


def check(line, accuracy, world=WORLD):
    config = flags.resolve(flags.make_parser().parse_args(line.split()))
    check_chance("stage1", torch.arange(50000) % 100, 100, config, accuracy, 50000, world)


def test_the_authors_cifar100_line_warns_and_names_a_rate(capsys):
    check(AUTHORS, 0.01)
    assert capsys.readouterr().err == (
        "warning: stage1: after 5 epochs the training accuracy 1.00 % is still at chance (1.00 %); "
        "try --learning_rate 0.001 (the run goes on; --chance-epochs 5 stops it)\n"
    )
    check(AUTHORS, 0.02)
    check(AUTHORS, 0.01, WORLD._replace(rank=1))
    assert capsys.readouterr().err == ""


def test_the_flag_makes_it_stop_except_with_the_released_behaviour(capsys):
    with pytest.raises(UserError, match=r"after 7 epochs .*--learning_rate 0.001 \(--chance-epochs 0 goes on\)$"):
        check(f"{AUTHORS} --chance-epochs 7", 0.01)
    for more in ("", " --chance-epochs 7"):
        check(f"{AUTHORS} --compat official{more}", 0.01)
        assert capsys.readouterr().err.endswith("try --learning_rate 0.001 (the run goes on)\n")


def test_the_rate_to_try_falls_with_the_number_of_outputs():
    assert [working_rate(0.1, classes) for classes in (2, 10, 100)] == [0.05, 0.01, 0.001]
    assert working_rate(0.01, 10) == pytest.approx(0.001) and working_rate(1e-9, 10) == 0.01


def test_a_run_at_chance_goes_on_by_default_and_after_it_was_stopped(tmp_path):
    flat = [*TINY, "--subset", "60", "--epochs", "5", "--learning_rate", "1e-9", "--runs-dir", tmp_path]
    at = flat.index("--chance-epochs")
    default = flat[:at] + flat[at + 2 :]
    done = run("notebook.py", *default, "--name", "default")
    assert "warning: stage2: after 5 epochs" in done.stderr and "is still at chance (10.00 %)" in done.stderr
    assert (tmp_path / "default" / "DONE").exists()
    stopped = run("notebook.py", *default, "--name", "flat", "--chance-epochs", "1", code=2)
    assert "after 1 epochs the training accuracy" in stopped.stderr and "Traceback" not in stopped.stderr
    assert "at chance" not in run("notebook.py", *default, "--name", "flat", "--chance-epochs", "0").stderr
    assert (tmp_path / "flat" / "DONE").exists()


def test_the_check_is_no_part_of_what_a_run_computes():
    """The records and run folders of before, when 5 was the default and stopped the run, stay valid."""
    for line in ("", "--chance-epochs 0", "--chance-epochs 3"):
        config = flags.resolve(flags.make_parser().parse_args(line.split()))
        kept = flags.of_run(config, stage1=False)
        assert kept["chance_epochs"] == 5 and "chance_stops" not in kept


def test_classes_chosen_without_a_measurement_are_counted(capsys):
    warn_of_unmeasured([0.0, 1.5, 0.0], [1, 0])
    assert "no neglection degree could be measured for 1 of the 2 classes chosen, the first is 0" in (
        capsys.readouterr().err
    )
    warn_of_unmeasured([0.0, 1.5, 1.0], [1, 2])
    assert capsys.readouterr().err == ""


def test_a_wrong_run_beside_is_refused_before_the_training(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "evaluation.json").write_text(json.dumps({"confusion_last": [[1, 0], [0, 1]]}))
    flags_ = [*TINY, "--runs-dir", tmp_path, "--subclass", "--numClasses2Repartition", "0", "--epochs_class", "1"]
    done = run("notebook.py", *flags_, "--name", "m", "--beside", tmp_path / "other", code=2)
    assert "--beside" in done.stderr and "is not of 10 classes" in done.stderr and "stage2 epoch" not in done.stdout
