"""`make sweep`: every row and seed of the papers' tables as a Ray task, on this machine or on a cluster.

    python -m reproduction.launch.sweep --papers "class2str subclass" --profile cpu --seeds "0 1 2 3 4"
    RAY_ADDRESS=ray://head:10001 python -m reproduction.launch.sweep --profile paper

A task runs the commands of one seed in order, the same commands that `make reproduce-<paper>` prints. The scripts
resume and skip what is finished. So if Ray starts a task again after a crash, it continues from its checkpoint, and a
second sweep runs only what is missing. On a cluster every node needs this repository, its environment and `runs/`
under the same path (a shared file system).
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
from reproduction.launch.pipeline import REQUEST_FLAGS, Reproduction, commands_for, get_files, on_gpu, request_of
from reproduction.runtime.cores import cores
from reproduction.runtime.faults import first_line
from reproduction.runtime.flags import FlagTable, Parser, add_flags, number, run_main, whole
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
class Task:
    """One Ray task.

    Attributes:
      name: paper, row and seed, as printed.
      commands: the commands to run, in order.
      phase: tasks of one phase run at the same time; a phase begins when the phase before it has finished.
    """

    name: str
    commands: tuple[Command, ...]
    phase: int


def tasks_of(paper: str, commands: Sequence[Command]) -> list[Task]:
    """Returns one task for each worker of the commands; a command without a worker is a phase of its own."""
    tasks = []
    for phase, (alone, group) in enumerate(groupby(commands, key=lambda command: command.worker is None)):
        workers: dict[str, list[Command]] = {}
        for at, command in enumerate(group):
            workers.setdefault(f"{at}" if alone else str(command.worker), []).append(command)
        for worker, in_order in workers.items():
            label = in_order[0].stage if alone else worker
            tasks.append(Task(f"{paper} {in_order[0].row} {label}", tuple(in_order), phase))
    return tasks


class TaskFailed(Exception):
    """A script of a task ended with an error; Ray does not start the task again."""


def run_task(task: Task) -> float:
    """Runs the commands of a task in order; called in a Ray worker.

    Returns:
      Duration in seconds.
    Raises:
      TaskFailed: a script ended with an error.
      RuntimeError: a script was killed; Ray starts the task again, and the script continues from its checkpoint.
    """
    begin = time.monotonic()
    for command in task.commands:
        if not (REPO_ROOT / command.script).exists():
            raise TaskFailed(f"{command.script} is not on this node; the repository needs the same path everywhere")
        _wait_until_unlocked(command.folder)
        print(f"{task.name}: {command.stage}\n  $ {command.line()}", flush=True)
        child = start(command, piped=True)
        assert child.stdout is not None
        tail: list[str] = []
        for line in child.stdout:
            print(f"{task.name} | {line}", end="", flush=True)
            tail = [*tail[-2:], line.strip()]
        code = child.wait()
        if code < 0:  # not a TaskFailed: Ray starts the task again
            raise RuntimeError(f"{task.name}: {command.stage} {ending(code)}")
        if code:
            raise TaskFailed(f"{task.name}: {command.stage} {ending(code)}: {' / '.join(tail)}")
    return time.monotonic() - begin


def _wait_until_unlocked(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock", timeout=LOCK_SECONDS):
        pass


def sweep(tasks: Sequence[Task], cpus: float, gpus: float, retries: int) -> Iterator[tuple[Task, float | Exception]]:
    """Runs tasks with Ray, phase by phase; yields each task with its seconds or its error when it finishes.

    Args:
      tasks: tasks of all papers; equal phases of different papers run at the same time.
      cpus: CPUs that one task reserves.
      gpus: GPUs that one task reserves; fractions share a GPU.
      retries: how often a task is started again after its worker or script was killed.
    """
    ray: Any = importlib.import_module("ray")
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries, retry_exceptions=[RuntimeError])(run_task)
    for phase in sorted({task.phase for task in tasks}):
        pending: dict[Any, Task] = {remote.remote(task): task for task in tasks if task.phase == phase}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            task = pending.pop(done[0])
            try:
                yield task, ray.get(done[0])
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                yield task, cause if isinstance(cause, Exception) else error


def connect(ray: Any) -> None:
    """Joins the cluster of RAY_ADDRESS, or starts one on this machine; a busy machine gets several attempts.

    Raises:
      UserError: Ray did not start.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    local: dict[str, Any] = {} if address else {"num_cpus": cores(), "include_dashboard": False}
    for _ in range(1 if address else STARTS):
        try:
            ray.init(log_to_driver=True, logging_level="warning", **local)
            return
        except Exception as error:  # Ray raises bare Exceptions, RuntimeErrors, ConnectionErrors
            problem = first_line(error).rstrip(".")
            ray.shutdown()
    advice = f"RAY_ADDRESS={address} is a running cluster" if address else "memory and /tmp have free space"
    raise UserError(f"Ray did not start: {problem}. Check that {advice}, then run the same command again")


