"""A smoke pipeline in a copy of this checkout, and what `make soak` needs to know about it while it disturbs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction.runtime.run_folder import REPO_ROOT, UserError

TIMES = ("second", "time", "images_per_s", "elapsed")  # what may differ between two runs of the same figures
STATE = re.compile(r"state-\d+\.(pt|ckpt)|model-\d+\.index")  # what a stage goes on from; an index is written last
DATA = ".data-00000-of-00001"  # in place of .index: the values
TIMEOUT = 1200  # seconds; a smoke pipeline takes about one minute


class Broken(UserError):
    """A disturbed run did not do what it has to."""


@dataclass
class Copy:
    """A copy of the checkout in which one paper's smoke pipeline runs.

    Attributes:
      root: the copied folder.
      folder: the paper's package.
      flags: passed through to its scripts.
      seeds: of the runs.
    """

    root: Path
    folder: str
    flags: str = ""
    seeds: str = "0"

    def start(self, limit: int | None = None, swept: bool = False) -> subprocess.Popen[str]:
        """Starts the pipeline in a process group of its own.

        Args:
          limit: largest file it may write, bytes.
          swept: as `make sweep` does, on a Ray of its own.
        """

        def before() -> None:
            if limit:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails with an error, as on a full disk
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        words = ["--profile", "smoke", "--device", "cpu", "--seeds", self.seeds, f"--args={self.flags}"]
        paper = self.folder.partition("_")[0]
        program = ["reproduction.launch.sweep", "--papers", paper] if swept else [f"{self.folder}.reproduce"]
        return subprocess.Popen(
            [sys.executable, "-m", *program, *words],
            cwd=self.root,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=before,
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        )

    def finish(self) -> str:
        """Runs the pipeline to its end; returns everything printed.

        Raises:
          Broken: it ended with an error.
        """
        code, text = end(self.start())
        if code:
            raise Broken(f"exit code {code}: {last(text)}")
        return text

    def numbers(self) -> dict[str, Any]:
        """Every number of the run but times: metrics and details of the records, and the curves."""
        runs = self.root / "runs"
        found: dict[str, Any] = {}
        for path in sorted(runs.rglob("record.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            found[str(path.relative_to(runs))] = [timeless(record[part]) for part in ("metrics", "details")]
        for path in sorted(runs.rglob("metrics.jsonl")):
            lines = path.read_text(encoding="utf-8").splitlines()
            found[str(path.relative_to(runs))] = [timeless(json.loads(line)) for line in lines]
        return found

    def states(self) -> list[Path]:
        """States of the unfinished stage that has most of them, the newest last; of TensorFlow, the data files."""
        by_stage: dict[Path, list[Path]] = {}
        with contextlib.suppress(FileNotFoundError):  # a pipeline that runs removes the oldest
            for path in (self.root / "runs").rglob("*"):
                stage = path.parent.parent if path.parent.name == "checkpoints" else path.parent
                if STATE.fullmatch(path.name) and not (stage / "DONE").exists():
                    by_stage.setdefault(stage, []).append(path.with_suffix(DATA) if path.suffix == ".index" else path)
            most = max(by_stage.values(), key=len, default=[])
            return sorted(most, key=lambda path: path.stat().st_mtime_ns)
        return []

    def finished(self) -> int:
        """Stages that are finished."""
        return sum(1 for _ in (self.root / "runs").rglob("DONE"))

    def clear(self) -> None:
        """Removes all runs, or the file in their place."""
        runs = self.root / "runs"
        runs.unlink() if runs.is_file() else shutil.rmtree(runs, ignore_errors=True)


def timeless(value: Any) -> Any:
    """JSON value without entries that hold times."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not any(word in k for word in TIMES)}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Waits; returns the exit code and everything printed."""
    try:
        text, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        raise Broken(f"not finished after {TIMEOUT} s") from None
    return process.returncode, text


def same(copy: Copy, calm: dict[str, Any]) -> None:
    """Raises Broken where a figure differs from the undisturbed run's."""
    mine = copy.numbers()
    wrong = sorted(name for name in calm.keys() | mine.keys() if mine.get(name) != calm.get(name))
    if wrong:
        raise Broken(f"figures differ in {', '.join(wrong[:3])}")


def last(text: str, lines: int = 3) -> str:
    """The end of an output, in one line."""
    return " / ".join(text.strip().splitlines()[-lines:])


def hit(copy: Copy, number: signal.Signals, wait: float) -> tuple[bool, int, str]:
    """Starts the pipeline and sends a signal after `wait` seconds, SIGKILL to its scripts as well.

    SIGTERM waits for the folder of runs: what is stopped before it began has nothing to say.

    Returns:
      Whether the signal came before the pipeline's end, its exit code, and what it printed.
    """
    process = copy.start()
    try:
        text, _ = process.communicate(timeout=wait)
        return False, process.returncode, text
    except subprocess.TimeoutExpired:
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            while not (copy.root / "runs").exists() and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(number)
        code, text = end(process)
        return number != signal.SIGKILL or code == -number, code, text


def worker_of(copy: Copy, ancestor: int) -> int | None:
    """The process that started the script which runs in a copy, or None (Linux).

    Args:
      ancestor: process below which it must be, so that nobody else's is named.
    """
    here, parents, scripts = f"{copy.root.resolve() / copy.folder}{os.sep}", {}, []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parents[int(entry.name)] = int((entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            if len(words) > 1 and words[1].startswith(here):
                scripts.append(int(entry.name))
    for script in scripts:
        above = [parents[script]]
        while above[-1] in parents:
            above.append(parents[above[-1]])
        if ancestor in above[1:] and above[0] not in scripts:  # a script's own helpers have its command line
            return above[0]
    return None


def checkout(target: Path, source: Path = REPO_ROOT) -> Path:
    """Copies the tracked files of a checkout (of an unpacked archive: all but runs, data and caches)."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=source, capture_output=True, encoding="utf-8", errors="surrogateescape")
    skip = shutil.ignore_patterns("runs", "data", ".*", "__pycache__")
    if listed.returncode:
        shutil.copytree(source, target, ignore=skip)
        return target
    for name in filter(None, listed.stdout.split("\0")):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
    return target
