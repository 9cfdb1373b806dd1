"""Commands side by side: order within a worker, barriers, failures, a clean stop, the same results."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reproduction.launch import jobs as workers
from reproduction.launch.jobs import Command
from reproduction.runtime.run_folder import UserError

ROOT = Path(__file__).resolve().parent.parent.parent
NOTE = "import sys,time,pathlib; t=pathlib.Path(sys.argv[1]); time.sleep(float(sys.argv[3])); "
NOTE += "t.open('a').write(sys.argv[2]+'\\n'); print('did', sys.argv[2]); sys.exit(int(sys.argv[4]))"


@pytest.fixture
def note(tmp_path, monkeypatch):
    """note(name, worker, seconds, code) -> a command that writes its name into tmp_path/order."""
    (tmp_path / "note.py").write_text(NOTE)
    monkeypatch.setattr(workers, "REPO_ROOT", tmp_path)

    def make(name: str, worker: str | None = None, seconds: float = 0.0, code: int = 0) -> Command:
        flags = (str(tmp_path / "order"), name, str(seconds), str(code))
        return Command("row", name, "note.py", flags, tmp_path, worker=worker)

    return make


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().split()


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_jobs_keep_their_order_and_a_command_without_worker_waits(note, tmp_path, jobs):
    commands = [note(f"{worker}{i}", worker, 0.05 * (worker == "a")) for worker in "abc" for i in range(3)]
    commands += [note("end"), note("after", "a")]
    assert workers.run_all(commands, jobs) is None
    seen = order(tmp_path)
    assert sorted(seen[:9]) == sorted(f"{worker}{i}" for worker in "abc" for i in range(3)) and seen[9:] == [
        "end",
        "after",
    ]
    for worker in "abc":
        assert [name for name in seen if name[0] == worker and len(name) == 2] == [f"{worker}{i}" for i in range(3)]


def test_jobs_overlap(note, tmp_path):
    commands = [note("slow", "a", 1.5), note("slow2", "a"), note("quick", "b"), note("quick2", "b")]
    assert workers.run_all(commands, 2) is None
    assert order(tmp_path) == ["quick", "quick2", "slow", "slow2"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failure_names_the_command_and_starts_nothing_more(note, tmp_path, jobs):
    commands = [note("bad", "a", 0.2, code=7), note("never", "a"), note("cut", "b", 60 if jobs > 1 else 0)]
    failed = workers.run_all(commands, jobs)
    assert failed is not None and failed[0].stage == "bad" and failed[1] == 7
    assert order(tmp_path) == ["bad"]  # the other worker was asked to stop, or never began


def test_scripts_that_are_stopped_are_asked_once_and_save_in_their_own_time(tmp_path, monkeypatch):
    (tmp_path / "child.py").write_text(f"""
import sys, time; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from reproduction.runtime.run_folder import stop_signals
name, seconds, folder = sys.argv[1], float(sys.argv[2]), Path({str(tmp_path)!r})
with stop_signals() as stop:  # a second SIGTERM ends the script at once
    (folder / f"{{name}}.ready").touch()
    while name != "bad" and not stop.requested or len(list(folder.glob("*.ready"))) < 3:
        time.sleep(0.02)
    time.sleep(seconds)
    (folder / f"{{name}}.saved").touch()
    sys.exit(1)
