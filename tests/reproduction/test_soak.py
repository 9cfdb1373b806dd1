"""The soak sees what it is there for: a run that survives everything, and runs that lose something."""

from __future__ import annotations

from pathlib import Path

import pytest

from reproduction import soak
from reproduction.runs import REPO_ROOT

# A pipeline of 12 steps with checkpoints; FLAW makes it lose something
PROGRAM = """
import fcntl, json, os, pathlib, signal, sys, time
FLAW = {flaw!r}
folder = pathlib.Path("runs/fake/seed0")
try:
    folder.mkdir(parents=True, exist_ok=True)
except OSError as problem:
    sys.exit(f"error: {{folder}}: {{problem}}")
lock = open(folder / ".lock", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit("error: another process is running in this folder")
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
step, total = 0, 0
states = sorted(folder.glob("*.ckpt"), key=lambda p: int(p.stem))
for path in reversed(states):
    try:
        step, total = json.loads(path.read_text().strip("#"))
        break
    except ValueError:
        if FLAW == "truncated":
            raise
if FLAW == "restart" and states:
    total = 0
if not (folder / "record.json").exists():
    while step < 12:
        step, total = step + 1, (total * 31 + step) % 1009
        time.sleep(0.03)
        try:
            new = folder / f"{{step}}.part"
            new.write_text("#" * 300_000 + json.dumps([step, total]))
            os.replace(new, folder / f"{{step}}.ckpt")
        except OSError as problem:
            new.unlink(missing_ok=True)
            if FLAW == "traceback":
                raise
            sys.exit(f"error: {{problem}}")
        (folder / "metrics.jsonl").open("a").write("")
        if stop:
            sys.exit("stopped; the same command goes on" if FLAW != "silent" else "")
    (folder / "metrics.jsonl").write_text(json.dumps(dict(step=step, seconds=time.time())) + "\\n")
    record = dict(metrics=dict(accuracy=total, time_change=time.time()), details={{}})
    (folder / "record.part").write_text(json.dumps(record))
    os.replace(folder / "record.part", folder / "record.json")
"""


def run(tmp_path: Path, flaw: str, kills: int = 2) -> soak.Tally:
    for part in ("calm", "disturbed"):
        package = tmp_path / part / "fake"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "reproduce.py").write_text(PROGRAM.format(flaw=flaw))
    return soak.soak("fake", tmp_path, number=kills, terms=1, seed=3, say=lambda text: None)


def test_a_sound_run_survives_everything(tmp_path):
    tally = run(tmp_path, "", kills=4)
    assert tally.faults == []
    assert tally.counts.pop("chains of SIGKILL")[0] >= 1
    assert tally.counts == {
        "SIGKILL": [4, 4], "SIGTERM": [1, 1], "full disk": [1, 1], "file where the runs should lie": [1, 1],
        "truncated newest checkpoint": [1, 1], "two runs of one folder": [1, 1], "clock set back by a day": [1, 1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flaw", "fault"),
    [
        ("restart", "chains of SIGKILL"),
        ("silent", "SIGTERM"),
        ("traceback", "full disk"),
        ("truncated", "truncated newest"),
    ],
)
def test_what_is_lost_is_seen(tmp_path, flaw, fault):
    tally = run(tmp_path, flaw, kills=6)  # some come before the first checkpoint, where nothing can be lost
    assert any(line.startswith(fault) for line in tally.faults), tally


def test_times_are_not_figures():
    line = {
        "step": 3,
        "test/seconds": 1.5,
        "loss": 2.0,
        "details": {"time_change": 3, "strings": ["0"]},
        "l": [{"time": 1}],
    }
    assert soak.timeless(line) == {"step": 3, "loss": 2.0, "details": {"strings": ["0"]}, "l": [{}]}


def test_the_copy_holds_the_tracked_files_and_no_runs(tmp_path):
    copy = soak.checkout(tmp_path / "a b")
    assert (copy / "Makefile").read_bytes() == (REPO_ROOT / "Makefile").read_bytes()
    assert not (copy / "runs").exists() and not (copy / ".git").exists()
