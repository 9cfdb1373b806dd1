"""The data of a run: known again by names, sizes and times, told apart by contents."""

from __future__ import annotations

import json
import os
import time

import pytest

import datasets
from datasets import identity
from reproduction.runtime import run_data
from reproduction.runtime.run_folder import UserError, open_run
from tests.datasets.conftest import idx_family, place


@pytest.fixture
def images(tmp_path, monkeypatch):
    """<tmp>/here/set: a folder of files that stand for images; the working directory is <tmp>/here."""
    for name in ("a", "b"):
        place(tmp_path / "here" / "set" / name, {f"{i}.png": bytes([i]) * 9 for i in range(3)})
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here" / "set"


def config_of(tmp_path, name="folder:set"):
    return {"dataset": name, "data_dir": str(tmp_path / "data"), "lr": 0.1}


def digests_of(config):
    return {"set": identity.content_digest(identity.files_of(config["dataset"]), run_data.Path("set"))}


def start(tmp_path, config, finish=True, overwrite=False):
    """One start of a script: whether it found everything done, and whether it read the data."""
    read = []
    with open_run(tmp_path / "run", config, overwrite) as run:
        seen = run_data.look_at(config)

        def digests():
            read.append(1)
            return digests_of(config)

        done = run_data.is_finished(run, seen, digests)
        (run.folder / "model").write_text("weights")
        if finish and not done:
            run.finish({"commit": "c" * 40, "date": "today"})
    return done, bool(read)


def test_a_finished_run_reads_nothing_until_a_file_changes(tmp_path, images, capsys):
    config = config_of(tmp_path)
    assert start(tmp_path, config) == (False, True)
    assert start(tmp_path, config) == (True, False)
    assert run_data.already_done(tmp_path / "run", config)
    os.utime(images / "a" / "0.png")
    assert not run_data.already_done(tmp_path / "run", config)  # the script loads the data
    assert start(tmp_path, config) == (True, True)  # and finds them the same
    assert run_data.already_done(tmp_path / "run", config)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("finished", [True, False])
def test_other_images_are_refused_and_overwrite_starts_anew(tmp_path, images, finished):
    config = config_of(tmp_path)
    start(tmp_path, config, finished)
    (images / "b" / "3.png").write_bytes(b"new")
    assert not run_data.already_done(tmp_path / "run", config)
    with pytest.raises(UserError, match=r"run: holds a run on other data \(set differs\); .*--overwrite"):
        start(tmp_path, config)
    assert (tmp_path / "run" / "model").exists()
    assert start(tmp_path, config, overwrite=True) == (False, True)
    assert start(tmp_path, config) == (True, False)


def test_a_byte_that_changed_under_the_same_size_and_time(tmp_path, images):
    config = config_of(tmp_path)
    start(tmp_path, config)
    status = (images / "a" / "0.png").stat()
    time.sleep(0.02)  # kernels keep times in steps of up to 10 ms
    (images / "a" / "0.png").write_bytes(b"otherdata")
    os.utime(images / "a" / "0.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not run_data.already_done(tmp_path / "run", config)
    with pytest.raises(UserError, match="other data"):
        start(tmp_path, config)


def test_a_relative_folder_from_another_working_directory(tmp_path, images, monkeypatch):
    config = config_of(tmp_path)
    start(tmp_path, config)
    for name, shift in (("same", 0), ("other", 1)):
        for part in ("a", "b"):
            files = {f"{i}.png": bytes([i + shift]) * 9 for i in range(3)}
            place(tmp_path / name / "set" / part, files)
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path / "same")
    assert not run_data.already_done(tmp_path / "run", config) and start(tmp_path, config) == (True, True)
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(UserError, match="other data"):
        start(tmp_path, config)
    monkeypatch.chdir(tmp_path / "none")
    assert not run_data.already_done(tmp_path / "run", config)


def test_a_finished_run_needs_its_data_no_more(tmp_path, images):
    config = config_of(tmp_path)
    start(tmp_path, config)
    images.rename(tmp_path / "archived")
    assert run_data.already_done(tmp_path / "run", config) and start(tmp_path, config) == (True, False)


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_from_before_is_taken_over_with_one_warning(tmp_path, images, capsys, finished):
    config = config_of(tmp_path)
    start(tmp_path, config, finished)
    (tmp_path / "run" / "data.json").unlink()
    assert "warning" not in capsys.readouterr().err
    assert start(tmp_path, config, finished) == (finished, True)
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and len(said.splitlines()) == 1 and "run was made before" in said
    start(tmp_path, config)
    assert not capsys.readouterr().err
    (images / "b" / "3.png").write_bytes(b"new")
    with pytest.raises(UserError, match="other data"):
        start(tmp_path, config)


