"""Runs hostile inputs through parsers and says what went wrong: the one property that every parser has to keep.

A parser may return, or raise its documented error in one line. It may not raise anything else, start a process, open
a connection, evaluate code, write outside its folder, claim more memory than LIMIT_BYTES over what the process has, or
take longer than LIMIT_S. Input k of a target is a function of (seed, target, k) alone.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz import mutate

LIMIT_BYTES = 3 << 30  # the largest array that a reader may make is 1 GiB; this leaves room for a copy of it
LIMIT_S = 20
CANARY = "fuzz.canary"  # planted code raises this audit event; see seeds.CODE
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "ctypes.dlopen",
    CANARY,
)
WRITERS = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate")


class Slow(BaseException):
    """Raised by the alarm; no `except Exception` may swallow it."""


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
      name: unique.
      file: name under which the input is put down.
      seeds: gives the valid inputs; each must be read without error.
      parse: reads the file; asserts what its result has to keep.
      allowed: the documented errors.
      hostile: gives inputs that must be refused with one of `allowed`.
      inside: mutators that know the container, used in two of three inputs.
      framework: "", "torch" or "tf": what the parser imports.
      share: of the inputs that other targets get; less for slow ones.
    """

    name: str
    file: str
    seeds: Callable[[], Sequence[bytes]]
    parse: Callable[[Path], object]
    allowed: tuple[type[BaseException], ...]
    hostile: Callable[[], Sequence[bytes]] = tuple
    inside: tuple[mutate.Mutator, ...] = ()
    framework: str = ""
    share: float = 1.0


