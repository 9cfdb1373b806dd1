"""The folder of one run: its lock, the flags that it was started with, and whether it is finished.

A folder belongs to one set of resolved flags. The same flags go on where the run was, other flags are refused, and
a DONE stamp that holds the hash of the flags says that nothing is left to do. Everything written here is atomic:
a reader sees the old file or the new one, never half of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, TypeVar

import filelock

from reproduction.runtime.faults import first_line, going_on

REPO_ROOT = Path(__file__).resolve().parents[2]
DATA_ROOT = REPO_ROOT / "data"
RUNS_ROOT = REPO_ROOT / "runs"

# Flags that say where things lie or what to do with them; they do not change what a run computes.
PLACES = frozenset({"data_dir", "runs_dir", "cnn_dir", "pretrained_dir", "checkpoint_dir", "name", "row"})
PLACES |= {"overwrite", "print_config", "eval", "argv"}

Content = TypeVar("Content")


class UserError(Exception):
    """An error that the user can correct; the message is one line that says what is wrong and what to run.

    It stays one line and can be printed whatever it quotes: characters that no terminal prints are shown as escapes.
    """

    def __init__(self, message: object):
        text = str(message)
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))


class Damaged(UserError):
    """A checkpoint with corrupt content. I/O and memory errors are not included."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing: complete under its name, or not at all (a full disk leaves the old file)."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically."""
    with atomic(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_bytes(Path(path), (json.dumps(value, indent=2, sort_keys=True, default=str) + "\n").encode())


def read_json(path: Path, *keys: str) -> Any:
    """Reads a JSON file; with keys (or "" for none in particular) it must be an object that has them.

    Raises:
      UserError: the file is missing, not JSON, not an object, or lacks a name; the message names the file.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))  # people edit trees by hand
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: no such file") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{shown(path)}: not readable as JSON ({first_line(error)})") from None
    if keys and not isinstance(value, dict):
        raise UserError(f"{shown(path)}: holds a {type(value).__name__}, not an object; it is damaged or another file")
    lacking = [key for key in keys if key and key not in value]
    if lacking:
        raise UserError(f"{shown(path)}: lacks {', '.join(lacking)}; it is damaged or another file")
    return value


_MISSING = (AttributeError, LookupError, StopIteration)  # StopIteration: `next` on an empty table
# Exceptions raised when run files are inconsistent.
DO_NOT_FIT = (*_MISSING, ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError)


@contextlib.contextmanager
def together(path: Path, hint: str = "") -> Iterator[None]:
    """Context for code that combines several files of a run: turns errors of inconsistent files into one line.

    Args:
      path: run folder or file, for the message.
      hint: command that repairs it, for the message; "" for none.
    Raises:
      UserError: an entry is missing, has another type or is out of range: a damaged run, or one of another version.
    """
    try:
        yield
    except DO_NOT_FIT as error:
        reason = f"its files are damaged or do not fit each other ({type(error).__name__}: {first_line(error)})"
        raise UserError(f"{shown(path)}: {reason}{hint and '; '}{hint}") from error


def newest_whole(paths: Iterable[Path], read: Callable[[Path], Content]) -> Content | None:
    """Returns `read` of the newest of these checkpoints that is not damaged, or None if there are none.

    Damaged ones are skipped with a line and are not deleted.

    Args:
      paths: checkpoints whose names sort by age.
      read: reads one checkpoint; raises `Damaged` if the content of the file is invalid.
    Raises:
      UserError: checkpoints are there but all are damaged, or one cannot be read for another reason.
    """
    left = sorted(paths)
    while left:
        try:
            return read(left.pop())
        except Damaged as error:
            if not left:
                raise UserError(f"{error}; no checkpoint can be restored; --overwrite starts anew") from None
            print(f"{error}; going on from the one before", file=sys.stderr, flush=True)
    return None


def flags_hash(config: Mapping[str, Any]) -> str:
    """Returns sha256 (first 16 hex digits) of the resolved flags that decide what a run computes, without paths."""
    relevant = {key: value for key, value in config.items() if key not in PLACES}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, default=str).encode()).hexdigest()[:16]


def shown(path: Path | str) -> str:
    """Returns a path as printed and recorded: relative to the repository or the working directory if it is inside."""
    path = Path(path).resolve()
    for root in (REPO_ROOT, Path.cwd()):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return str(path)