def test_a_stage_refused_for_the_one_before_it_leaves_no_flags(tmp_path, images):
    start(tmp_path, config_of(tmp_path))
    (images / "b" / "3.png").write_bytes(b"new")

    def digests():
        run_data.check_data(tmp_path / "run", digests_of(config_of(tmp_path)), "run it again")
        raise AssertionError

    config = config_of(tmp_path) | {"neglected": [1]}
    with pytest.raises(UserError, match="run: .*run it again"), open_run(tmp_path / "two", config) as run:
        run_data.is_finished(run, run_data.look_at(config), digests)
    with open_run(tmp_path / "two", config | {"neglected": [0]}) as run:
        assert not run.done


def test_files_of_a_named_set_count_as_well(tmp_path):
    files = idx_family()
    place(tmp_path / "data" / "mnist", files)
    config = config_of(tmp_path, "mnist")

    def load():
        return datasets.load("mnist", config["data_dir"], accept_unverified=True).digests

    for expected in (False, True):
        with open_run(tmp_path / "run", config) as run:
            assert run_data.is_finished(run, run_data.look_at(config), load) == expected
            run.finish({})
    assert run_data.already_done(tmp_path / "run", config)
    place(tmp_path / "data" / "mnist", {name: body for name, body in idx_family(seed=1).items() if "images" in name})
    assert not run_data.already_done(tmp_path / "run", config)
    with open_run(tmp_path / "run", config) as run, pytest.raises(UserError, match="images-idx3-ubyte differs"):
        run_data.is_finished(run, run_data.look_at(config), load)


def test_contents_of_a_large_set_are_read_once(tmp_path, images, monkeypatch):
    files = identity.files_of("folder:set")
    small = identity.content_digest(files, run_data.Path("set"), tmp_path / "data")
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr(identity, "CACHED_ABOVE", 1)
    assert identity.content_digest(files, run_data.Path("set"), tmp_path / "data") == small
    with monkeypatch.context() as patch:
        patch.setattr(identity, "_of_contents", None)
        assert identity.content_digest(files, run_data.Path("set"), tmp_path / "data") == small
    (images / "a" / "0.png").write_bytes(b"new")
    assert identity.content_digest(files, run_data.Path("set"), tmp_path / "data") != small
    for body in ("", "7", '{"a": 1}', "[" * 100_000):
        (tmp_path / "data" / identity.TABLE).write_text(body)
        assert identity.content_digest(files, run_data.Path("set"), tmp_path / "data") != small


def test_links_are_followed_and_a_circle_ends(tmp_path, images):
    place(tmp_path / "elsewhere", {"x.png": b"x"})
    (images / "c").symlink_to(tmp_path / "elsewhere")
    (images / "c" / "up").symlink_to(images)
    (images / "c" / "gone.png").symlink_to(tmp_path / "nothing")
    before = identity.look("folder:set")
    assert before == identity.look("folder:set")
    (tmp_path / "elsewhere" / "x.png").write_bytes(b"yy")
    assert identity.look("folder:set") != before


@pytest.mark.parametrize("body", ["", "7", "{}", '{"digests": 7, "place": "", "fingerprint": ""}', "[1"])
def test_a_damaged_note_is_one_line(tmp_path, images, body):
    config = config_of(tmp_path)
    start(tmp_path, config)
    (tmp_path / "run" / "data.json").write_text(body)
    with pytest.raises(UserError) as raised:
        start(tmp_path, config)
    assert "data.json" in str(raised.value) and "\n" not in str(raised.value)


def test_the_note_is_all_that_a_run_folder_gains(tmp_path, images):
    start(tmp_path, config_of(tmp_path))
    note = json.loads((tmp_path / "run" / "data.json").read_text())
    assert set(note) == {"digests", "place", "fingerprint"} and note["place"] == os.path.realpath(images)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config_of(tmp_path)
