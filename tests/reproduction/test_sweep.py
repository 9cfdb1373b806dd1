"""Tasks, and their way through Ray: order, phases, failures, a killed worker, the records of a plain run."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reproduction.launch import sweep
from reproduction.launch.jobs import Command, start
from reproduction.launch.sweep import Task, tasks_of
from reproduction.runtime.run_folder import UserError
from tests.soak.smoke_copy import timeless

ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")

# kills its Ray worker the first time it is told to; else writes its name
SCRIPT = """
import os, pathlib, signal, sys
folder, name, what = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if what == "fail":
    print("because of this"); sys.exit(3)
if what == "kill" and not (folder / "killed").exists():
    (folder / "killed").write_text(""); os.kill(os.getppid(), signal.SIGKILL); signal.pause()
if what == "die" and not (folder / "died").exists():
    (folder / "died").write_text(""); os.kill(os.getpid(), signal.SIGKILL)
with open(folder / "order", "a") as file:
    file.write(name + "\\n")
"""


@pytest.fixture(scope="module", autouse=True)
def cluster(loopback):
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    before = signal.getsignal(signal.SIGTERM)  # Ray puts its own in place and leaves it there
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def command(tmp_path):
    (tmp_path / "s.py").write_text(SCRIPT)

    def make(name: str, worker: str | None, what: str = "write") -> Command:
        return Command("row", name, str(tmp_path / "s.py"), (str(tmp_path), name, what), tmp_path / name, worker=worker)

    return make


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().split()


def test_tasks_are_workers_in_phases(command):
    commands = [command("a0", "a"), command("b0", "b"), command("a1", "a"), command("sum", None), command("c0", "a")]
    tasks = tasks_of("p", commands)
    assert [([c.stage for c in task.commands], task.phase) for task in tasks] == [
        (["a0", "a1"], 0),
        (["b0"], 0),
        (["sum"], 1),
        (["c0"], 2),
    ]
    assert len({task.name for task in tasks[:3]}) == 3


def test_all_run_in_order_and_phases_wait(command, tmp_path):
    commands = [command("a0", "a"), command("a1", "a"), command("b0", "b"), command("sum", None)]
    outcomes = dict(sweep.sweep(tasks_of("p", commands), 1, 0, 0))
    assert all(isinstance(seconds, float) for seconds in outcomes.values()) and len(outcomes) == 3
    seen = order(tmp_path)
    assert seen[-1] == "sum" and seen.index("a0") < seen.index("a1") and sorted(seen[:3]) == ["a0", "a1", "b0"]


@pytest.mark.parametrize("what", ["kill", "die"])
def test_a_killed_worker_or_script_loses_nothing(command, tmp_path, what):
    commands = [command("a0", "a"), command("a1", "a", what), command("b0", "b")]
    outcomes = list(sweep.sweep(tasks_of("p", commands), 1, 0, 2))
    assert all(isinstance(outcome, float) for _, outcome in outcomes), outcomes
    assert (tmp_path / {"kill": "killed", "die": "died"}[what]).exists()
    assert set(order(tmp_path)) == {"a0", "a1", "b0"}


def test_a_failing_script_is_named_not_repeated_and_the_rest_goes_on(command, tmp_path):
    commands = [command("a0", "a", "fail"), command("a1", "a"), command("b0", "b")]
    outcomes = {task.name: outcome for task, outcome in sweep.sweep(tasks_of("p", commands), 1, 0, 3)}
    failed = outcomes["p row a"]
    assert isinstance(failed, Exception) and "exit code 3" in str(failed) and "because of this" in str(failed)
    assert isinstance(outcomes["p row b"], float) and order(tmp_path) == ["b0"]


def test_a_script_that_is_not_on_the_node_is_named():
    task = Task("p row a", (Command("row", "x", "/nowhere/s.py", (), Path("/nowhere"), worker="a"),), 0)
    [(_, outcome)] = sweep.sweep([task], 1, 0, 0)
    assert isinstance(outcome, Exception) and "same path" in str(outcome)


def test_records_are_those_of_a_plain_run(tmp_path):
    flags = "--dataset mnist5k --model vgg_small --subset 60 --epochs 1 --name tiny --device cpu".split()

    def command(where: str) -> Command:
        words = (*flags, "--runs-dir", str(tmp_path / where))
        return Command("row", where, "subclass_torch/notebook.py", words, tmp_path / where, worker="a", threads=1)

    def written(where: str) -> list:
        record = json.loads((tmp_path / where / "tiny" / "record.json").read_text())
        assert record["argv"][:2] == ["subclass_torch/notebook.py", "--dataset"]
        for when in ("date", "commit", "dirty", "peak_memory_bytes", "artefacts"):  # a log is named after its moment
            record.pop(when)
        curve = (tmp_path / where / "tiny" / "metrics.jsonl").read_text().splitlines()
        return [timeless(part) for part in (record, [json.loads(line) for line in curve])]

    assert start(command("plain")).wait() == 0
    [(_, outcome)] = sweep.sweep(tasks_of("p", [command("swept")]), 1, 0, 0)
    assert isinstance(outcome, float)
    assert written("swept") == written("plain")


class Starting:
    """A Ray whose first starts fail."""

    def __init__(self, failures: int):
        self.failures, self.given = failures, []

    def init(self, **given):
        self.given.append(given)
        if len(self.given) <= self.failures:
            raise Exception("The node timed out.\nMore.")

    def shutdown(self): ...


def test_a_busy_machine_gets_several_starts_and_then_one_line(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    busy, down = Starting(sweep.STARTS - 1), Starting(sweep.STARTS)
    sweep.connect(busy)
    assert len(busy.given) == sweep.STARTS and busy.given[0]["include_dashboard"] is False
    with pytest.raises(UserError, match=r"Ray did not start: The node timed out\. Check that") as error:
        sweep.connect(down)
    assert "\n" not in str(error.value)


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:9")
    away = Starting(1)
    with pytest.raises(UserError, match="RAY_ADDRESS=10.0.0.1:9"):
        sweep.connect(away)
    assert away.given == [{"log_to_driver": True, "logging_level": "warning"}]


@pytest.mark.parametrize(
    ("cpus", "gpus", "wrong"),
    [
        (1, 0, ""),
        (4, 0.5, ""),
        (8, 0, ""),
        (16, 0, "16 CPU and 0 GPU, and no machine"),
        (8, 1, "8 CPU and 1 GPU, and no machine"),
        (1, 2, "4 CPU and 1 GPU, 8 CPU and 0 GPU.*DEVICE=cpu"),
        (1, 1.5, "--gpus-per-task 1.5: expected"),
    ],
)
def test_what_no_machine_has_is_one_line_and_no_waiting(cpus, gpus, wrong):
    nodes = [{"CPU": 4.0, "GPU": 1.0, "memory": 7.0}, {"CPU": 8.0}]
    if not wrong:
        return sweep.check_room(nodes, cpus, gpus)
    with pytest.raises(UserError, match=wrong) as error:
        sweep.check_room(nodes, cpus, gpus)
    assert "\n" not in str(error.value)


class Asked(Exception):
    """Instead of a cluster: what one task would ask."""


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ("--profile paper --device cpu", (1, 0)),
        ("--profile paper", (1, 1)),
        ("--profile cpu", (1, 0)),
        ("--profile paper --gpus-per-task 0.5 --cpus-per-task 4", (4, 0.5)),
        ("--profile paper --gpus-per-task 0", (1, 0)),
    ],
)
def test_a_task_asks_a_gpu_where_its_scripts_use_one(flags, asked, monkeypatch):
    def room(nodes, *resources):
        raise Asked(*resources)

    monkeypatch.setattr(sweep, "connect", lambda ray: None)
    monkeypatch.setattr(sweep, "get_files", lambda *_: None)
    monkeypatch.setattr(sweep, "check_room", room)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(Asked) as stop:
        sweep.main(["--papers", "subclass", *flags.split()])
    assert stop.value.args == asked


@pytest.mark.parametrize(
    ("fails", "codes", "ends"),
    [(False, (0, 0), "0"), (False, (0, 3), "3"), (False, (0, -9), "-9"), (True, (0, 3), "1 of 2 tasks failed")],
)
def test_a_failed_task_or_comparison_is_the_exit_code(fails, codes, ends, monkeypatch):
    compared = iter(codes)
    outcomes = [1.0, sweep.TaskFailed("wrong") if fails else 1.0]
    monkeypatch.setattr(sweep, "connect", lambda ray: None)
    monkeypatch.setattr(sweep, "get_files", lambda *_: None)
    monkeypatch.setattr(sweep, "check_room", lambda *_: None)
    monkeypatch.setattr(sweep, "tasks_of", lambda paper, commands: [Task(paper, (), 0)])
    monkeypatch.setattr(sweep, "sweep", lambda tasks, *_: zip(tasks, outcomes, strict=True))
    monkeypatch.setattr(sweep, "compare_runs", lambda paper: next(compared))
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    code: object = 0
    try:
        sweep.main(["--papers", "subclass hierarchy", "--profile", "cpu"])
    except SystemExit as end:
        code = end.code
    assert str(code).startswith(ends)


@pytest.mark.parametrize("paper", sweep.FOLDERS)
def test_a_sweep_runs_the_seeds_of_a_plain_run(paper, monkeypatch):
    flags = ["--profile", "cpu", "--device", "cpu"]
    plan = [sys.executable, "-m", f"{sweep.FOLDERS[paper]}.reproduce", "--plan", *flags]
    planned = re.findall(r"--seed (\d+)", subprocess.check_output(plan, cwd=sweep.REPO_ROOT, text=True))
    swept: list[str] = []

    def tasks(_, commands):
        swept.extend(re.findall(r"--seed (\d+)", "\n".join(command.line() for command in commands)))
        raise Asked

    monkeypatch.setattr(sweep, "get_files", lambda *_: None)
    monkeypatch.setattr(sweep, "tasks_of", tasks)
    with pytest.raises(Asked):
        sweep.main(["--papers", paper, *flags])
    assert planned and swept == planned


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--profile matched --copy s144", "not all files of PROFILE=matched are here; run "),
        ("--profile cpu --args=--no_flag", "--no_flag"),
    ],
)
def test_a_sweep_refuses_before_its_tasks_what_a_plain_run_refuses(flags, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        sweep.main(["--papers", "triplet", "--data-dir", str(tmp_path), "--device", "cpu", *flags.split()])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and words in error


def test_unknown_paper_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        sweep.main(["--papers", "nothing"])
    assert stop.value.code == 2 and "--papers nothing: choose from class2str" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "venv"),
    [
        ("sweep", ".venv"),
        ("sweep PAPER=triplet", ".venv"),
        ("sweep PAPER=triplet GPU=1", ".venv-tf"),
        ("sweep PAPER=subclass GPU=1", ".venv"),
        ("results GPU=1", ".venv-tf"),  # its paper is class2str
        ("reproduce-class2str GPU=1", ".venv-tf"),
        ("reproduce-subclass GPU=1", ".venv"),
        ("soak GPU=1", ".venv"),
        ("test GPU=1", ".venv"),
    ],
)
def test_tensorflow_with_cuda_stays_apart_from_torch(words, venv):
    """What make would run; torch is never installed into .venv-tf."""
    said = made("-n", *words.split()).stdout
    assert f"\n{venv}/bin/python -m " in said and f"VENV={venv} sh .ci/install" in said
    assert not re.search(r"VENV=\.venv-tf sh \.ci/install.* torch", said)


@pytest.mark.parametrize("words", ["sweep GPU=1", "bench GPU=1", 'results GPU=1 PAPER="class2str subclass"'])
def test_what_needs_both_frameworks_refuses_gpu_in_one_line(words):
    done = made(*shlex.split(words))
    assert done.returncode and not done.stdout
    assert len(done.stderr.splitlines()) == 2 and "GPU=1 keeps TensorFlow with CUDA apart" in done.stderr  # and make's


@pytest.mark.parametrize(
    ("words", "programs"),
    [
        (
            "sweep TASK='--gpus-per-task 0.5 --retries 5'",
            ["reproduction.launch.sweep .*--gpus-per-task 0.5 --retries 5"],
        ),
        ("results JOBS=1 FORCE=1", ["reproduction.take_results .*--profile .?cpu.*--force --jobs .?1"]),
        ("reproduce PAPER='triplet hierarchy'", ["triplet_tf.reproduce", "hierarchy_cnn_torch.reproduce"]),
        ("compare PAPER='triplet hierarchy'", ["reproduction.compare --paper triplet --paper hierarchy"]),
        ("report PAPER=triplet RUNS=x ARGS=-y", ["reproduction.page.report .*--paper triplet --runs .?x.? -y"]),
    ],
)
def test_make_ignores_no_name(words, programs):
    commands = re.findall(r"-m (.*)", made("-n", *shlex.split(words)).stdout)
    assert len(commands) == len(programs) and all(map(re.match, programs, commands)), commands


def made(*words: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "GPU", "PAPER"))}
    return subprocess.run(["make", *words], cwd=sweep.REPO_ROOT, capture_output=True, text=True, env=environment)
