"""The benchmarks: their statistics, the runner's files and exit codes, and that the cheap ones compare equal things.

Nothing here asserts a time.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as runner
from benchmarks import measure, page, repository
from benchmarks.measure import Curve, Measure, NotSupported, Pair

ROOT = Path(__file__).resolve().parent.parent


def bench(*words: str, timeout: float = 300) -> subprocess.CompletedProcess:
    """`python -m benchmarks`, as the README has it."""
    command = [sys.executable, "-m", "benchmarks", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def test_ratio_is_how_many_times_better_ours_is():
    faster = Pair("a", "s", [4.0, 6.0, 9.0], [2.0, 2.0, 3.0]).summary()
    assert (faster["ratio"], faster["ratio_min"], faster["ratio_max"], faster["n"]) == (3.0, 2.0, 3.0, 3)
    assert (faster["baseline"], faster["ours"]) == (6.0, 2.0)
    assert Pair("a", "images/s", [10.0], [5.0]).summary()["ratio"] == 0.5
    assert Pair("a", "MiB", [10.0], [5.0]).summary()["ratio"] == 2.0


def test_overhead_is_a_percentage_with_its_interval_and_claims_read_the_same_from_the_ratios():
    from benchmarks.triplet import overhead_of

    taken = [1.01, 1.02, 1.04]
    assert overhead_of(taken) == pytest.approx((2.0, 1.0, 4.0))
    entry = Pair("a", "s", [1.0] * 3, taken).summary()
    read = [100 * (1 / entry[key] - 1) for key in ("ratio", "ratio_high", "ratio_low")]
    assert read == pytest.approx(overhead_of(taken))


def test_both_take_turns_at_going_first_and_loops_go_on_while_there_is_time(monkeypatch):
    seen: list[str] = []
    one, other = lambda: seen.append("b") or 2.0, lambda: seen.append("o") or 1.0
    pair = measure.interleave("a", "s", one, other)
    assert "".join(seen) == "bo" + "boobboobbo" and len(pair.ratios) == measure.REPEATS and set(pair.ratios) == {2.0}
    assert len(measure.interleave("a", "s", one, other, most=measure.LOOP_REPEATS).ratios) == measure.LOOP_REPEATS
    monkeypatch.setattr(measure, "LOOP_SECONDS", 0.0)
    assert len(measure.interleave("a", "s", one, other, most=measure.LOOP_REPEATS).ratios) == measure.REPEATS


def test_a_measure_stands_against_its_budget():
    kept = Measure("memory", "MiB", [512.0], 1024).summary()
    assert (kept["baseline"], kept["ours"], kept["ratio"], kept["n"]) == (1024, 512.0, 2.0, 1)
    free = Measure("time", "s", [3.0, 5.0, 4.0]).summary()
    assert (free["baseline"], free["ours"], free["ratio"], free["n"]) == (None, 4.0, None, 3)
    absent = Measure("compile", "", [], note="not supported: no compiler").summary()
    assert absent["ours"] is None and absent["n"] == 0 and "not supported" in page.line({"paper": "x", **absent})


def test_interval_of_a_median_covers_it():
    rng = np.random.default_rng(1)
    assert measure.median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    inside = 0
    for _ in range(400):
        middle, low, high = measure.median_interval(rng.exponential(size=30))
        assert low <= middle <= high
        inside += low <= math.log(2) <= high
    assert 0.92 <= inside / 400 <= 0.99


def test_exponent_is_found_and_its_interval_covers_it():
    sizes = [10, 32, 100, 316, 1000]
    slope, low, high = measure.exponent(sizes, [3e-6 * size**2 for size in sizes])
    assert slope == pytest.approx(2) and low == pytest.approx(2) and high == pytest.approx(2)
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        noise = np.exp(0.1 * rng.normal(size=5))
        slope, low, high = measure.exponent(sizes, np.array(sizes) ** 1.5 * noise)
        inside += low <= 1.5 <= high
    assert 0.92 <= inside / 400 <= 0.98
    with pytest.raises(ValueError, match="needs 3"):
        measure.exponent([1, 2], [1, 2])


def hold(count: int):
    """For `measure.rise`: a call that holds `count` bytes for a moment."""
    import time

    def work() -> int:
        block = np.ones(count, np.uint8)
        time.sleep(0.4)
        return int(block[-1])

    return work


@pytest.mark.parametrize("family", [False, True])
def test_rise_sees_what_a_call_holds(family):
    found = measure.rise(hold, 200 * 2**20, family=family)
    assert 195 * 2**20 < found.bytes < 230 * 2**20
    assert found.returned == 1 and not found.gave_up


def test_rise_gives_up_before_memory_runs_out(monkeypatch, capsys):
    code = (
        "import benchmarks.measure as m; m.GIVE_UP = 0; from tests.test_benchmarks import hold;"
        "m._child('tests.test_benchmarks', 'hold', [2**28], False)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and json.loads(done.stdout)[3] is True


def test_a_child_that_fails_says_why():
    with pytest.raises(RuntimeError, match="negative dimensions"):
        measure.rise(hold, -1)


CHEAP = [
    ("class2str", "bf16"),
    ("repository", "records"),
    ("subclass", "neglection"),
    ("subclass", "loop vgg_small"),
    ("hierarchy", "seriation"),
    ("scaling", "seriation"),
    ("hours", "hierarchy"),
    ("triplet_input", "image cache"),
    ("precision", "triplet steps"),
    ("triplet", "evaluation"),
]
KEYS = {"name", "baseline", "ours", "unit", "ratio", "n", "paper"}


@pytest.mark.parametrize(("module", "name"), CHEAP)
def test_small_benchmarks_give_rows_of_the_page(module, name, tmp_path, monkeypatch):
    """In this process, which imports a framework once for all of them."""
    monkeypatch.chdir(ROOT)
    entries = runner.run_one(module, name, small=True)
    assert entries
    page.write(tmp_path, entries, [], "Machine: this one")
    text = (tmp_path / "benchmarks.md").read_text()
    for entry in entries:
        assert entry.keys() >= KEYS and entry["paper"] == module
        assert entry["n"] == 0 or entry["ours"] > 0
        assert entry["ratio"] is None or (entry["baseline"] > 0 and entry["ratio_min"] <= entry["ratio"])
        assert (entry.get("part") or entry["name"]) in text
    assert (tmp_path / "scaling.png").exists() == (module == "scaling")


def test_the_rows_of_a_benchmarks_own_process_are_in_the_list_and_on_the_page(tmp_path):
    done = bench("repository", "cpu profiles", "--small", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    entries = json.loads((tmp_path / "bench.json").read_text())
    assert len(entries) >= 5 and json.loads((tmp_path / "benchmarks.json").read_text()) == entries
    text = (tmp_path / "benchmarks.md").read_text()
    assert all(page.line(entry) in done.stdout and entry["name"] in text for entry in entries)
    assert "[1/1] repository 'cpu profiles'" in done.stderr and "s in all" in done.stderr


def test_a_failure_is_named_and_does_not_stop_the_others(monkeypatch, tmp_path, capsys):
    """In this process: benchmarks do not fail by themselves."""
    entry = {"paper": "subclass", **Measure("neglection degree", "s", [2.0]).summary()}

    def child(module, *words):
        if words[0] == "broken":
            raise RuntimeError("no memory left")
        return ["broken", "neglection"] if words == ("--names",) else [entry]

    monkeypatch.setattr(runner, "in_a_process", child)
    monkeypatch.setattr(runner.signal, "signal", lambda *_: None)  # a handler would outlive this test
    assert runner.main(["subclass", "broken", "neglection", "--small", "--out", str(tmp_path)]) == 1
    assert "failed: subclass 'broken': no memory left" in capsys.readouterr().err
    assert json.loads((tmp_path / "bench.json").read_text()) == [entry]
    assert "subclass 'broken': no memory left" in (tmp_path / "benchmarks.md").read_text()


def test_an_unknown_name_is_one_line_and_runs_nothing():
    done = bench("repository", "records", "no such", "--page")
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(r"benchmarks: error: unknown 'no such': repository has 'load cifar10', .*\n", done.stderr)


@pytest.mark.parametrize("more", [[], ["--small"], ["--small", "--page"]])
def test_a_part_is_only_printed(monkeypatch, tmp_path, capsys, more):
    entry = {"paper": "hours", **Measure("hierarchy", "h", [2.0]).summary()}
    monkeypatch.setattr(runner, "DOCS", tmp_path)
    monkeypatch.setattr(runner, "RUNS_ROOT", tmp_path)
    monkeypatch.setattr(runner, "in_a_process", lambda *words: ["hierarchy"] if words[-1] == "--names" else [entry])
    monkeypatch.setattr(runner.signal, "signal", lambda *_: None)  # a handler would outlive this test
    assert runner.main(["hours", "hierarchy", *more]) == 0
    assert page.line(entry) in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_rows_measured_later_take_their_places_and_name_their_machine(monkeypatch, tmp_path):
    first = [
        {"paper": paper, **Measure(name, "s", [2.0]).summary()} for paper, name in (("x", "a"), ("x", "b"), ("y", "c"))
    ]
    (tmp_path / "benchmarks.json").write_text(json.dumps(first))
    page.write(tmp_path, first, [], "Machine: old")
    again = [{"paper": "x", **Measure(name, "s", [1.0]).summary()} for name in ("b", "d")]
    monkeypatch.setattr(runner, "DOCS", tmp_path)
    monkeypatch.setattr(runner, "in_a_process", lambda *words: ["records"] if words[-1] == "--names" else again)
    monkeypatch.setattr(page, "circumstances", lambda load: "Machine: new")
    monkeypatch.setattr(runner.signal, "signal", lambda *_: None)  # a handler would outlive this test
    assert runner.main(["repository", "records", "--page"]) == 0
    entries = json.loads((tmp_path / "benchmarks.json").read_text())
    assert [(entry["name"], entry["ours"]) for entry in entries] == [("a", 2.0), ("b", 1.0), ("d", 1.0), ("c", 2.0)]
    lines = (tmp_path / "benchmarks.md").read_text().splitlines()
    assert [line.endswith("| [1] |") for line in lines if line.startswith(("| x", "| y"))] == [False, True, True, False]
    assert lines[-3:] == ["[1] Machine: new; 0 minutes in all.", "", "Machine: old"]


def test_what_takes_too_long_is_stopped(monkeypatch):
    monkeypatch.setattr(runner, "LIMIT_S", 0.1)
    with pytest.raises(RuntimeError, match="stopped after 0.1 s"):
        runner.in_a_process("repository", "--names")


def test_every_module_holds_benchmarks():
    for module in runner.modules():
        text = (ROOT / "benchmarks" / f"{module}.py").read_text()
        assert "\nBENCHMARKS" in text, module


def test_every_row_of_a_paper_is_estimated_or_named_as_left_out():
    from benchmarks import hours
    from reproduction.compare.tables import load_tables

    text = hours.explained()
    for name, paper in load_tables().items():
        counted, left_out = hours.cells(name)
        wanted = {row.row for row in paper.row if "-paper" in row.row}
        assert wanted == {row for rows in counted.values() for row in rows} | set(left_out)
        assert all(f"`{row}` of {name}" in text for row in left_out)


def test_the_committed_page_is_what_the_last_benchmark_and_the_code_say(tmp_path):
    from reproduction.runtime.run_folder import REPO_ROOT

    entries = json.loads((REPO_ROOT / "docs" / "benchmarks.json").read_text(encoding="utf-8"))
    committed = (REPO_ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    page.write(tmp_path, entries, [], committed.splitlines()[-1])
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == committed


def test_features_are_compared_with_a_cnn_that_is_not_trained(monkeypatch):
    from benchmarks import class2str
    from class2str_tf.training import stage2

    def build(config, *_):
        raise NotSupported(config.finetune)

    monkeypatch.setattr(stage2, "build", build)
    with pytest.raises(NotSupported, match="none"):
        class2str.cached_features(small=True)


def test_a_command_that_does_not_resolve_is_named():
    from benchmarks import hours

    with pytest.raises(RuntimeError, match="hierarchy_cnn_torch/train.py.*--no-such"):
        hours.configurations("hierarchy_cnn_torch", "make reproduce-hierarchy PROFILE=paper ARGS='--no-such 1'")


def test_every_script_resolves_its_flags_with_what_it_needs():
    from benchmarks.hours import Command, resolved

    for script in repository.scripts():
        assert resolved(Command("", "", script, tuple(repository.NEEDS.get(script, ())), ROOT)), script


def test_only_rows_of_the_default_pipeline_count_as_its_time():
    from benchmarks import repository

    assert repository.default_rows("class2str", "mnist5k", "") == {"mnist5k-cpu", "mnist5k-cpu-released"}
    assert "cifar100-q90-cpu-ft" in repository.default_rows("finegrained", "cifar100", "q90")


def test_the_matched_line_counts_the_baselines_that_pass_the_gate(tmp_path, monkeypatch):
    from reproduction.compare.collect import collect
    from tests.reproduction.conftest import metric, put, record

    for seed, ccr in enumerate((0.885, 0.879, 0.891)):
        common = {"seed": seed, "paper": "subclass", "seconds": 600.0, "images_per_s": 500.0 + seed}
        put(tmp_path, record({"ccr": metric(ccr)}, row="cifar10-matched-baseline", **common))
        put(tmp_path, record({"ccr": metric(0.95)}, row="cifar10-matched", **common))
        put(tmp_path, record({"ccr": metric(0.6)}, row="cifar10-cpu", **common | {"images_per_s": 2000.0}))
    monkeypatch.setattr(repository.collect, "collect", lambda: collect(runs=tmp_path, results=tmp_path / "none"))
    [line] = repository.matched_profiles(False)
    assert line.name == "matched profile of subclass, cifar10-matched, float32: minutes until ccr passes 88 %"
    assert line.values == [10.0, 10.0] and "501 images/s, the cpu profile's networks 2000" in line.note
    assert re.search(r"the authors' network \d+ on two cores", line.note)


def test_the_matched_line_counts_the_stages_before_and_the_main_row_alone(tmp_path, monkeypatch):
    from reproduction.compare.collect import collect
    from tests.reproduction.conftest import metric, put, record

    for seed, first in enumerate((0.885, 0.875)):
        for row, stage, seconds, value in (
            ("cifar10-matched", "fc", 1200.0, first),
            ("cifar10-matched", "lh", 60.0, 0.9),
            ("cifar10-matched-fc", "fc", 600.0, 0.89),
            ("cifar10-matched-tree", "lh", 6.0, 0.9),
        ):
            common = {"seed": seed, "paper": "class2str", "stage": stage, "seconds": seconds, "row": row}
            put(tmp_path, record({"fc_accuracy": metric(value)}, **common))
    monkeypatch.setattr(repository.collect, "collect", lambda: collect(runs=tmp_path, results=tmp_path / "none"))
    [line] = repository.matched_profiles(False)
    assert line.name == "matched profile of class2str, cifar10-matched, float32: minutes until fc_accuracy passes 88 %"
    assert line.values == [20.0, 30.0]


def test_the_authors_networks_are_in_the_last_benchmark():
    from reproduction.compare.claims import BENCHMARKS

    names = {entry["name"] for entry in json.loads(BENCHMARKS.read_text(encoding="utf-8"))}
    assert set(repository.AUTHORS.values()) <= names and repository.AUTHORS.keys() == repository.FOLDERS.keys()


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (26017.3, 4, "26,020"),
        (0.00014494, 4, "0.0001449"),
        (104.7, 2, "100"),
        (0.04376, 2, "0.044"),
        (27.0, 2, "27"),
        (1.0, 3, "1"),
        (None, 4, "-"),
    ],
)
def test_numbers_have_no_exponents(value, digits, shown):
    assert measure.number(value, digits) == shown


def test_a_line_below_its_bar_says_so():
    slow = Pair("a", "images/s", [100.0], [90.0], bar=0.97).summary()
    assert "bar: ratio 0.97, missed" in page.line({"paper": "x", **slow})
    kept = Pair("a", "images/s", [100.0], [98.0], bar=0.97).summary()
    assert "missed" not in page.line({"paper": "x", **kept})


def test_loops_say_what_a_step_takes_more():
    pair = measure.loops("a", 32, 5, lambda: 320.0, lambda: 160.0, "the log")
    assert pair.note == "5 steps a repeat; a step of ours takes +100.0 ms: the log" and pair.bar == measure.LOOP_BAR


def give_up(count: int):
    """For `measure.memory_pair`: as `hold`, and the child, whose main module is `measure`, ends as on full memory."""
    sys.modules["__main__"].GIVE_UP = 0
    return hold(count)


def test_what_gave_up_is_not_run_again():
    pair, slow, ours = measure.memory_pair("a", (give_up, 2**27), (hold, 2**20), repeats=2)
    assert slow[0] is slow[1] and slow[0].gave_up and ours[0] is not ours[1]
    assert "at least" in pair.note and len(pair.ratios) == 2


def test_estimates_count_multiply_adds():
    import torch

    from benchmarks import hours

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(8 * 16, 5))
    assert hours.torch_multiply_adds(net, (3, 4, 4)) == 8 * 16 * 27 + 8 * 16 * 5


def test_curve_becomes_an_entry():
    entry = Curve("part", "batch", [1, 2, 4], [1.0, 2.0, 4.0], "B").summary()
    assert entry["ours"] == pytest.approx(1) and entry["unit"] == "exponent" and entry["n"] == 3


@pytest.mark.parametrize(("images", "counted"), [("first:50000", 50_000), (10_000, 10_000), (0, 60_000)])
def test_hours_count_the_images_that_class2str_trains_on(images, counted):
    from benchmarks import hours

    assert hours.class2str_images({"dataset": "mnist", "train_images": images}) == counted
