"""Cells, and their way through Ray: order, phases, failures, a worker killed in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from reproduction import sweep
from reproduction.lanes import Command
from reproduction.runs import UserError
from reproduction.sweep import Cell, cells_of

ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")

# kills its Ray worker the first time it is told to; else writes its name
SCRIPT = """
import os, pathlib, signal, sys
folder, name, what = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if what == "fail":
    print("because of this"); sys.exit(3)
if what == "kill" and not (folder / "killed").exists():
    (folder / "killed").write_text(""); os.kill(os.getppid(), signal.SIGKILL); signal.pause()
if what == "die" and not (folder / "died").exists():
    (folder / "died").write_text(""); os.kill(os.getpid(), signal.SIGKILL)
with open(folder / "order", "a") as file:
    file.write(name + "\\n")
"""


@pytest.fixture(scope="module", autouse=True)
def cluster(loopback):
    import os

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def command(tmp_path):
    (tmp_path / "s.py").write_text(SCRIPT)

    def make(name: str, lane: str | None, what: str = "write") -> Command:
        return Command("row", name, str(tmp_path / "s.py"), (str(tmp_path), name, what), tmp_path / name, lane=lane)

    return make


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().split()


def test_cells_are_lanes_in_phases(command):
    commands = [command("a0", "a"), command("b0", "b"), command("a1", "a"), command("sum", None), command("c0", "a")]
    cells = cells_of("p", commands)
    assert [([c.stage for c in cell.commands], cell.phase) for cell in cells] == [
        (["a0", "a1"], 0), (["b0"], 0), (["sum"], 1), (["c0"], 2)
    ]  # fmt: skip
    assert len({cell.name for cell in cells[:3]}) == 3


def test_all_run_in_order_and_phases_wait(command, tmp_path):
    commands = [command("a0", "a"), command("a1", "a"), command("b0", "b"), command("sum", None)]
    outcomes = dict(sweep.sweep(cells_of("p", commands), 1, 0, 0))
    assert all(isinstance(seconds, float) for seconds in outcomes.values()) and len(outcomes) == 3
    seen = order(tmp_path)
    assert seen[-1] == "sum" and seen.index("a0") < seen.index("a1") and sorted(seen[:3]) == ["a0", "a1", "b0"]


@pytest.mark.parametrize("what", ["kill", "die"])
def test_a_killed_worker_or_script_loses_nothing(command, tmp_path, what):
    commands = [command("a0", "a"), command("a1", "a", what), command("b0", "b")]
    outcomes = list(sweep.sweep(cells_of("p", commands), 1, 0, 2))
    assert all(isinstance(outcome, float) for _, outcome in outcomes), outcomes
    assert (tmp_path / {"kill": "killed", "die": "died"}[what]).exists()
    assert set(order(tmp_path)) == {"a0", "a1", "b0"}


def test_a_failing_script_is_named_not_repeated_and_the_rest_goes_on(command, tmp_path):
    commands = [command("a0", "a", "fail"), command("a1", "a"), command("b0", "b")]
    outcomes = {cell.name: outcome for cell, outcome in sweep.sweep(cells_of("p", commands), 1, 0, 3)}
    failed = outcomes["p row a"]
    assert isinstance(failed, Exception) and "exit code 3" in str(failed) and "because of this" in str(failed)
    assert isinstance(outcomes["p row b"], float) and order(tmp_path) == ["b0"]


def test_a_script_that_is_not_on_the_node_is_named():
    cell = Cell("p row a", (Command("row", "x", "/nowhere/s.py", (), Path("/nowhere"), lane="a"),), 0)
    [(_, outcome)] = sweep.sweep([cell], 1, 0, 0)
    assert isinstance(outcome, Exception) and "same path" in str(outcome)


class Starting:
    """A Ray whose first starts fail."""

    def __init__(self, failures: int):
        self.failures, self.given = failures, []

    def init(self, **given):
        self.given.append(given)
        if len(self.given) <= self.failures:
            raise Exception("The node timed out.\nMore.")

    def shutdown(self): ...


def test_a_busy_machine_gets_several_starts_and_then_one_line(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    busy, down = Starting(sweep.STARTS - 1), Starting(sweep.STARTS)
    sweep.connect(busy)
    assert len(busy.given) == sweep.STARTS and busy.given[0]["include_dashboard"] is False
    with pytest.raises(UserError, match=r"Ray did not start: The node timed out\. Is it sure") as error:
        sweep.connect(down)
    assert "\n" not in str(error.value)


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:9")
    away = Starting(1)
    with pytest.raises(UserError, match="RAY_ADDRESS=10.0.0.1:9"):
        sweep.connect(away)
    assert away.given == [{"log_to_driver": True, "logging_level": "warning"}]


def test_unknown_paper_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        sweep.main(["--papers", "nothing"])
    assert stop.value.code == 2 and "--papers nothing: of class2str" in capsys.readouterr().err
