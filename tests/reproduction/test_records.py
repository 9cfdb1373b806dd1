"""Whatever lies under runs/: one clear line per file that is no record, and never a traceback."""

from __future__ import annotations

import copy
import inspect
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reproduction.compare import terminal
from reproduction.compare.collect import collect
from reproduction.compare.comparison import compare
from reproduction.compare.export import csv_text, latex, markdown
from reproduction.compare.tables import paper_of
from reproduction.runtime.record import make_record
from reproduction.runtime.run_folder import REPO_ROOT, UserError

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def look(folder):
    """What `make compare PAPER=class2str` does with a folder of records; all papers would take five times as long."""
    found = collect(runs=folder, results=folder / "none")
    comparisons = compare([paper_of("class2str")], found)
    markdown(comparisons), csv_text(comparisons), latex(comparisons)
    for problem in found.problems:
        assert "\n" not in problem and "record.json" in problem
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    (path / "class2str" / "row").mkdir(parents=True)
    return path


def write(folder, data: bytes):
    (folder / "class2str" / "row" / "record.json").write_bytes(data)


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes(folder, data):
    write(folder, data)
    assert len(look(folder).problems) == 1


@FUZZ
@given(JSON)
def test_any_json(folder, value):
    write(folder, json.dumps(value).encode())
    assert len(look(folder).problems) == 1


@FUZZ
@given(data=st.data())
def test_a_record_with_one_wrong_field(folder, make, data):
    """Replaces, removes or adds a field at any depth: a record that is still one is used, any other is one line."""
    value = make.record({"fc_accuracy": make.metric(0.99)}).model_dump(mode="json")
    value = copy.deepcopy(value)
    inside = data.draw(st.sampled_from([value, value["machine"], value["metrics"], value["metrics"]["fc_accuracy"]]))
    name = data.draw(st.sampled_from([*inside, "other"]))
    action = data.draw(st.sampled_from(["replace", "remove"]))
    if action == "remove":
        inside.pop(name, None)
    else:
        inside[name] = data.draw(JSON)
    write(folder, json.dumps(value).encode())
    found = look(folder)
    assert len(found.problems) + sum(len(group.runs) for group in found.rows.values()) == 1


def test_a_truncated_record(folder, make):
    whole = make.record({"fc_accuracy": make.metric(0.99)}).model_dump_json().encode()
    for length in range(0, len(whole), 37):
        write(folder, whole[:length])
        assert len(look(folder).problems) == 1


def test_no_path_of_this_machine_is_recorded(make, monkeypatch):
    monkeypatch.chdir(REPO_ROOT / "docs")
    recorded = {
        "/home/ann/data": "<path>",
        "--data-dir=/home/ann": "--data-dir=<path>",
        "../../ann/data": "<path>",
        "--runs-dir=../../ann": "--runs-dir=<path>",
        "../data": "data",
        str(REPO_ROOT): ".",
        f"--x={REPO_ROOT}/runs": "--x=runs",
        "folder:../../ann/photos": "folder:photos",
        "..5": "..5",
        "runs/a": "runs/a",
    }
    fields = make.record({}).model_dump(include=set(inspect.signature(make_record).parameters))
    made = make_record(**fields | {"argv": list(recorded), "config": {"places": tuple(recorded)}})
    assert made.argv == made.config["places"] == list(recorded.values())


def test_nested_too_deeply(folder):
    write(folder, b"[" * 100_000)
    assert len(look(folder).problems) == 1


def test_a_huge_file_is_not_read(folder):
    with open(folder / "class2str" / "row" / "record.json", "wb") as file:
        file.truncate(2**30)
    assert "too large" in look(folder).problems[0]


def test_a_folder_where_a_record_should_be(tmp_path):
    (tmp_path / "class2str" / "record.json").mkdir(parents=True)
    assert look(tmp_path).problems == []


def test_links_that_go_round(tmp_path, make):
    make.put(tmp_path, make.record({"fc_accuracy": make.metric(0.99)}))
    (tmp_path / "class2str" / "again").symlink_to(tmp_path)
    assert sum(len(group.runs) for group in look(tmp_path).rows.values()) == 1


