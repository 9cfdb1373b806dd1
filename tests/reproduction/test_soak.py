"""The soak sees what it is there for: a run that survives everything, and runs that lose something."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from reproduction.runtime.run_folder import REPO_ROOT, UserError
from tests.soak import same_bits, smoke_copy, soak

# A pipeline of 12 steps with states to go on from; FLAW makes it lose something
PROGRAM = """
import fcntl, json, os, pathlib, signal, sys, time
FLAW = {flaw!r}
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1) if FLAW != "deaf" else None)
folder = pathlib.Path("runs/fake/seed0")
try:
    folder.mkdir(parents=True, exist_ok=True)
except OSError as problem:
    sys.exit(f"error: {{folder}}: {{problem}}")
lock = open(folder / ".lock", "w")
try:
    if FLAW != "open":
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit("error: another process is running in this folder")
step, total = 0, 0
states = sorted(folder.glob("state-*.ckpt"))
for path in reversed(states):
    try:
        step, total = json.loads(path.read_text().strip("#"))
        break
    except ValueError:
        if FLAW == "truncated":
            raise
        print(f"{{path}}: not a readable checkpoint; going on from the one before")
        if FLAW == "zero":
            break
if FLAW == "restart" and states:
    total = 0
if step:
    print("going on at step", step)
if not (folder / "record.json").exists():
    while step < 12:
        step, total = step + 1, (total * 31 + step + 1) % 1009
        time.sleep(0.03)
        try:
            new = folder / f"{{step}}.part"
            new.write_text("#" * 300_000 + json.dumps([step, total]))
            os.replace(new, folder / f"state-{{step:04}}.ckpt")
        except OSError as problem:
            new.unlink(missing_ok=True)
            if FLAW == "traceback":
                raise
            sys.exit(f"error: {{problem}}")
        (folder / "metrics.jsonl").open("a").write("")
        while step == 2 and pathlib.Path("hang").exists():
            time.sleep(0.05)
        if stop:
            sys.exit("stopped; the same command goes on" if FLAW != "silent" else "")
    (folder / "metrics.jsonl").write_text(json.dumps(dict(step=step, seconds=time.time())) + "\\n")
    record = dict(metrics=dict(accuracy=total, time_change=time.time()), details={{}})
    (folder / "record.part").write_text(json.dumps(record))
    os.replace(folder / "record.part", folder / "record.json")
"""

# Stands for a sweep: a worker that starts the pipeline's script, and another where that one is killed
SWEEP = """
import subprocess, sys
WORKER = '''
import ctypes, subprocess, sys
end_with_parent = lambda: ctypes.CDLL(None).prctl(1, 15)
sys.exit(subprocess.run([sys.executable, "{root}/fake/reproduce.py"], preexec_fn=end_with_parent).returncode)
'''
while subprocess.run([sys.executable, "-c", WORKER]).returncode and {flaw!r} != "forgotten":
    pass