@dataclass
class Run:
    """An open run folder; see `open_run`."""

    folder: Path
    config: dict[str, Any]
    done: bool
    opened: float = field(default_factory=time.monotonic)

    def finish(self, record: Any, draw: Callable[[], None] | None = None) -> None:
        """Writes record.json, then what people look at, then the DONE stamp.

        If a plot or text fails, nothing is lost: one line and the stamp name it, and the same command tries again.

        Args:
          record: a `record.Record` or a dict.
          draw: writes the plots and texts; its UserError is raised.
        """
        data = record if isinstance(record, dict) else record.model_dump(mode="json")
        write_json(self.folder / "record.json", data)
        stamp = {"flags": flags_hash(self.config), **{key: data.get(key) for key in ("commit", "date")}}
        try:
            if draw is not None:
                draw()
        except UserError:
            raise
        except Exception as error:
            stamp["undrawn"] = f"{type(error).__name__}: {first_line(error)}"
            what = f"the record is complete, but a picture or text cannot be written ({stamp['undrawn']})"
            warning = UserError(f"warning: {shown(self.folder)}: {what}; the same command tries again")
            print(warning, file=sys.stderr, flush=True)
        write_json(self.folder / "DONE", stamp)
        self.done = "undrawn" not in stamp

    def is_finished(self) -> bool:
        """Whether a run with the same flags has left nothing to do; then prints one line about it."""
        if self.done:
            stamp = read_json(self.folder / "DONE", "")
            before = f"commit {str(stamp.get('commit') or 'unknown')[:10]}, {stamp.get('date')}"
            print(f"{shown(self.folder)}: finished before ({before}); --overwrite runs it again", flush=True)
        return self.done


def finished_with(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Returns whether the DONE stamp has these flags and no plot is missing."""
    stamp = read_json(folder / "DONE", "") if (folder / "DONE").exists() else {}
    return stamp.get("flags") == flags_hash(settings) and "undrawn" not in stamp


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = sorted((old.keys() | new.keys()) - PLACES)
    differing = [
        f"{key} {old.get(key, 'not set')} there, {new.get(key, 'not set')} here"
        for key in keys
        if old.get(key) != new.get(key)
    ]
    return "; ".join(differing[:3]) + ("; ..." if len(differing) > 3 else "")


def entries_of(folder: Path) -> list[Path]:
    """Returns what a run has written: neither its lock nor the runs below it (stage 1 under stage 2)."""
    return [entry for entry in folder.iterdir() if entry.name != ".lock" and not (entry / "config.json").exists()]


def _clear(folder: Path) -> None:
    """Empties a run folder of what the run has written.

    Raises:
      UserError: it holds something and is no run folder, as after `--name ..`; nothing is removed.
    """
    entries = entries_of(folder)
    if entries and not (folder / "config.json").exists():
        raise UserError(
            f"{shown(folder)}: --overwrite removes runs only; this holds {min(entry.name for entry in entries)} and no "
            "config.json, so it is no run folder; choose another --name, or remove it by hand"
        )
    # killed midway, the folder must not look finished, and keeps saying whose checkpoints are left in it
    for entry in sorted(entries, key=lambda entry: (entry.name != "DONE", entry.name == "config.json")):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextlib.contextmanager
def open_run(folder: Path | str, config: Mapping[str, Any], overwrite: bool = False) -> Iterator[Run]:
    """Opens (or creates) a run folder for one set of resolved flags and holds its lock.

    Args:
      folder: the run folder.
      config: the resolved flags, JSON values only; keys in `PLACES` do not count as different flags.
      overwrite: start again from nothing, whatever run the folder contains.
    Yields:
      The run; `run.done` is True if a run with the same flags has finished. If it ends by an exception before it has
      written anything leaves no flags behind.
    Raises:
      UserError: folder cannot be created or written, another process uses it, it has other flags, or `overwrite`
        finds files that are no run.
    """
    folder = Path(folder)
    settings: dict[str, Any] = json.loads(json.dumps(config, default=str))  # what config.json will hold
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        lock.acquire(timeout=3)  # a child of a run just killed may still be writing its last checkpoint
    except filelock.Timeout:
        raise UserError(
            f"{shown(folder)}: another process is running in this folder; wait for it or choose --name"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{shown(folder)}: cannot write the run folder ({reason}); choose --runs-dir") from None
    try:
        if overwrite:
            _clear(folder)
        config_path = folder / "config.json"
        new = not config_path.exists()
        if not new:
            try:
                old = read_json(config_path, "")
            except UserError as error:
                raise UserError(f"{error}; --overwrite starts anew") from None
            if flags_hash(old) != flags_hash(settings):
                raise UserError(
                    f"{shown(folder)}: holds a run with other flags ({_differences(old, settings)}); "
                    "choose another --name, or --overwrite to start anew"
                )
        else:
            write_json(config_path, settings)
        try:
            yield Run(folder, settings, finished_with(folder, settings))
        except BaseException:  # ended before it wrote anything: the folder is free for other flags
            if new and {entry.name for entry in entries_of(folder)} <= {"config.json", "data.json"}:
                (folder / "data.json").unlink(missing_ok=True)
                config_path.unlink()
            raise
    finally:
        lock.release()


@dataclass
class Stop:
    """Set by SIGINT or SIGTERM; the loop reads `requested` at points where stopping loses nothing."""

    signal_number: int = 0

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal_number != 0

    def leave(self, folder: Path | str) -> None:
        """Ends the process with one line, after the loop has written its checkpoint."""
        name = signal.Signals(self.signal_number).name
        print(f"\nstopped by {name}; {shown(folder)} is complete so far, {going_on()}", file=sys.stderr)
        raise SystemExit(128 + self.signal_number)


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turns the first SIGINT or SIGTERM into a request; a second one acts as usual."""
    stop = Stop()

    def request(number: int, _frame: FrameType | None) -> None:
        stop.signal_number = number
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
