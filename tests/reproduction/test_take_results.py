"""Records on their way into the repository: names, and what is refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from reproduction.compare.collect import RESULTS
from reproduction.launch import take_results
from reproduction.launch.take_results import OVER_SEEDS, take
from reproduction.runtime.run_folder import UserError


def put(make, runs: Path, where: str, row: str = "r-cpu", seed: int = 0, **fields) -> None:
    fields = {"paper": "p", "stage": "one"} | fields
    (runs / where).mkdir(parents=True)
    (runs / where / "record.json").write_text(make.record({}, row, seed, **fields).model_dump_json())


def test_names(make, tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    put(make, runs, "a")
    put(make, runs, "b", seed=1)
    put(make, runs, "c", seed=1, stage="two")
    put(make, runs, "d", row="x-smoke", profile="smoke")
    (results / "p" / "r-cpu").mkdir(parents=True)
    for old, stage in (("seed1.json", "one"), ("seed10.json", "one"), ("seed0-three.json", "three")):
        (results / "p" / "r-cpu" / old).write_text(json.dumps({"stage": stage}))
    names = sorted(str(path.relative_to(results)) for path in take(runs, results))
    assert names == ["p/r-cpu/seed0.json", "p/r-cpu/seed1-one.json", "p/r-cpu/seed1-two.json"]
    left = {path.name for path in (results / "p/r-cpu").iterdir()}  # of another seed, of a stage that was not run
    assert "seed1.json" not in left and {"seed10.json", "seed0-three.json"} <= left
    assert json.loads((results / names[2]).read_text())["stage"] == "two"


@pytest.mark.parametrize("fields", [{"dirty": True}, {"commit": "unknown"}])
def test_a_run_that_nobody_can_repeat_is_refused_and_nothing_is_taken(make, tmp_path, fields):
    put(make, tmp_path / "runs", "a")
    put(make, tmp_path / "runs", "b", seed=1, **fields)
    with pytest.raises(UserError, match="p r-cpu seed 1"):
        take(tmp_path / "runs", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_stage_that_comes_later_leaves_the_other_in_place(make, tmp_path):
    put(make, tmp_path / "first", "a")
    put(make, tmp_path / "then", "b", stage="two")
    taken = [take(tmp_path / runs, tmp_path / "results")[0] for runs in ("first", "then")]
    assert [path.name for path in taken] == ["seed0.json", "seed0-two.json"]
    assert [json.loads(path.read_text())["stage"] for path in taken] == ["one", "two"]


def test_only_the_papers_that_are_asked_for_are_taken(make, tmp_path):
    put(make, tmp_path / "runs", "a")
    put(make, tmp_path / "runs", "b", paper="q")
    [path] = take(tmp_path / "runs", tmp_path / "results", ["q"])
    assert path.parts[-3:] == ("q", "r-cpu", "seed0.json")
    with pytest.raises(UserError, match="no record of a cpu, matched or paper run of z$"):
        take(tmp_path / "runs", tmp_path / "results", ["z"])


def test_the_newer_of_two_records_is_taken(make, tmp_path):
    put(make, tmp_path / "runs", "a", date="2026-11-22 05:00 UTC", seconds=2.0)
    put(make, tmp_path / "runs", "b", date="2026-11-22 04:00 UTC", seconds=1.0)
    [path] = take(tmp_path / "runs", tmp_path / "results")
    assert path.name == "seed0.json" and json.loads(path.read_text())["seconds"] == 2.0


def test_one_record_compares_all_seeds_whichever_seed_it_is_of(make, tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    for seed, hour in ((3, 3), (10, 1), (0, 4), (2, 2)):
        put(make, runs / str(hour), "a", seed=seed, stage="stability", date=f"2026-11-22 0{hour}:00 UTC")
    for hour, seed in ((1, 10), (2, 2), (3, 3), (4, 0)):
        take(runs / str(hour), results)
        assert [path.name for path in (results / "p" / "r-cpu").iterdir()] == [f"seed{seed}.json"]
    take(runs, results)
    assert [path.name for path in (results / "p" / "r-cpu").iterdir()] == ["seed0.json"]
    (results / "p" / "r-cpu" / "seed0.json").rename(results / "p" / "r-cpu" / "seed0-stability.json")
    take(runs, results)  # both patterns of names match it
    assert [path.name for path in (results / "p" / "r-cpu").iterdir()] == ["seed0.json"]


def test_no_committed_row_compares_its_seeds_twice():
    for row in (path for path in RESULTS.glob("*/*") if path.is_dir()):
        stages = [json.loads(path.read_text())["stage"] for path in row.glob("*.json")]
        assert all(stages.count(stage) <= 1 for stage in OVER_SEEDS), row


@pytest.mark.parametrize("name", [{"row": "../../x-cpu"}, {"paper": "/tmp"}, {"stage": "../x"}, {"paper": ".."}])
def test_names_that_lead_elsewhere_are_refused(make, tmp_path, name):
    put(make, tmp_path / "runs", "a")
    put(make, tmp_path / "runs", "b", **{"profile": "cpu"} | name)
    with pytest.raises(UserError, match="no plain name"):
        take(tmp_path / "runs", tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("text", ["", "no json", '{"profile": "cpu"}', "[1]"])
def test_a_broken_record_is_one_line_and_nothing_is_taken(make, tmp_path, text):
    put(make, tmp_path / "runs", "a")
    put(make, tmp_path / "runs", "b", seed=1)
    (tmp_path / "runs" / "b" / "record.json").write_text(text)
    with pytest.raises(UserError, match="record.json: not a record of this repository") as error:
        take(tmp_path / "runs", tmp_path / "results")
    assert "\n" not in str(error.value) and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("other", "done", "papers", "stays"),
    [
        ("class2str/a-cpu", True, "class2str", False),
        ("class2str/a-matched", False, "class2str", True),  # it was stopped
        ("subclass/a-cpu", True, "class2str", True),  # finished, and not taken
        ("subclass/a-cpu", True, "", False),
    ],
)
def test_runs_of_an_earlier_call_stay_with_their_worktree(tmp_path, monkeypatch, capsys, other, done, papers, stays):
    repository, worktree = tmp_path / "repository", tmp_path / "worktree"
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x"]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*git, "worktree", "add", "-q", "--detach", str(worktree)], check=True)
    for run, finished in (("class2str/b-cpu", True), (other, done)):
        folder = worktree / "runs" / run / "seed0"
        folder.mkdir(parents=True)
        for name in ("config.json", *["DONE"] * finished):
            (folder / name).touch()
    monkeypatch.setattr(take_results, "REPO_ROOT", repository)
    monkeypatch.setattr(take_results, "WORKTREE", worktree)
    monkeypatch.setattr(take_results, "run_in_worktree", lambda *_: worktree / "runs")
    monkeypatch.setattr(take_results, "take", lambda *_, **__: [])
    monkeypatch.setattr(take_results.readme, "main", lambda _: 0)
    take_results.main(["--papers", papers])
    assert worktree.exists() == stays == (f"{other}/seed0" in capsys.readouterr().out)


def test_nothing_to_take(tmp_path):
    with pytest.raises(UserError, match="no record"):
        take(tmp_path, tmp_path / "results")


def test_a_damaged_older_record_is_one_line_and_no_record_is_lost(make, tmp_path):
    for seed in (0, 1):
        put(make, tmp_path / "runs", f"a{seed}", seed=seed)
    older = take(tmp_path / "runs", tmp_path / "results")
    older[1].write_text("<<<<<<< HEAD")
    with pytest.raises(UserError, match=r"seed1\.json"):
        take(tmp_path / "runs", tmp_path / "results")
    assert all(path.exists() for path in older)
