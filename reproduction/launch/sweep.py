"""`make sweep`: the cells of the papers' tables times seeds as Ray tasks, on this machine or on a cluster.

    python -m reproduction.launch.sweep --papers "class2str subclass" --profile cpu --seeds "0 1 2 3 4"
    RAY_ADDRESS=ray://head:10001 python -m reproduction.launch.sweep --profile paper

A task is one worker of a reproduction: the commands of one seed, in order, the very same that `make reproduce-<paper>`
prints. The scripts resume and know what is finished, so a task that Ray starts again after a crash goes on where the
lost one was, and a second sweep runs only what is missing. On a cluster every node needs this repository, its
environment and `runs/` under the same path (a shared file system).
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import filelock

from reproduction.launch.after_run import compare_runs
from reproduction.launch.jobs import Command, ending, start
from reproduction.launch.pipeline import COPY_HELP, ROWS_HELP, on_gpu, one_thread_each, request_of
from reproduction.runtime.cores import cores
from reproduction.runtime.flags import Parser, flag, number, run_main, whole
from reproduction.runtime.run_folder import REPO_ROOT, UserError

FOLDERS = {
    "class2str": "class2str_tf",
    "subclass": "subclass_torch",
    "finegrained": "finegrained_torch",
    "triplet": "triplet_tf",
    "hierarchy": "hierarchy_cnn_torch",
}
LOCK_SECONDS = 120  # a script whose task was killed is still writing its last checkpoint
STARTS = 3  # Ray gives its own processes 30 seconds each, which a busy machine may miss


@dataclass(frozen=True)
class Cell:
    """One task.

    Attributes:
      name: for people: paper, row and seed.
      commands: run in order.
      phase: cells of a phase run side by side; a phase begins when the one before it has finished.
    """

    name: str
    commands: tuple[Command, ...]
    phase: int


def cells_of(paper: str, commands: Sequence[Command]) -> list[Cell]:
    """The workers of a reproduction's commands; a command without a worker is a phase of its own."""
    cells = []
    for phase, (alone, group) in enumerate(groupby(commands, key=lambda command: command.worker is None)):
        workers: dict[str, list[Command]] = {}
        for at, command in enumerate(group):
            workers.setdefault(f"{at}" if alone else str(command.worker), []).append(command)
        for worker, own in workers.items():
            label = own[0].stage if alone else worker
            cells.append(Cell(f"{paper} {own[0].row} {label}", tuple(own), phase))
    return cells


class CellFailed(Exception):
    """A script of a cell ended with an error; Ray does not try it again."""


def run_cell(cell: Cell) -> float:
    """Runs the commands of a cell in order; in a Ray worker.

    Returns:
      Seconds.
    Raises:
      CellFailed: a script failed by itself.
      RuntimeError: a script was killed; Ray tries again, and the script goes on from its checkpoint.
    """
    begin = time.monotonic()
    for command in cell.commands:
        if not (REPO_ROOT / command.script).exists():
            raise CellFailed(f"{command.script} is not on this node: the repository needs the same path everywhere")
        with _unlocked(command.folder):
            pass
        print(f"{cell.name}: {command.stage}\n  $ {command.line()}", flush=True)
        child = start(command, piped=True)
        assert child.stdout is not None
        tail: list[str] = []
        for line in child.stdout:
            print(f"{cell.name} | {line}", end="", flush=True)
            tail = [*tail[-2:], line.strip()]
        code = child.wait()
        if code < 0:  # not a CellFailed: Ray tries again
            raise RuntimeError(f"{cell.name}: {command.stage} {ending(code)}")
        if code:
            raise CellFailed(f"{cell.name}: {command.stage} {ending(code)}: {' / '.join(tail)}")
    return time.monotonic() - begin


def _unlocked(folder: Path) -> filelock.BaseFileLock:
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / ".lock", timeout=LOCK_SECONDS)


def sweep(cells: Sequence[Cell], cpus: float, gpus: float, retries: int) -> Iterator[tuple[Cell, float | Exception]]:
    """Runs cells as Ray tasks, phase by phase; yields each with its seconds or its error as it finishes.

    Args:
      cells: phases of different papers run side by side.
      cpus, gpus: what one task reserves.
      retries: of a task whose worker or script was killed.
    """
    ray: Any = importlib.import_module("ray")
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries, retry_exceptions=[RuntimeError])(run_cell)
    for phase in sorted({cell.phase for cell in cells}):
        pending: dict[Any, Cell] = {remote.remote(cell): cell for cell in cells if cell.phase == phase}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            cell = pending.pop(done[0])
            try:
                yield cell, ray.get(done[0])
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                yield cell, cause if isinstance(cause, Exception) else error


