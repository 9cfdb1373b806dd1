"""`make gpu-check` on a machine without a GPU: the rehearsal, what it refuses, what it finds, and the hours of a plan.

Nothing here asserts a time.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import interrupted, projection, usage, verdict
from benchmarks.gpu_check.agreement import Agreement, differences
from reproduction.launch import measured, pipeline
from reproduction.launch.jobs import Command
from reproduction.launch.pipeline import Request
from subclass_torch.reproduce import commands_of
from tests.test_layout import PAPERS, ROOT

DRIVER = '#!/bin/sh\ncase "$*" in\n-L) echo "GPU 0: NVIDIA Card 1 (UUID: GPU-12)" ;;\n'
DRIVER += "*lms*) echo 75; echo 25; exec sleep 60 ;;\n"
DRIVER += '*) echo "NVIDIA Card 1, 570.1, 81559, 9.0" ;;\nesac\n'
# Commands of a seed of profile matched that train a whole network: not on features, no ranking, analysis or report
MATCHED_TRAININGS = {
    "class2str_tf": 4, "subclass_torch": 14, "finegrained_torch": 5, "triplet_tf": 4, "hierarchy_cnn_torch": 3,
}  # fmt: skip


@pytest.fixture
def card(tmp_path, monkeypatch) -> None:
    """A driver's tool that lists one GPU."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(DRIVER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