def check_room(nodes: Sequence[dict[str, float]], cpus: float, gpus: float) -> None:
    """Refuses a task that fits on no machine, because it would wait for ever.

    Args:
      nodes: resources of each machine of the cluster, by Ray's names ("CPU", "GPU").
      cpus: CPUs that one task reserves.
      gpus: GPUs that one task reserves.
    Raises:
      UserError: no machine has that much, or Ray cannot reserve this number of GPUs.
    """
    if gpus > 1 and gpus % 1:
        raise UserError(f"--gpus-per-task {gpus:g}: expected a number up to 1, or a whole number above")
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        has = ", ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes) or "nothing"
        raise UserError(
            f"a task needs {cpus:g} CPU and {gpus:g} GPU, and no machine of the cluster has both (they have: {has}); "
            'DEVICE=cpu runs without a GPU, TASK="--cpus-per-task 1 --gpus-per-task 0.5" needs less'
        )


FLAGS: FlagTable = {
    "--papers": dict(default="", help=f"papers to run, of {', '.join(FOLDERS)}; default: all"),
    **REQUEST_FLAGS,
    "--force": dict(action="store_true", help="run finished stages again, also in a repeated task"),
    "--cpus-per-task": dict(type=number(0), default=1.0, help="CPUs that a task reserves"),
    "--gpus-per-task": dict(
        type=number(0), help="GPUs that a task reserves; default: 1 if the commands use a GPU, else 0"
    ),
    "--retries": dict(type=whole(0), default=3, help="further starts of a task that was killed"),
}


def parser() -> Parser:
    """Returns the parser of this program's flags."""
    p = Parser("python -m reproduction.launch.sweep", "Runs every row and seed of the papers' tables as a Ray task.")
    add_flags(p.additions, FLAGS)
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    run_main(lambda: _main(parser().parse_args(argv)))


def split_papers(text: str) -> list[str]:
    """Returns the papers of a --papers value; raises UserError if one is unknown."""
    papers = text.split()
    if unknown := [paper for paper in papers if paper not in FOLDERS]:
        raise UserError(f"--papers {' '.join(unknown)}: choose from {', '.join(FOLDERS)}")
    return papers


def _main(args: Any) -> None:
    papers = split_papers(args.papers) or list(FOLDERS)
    tasks, profile, gpus = [], args.profile, 0.0
    for paper in papers:
        reproduction: Reproduction = importlib.import_module(f"{FOLDERS[paper]}.reproduce").REPRODUCTION
        request = request_of(args, reproduction)
        profile, gpus = request.profile, float(on_gpu(request))
        commands = commands_for(reproduction, request)
        get_files(reproduction, request, commands)
        tasks += tasks_of(paper, commands)
    gpus = gpus if args.gpus_per_task is None else args.gpus_per_task
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise UserError("the sweep needs Ray; make sweep installs it (extra `cluster`)") from None
    connect(ray)
    failed = 0
    try:
        check_room([node["Resources"] for node in ray.nodes() if node["Alive"]], args.cpus_per_task, gpus)
        cpus = ray.cluster_resources().get("CPU", 0)
        print(f"{len(tasks)} tasks of {', '.join(papers)}, profile {profile}, on {cpus:g} cores")
        for place, (task, outcome) in enumerate(sweep(tasks, args.cpus_per_task, gpus, args.retries), 1):
            failed += isinstance(outcome, Exception)
            words = str(outcome) if isinstance(outcome, Exception) else f"finished after {outcome / 60:.1f} min"
            print(f"[{place}/{len(tasks)}] {task.name}: {words}", flush=True)
    finally:
        ray.shutdown()
    codes = [compare_runs(paper) for paper in papers]
    if failed:
        raise SystemExit(f"{failed} of {len(tasks)} tasks failed; the same command runs them again")
    if code := next(filter(None, codes), 0):  # the comparison has printed its own error; negative: a signal ended it
        raise SystemExit(code)


if __name__ == "__main__":
    main()