"""


def copy_of(root: Path, flaw: str) -> smoke_copy.Copy:
    package = root / "fake"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "reproduce.py").write_text(PROGRAM.format(flaw=flaw))
    (root / "reproduction" / "launch").mkdir(parents=True)
    (root / "reproduction" / "launch" / "sweep.py").write_text(SWEEP.format(flaw=flaw, root=root))
    return smoke_copy.Copy(root, "fake")


def run(tmp_path: Path, flaw: str, kills: int) -> soak.Tally:
    for part in ("calm", "disturbed"):
        copy_of(tmp_path / part, flaw)
    return soak.soak("fake", tmp_path, number=kills, terms=1, seed=3, say=print)[0]


def with_ray(monkeypatch, there: bool = True) -> None:
    """Ray itself is not needed here: SWEEP stands for it."""
    monkeypatch.setattr(soak.importlib.util, "find_spec", lambda name: there and name == "ray")


def test_a_sound_run_survives_everything(tmp_path, monkeypatch):
    with_ray(monkeypatch)
    tally = run(tmp_path, "", kills=4)
    assert tally.faults == []
    assert tally.counts.pop("chains of SIGKILL")[0] >= 1 and sum(tally.moments.values()) == 4
    assert tally.counts == {
        "SIGKILL": [4, 4],
        "SIGTERM": [1, 1],
        "full disk": [1, 1],
        "a file at the path of runs/": [1, 1],
        "truncated newest checkpoint": [1, 1],
        "two runs of one folder": [1, 1],
        "files dated a day ahead": [1, 1],
        "files dated a day back": [1, 1],
        "Ray worker killed during a task": [1, 1],
    }


PARTS = {
    "kills": lambda copy, calm, tally, length, _: soak.kills(copy, calm, tally, 2, length, random.Random(3)),
    "stops": lambda copy, calm, tally, length, _: soak.stops(copy, calm, tally, 1, length, random.Random(3)),
    "faults": lambda copy, calm, tally, length, fault: soak.faults(copy, calm, tally, [fault.partition(":")[0]]),
}


@pytest.mark.parametrize(
    ("flaw", "part", "fault"),
    [
        ("restart", "kills", "chains of SIGKILL"),
        ("silent", "stops", "SIGTERM"),
        ("deaf", "stops", "SIGTERM"),
        ("traceback", "faults", "full disk"),
        ("truncated", "faults", "truncated newest checkpoint: exit code 1"),
        ("zero", "faults", "truncated newest checkpoint: no word of the checkpoint before state-"),
        ("open", "faults", "two runs of one folder"),
        ("forgotten", "faults", "Ray worker killed during a task: figures differ"),
    ],
)
def test_what_is_lost_is_seen(tmp_path, flaw, part, fault, monkeypatch):
    with_ray(monkeypatch)
    monkeypatch.setattr(soak, "ATTEMPTS", 3)
    monkeypatch.setattr(soak, "hit", hit_at_a_state if flaw == "restart" else smoke_copy.hit)
    calm, disturbed = (copy_of(tmp_path / name, flaw) for name in ("calm", "disturbed"))
    begin = time.monotonic()
    calm.finish()
    tally = soak.Tally()
    PARTS[part](disturbed, calm.numbers(), tally, time.monotonic() - begin, fault)
    assert [line for line in tally.faults if line.startswith(fault)], tally


def hit_at_a_state(copy: smoke_copy.Copy, number: signal.Signals, wait: float) -> tuple[bool, int, str]:
    """The kill comes once there is something to lose, however busy the machine is."""
    (copy.root / "hang").touch()
    process = copy.start()
    while len(copy.states()) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    (copy.root / "hang").unlink()
    os.killpg(process.pid, number)
    code, text = smoke_copy.end(process)
    return code == -number, code, text


class Script:
    """Stands for a copy and for `hit`: its runs end as `story` says, a letter for each start.

    k: killed; e: ended by itself; f: failed by itself; in `figures`, one value for each chain.
    """

    def __init__(self, story: str, figures: Sequence[int]):
        self.story, self.values, self.waits = list(story), list(figures), []

    def hit(self, copy, number, wait):
        self.waits.append(wait)
        what = self.story.pop(0)
        return what == "k", {"k": -9, "e": 0, "f": 1}[what], "error: lost"

    def clear(self): ...
    def finish(self): ...
    def finished(self):
        return 1

    def numbers(self):
        return {"a": self.values.pop(0)}


@pytest.mark.parametrize(
    ("story", "figures", "kills", "chains", "faults"),
    [
        ("kkekk", [1, 1], [4, 4], [2, 2], 0),
        ("kkekkek", [7, 1, 1], [5, 3], [3, 2], 1),  # an old fault says nothing of later chains
        ("kkekkek", [1, 7, 1], [5, 3], [3, 2], 1),
        ("kkfkkk", [1], [5, 3], [2, 1], 1),  # a start that failed by itself, whatever the next start does
        ("kkkkkk", [1, 1], [6, 6], [2, 2], 0),  # a chain has four at most, so that kills come all over the run
        ("eeekk", [1], [2, 2], [1, 1], 0),  # runs that end before their kill are no chains
        ("f", [], [0, 0], [1, 0], 1),
    ],
)
def test_kills_are_counted_with_their_own_chain(story, figures, kills, chains, faults, monkeypatch):
    script, tally = Script(story, figures), soak.Tally()
    monkeypatch.setattr(soak, "hit", script.hit)
    soak.kills(script, {"a": 1}, tally, max(kills[0], 1), 60.0, random.Random(0))
    assert (tally.counts["SIGKILL"], tally.counts["chains of SIGKILL"]) == (kills, chains)
    assert len(tally.faults) == faults and not script.story and sum(tally.moments.values()) == kills[0]
    if story == "eeekk":
        assert script.waits[3] < 60 * 0.9 / 8  # they come earlier and earlier


def test_a_stage_without_two_states_is_not_called_tested(tmp_path):
    copy = copy_of(tmp_path, "")
    with pytest.raises(smoke_copy.Broken, match="ever had 99 states"):
        soak.half_way(copy, states=99)
    assert soak.half_way(copy, states=2)[-1].suffix == ".ckpt" and not list(tmp_path.rglob("DONE"))


@pytest.mark.parametrize(
    ("text", "fell_back"),
    [
        ("a/state-04.pt: not a readable checkpoint (x); going on from the one before\ngoing on at epoch 2", True),
        ("a/state-04.pt: not a readable checkpoint (x); going on from the one before\nepoch 1", False),
        ("going on at epoch 2", False),
    ],
)
def test_a_start_from_zero_is_no_fall_back(text, fell_back):
    assert soak.fell_back(text, Path("state-04.pt")) == fell_back


@pytest.mark.parametrize(("left", "fell_back"), [(20, True), (30, False)])
def test_tensorflow_says_it_by_the_steps_to_go(left, fell_back):
    text = f"runs/a/model-20: cannot be restored (x); trying the one before\ncpu: {left} of 30 steps of 8 images to go"
    assert soak.fell_back(text, Path("runs/a/model-20.data-00000-of-00001")) == fell_back


@pytest.mark.parametrize("days", [1, -1])
def test_files_are_dated(tmp_path, days, monkeypatch):
    copy = copy_of(tmp_path, "")
    monkeypatch.setattr(copy, "finish", lambda: "")
    soak.dated(copy, days)
    for path in (tmp_path / "runs").rglob("*"):
        assert abs(path.stat().st_mtime - time.time() - days * 86_400) < 3600, path


def test_only_what_is_named_is_tried_and_without_ray_its_fault_is_skipped(tmp_path, monkeypatch, capsys):
    with_ray(monkeypatch, there=False)
    for part in ("calm", "disturbed"):
        copy_of(tmp_path / part, "")
    tally, _ = soak.soak("fake", tmp_path, 1, 1, 0, print, names=["full disk", soak.SWEPT])
    assert tally.counts == {"full disk": [1, 1]} and f"{soak.SWEPT}: skipped: needs Ray" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        soak.main(["--only", "nothing"])
    assert stop.value.code == 2 and "--only nothing: in none of SIGKILL, SIGTERM, full disk" in capsys.readouterr().err


def test_the_name_of_a_paper_stands_in_its_folder():
    """As smoke_copy takes it for the sweep."""
    assert {folder.partition("_")[0]: folder for folder in soak.FOLDERS.values()} == soak.FOLDERS


def test_states_are_whole_checkpoints_of_the_unfinished_stage(tmp_path):
    """A file that TensorFlow's Saver had only begun is none: to truncate it disturbs nothing."""
    runs = tmp_path / "runs" / "p"
    for name in ("a/model-1", "a/model-2", "a/model-3", "b/model-9"):
        for end in (".index", ".data-00000-of-00001"):
            (runs / name).parent.mkdir(parents=True, exist_ok=True)
            (runs / f"{name}{end}").touch()
    for name in ("a/model-4.data-00000-of-00001.tempstate17", "a/model-4.data-00000-of-00001", "b/DONE"):
        (runs / name).touch()
    found = smoke_copy.Copy(tmp_path, "fake").states()
    assert [path.name for path in found] == [f"model-{k}.data-00000-of-00001" for k in (1, 2, 3)]