def connect(ray: Any) -> None:
    """Joins the cluster of RAY_ADDRESS, or starts one on this machine; a busy machine gets several attempts.

    Raises:
      UserError: neither came about.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    local: dict[str, Any] = {} if address else {"num_cpus": cores(), "include_dashboard": False}
    for _ in range(1 if address else STARTS):
        try:
            ray.init(log_to_driver=True, logging_level="warning", **local)
            return
        except Exception as error:  # noqa: BLE001 - Ray raises bare Exceptions, RuntimeErrors, ConnectionErrors
            problem = f"{error}".strip().partition("\n")[0] or type(error).__name__
            ray.shutdown()
    where = f"RAY_ADDRESS={address} is a running cluster" if address else "memory and /tmp have room"
    raise UserError(f"Ray did not start: {problem} Is it sure that {where}? The same command tries again")


def check_room(nodes: Sequence[dict[str, float]], cpus: float, gpus: float) -> None:
    """A task that fits on no machine would wait for ever.

    Args:
      nodes: what each machine of the cluster has, as Ray names it ("CPU", "GPU").
      cpus, gpus: what one task asks.
    Raises:
      UserError: no machine has as much, or Ray hands out no such number of GPUs.
    """
    if gpus > 1 and gpus % 1:
        raise UserError(f"--gpus-per-task {gpus:g}: above 1 only whole numbers")
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        has = ", ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes) or "nothing"
        raise UserError(
            f"a task asks {cpus:g} CPU and {gpus:g} GPU, and no machine of the cluster has as much (they have: {has}); "
            'DEVICE=cpu runs without a GPU, TASK="--cpus-per-task 1 --gpus-per-task 0.5" asks for less'
        )


def parser() -> Parser:
    """The flags of this program."""
    p = Parser("python -m reproduction.launch.sweep", "Runs cells of the papers' tables times seeds as Ray tasks.")
    group = p.additions
    flag(group, "--papers", default="", help=f"of {', '.join(FOLDERS)}; default: all that are here")
    flag(group, "--profile", choices=["auto", "paper", "matched", "cpu", "smoke"], default="auto")
    flag(group, "--dataset", default="", help="data set; default: the profile's own of each paper")
    flag(group, "--seeds", default="", help='for example "0 1 2 3 4"')
    flag(group, "--device", default="auto")
    flag(group, "--data-dir", default="")
    flag(group, "--copy", default="", help=COPY_HELP)
    flag(group, "--rows", choices=["core", "all"], default="core", help=ROWS_HELP)
    flag(group, "--args", default="", help="flags passed through to the scripts")
    flag(group, "--force", action="store_true", help="run finished stages again, those of a retried task too")
    flag(group, "--cpus-per-task", type=number(0), default=1.0)
    flag(
        group, "--gpus-per-task", type=number(0), default=None,
        help="default: 1 with --profile paper, unless --device cpu; else 0",
    )  # fmt: skip
    flag(group, "--retries", type=whole(0), default=3, help="of a task whose worker or script was killed")
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    run_main(lambda: _main(parser().parse_args(argv)))


def _main(args: Any) -> None:
    here = [paper for paper, folder in FOLDERS.items() if (REPO_ROOT / folder / "reproduce.py").exists()]
    papers = args.papers.split() or here
    unknown = [paper for paper in papers if paper not in here]
    if unknown:
        raise UserError(f"--papers {' '.join(unknown)}: of {', '.join(here)}")
    cells, profile, gpus = [], args.profile, 0.0
    for paper in papers:
        module = importlib.import_module(f"{FOLDERS[paper]}.reproduce")
        own = {"check": "checked", "default_seeds": "SEEDS"}  # where a paper has data sets or seeds of its own
        options = {option: getattr(module, name) for option, name in own.items() if hasattr(module, name)}
        request = request_of(args, module.DATASETS, **options)
        profile, gpus = request.profile, float(on_gpu(request))
        cells += cells_of(paper, one_thread_each(request, module.commands_of(request)))
    gpus = gpus if args.gpus_per_task is None else args.gpus_per_task
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise UserError("the sweep needs Ray: make sweep installs it (extra `cluster`)") from None
    connect(ray)
    failed = 0
    try:
        check_room([node["Resources"] for node in ray.nodes() if node["Alive"]], args.cpus_per_task, gpus)
        found = ray.cluster_resources().get("CPU", 0)
        print(f"{len(cells)} cells of {', '.join(papers)}, profile {profile}, on {found:g} cores")
        for number, (cell, outcome) in enumerate(sweep(cells, args.cpus_per_task, gpus, args.retries), 1):
            failed += isinstance(outcome, Exception)
            words = str(outcome) if isinstance(outcome, Exception) else f"finished after {outcome / 60:.1f} min"
            print(f"[{number}/{len(cells)}] {cell.name}: {words}", flush=True)
    finally:
        ray.shutdown()
    for paper in papers:
        compare_runs(paper)
    if failed:
        raise SystemExit(f"{failed} of {len(cells)} cells failed; the same command runs them again")


if __name__ == "__main__":
    main()
