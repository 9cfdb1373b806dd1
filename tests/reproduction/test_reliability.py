"""docs/reliability.md from kept results: what it says, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from reproduction.launch import sweep
from reproduction.runtime.run_folder import UserError
from tests.soak import reliability
from tests.soak.reliability import Fuzz, Results, Soak, keep, origin

PAPERS = ["class2str", "triplet"]
COMMITTED = reliability.KEPT


@pytest.fixture(autouse=True)
def nothing_committed(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(reliability, "KEPT", tmp_path / "docs" / "reliability.json")


def page(folder, papers=PAPERS) -> str:
    return reliability.page(reliability.results(folder, papers), papers)


def soak(paper: str, **other) -> Soak:
    given = {
        "seed": 3,
        "counts": {"SIGKILL": (20, 20), "full disk": (1, 1)},
        "faults": [],
        "undisturbed_seconds": 19.4,
        "seconds": 600,
        "kills_after_stages": {"10": 2, "2": 18},
        "origin": origin(),
    }
    return Soak(paper=paper, **{**given, **other})


def fuzz(faults: list[dict] | None = None) -> Fuzz:
    targets = [{"name": "a | b", "inputs": 1200, "seconds": 3.2, "faults": faults or []}]
    return Fuzz(seed=0, inputs=1200, faults=len(faults or []), seconds=60, targets=targets, origin=origin())


def test_the_page_says_what_was_measured(tmp_path):
    keep(tmp_path / "class2str.json", soak("class2str"))
    keep(
        tmp_path / "triplet.json", soak("triplet", counts={"SIGKILL": (20, 13)}, faults=["SIGKILL: lost"], flags="--x")
    )
    keep(tmp_path / "fuzz.json", fuzz())
    text = page(tmp_path, PAPERS)
    assert "| SIGKILL | 20 of 20 | 13 of 20 | 33 of 40 |" in text and "| full disk | 1 of 1 | - | 1 of 1 |" in text
    assert "| class2str | - | 2 | 18 after 2, 2 after 10 | 19 | 10 | 3 |" in text and "| triplet | `--x` |" in text
    assert "* triplet: SIGKILL: lost" in text
    assert "1,200 inputs" in text and "1 readers, 0 faults" in text and "had 1,200 to 1,200 inputs" in text
    assert origin().commit[:10] in text and "Not run" not in text


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="no results"):
        page(tmp_path, PAPERS)
    keep(tmp_path / "triplet.json", soak("triplet"))
    text = page(tmp_path, PAPERS)
    assert "Not run: class2str." in text and "## Hostile input\n\nNot run." in text
    keep(tmp_path / "fuzz.json", fuzz([{"input": 7, "what": "crash", "hex": ""}]))
    assert "* a | b, input 7: crash" in page(tmp_path, PAPERS)


def test_a_fault_tried_again_replaces_its_counts_only(tmp_path, monkeypatch):
    """`--only` has a file of its own; of each fault the later counts are shown, and what went wrong then."""
    monkeypatch.setattr(reliability, "FOLDER", tmp_path)
    now = origin()
    old, new = (now.model_copy(update={"date": f"2026-11-2{day} 10:00 UTC"}) for day in (5, 6))
    counts = {"SIGKILL": (20, 20), "full disk": (1, 0), "clock set back by a day": (1, 1)}  # as 4d9a3db named it
    keep(reliability.kept_at("triplet"), soak("triplet", counts=counts, faults=["full disk: lost"], origin=old))
    assert "* triplet: full disk: lost" in page(tmp_path, PAPERS)
    again = soak("triplet", counts={"full disk": (1, 1), "Ray": (1, 0)}, faults=["Ray: x"], origin=new)
    keep(reliability.kept_at("triplet", "full disk|Ray"), again)
    text = page(tmp_path, PAPERS)
    assert (tmp_path / "triplet-full-disk-Ray.json").exists() and "full disk: lost" not in text
    assert "| full disk | - | 1 of 1 | 1 of 1 |" in text and "| SIGKILL | - | 20 of 20 | 20 of 20 |" in text
    assert "| files dated a day ahead | - | 1 of 1 | 1 of 1 |" in text and "clock set back" not in text
    assert "* triplet: Ray: x" in text and text.count("| triplet | - |") == 2


def test_what_is_committed_is_kept_until_it_is_tried_again(tmp_path):
    now = origin()
    old, new = (now.model_copy(update={"date": f"2026-11-2{day} 10:00 UTC"}) for day in (5, 6))
    keep(tmp_path / "triplet.json", soak("triplet", origin=old))
    keep(tmp_path / "fuzz.json", fuzz().model_copy(update={"origin": new}))
    keep(reliability.KEPT, reliability.results(tmp_path, PAPERS))
    elsewhere = tmp_path / "elsewhere"
    assert page(elsewhere) == page(tmp_path)
    keep(elsewhere / "triplet-full-disk.json", soak("triplet", counts={"full disk": (1, 0)}, origin=new))
    keep(elsewhere / "fuzz.json", fuzz([{"input": 7, "what": "crash", "hex": ""}]).model_copy(update={"origin": old}))
    text = page(elsewhere)
    assert "| SIGKILL | - | 20 of 20 |" in text and "| full disk | - | 0 of 1 |" in text and "input 7" not in text
    last = soak("triplet", origin=new.model_copy(update={"date": "2026-11-27 10:00 UTC"}))
    keep(elsewhere / "triplet-all.json", last)
    assert reliability.results(elsewhere, PAPERS).soaks == [last]


def test_the_committed_page_is_made_of_the_committed_results():
    found, papers = Results.model_validate_json(COMMITTED.read_bytes()), list(sweep.FOLDERS)
    assert reliability.page(found, papers) == reliability.PAGE.read_text()
    assert {soak.paper for soak in found.soaks} == set(papers) and found.fuzz and found.fuzz.inputs >= 100_000


def test_papers_do_not_overwrite_each_other(tmp_path):
    for paper in PAPERS:
        keep(tmp_path / f"{paper}.json", soak(paper))
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["class2str.json", "triplet.json"]
    assert reliability.read(tmp_path / "triplet.json", Soak).paper == "triplet"


@pytest.mark.parametrize("body", ["", "[", "7", "{}", '{"paper": "class2str"}', '{"class2str": {"counts": {}}}'])
def test_another_file_is_refused_in_one_line(tmp_path, body):
    (tmp_path / "class2str.json").write_text(body)
    with pytest.raises(UserError, match="class2str.json: not a soak result") as error:
        page(tmp_path, PAPERS)
    assert "\n" not in str(error.value)


def test_the_page_is_written_on_request_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "docs" / "reliability.md")
    keep(tmp_path / "triplet.json", soak("triplet"))
    reliability.main(["--results", str(tmp_path)])
    assert not reliability.PAGE.exists() and capsys.readouterr().out.startswith("# Reliability")
    reliability.main(["--results", str(tmp_path), "--write-docs"])
    assert reliability.PAGE.read_text() == page(tmp_path, list(sweep.FOLDERS))
    assert reliability.read(reliability.KEPT, Results) == reliability.results(tmp_path, list(sweep.FOLDERS))
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "nowhere" / "reliability.md")
    with pytest.raises(SystemExit):
        reliability.main(["--results", str(tmp_path), "--write-docs"])


def test_the_documented_command_prints_the_committed_page():
    ran = [sys.executable, "-m", "reproduction.reliability"]
    text = subprocess.run(ran, cwd=reliability.REPO_ROOT, capture_output=True, text=True, check=True).stdout
    assert text == (reliability.REPO_ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_a_kept_result_holds_no_path_or_host(tmp_path):
    keep(tmp_path / "x.json", soak("triplet"))
    text = (tmp_path / "x.json").read_text()
    assert str(reliability.REPO_ROOT) not in text and set(json.loads(text)["origin"]) == {
        "commit",
        "dirty",
        "date",
        "machine",
        "versions",
    }