""")
    monkeypatch.setattr(workers, "REPO_ROOT", tmp_path)
    seconds = {"bad": "0", "quick": "0.1", "slow": "1"}
    commands = [Command("row", n, "child.py", (n, seconds[n]), tmp_path, worker=n) for n in seconds]
    failure = workers.run_all(commands, 3)
    assert failure is not None and failure[0].stage == "bad"
    assert {path.stem for path in tmp_path.glob("*.saved")} == set(seconds)


def test_lines_carry_the_number_of_their_command(note, capfd):
    workers.run_all([note("x", "a"), replace(note("y", "b"), threads=1)], 2)
    out = capfd.readouterr().out
    assert "1/2 | did x" in out and "2/2 | did y" in out
    assert out.count("$ OMP_NUM_THREADS=1 python note.py") == 1


def test_a_command_is_given_its_threads(tmp_path, monkeypatch, capfd):
    (tmp_path / "show.py").write_text("import os; print('told', os.environ.get('OMP_NUM_THREADS'))")
    monkeypatch.setattr(workers, "REPO_ROOT", tmp_path)
    workers.run_all([Command("row", "s", "show.py", (), tmp_path, worker=n, threads=3) for n in "ab"], 2)
    assert capfd.readouterr().out.count("told 3") == 2


def test_jobs(note):
    commands = [note(str(i), f"seed{i}") for i in range(3)]
    assert workers.jobs_of(commands, 0, on_gpu=True) == 1
    assert workers.jobs_of(commands, 5, on_gpu=True) == 5
    assert 1 <= workers.jobs_of(commands, 0, on_gpu=False) <= 3
    assert workers.jobs_of([note("alone")], 0, on_gpu=False) == 1


@pytest.fixture
def interruptible():
    """SIGINT as in a terminal: a suite that a shell script starts in the background inherits it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_counts_where_the_script_ends_well_all_the_same(tmp_path, monkeypatch, jobs, number):
    (tmp_path / "child.py").write_text(
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(0.3)\n"
        f"open('order', 'a').write(sys.argv[1]); os.kill(os.getppid(), {int(number)}); time.sleep(0.3)\n"
    )
    monkeypatch.setattr(workers, "REPO_ROOT", tmp_path)
    stopped = workers.run_all([Command("row", n, "child.py", (n,), tmp_path, worker="a") for n in "ab"], jobs)
    assert stopped is not None and stopped[1] == 128 + number and order(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_on_when_the_pipeline_is_stopped(tmp_path, number):
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from reproduction.launch import jobs as workers
workers.REPO_ROOT = Path({str(tmp_path)!r})
commands = [workers.Command("row", n, "child.py", (n,), workers.REPO_ROOT, worker=n) for n in "ab"]
commands.append(workers.Command("row", "c", "child.py", ("c",), workers.REPO_ROOT, worker="a"))
failed = workers.run_all(commands, 2)
sys.exit(9 if failed else 0)
"""
    (tmp_path / "child.py").write_text(
        "import os, pathlib, sys, time\npathlib.Path(__file__).with_name(sys.argv[1]).write_text(str(os.getpid()))\n"
        "time.sleep(120)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    pids = [tmp_path / "a", tmp_path / "b"]
    while not all(path.exists() and path.read_text() for path in pids):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == (9 if number == signal.SIGTERM else -signal.SIGKILL)
    for path in pids:
        while _alive(int(path.read_text())):
            assert time.monotonic() < deadline, "a script runs on"
            time.sleep(0.05)
    assert not (tmp_path / "c").exists()


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-15, "was stopped by SIGTERM"),
        (143, "was stopped by SIGTERM"),
        (130, "was stopped by SIGINT"),
        (-9, "was stopped by SIGKILL"),
        (-6, "was stopped by SIGABRT (TensorFlow aborts so when its GPU is lost)"),
        (2, "ended with exit code 2"),
        (128, "ended with exit code 128"),
        (255, "ended with exit code 255"),
    ],
)
def test_the_last_line_names_the_signal_that_ended_a_script(code, words):
    assert workers.ending(code) == words


def test_workers_that_fail_for_one_cause_print_it_once(note, tmp_path, capfd):
    (tmp_path / "note.py").write_text("import sys, time; time.sleep(0.3); print('x.py: error: no space'); sys.exit(2)")
    assert workers.run_all([note("a", "a"), note("b", "b"), note("c", "c")], 3)[1] == 2
    assert capfd.readouterr().out.count("x.py: error: no space") == 1


def test_a_wrong_flag_is_found_before_any_script_trains(tmp_path):
    commands = [
        Command("r", "fine", "subclass_torch/notebook.py", ("--name", "x"), tmp_path),
        Command("r", "typing error", "finegrained_torch/pipeline.py", ("--treshold", "90"), tmp_path),
    ]
    workers.check_flags(commands[:1])
    with pytest.raises(UserError, match=r"^ARGS: pipeline.py: error: unrecognized arguments: --treshold 90"):
        workers.check_flags(commands)