def test_an_undisturbed_run_that_fails_is_one_line(tmp_path):
    for part in ("calm", "disturbed"):
        copy_of(tmp_path / part, "").clear()
        (tmp_path / part / "runs").write_text("")
    with pytest.raises(UserError, match="the undisturbed run failed: exit code 1: error: runs"):
        soak.soak("fake", tmp_path, 1, 1, 0, lambda text: None)


def test_times_are_not_figures():
    line = {
        "step": 3,
        "test/seconds": 1.5,
        "loss": 2.0,
        "details": {"time_change": 3, "strings": ["0"]},
        "l": [{"time": 1}],
    }
    assert smoke_copy.timeless(line) == {"step": 3, "loss": 2.0, "details": {"strings": ["0"]}, "l": [{}]}


def test_the_copy_holds_the_tracked_files_and_no_runs(tmp_path):
    copy = smoke_copy.checkout(tmp_path / "a b")
    assert (copy / "Makefile").read_bytes() == (REPO_ROOT / "Makefile").read_bytes()
    assert not (copy / "runs").exists() and not (copy / ".git").exists()


class Numbers:
    """In place of a copy of the checkout: what its runs computed."""

    def __init__(self, numbers):
        self.numbers = lambda: numbers


def test_two_commits_are_compared_in_what_the_old_one_has():
    old = {"record.json": [{"accuracy": {"last": 0.5}}, {"epochs": 2}], "metrics.jsonl": [{"step": 1, "loss": 1.0}]}
    more = {
        "record.json": [{"accuracy": {"last": 0.5}, "ratio": {"last": 2.0}}, {"epochs": 2, "time": 1}],
        "metrics.jsonl": [{"step": 1, "loss": 1.0, "ratio": 3.0}],
    }
    same_bits.same(Numbers(more), old)
    for name, value in (
        ("record.json", [{"accuracy": {"last": 0.6}}, {"epochs": 2}]),
        ("record.json", [{}, {"epochs": 2}]),
        ("metrics.jsonl", [{"step": 1, "loss": 1.1}]),
        ("metrics.jsonl", more["metrics.jsonl"] * 2),
        ("metrics.jsonl", None),
        ("another.json", []),
    ):
        with pytest.raises(smoke_copy.Broken, match=f"figures differ in {name}"):
            same_bits.same(Numbers({**more, name: value}), old)