def test_given_paths_must_exist_and_hold_records(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no record.json"):
        collect([tmp_path])


def test_several_folders_in_one_word(tmp_path, make):
    for seed, name in enumerate(["a b", "c"]):
        make.put(tmp_path / name, make.record({"fc_accuracy": make.metric(0.99)}, seed=seed))
    both = f"'{tmp_path / 'a b'}' {tmp_path / 'c'}"
    for words, seeds in (([both], [0, 1]), ([tmp_path / "a b"], [0]), ([tmp_path / "c", tmp_path / "a b"], [0, 1])):
        found = collect([type(tmp_path)(word) for word in words])
        assert [run.seed for run in found.rows["class2str", "mnist-paper"].runs] == seeds


def command(*arguments: str, module: str = "compare") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"reproduction.{module}", *arguments], cwd=REPO_ROOT, capture_output=True, text=True
    )


def test_command_on_runs_made_elsewhere(make, tmp_path):
    for seed in range(3):
        metrics = {"fc_accuracy": make.metric(0.99 + seed / 1000), "class_accuracy_ml": make.metric(0.98)}
        make.put(tmp_path / "runs", make.record(metrics, seed=seed))
    out = tmp_path / "out"
    files = [f"--{kind}={out / kind}" for kind in ("markdown", "csv", "latex")]
    answer = command("--paper", "class2str", "--runs", str(tmp_path / "runs"), *files)
    assert answer.returncode == 0, answer.stderr
    assert "99.10 ± 0.10 (3)" in answer.stdout and "mnist-paper" in answer.stdout
    assert "99.00" in answer.stdout and "99.20" in answer.stdout  # every seed
    [line] = [line for line in (out / "markdown").read_text().splitlines() if line.startswith("| C2S-C1-poster: ")]
    assert line.endswith("| 3 | not testable: baseline 99.10, needs 99.2 |")
    assert (
        "| mnist-paper | FC % | 99.38 | 99.10 ± 0.10 (3) | 0.50 | consistent; -0.28 |" in (out / "markdown").read_text()
    )
    header, *rows = (out / "csv").read_text().splitlines()
    assert header.startswith("kind,paper,row,quantity")
    assert any(
        row.startswith("number,class2str,mnist-paper,FC,percent,last,99.38,verified,0 1 2,99 99.1 99.2,99.1,0.1,")
        for row in rows
    )
    assert r"99.10 $\pm$ 0.10 (3)" in (out / "latex").read_text()
    for kind in ("markdown", "csv", "latex"):  # what these runs do not hold is not listed
        assert "cifar10-paper" not in (out / kind).read_text() and "not run" not in (out / kind).read_text()


def test_command_finds_the_papers_of_runs_made_elsewhere(make, tmp_path):
    make.put(tmp_path / "runs", make.record({"fc_accuracy": make.metric(0.99)}))
    answer = command("--runs", str(tmp_path / "runs"))
    assert answer.returncode == 0 and "Class2Str" in answer.stdout and "Ranking regularizer" not in answer.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "record.json: not a record of this repository"),
        (None, "--runs: no record of triplet; papers there: class2str"),
    ],
)
def test_runs_without_a_record_of_the_paper_are_one_line(make, tmp_path, text, message):
    path = make.put(tmp_path / "runs", make.record({"fc_accuracy": make.metric(0.99)}))
    if text is not None:
        path.write_text(text)
    answer = command("--paper", "triplet", "--runs", str(tmp_path / "runs"))
    assert answer.returncode == 2 and answer.stdout == ""
    assert message in answer.stderr and len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paper", "clas2str"], "paper 'clas2str' is not one of class2str, "),
        (["--runs", "no/such/folder"], "--runs no/such/folder: no such file or folder"),
        (["--markdown", "/proc/x/y.md"], "cannot be written"),
    ],
)
def test_command_errors_are_one_line(arguments, message):
    answer = command(*arguments)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_what_two_claims_lack_is_one_line(capsys):
    terminal.print_first_table([], ["one", "one", "two"])
    assert "left out (2):\n  one\n  two\n" in capsys.readouterr().out


def test_compare_and_report_import_no_framework():
    code = (
        "import sys, reproduction.compare.comparison, reproduction.page.report, reproduction.compare.readme\n"
        "bad = {'tensorflow', 'torch', 'keras', 'matplotlib', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