def test_the_rehearsal_walks_every_part_on_a_cpu(tmp_path):
    asked = subprocess.run(
        ["make", "-n", "gpu-check", "DEVICE=cpu", "ARGS=--rehearse"], cwd=ROOT, capture_output=True, text=True
    )
    words = asked.stdout.strip().splitlines()[-1].split()
    command = [sys.executable, *words[words.index("-m") :], "--out", str(tmp_path / "out")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([w.strip('"') for w in command], cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for word in ("torch 2", "TensorFlow 2", "resume, torch: killed", "resume, tensorflow: killed"):
        assert word in done.stdout
    steps = re.findall(r"^step(?:s (2) and (4)| (\d))[:,]", done.stdout, re.MULTILINE)
    assert {number for found in steps for number in found if number} == set("123456")
    assert not re.search(r"e\+\d+ h", done.stdout)  # hours in plain digits
    assert "collapsing" not in done.stdout  # a loop's advice about noise
    assert done.stdout.count("going on at epoch") == 4  # on the way, and in the block at the end
    for paper in verdict.PAPERS:
        assert f"{paper}: ready: right in float32" in done.stdout
        assert f"{paper} " in done.stdout and "images/s, GPU waits: not measured, peak" in done.stdout
    block = (tmp_path / "out" / "report.txt").read_text()
    assert (
        block.startswith("```\ngpu-check ") and "rehearsal, its numbers mean nothing" in block and block in done.stdout
    )
    kept = measured.read("CPU", tmp_path / "out" / "hours.json")
    commands = commands_of(Request("paper", "cifar10", (7,), "cpu"))
    assert measured.planned_hours(commands, kept)[1] == len(commands) == 3
    for paper, count in MATCHED_TRAININGS.items():
        module = importlib.import_module(f"{paper}.reproduce")
        request = Request("matched", module.DATASETS["matched"], (7,), copy="q90")
        found = [measured.hours_of(command, kept) for command in module.commands_of(request)]
        assert sum(bool(hours) for hours in found) == count, paper


def test_without_a_gpu_it_is_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_check.main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "no CUDA GPU" in said.err and "--rehearse" in said.err


def test_a_cpu_is_only_for_a_rehearsal(capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--device", "cpu"])
    assert ended.value.code == 2 and "add --rehearse" in capsys.readouterr().err


def test_a_framework_that_is_not_installed_is_named_and_left_out(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "is_installed", lambda framework, python: False)
    (tmp_path / "hours.json").write_text("of an earlier check")
    assert gpu_check.main(["--device", "cpu", "--rehearse", "--out", str(tmp_path)]) == 1
    assert (tmp_path / "hours.json").read_text() == "of an earlier check"
    said = capsys.readouterr().out
    assert "torch: not installed, left out; install it: make setup\n" in said
    assert "tensorflow: not installed, left out; install it: make setup GPU=1" in said
    assert "hierarchy: not checked: its framework is not installed" in said


def test_what_an_environment_holds_is_seen_without_an_import():
    assert gpu_check.is_installed("torch", sys.executable) and not gpu_check.is_installed("torchx", sys.executable)
    assert not gpu_check.is_installed("torch", "/nowhere/python")
    link = str(Path(sys.executable).with_name("python3"))
    assert gpu_check.is_installed("numpy", link) and not gpu_check.is_installed("numpyx", link)


def test_a_card_that_a_framework_does_not_see_is_explained(card, monkeypatch):
    assert pipeline.first_gpu() == "NVIDIA Card 1"
    assert usage.gpus() == [{"name": "NVIDIA Card 1", "driver": "570.1", "memory_mib": "81559", "capability": "9.0"}]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "built for CPUs; run: rm -rf .venv && make setup" in gpu_check.mending("torch", {"built": None}, "570.1")
    old = gpu_check.mending("tensorflow", {"built": "12.5"}, "450.1")
    assert "driver 450.1 is older than CUDA 12.5 needs" in old and "rm -rf .venv-tf && make setup GPU=1" in old
    assert ": the driver is older than CUDA 12.8 needs" in gpu_check.mending("torch", {"built": "12.8"}, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "unset CUDA_VISIBLE_DEVICES" in gpu_check.mending("torch", {"built": "12.8"}, "570.1")


def test_a_check_in_which_torch_sees_no_card_ends_with_what_to_run(card, capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "is_installed", lambda framework, python: framework == "torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # on a machine with a GPU as well
    assert gpu_check.main(["--out", str(tmp_path)]) == 1
    said = capfd.readouterr().out
    assert re.search(
        r"^torch sees no GPU: .*; run: (rm -rf \.venv && make setup|unset CUDA_VISIBLE_DEVICES)$", said, re.M
    )
    assert said.count("torch 2") == 2  # on the way, and in the block
    block = (tmp_path / "report.txt").read_text()
    assert "driver 570.1: NVIDIA Card 1, compute capability 9.0, 81559 MiB" in block
    assert "hierarchy: NOT READY: torch: torch sees no GPU" in block and "make plan" not in said


def test_the_time_in_which_a_gpu_waits_is_what_the_driver_does_not_call_busy(card, monkeypatch, tmp_path):
    import time

    with usage.watch_gpu() as waiting:
        time.sleep(0.5)
    assert waiting == [0.5]
    monkeypatch.setenv("PATH", str(tmp_path))
    with usage.watch_gpu() as waiting:
        pass
    assert waiting == []


def test_differences_find_a_scaled_layer_a_turned_sign_and_nan():
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(5, 4)), rng.normal(size=7)]
    assert differences(layers, layers) == (0.0, pytest.approx(1.0))
    assert differences(layers, [layers[0], 0.5 * layers[1]])[0] == pytest.approx(0.5)
    assert differences(layers, [layers[0], -layers[1]])[1] < 0.9
    assert differences([np.zeros(3)], [np.zeros(3)]) == (0.0, 1.0)
    for loss, change in ((np.nan, layers), (1.0, [layers[0], np.full(7, np.nan)])):
        agreement = Agreement("float32")
        agreement.add((1.0, loss), (layers, change))
        agreement.add((1.0, 1.0), (layers, layers))
        assert not agreement.is_close and "OUTSIDE" in agreement.describe()
    assert not Agreement("float32").is_close  # nothing was compared


def test_a_wrong_gradient_on_the_device_is_found_and_a_right_one_passes():
    import torch

    from benchmarks.gpu_check import torch_networks, torch_side

    def check(factor: float) -> tuple[Agreement, ...]:
        case = torch_networks.cases(small=True)[2]()

        def loss(net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            if net is not case.network and not net.conv3.weight._backward_hooks:
                net.conv3.weight.register_hook(lambda gradient: factor * gradient)
            return case.loss(net, images, labels)

        planted = case._replace(loss=loss, batch=4)
        return tuple(torch_side.compare(planted, torch.device("cpu"), ["float32", "bf16"], 2))

    right, wrong = check(1.0), check(0.4)
    assert all(agreement.is_close for agreement in right), [a.describe() for a in right]
    assert not any(agreement.is_close for agreement in wrong)
    assert right[0].loss == 0.0 < right[1].loss


def test_the_cases_of_tensorflow_leave_the_gpu_visible(monkeypatch):
    """A case that started TensorFlow on the CPU would hide the GPU from what asks for its memory afterwards."""
    pytest.importorskip("tensorflow")
    from benchmarks.gpu_check import tf_side

    asked: list[str] = []
    monkeypatch.setattr(tf_side.tf_runtime, "start", lambda seed, device, *more: asked.append(device))
    assert [case.paper for case in tf_side.cases(small=True)] == ["class2str", "triplet"]
    assert not asked


def test_a_loop_is_timed_with_the_kernels_of_a_run_whatever_ran_before(monkeypatch, tmp_path):
    import torch

    from benchmarks.gpu_check import torch_networks

    def chosen(*_: object) -> tuple[bool, bool]:
        return torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark

    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # as fine-grained leaves them
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch_networks, "run_hierarchy", chosen)
    case = torch_networks.cases(small=True)[2]()
    assert torch_networks.run_loop(case, "float32", torch.device("cpu"), True, tmp_path / "run") == (False, True)


def test_a_run_that_cannot_be_killed_or_does_not_go_on_is_no_success(monkeypatch):
    for line, said in (
        ("-c pass", "ended with exit code 0 before it could be killed"),
        ("-c 1/0", "ZeroDivisionError"),
    ):
        monkeypatch.setitem(interrupted.COMMANDS, "torch", (line, "*/state"))
        with pytest.raises(RuntimeError, match=said):
            interrupted.kill_and_resume("torch", "cpu")


def test_a_difference_or_a_failure_makes_a_paper_not_ready():
    near = {"kind": "agreement", "paper": "subclass", "network": "vgg16", "precision": "bf16", "close": True}
    fast = {"kind": "speed", "paper": "subclass", "network": "vgg16", "precision": "bf16", "images_per_s": 9.0}
    assert verdict.verdict_of("subclass", [near, fast])[0]
    ready, line = verdict.verdict_of("subclass", [near | {"close": False}, fast])
    assert not ready and "NOT READY: vgg16 in bf16 differs from the CPU" in line
    failed = {"kind": "failure", "paper": "subclass", "what": "resume", "message": "no checkpoint"}
    assert verdict.verdict_of("subclass", [near, fast, failed]) == (False, "subclass: NOT READY: resume: no checkpoint")
    assert not verdict.verdict_of("subclass", [near])[0]


def test_hours_follow_from_images_and_speed_and_small_networks_are_left_to_the_plan():
    assert projection.training_hours(3.6e6, 10.0, 10.0, 1000.0) == 1.0
    assert projection.training_hours(3.6e6, 20.0, 10.0, 1000.0) == 2.0
    assert projection.training_hours(3.6e6, 4.0, 10.0, 1000.0) is None


def test_the_plan_shows_measured_hours_of_this_machine(card, monkeypatch, tmp_path):
    first, second, third = commands_of(Request("paper", "cifar10", (0,)))
    hours = {measured.key_of(command)[0]: {"float32": 0.25, "bf16": 0.125} for command in (first, third)}
    path = tmp_path / "hours.json"
    monkeypatch.setattr(measured, "HOURS_FILE", path)
    asked = commands_of(Request("paper", "cifar10", (3, 4), "cuda", (), True, "/elsewhere", "q90"))
    estimate = pipeline.gpu_estimate(asked)
    assert estimate == "about 6.9 GPU hours (estimate)"
    measured.write(path, "NVIDIA Card 1", "2026-11-28", hours)
    said = pipeline.gpu_estimate(asked)
    assert said.startswith("about 1.1 GPU hours (4 of 6 commands measured, the others estimates, on this machine's ")
    assert said.endswith("NVIDIA Card 1, 2026-11-28)")
    fast = commands_of(Request("paper", "cifar10", (0,), "cuda", ("--amp", "bf16")))
    assert [measured.hours_of(command, measured.read()) for command in fast] == [0.125, None, 0.125]
    measured.write(path, "another card", "2026-11-28", hours)
    assert pipeline.gpu_estimate(asked) == estimate  # hours of another GPU say nothing
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        measured.write(path, "NVIDIA Card 1", "2026-11-28", hours)
        assert pipeline.gpu_estimate(asked) == estimate  # nor do they on a machine without one
    assert pipeline.gpu_estimate(asked) == said
    assert [measured.hours_text(hours) for hours in (0.0123, 3.72, 9.97, 724.6)] == ["0.012", "3.7", "10", "725"]
    path.write_text("[")
    assert measured.read() is None


def test_the_plan_of_matched_shows_hours_that_were_measured_and_no_others(card, monkeypatch, tmp_path, capsys):
    request = Request("matched", "cifar10", (0,))
    commands, path = commands_of(request), tmp_path / "hours.json"
    monkeypatch.setattr(measured, "HOURS_FILE", path)

    def plan() -> str:
        pipeline._print_plan("subclass", request, commands, 0.2)
        return capsys.readouterr().out

    assert "measured" not in plan() and "GPU hours" not in plan()
    hours = {measured.key_of(commands[0])[0]: {"float32": 9.0, "auto": 0.01}}  # stage 1, of ten seeds
    measured.write(path, "NVIDIA Card 1", "2026-11-28", hours)
    said = "about 0.1 GPU hours for 10 of 15 commands (measured, on NVIDIA Card 1, 2026-11-28)"
    assert f"\n  {said}\n" in plan()
    assert pipeline.measured_on_gpu(dataclasses.replace(request, device="cpu"), commands) == ""
    measured.write(path, "another card", "2026-11-28", hours)
    assert "measured" not in plan()


@pytest.mark.parametrize("paper", PAPERS)
def test_a_command_has_one_key_for_every_seed_and_place(paper):
    module = importlib.import_module(f"{paper}.reproduce")
    request = Request("paper", module.DATASETS["paper"], (0,), "cpu")
    other = dataclasses.replace(request, seeds=(12,), device="cuda:1", force=True, data_dir="/there")
    keys = [[measured.key_of(command)[0] for command in module.commands_of(r)] for r in (request, other)]
    assert keys[0] == keys[1] and len(set(keys[0])) == len(keys[0])


def test_a_flag_that_changes_what_is_computed_changes_the_key():
    base = Command("r", "s", "x.py", ("--epochs", "3", "--seed", "1", "--precision=tf32"), Path())
    other = dataclasses.replace(base, flags=("--epochs", "4"))
    assert measured.key_of(base) == ("x.py --epochs 3", "tf32")
    assert measured.key_of(other) == ("x.py --epochs 4", "float32")
    assert measured.key_of(dataclasses.replace(base, flags=("--amp", "auto")))[1] == "auto"  # bf16, TF32 or float32
