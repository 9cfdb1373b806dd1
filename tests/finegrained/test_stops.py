"""Stopped by a signal, in one process or two, and a state that cannot be read."""

import contextlib
import json
import signal
import time
from pathlib import Path

import pytest
import torch

from finegrained_torch.training import loop, states
from reproduction.runtime.run_folder import Stop, UserError

from .conftest import TINY, run
from .test_stages import kill_when, rows, same_training


class StopAt(Stop):
    """Asks for a stop after some looks, as SIGTERM would."""

    looks = 0

    @property
    def requested(self):
        self.looks += 1
        return self.looks > 6


def test_a_stop_signal_ends_it_cleanly_and_early_stopping_survives_a_resume(tmp_path, monkeypatch):
    flags = [*TINY, "--max_epochs", "12", "--min_epochs", "2", "--patience", "1", "--stage", "coarse"]
    run("pipeline.py", *flags, "--out_dir", tmp_path / "straight")
    straight, broken = (tmp_path / name / "classifier/mnist5k" for name in ("straight", "broken"))
    manifest = json.loads((straight / "manifest.json").read_text())
    assert 2 <= manifest["epochs"] < 12
    with monkeypatch.context() as patch:
        stop = StopAt(signal.SIGTERM)
        patch.setattr(loop, "stop_signals", lambda: contextlib.nullcontext(stop))
        said = run("pipeline.py", *flags, "--out_dir", tmp_path / "broken", code=128 + signal.SIGTERM).stderr
    assert "stopped by SIGTERM" in said and "the same command goes on" in said
    assert (broken / "state-0001.ckpt").exists() and not (broken / "DONE").exists()
    for device in ("cuda", "cpu"):  # a state of another device is refused, and stays
        content = torch.load(newest := states.state_files(broken)[-1], weights_only=True)
        content["callbacks"][states.HISTORY]["device"] = device
        torch.save(content, newest)
        again = run("pipeline.py", *flags, "--out_dir", tmp_path / "broken", code=2 * (device == "cuda"))
        assert ("computed on cuda, this is cpu" in again.stderr) == (device == "cuda")
    same_training(straight, broken)


def test_a_lone_damaged_state_is_refused_and_stays(tmp_path):
    state = tmp_path / "state-0001.ckpt"
    for content in ({"callbacks": {}}, {"callbacks": {"Keeper": 3}}, [1]):
        torch.save(content, state)
        with pytest.raises(UserError, match=r"state-0001.ckpt: not the full state.*no checkpoint can be restored"):
            states.newest_state(tmp_path)
        assert state.exists()


def test_a_signal_ends_two_processes_and_the_same_command_goes_on(loopback, tmp_path):
    flags = [*TINY, "--out_dir", tmp_path, "--stage", "coarse", "--devices", "2", "--parallel", "ddp_fork"]
    flags += ["--max_epochs", "12", "--min_epochs", "12"]
    folder = tmp_path / "classifier/mnist5k"
    kill_when(folder / "state-0001.ckpt", *flags, sent=signal.SIGTERM)
    deadline = time.monotonic() + 60
    while any(str(tmp_path) in words_of(process) for process in Path("/proc").glob("[0-9]*/cmdline")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not (folder / "DONE").exists()
    assert "going on after epoch" in run("pipeline.py", *flags).stdout and len(rows(folder)) == 12
    assert json.loads((folder / "record.json").read_text())["config"]["devices"] == 2


def words_of(path):
    """The command line of a process, "" if it has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""
