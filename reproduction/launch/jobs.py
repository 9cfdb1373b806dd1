"""Runs the commands of a reproduction: those of one worker (a seed, usually) in order, different workers side by side.

Small networks on small images do not fill two cores; two seeds at once do. A command without a worker waits for
everything before it. With one job the commands own the terminal, progress bars included; with several, each of their
lines is printed behind the number of its command.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from reproduction.runtime.cores import cores
from reproduction.runtime.parent import end_with_parent
from reproduction.runtime.run_folder import REPO_ROOT, UserError


@dataclass(frozen=True)
class Command:
    """One stage of one run.

    Attributes:
      row: row of the table.
      stage: what the stage does, as printed.
      script: path of the script relative to the repository.
      flags: its flags.
      folder: folder that it writes to.
      gpu_hours: estimate on one current GPU, for `make plan`.
      cpu_minutes: estimate on two cores.
      worker: commands of one worker run in order, of different workers at the same time; None waits for all before it.
      threads: number of threads (OMP_NUM_THREADS), or 0 for the framework's own choice.
      hide_gpu: whether the script must not see a GPU that this machine has.
    """

    row: str
    stage: str
    script: str
    flags: tuple[str, ...]
    folder: Path
    gpu_hours: float = 0.0
    cpu_minutes: float = 0.0
    worker: str | None = None
    threads: int = 0
    hide_gpu: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What the script's environment has besides this process's."""
        threads = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        return threads | ({"CUDA_VISIBLE_DEVICES": ""} if self.hide_gpu else {})

    def line(self) -> str:
        """The command as it can be pasted in the repository's folder (with its environment active)."""
        settings = [f"{name}={value} " for name, value in self.environment.items()]
        return "".join(settings) + shlex.join(["python", self.script, *self.flags])


def check_flags(commands: Sequence[Command]) -> None:
    """Lets every script parse its flags, so that a wrong one in ARGS is found before anything is trained.

    Args:
      commands: in order; of each script, the last command is checked.
    Raises:
      UserError: a script refuses its flags, in its own words.
    """
    for command in {command.script: command for command in commands}.values():
        words = [sys.executable, str(REPO_ROOT / command.script), *command.flags, "--print-config"]
        answer = subprocess.run(words, cwd=REPO_ROOT, capture_output=True, text=True, encoding="utf-8")
        if answer.returncode == 2:
            raise UserError(f"ARGS: {answer.stderr.strip()}")


def jobs_of(commands: Sequence[Command], wanted: int, on_gpu: bool) -> int:
    """How many commands run at once: as asked; else one on a GPU, and three for two cores on a CPU.

    One thread does not keep a core busy (imports, graph building, hand-overs), and three seeds then end together.
    """
    workers = len({command.worker for command in commands if command.worker is not None})
    return wanted or (1 if on_gpu else max(1, min(cores() * 3 // 2, workers)))


def run_all(commands: Sequence[Command], jobs: int) -> tuple[Command, int] | None:
    """Runs all commands; after a failure nothing new starts and what runs is asked to stop.

    SIGINT and SIGTERM reach the scripts, which stop cleanly by themselves; when this process is killed they are
    asked to as well, so that nothing runs on unseen.

    Args:
      commands: in order.
      jobs: how many may run at the same time.
    Returns:
      The command that failed first and its exit code, or None.
    """
    numbered = [(f"{i}/{len(commands)}", command) for i, command in enumerate(commands, 1)]
    for alone, group in groupby(numbered, key=lambda pair: pair[1].worker is None):
        part = list(group)
        failure = _in_order(part) if alone or jobs == 1 else _side_by_side(part, jobs)
        if failure:
            return failure
    return None


def ending(code: int) -> str:
    """Returns in words how a script ended: by a signal (-15, or 143 if it handled it), or with an exit code."""
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code if code < 0 else code - 128).name
        return f"was stopped by {name}" + " (TensorFlow aborts so when its GPU is lost)" * (name == "SIGABRT")
    return f"ended with exit code {code}"


def _in_order(part: list[tuple[str, Command]]) -> tuple[Command, int] | None:
    for number, command in part:
        _announce(number, command)
        code = _wait(start(command))
        if code:
            return command, code
    return None


def _wait(child: subprocess.Popen[str]) -> int:
    """Exit code of a script; 128 + signal if it ended well although this process was asked to stop."""
    with _sigterm_to(lambda: [child]) as signals:
        while True:
            try:
                code = child.wait()
                break
            except KeyboardInterrupt:  # the terminal has sent it to the script as well
                signals.append(signal.SIGINT)
    return code or (128 + signals[0] if signals else 0)


def _side_by_side(part: list[tuple[str, Command]], jobs: int) -> tuple[Command, int] | None:
    workers: dict[str | None, list[tuple[str, Command]]] = {}
    for number, command in part:
        workers.setdefault(command.worker, []).append((number, command))
    children: set[subprocess.Popen[str]] = set()
    failure: tuple[Command, int] | None = None
    stopping = threading.Event()
    errors: set[str] = set()  # jobs that fail for one cause print it once

    def execute(number: str, command: Command) -> int:
        if stopping.is_set():
            return 0
        _announce(number, command)
        child = start(command, piped=True)
        children.add(child)
        if stopping.is_set():  # between the check above and here
            child.terminate()
        assert child.stdout is not None
        for line in child.stdout:
            if line not in errors:
                print(f"{number} | {line}", end="", flush=True)
            if ": error: " in line:
                errors.add(line)
        code = child.wait()
        children.discard(child)
        return code

    def stop() -> list[subprocess.Popen[str]]:
        stopping.set()
        return list(children)

    with ThreadPoolExecutor(jobs) as pool, _sigterm_to(stop) as signals:
        pending: dict[Future[int], list[tuple[str, Command]]] = {}
        for worker in workers.values():
            pending[pool.submit(execute, *worker[0])] = worker
        while pending:
            try:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:  # the terminal has sent it to the scripts as well
                signals.append(signal.SIGINT)
                stopping.set()
                continue
            for future in done:
                (_, command), *later = pending.pop(future)
                if code := future.result():
                    failure = failure or (command, code)
                    for child in stop() if not stopping.is_set() else ():  # a second signal would end it unsaved
                        child.terminate()
                elif later and not stopping.is_set():
                    pending[pool.submit(execute, *later[0])] = later
    return (part[-1][1], 128 + signals[0]) if signals and failure is None else failure


def _announce(number: str, command: Command) -> None:
    print(f"[{number}] {command.stage}\n  $ {command.line()}", flush=True)


def start(command: Command, piped: bool = False) -> subprocess.Popen[str]:
    """Starts a script with this interpreter; `piped`: its output, both streams as one, is read by the caller."""
    extra = command.environment
    if piped:
        extra |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
    return subprocess.Popen(
        [sys.executable, str(REPO_ROOT / command.script), *command.flags],
        cwd=REPO_ROOT,
        env={**os.environ, **extra},
        text=True,
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE if piped else None,
        stderr=subprocess.STDOUT if piped else None,
        preexec_fn=functools.partial(end_with_parent, signal.SIGTERM),
    )


@contextlib.contextmanager
def _sigterm_to(children: Callable[[], list[subprocess.Popen[str]]]) -> Iterator[list[int]]:
    """Hands SIGTERM on to the scripts that run at that moment; yields the signals that have come, which may grow."""
    signals: list[int] = []

    def hand_on(number: int, _frame: object) -> None:
        signals.append(number)
        for child in children():
            child.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)
