"""Run folders: flags, locks, DONE stamps, atomic files, metrics that are cut on resume, clean stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from datasets import DatasetError
from reproduction.runtime import run_folder as runs
from reproduction.runtime.metrics_log import MetricsLog, read_metrics
from reproduction.runtime.run_data import already_done
from reproduction.runtime.run_folder import UserError, flags_hash, open_run

CONFIG = {"lr": 0.1, "name": "a", "runs_dir": "x", "units": [3, 3]}


def test_hash_ignores_places_and_nothing_else():
    assert flags_hash(CONFIG) == flags_hash({**CONFIG, "name": "b", "runs_dir": "y", "overwrite": True})
    assert flags_hash(CONFIG) != flags_hash({**CONFIG, "lr": 0.2})
    assert flags_hash(CONFIG) != flags_hash({**CONFIG, "units": [3]})


def test_same_flags_go_on_other_flags_are_refused_overwrite_starts_anew(tmp_path, capsys):
    folder = tmp_path / "run"
    with open_run(folder, CONFIG) as run:
        assert not run.done
        (folder / "model").write_text("weights")
        run.finish({"commit": "c" * 40, "date": "today"})
    assert already_done(folder, CONFIG) and "finished before" in capsys.readouterr().out
    assert not already_done(folder, {**CONFIG, "lr": 1}) and not already_done(folder, {**CONFIG, "overwrite": True})
    with open_run(folder, CONFIG) as run:
        assert run.done
    with pytest.raises(UserError, match=r"lr 0.1 there, 0.5 here"), open_run(folder, {**CONFIG, "lr": 0.5}):
        pass
    assert (folder / "model").exists()
    (folder / "rnn").mkdir()
    (folder / "rnn" / "config.json").write_text("{}")
    with open_run(folder, {**CONFIG, "lr": 0.5}, overwrite=True) as run:
        assert not run.done and not (folder / "model").exists() and (folder / "rnn" / "config.json").exists()


def test_a_picture_that_fails_costs_neither_the_record_nor_the_next_try(tmp_path, capsys):
    def fails():
        assert (tmp_path / "record.json").exists()
        raise ValueError("\n$\\frac$\n^\nno such symbol")

    record = {"commit": "c" * 40, "date": "today"}
    with open_run(tmp_path, CONFIG) as run:
        run.finish(record, fails)
    said = capsys.readouterr().err
    assert "the record is complete, but a picture" in said and "the same command tries again" in said
    assert said.count("\n") == 1 and (tmp_path / "DONE").exists() and not run.done
    assert not already_done(tmp_path, CONFIG)
    with open_run(tmp_path, CONFIG) as run:
        assert not run.done
        run.finish(record, (tmp_path / "picture").touch)
    assert run.done and already_done(tmp_path, CONFIG) and (tmp_path / "picture").exists()
    with pytest.raises(UserError, match="choose"), open_run(tmp_path / "b", CONFIG) as run:
        run.finish(record, lambda: (_ for _ in ()).throw(UserError("choose --thumbs none")))
    assert (tmp_path / "b" / "record.json").exists() and not (tmp_path / "b" / "DONE").exists()


def test_overwrite_removes_nothing_but_runs(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("")
    with pytest.raises(UserError, match="holds thesis and no config.json"), open_run(tmp_path, CONFIG, overwrite=True):
        pass
    assert (tmp_path / "thesis" / "chapter1.tex").exists()
    with open_run(tmp_path / "new", CONFIG, overwrite=True) as run:
        assert not run.done


def test_a_folder_whose_clearing_was_killed_is_not_finished_and_keeps_its_flags(tmp_path, monkeypatch):
    class Killed(BaseException):
        """Stands for a SIGKILL."""

    def killed_after(count):
        def real(path, *_, _unlink=os.unlink):
            nonlocal count
            if count == 0:
                raise Killed
            count -= 1
            _unlink(path)

        return real

    names = ["DONE", "config.json", "metrics.jsonl", "model-2.index", "record.json"]
    for count in range(1, len(names)):
        folder = tmp_path / str(count)
        with open_run(folder, CONFIG) as run:
            run.finish({"commit": "c", "date": "today"})
        for name in names:
            (folder / name).touch()
        with monkeypatch.context() as patch:
            patch.setattr(runs.Path, "unlink", killed_after(count))
            with pytest.raises(Killed), open_run(folder, {**CONFIG, "lr": 1}, overwrite=True):
                pass
        assert not (folder / "DONE").exists() and (folder / "config.json").exists()
        with pytest.raises(UserError, match="other flags"), open_run(folder, {**CONFIG, "lr": 1}):
            pass
        with open_run(folder, {**CONFIG, "lr": 1}, overwrite=True) as run:
            assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.json"] and not run.done


@pytest.mark.parametrize("error", [UserError("no weights"), DatasetError("no images"), KeyboardInterrupt()])
def test_a_run_that_ends_before_it_writes_anything_leaves_no_flags(tmp_path, error):
    def fail(*written):
        with pytest.raises(type(error)), open_run(tmp_path, CONFIG):
            for name in written:
                (tmp_path / name).touch()
            raise error

    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1" / "config.json").write_text("{}")  # a finished run below this one
    fail("data.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "stage1"]
    with open_run(tmp_path, {**CONFIG, "lr": 1}):
        pass
    with pytest.raises(UserError, match="other flags"), open_run(tmp_path, CONFIG):
        pass
    (tmp_path / "config.json").unlink()
    fail("metrics.jsonl")
    assert (tmp_path / "config.json").exists() and (tmp_path / "metrics.jsonl").exists()


def test_a_damaged_configuration_says_how_to_go_on(tmp_path):
    (tmp_path / "config.json").write_text('{"lr": 0.')
    with pytest.raises(UserError, match="config.json.*--overwrite starts anew"), open_run(tmp_path, CONFIG):
        pass
    with open_run(tmp_path, CONFIG, overwrite=True) as run:
        assert run.config == CONFIG


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    with open_run(tmp_path, CONFIG), pytest.raises(UserError, match="another process"), open_run(tmp_path, CONFIG):
        pass
    with open_run(tmp_path, CONFIG):
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    runs.write_json(path, {"old": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        runs.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1} and os.listdir(tmp_path) == ["a.json"]


def test_metrics_after_the_checkpoint_are_cut_and_half_lines_dropped(tmp_path):
    log = MetricsLog(tmp_path)
    for step in range(1, 6):
        log.write(step, {"loss": 1 / step}, "train")
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "train/lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    log = MetricsLog(tmp_path, resume_step=3)
    log.write(4, {"loss": 9.0}, "train")
    log.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert read_metrics(tmp_path)[-1] == {"step": 4, "train/loss": 9.0}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")][3:] == [(4, 9.0)]


def test_metrics_log_imports_no_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
    code = (
        "import sys; from pathlib import Path; from reproduction.runtime.metrics_log import MetricsLog\n"
        "log = MetricsLog(Path(sys.argv[1])); log.write(1, {'a': 1.0}); log.close()"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{runs.REPO_ROOT}"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)


@pytest.mark.parametrize(("number", "flags"), [(signal.SIGINT, []), (signal.SIGTERM, ["--overwrite"])])
def test_the_first_signal_is_a_request_and_the_second_acts(number, flags, monkeypatch, capsys):
    before = signal.getsignal(number)
    monkeypatch.setattr(sys, "argv", ["x.py", *flags])
    with runs.stop_signals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested and stop.signal_number == number
        with pytest.raises(SystemExit) as left:
            stop.leave("somewhere")
        assert left.value.code == 128 + number and signal.getsignal(number) == before
    assert f"the same command{' without --overwrite' * len(flags)} goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