@dataclass
class Guard:
    """What the audit hook saw while armed."""

    folder: str = ""
    armed: bool = False
    seen: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments!r}"[:200])
        elif event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) if isinstance(flags, int) else 0
            if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
                self._inside(event, path)
        elif event in WRITERS:
            handles = [value for value in arguments if isinstance(value, int) and value >= 0]
            for path in arguments[:2]:
                if isinstance(path, (str, bytes)):
                    # a path may be relative to an open folder, which is the last number then
                    beside = f"/proc/self/fd/{handles[-1]}" if handles and not os.path.isabs(path) else ""
                    self._inside(event, os.path.join(os.fsencode(beside), os.fsencode(path)))

    def _inside(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        text = os.path.realpath(os.fsdecode(path))
        if text not in (os.devnull, self.folder) and not text.startswith(self.folder + os.sep):
            self.seen.append(f"{event} {text}"[:200])


guard = Guard()


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Watches what is done while the block runs; an alarm ends it after LIMIT_S."""

    def slow(_number: int, _frame: FrameType | None) -> None:
        raise Slow(f"longer than {LIMIT_S} s")

    guard.folder, guard.seen = os.path.realpath(folder), []
    before = signal.signal(signal.SIGALRM, slow)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    guard.armed = True
    try:
        yield
    finally:
        guard.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _placed(target: Target, data: bytes, folder: Path) -> Path:
    """The input under its name, alone in its folder."""
    for old in folder.iterdir():  # what the reader of the input before left
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    path = folder / target.file
    path.write_bytes(data)
    return path


def warm_up(target: Target, folder: Path) -> None:
    """Reads the valid inputs once, so that imports and first calls come before the watch, the clock and the bound."""
    for data in target.seeds():
        with suppress(Exception):
            target.parse(_placed(target, data, folder))


def judge(target: Target, data: bytes, folder: Path, must: str = "") -> str:
    """Puts one input through a parser.

    Args:
      target: the parser.
      data: the input.
      folder: an existing folder of its own.
      must: "read" for a valid input, "refuse" for a planted one, "" where both are right.
    Returns:
      What is wrong, or "".
    """
    path, refused = _placed(target, data, folder), False
    try:
        with guarded(folder):
            target.parse(path)
    except target.allowed as error:
        refused = True
        if "\n" in str(error).strip():
            return f"its message has several lines: {str(error)[:120]!r}"
        if must == "read":
            return f"a valid input was refused: {error}"
    except (Exception, Slow) as error:  # the property itself
        where = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in where if "tests/fuzz" not in f.filename]
        return f"{type(error).__name__}: {str(error)[:120]!r} at {' '.join(ours[-4:])}"
    if guard.seen:
        return f"it did {guard.seen[0]}"
    return "a hostile input was accepted" if must == "refuse" and not refused else ""


def make(target: Target, valid: Sequence[bytes], planted: Sequence[bytes], seed: int, number: int) -> bytes:
    """Input `number` of a target."""
    return damaged(target, valid, planted, random.Random(f"{seed}/{target.name}/{number}"))


def damaged(target: Target, valid: Sequence[bytes], planted: Sequence[bytes], rng: random.Random) -> bytes:
    """A valid or planted input, damaged as `rng` chooses."""
    known = [*valid, *planted]
    base = rng.choice(valid) if rng.random() < 0.8 or not planted else rng.choice(planted)
    action = rng.random()
    if action < 0.06:
        return mutate.splice(base, rng.choice(known), rng)
    if target.inside and action < 0.7:
        return rng.choice(target.inside)(base, rng)
    return mutate.flat(base, rng)


@dataclass(frozen=True)
class Fault:
    """One input that broke the property; `number` says which, as `inputs` counts them or among hypothesis' own."""

    target: str
    number: int | str
    what: str
    data: bytes


def inputs(target: Target, count: int, seed: int) -> Iterator[tuple[int, bytes, str]]:
    """(number, bytes, what must happen): the valid ones, the planted ones, then `count` damaged ones."""
    valid, planted = list(target.seeds()), list(target.hostile())
    yield from ((-1 - i, data, "read") for i, data in enumerate(valid))
    yield from ((-1 - len(valid) - i, data, "refuse") for i, data in enumerate(planted))
    yield from ((number, make(target, valid, planted, seed, number), "") for number in range(count))


def limit_memory() -> None:
    """Bounds the address space of this process to LIMIT_BYTES over what it has mapped now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT_BYTES, resource.RLIM_INFINITY))


@cache
def watch() -> None:
    """Installs the audit hook, once and for the life of the process."""
    sys.addaudithook(guard.hook)


class Note:
    """A file that says which input of which target is read, so that it is known after the process died of it."""

    def __init__(self, path: Path, target: str, start: int):
        self.path, self.target, self.position, self.drawn = path, target, start - 1, 0

    def next(self, drawn: bool) -> None:
        """Another input; `drawn` by hypothesis or not."""
        self.position += 1
        self.drawn += drawn
        self.path.write_text(json.dumps([self.target, self.position, self.drawn]), encoding="utf-8")


def noted(target: Target, data: bytes, folder: Path, must: str, note: Note | None, drawn: bool = False) -> str:
    """`judge`, after the note; native code, which hears no alarm, ends with the process."""
    if note is not None:
        note.next(drawn)
    faulthandler.dump_traceback_later(6 * LIMIT_S, exit=True)
    try:
        return judge(target, data, folder, must)
    finally:
        faulthandler.cancel_dump_traceback_later()


def kind(what: str) -> str:
    """What two findings of the same fault have in common: the place where it was raised, or how its message begins."""
    said, at, place = what.rpartition(" at ")
    return place + said[:20] if at else what[:60]


def run(target: Target, count: int, seed: int, folder: Path, start: int = 0, note: Note | None = None) -> list[Fault]:
    """All inputs of a target.

    Args:
      target: the parser.
      count: see `inputs`.
      seed: see `inputs`.
      folder: an existing scratch folder.
      start: position among the inputs to begin at (after a crash of the process).
      note: called with every input before it is read.
    Returns:
      The faults, one for each kind.
    """
    found: dict[str, Fault] = {}
    for position, (number, data, must) in enumerate(inputs(target, count, seed)):
        if position >= start and (what := noted(target, data, folder, must, note)):
            found.setdefault(kind(what), Fault(target.name, number, what, data))
    return list(found.values())
