"""`make soak`: disturbs each paper's smoke pipeline in every way a machine can, and compares the outcome.

Both runs take place in copies of this checkout, so that nothing here is touched: one is left alone, the other is
killed, stopped, starved of disk and given broken files. Whatever happened to it, the same command must bring it to the
same figures, bit for bit. Counts are printed and kept in runs/soak/<paper>.json (with --only in another file), of
which `python -m reproduction.reliability --write-docs` makes docs/reliability.md.

    python -m tests.soak --papers class2str --kills 20
    python -m tests.soak --papers "class2str subclass" --only Ray
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduction.launch.sweep import FOLDERS
from reproduction.runtime.flags import Parser, flag, run_main, whole
from reproduction.runtime.run_folder import UserError
from tests.soak import reliability
from tests.soak.smoke_copy import Broken, Copy, checkout, end, hit, last, same, worker_of

# so that every stage has several states to go on from, in smoke runs of seconds
FLAGS = {"subclass": "--epochs_class 3 --epochs 3 --checkpoint-steps 2", "hierarchy": "--checkpoint-steps 5"}
ATTEMPTS = 8  # to catch a moment that may pass unseen on a busy machine
CHAIN = 4  # kills in a row: where each start takes long to reach new steps, a longer chain stays at one place
FILE_LIMIT = 200_000  # bytes a file may have on the "full" disk: logs fit, checkpoints do not


@dataclass
class Tally:
    """Counts of one paper: name of the fault -> [times done, times survived]; what went wrong.

    `moments`: finished stages -> kills that came when so many were finished.
    """

    counts: dict[str, list[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    moments: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def one(self, name: str) -> Iterator[None]:
        """Counts what happens inside as one more of `name`."""
        survived = 0
        try:
            yield
            survived = 1
        except Broken as error:
            self.faults.append(f"{name}: {error}")
        self.add(name, 1, survived)

    def add(self, name: str, done: int, survived: int) -> None:
        """Adds to the counts of `name`."""
        count = self.counts.setdefault(name, [0, 0])
        count[0] += done
        count[1] += survived


def chain(copy: Copy, most: int, length: float, draw: random.Random, moments: Counter[str]) -> tuple[int, str]:
    """Kills one run again and again, until it ends before its kill or `most` kills are done.

    The first kill may come nearly anywhere in the run.

    Returns:
      The kills, and what went wrong with an end that came by itself, or "".
    """
    copy.clear()
    done = 0
    while done < most:
        struck, code, text = hit(copy, signal.SIGKILL, draw.uniform(0.1, 0.5 if done else 0.9) * length)
        if not struck:
            return done, f"after {done} kills exit code {code}: {last(text)}" if code else ""
        done += 1
        moments[str(copy.finished())] += 1
    return done, ""


def kills(copy: Copy, calm: dict[str, Any], tally: Tally, number: int, length: float, draw: random.Random) -> None:
    """Kills the pipeline at random moments, chained: each start goes on where the one before was killed.

    Where a run ends before its kill comes, or after CHAIN kills, it is compared and a new one is begun, until `number`
    kills are done. All kills of a chain count as survived or none does.
    """
    while number:
        done, wrong = chain(copy, min(number, CHAIN), length, draw, tally.moments)
        if not done and not wrong:  # this machine has become faster than it was for the undisturbed run
            length /= 2
            continue
        before = len(tally.faults)
        with tally.one("chains of SIGKILL"):
            if wrong:
                raise Broken(wrong)
            copy.finish()
            same(copy, calm)
        tally.add("SIGKILL", done, done * (len(tally.faults) == before))
        if not done:
            return  # it fails by itself: the fault is noted, and no kill would ever come
        number -= done


def stops(copy: Copy, calm: dict[str, Any], tally: Tally, number: int, length: float, draw: random.Random) -> None:
    """SIGTERM: the pipeline says how to go on, ends with an error code, and does go on."""
    for _ in range(number):
        with tally.one("SIGTERM"):
            for _ in range(ATTEMPTS):
                copy.clear()
                _, code, text = hit(copy, signal.SIGTERM, draw.uniform(0.3, 0.8) * length)
                if code and copy.numbers() != calm:
                    break
                length *= 0.8  # it came when everything was done
            if not code or "Traceback" in text or "goes on" not in text:
                raise Broken(f"exit code {code}: {last(text, 2)}")
            copy.finish()
            same(copy, calm)


def refused(copy: Copy, name: str, limit: int | None = None) -> None:
    """Runs the pipeline, which must end with an error code and a clear line."""
    code, text = end(copy.start(limit))
    if not code:
        raise Broken(f"{name}: ended as if nothing had happened")
    if "Traceback" in text or "error" not in text:
        raise Broken(f"{name}: {last(text)}")


def full_disk(copy: Copy) -> None:
    """No file may grow beyond FILE_LIMIT, then all may."""
    refused(copy, "full disk", limit=FILE_LIMIT)
    copy.finish()


def file_in_the_way(copy: Copy) -> None:
    """A file in place of the folder of runs."""
    (copy.root / "runs").write_text("", encoding="utf-8")
    refused(copy, "file in the way")
    (copy.root / "runs").unlink()
    copy.finish()


def truncated(copy: Copy) -> None:
    """The newest checkpoint loses its second half: the run must say that it goes on from the one before.

    A start from zero would end with the same figures, so these alone would not show it.
    """
    newest = half_way(copy, states=2)[-1]  # a lone one has none before it: that is refused, with a line
    os.truncate(newest, newest.stat().st_size // 2)
    if not fell_back(text := copy.finish(), newest):
        raise Broken(f"no word of the checkpoint before {newest.name}: {last(text)}")


def fell_back(text: str, damaged: Path) -> bool:
    """Whether a run says that it passes over this checkpoint and goes on from another.

    torch's scripts say so in words, TensorFlow's by the number of steps to go.
    """
    name = re.escape(damaged.name.partition(".data-")[0])
    passed_over = re.search(rf"{name}: (not a readable checkpoint|cannot be restored)", text)
    steps = re.findall(r"(\d+) of (\d+) steps of", text)
    return bool(passed_over and (re.search("going on (at|after) ", text) or any(left != all_ for left, all_ in steps)))


def two_at_once(copy: Copy) -> None:
    """Starts the pipeline twice at the same time: one of the two is refused, the other goes on to its end."""
    for _ in range(ATTEMPTS):
        copy.clear()
        first = copy.start()
        while not any((copy.root / "runs").rglob("metrics.jsonl")) and first.poll() is None:
            time.sleep(0.05)
        outcomes = [end(copy.start()), end(first)]
        errors = [text for code, text in outcomes if code]
        if len(errors) == 2 or any("Traceback" in text or "another process" not in text for text in errors):
            raise Broken(f"{len(errors)} of two ended with an error: {last(errors[0])}")
        if errors:
            copy.finish()
            return
    raise Broken("none of two was refused")


def dated(copy: Copy, days: int) -> None:
    """Dates every file of a killed run `days` ahead of now, or back: what a run sees of a clock that was set.

    The clock itself stays as it is, during a run too: to set it takes root, or a preloaded library such as libfaketime
    that this repository does not bring.
    """
    half_way(copy, states=1)
    moment = time.time() + days * 86_400
    for path in (copy.root / "runs").rglob("*"):
        os.utime(path, times=(moment, moment))
    copy.finish()


def worker_killed(copy: Copy) -> None:
    """Runs the pipeline as a sweep and kills the Ray worker of a task whose script has saved a state.

    The sweep itself must finish the task.
    """
    for _ in range(ATTEMPTS):
        copy.clear()
        process, worker = copy.start(swept=True), None
        while worker is None and process.poll() is None:
            time.sleep(0.02)
            worker = worker_of(copy, process.pid) if copy.states() else None
        if worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        code, text = end(process)
        if code:
            raise Broken(f"exit code {code}: {last(text)}")
        if worker is not None:
            return
    raise Broken("no task with a saved state was seen")


SWEPT = "Ray worker killed during a task"
# each disturbs the pipeline and brings it to its end
FAULTS: dict[str, Callable[[Copy], None]] = {
    "full disk": full_disk,
    "a file at the path of runs/": file_in_the_way,
    "truncated newest checkpoint": truncated,
    "two runs of one folder": two_at_once,
    "files dated a day ahead": functools.partial(dated, days=1),
    "files dated a day back": functools.partial(dated, days=-1),
    SWEPT: worker_killed,
}
NAMES = ("SIGKILL", "SIGTERM", *FAULTS)


def faults(
    copy: Copy, calm: dict[str, Any], tally: Tally, names: Sequence[str], say: Callable[[str], None] = print
) -> None:
    """Those of FAULTS that are named, each followed by the comparison."""
    for name in (name for name in FAULTS if name in names):
        if name == SWEPT and not (importlib.util.find_spec("ray") and Path("/proc/self/stat").exists()):
            say(f"{name}: skipped: needs Ray (extra `cluster`) and Linux")
            continue
        copy.clear()
        with tally.one(name):
            FAULTS[name](copy)
            same(copy, calm)
        say(f"{name}: done")


def half_way(copy: Copy, states: int) -> list[Path]:
    """Leaves a run killed in a stage that has this many states; returns them, the newest last.

    Raises:
      Broken: no stage ever had.
    """
    for _ in range(ATTEMPTS):
        copy.clear()
        process = copy.start()
        while len(copy.states()) < states and process.poll() is None:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        end(process)
        if len(found := copy.states()) >= states:
            return found
    raise Broken(f"no unfinished stage ever had {states} states to go on from")


def soak(
    folder: str,
    work: Path,
    number: int,
    terms: int,
    seed: int,
    say: Callable[[str], None],
    flags: str = "",
    names: Sequence[str] = NAMES,
) -> tuple[Tally, float]:
    """Everything that is named, for one paper.

    Args:
      folder: the paper's package.
      work: a folder with two checkouts, `calm` and `disturbed`.
      number: of SIGKILLs.
      terms: of SIGTERMs.
      seed: of the random moments.
      say: called with what is going on.
      flags: passed through to the scripts.
      names: of NAMES.
    Returns:
      The counts, and the seconds that the undisturbed run took.
    Raises:
      UserError: the undisturbed run failed.
    """
    tally, draw = Tally(), random.Random(f"{seed} {folder}")
    calm = Copy(work / "calm", folder, flags)
    begin = time.monotonic()
    try:
        calm.finish()
    except Broken as error:
        raise UserError(f"{folder}: the undisturbed run failed: {error}") from None
    length = time.monotonic() - begin
    figures = calm.numbers()
    say(f"undisturbed: {length:.0f} s, {len(figures)} files of figures")
    disturbed = Copy(work / "disturbed", folder, flags)
    if "SIGKILL" in names:
        kills(disturbed, figures, tally, number, length, draw)
        say(f"{number} kills done")
    if "SIGTERM" in names:
        stops(disturbed, figures, tally, terms, length, draw)
        say(f"{terms} stops done")
    faults(disturbed, figures, tally, names, say)
    return tally, length


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    p = Parser("python -m tests.soak", "Kills, stops and starves the smoke pipelines; compares the figures.")
    flag(p.additions, "--papers", default="", help=f"of {', '.join(FOLDERS)}; default: all")
    flag(p.additions, "--kills", type=whole(0), default=20, help="SIGKILLs for each paper")
    flag(p.additions, "--terms", type=whole(0), default=3, help="SIGTERMs for each paper")
    flag(p.additions, "--seed", type=whole(0), default=0, help="of the random moments")
    flag(p.additions, "--only", default="", help=f"faults with this in their name; of {', '.join(NAMES)}")
    run_main(lambda: _main(p.parse_args(argv)))


def _main(args: Any) -> None:
    papers = args.papers.split() or list(FOLDERS)
    if unknown := [paper for paper in papers if paper not in FOLDERS]:
        raise UserError(f"--papers {' '.join(unknown)}: of {', '.join(FOLDERS)}")
    names = [name for name in NAMES if args.only in name]
    if not names:
        raise UserError(f"--only {args.only}: in none of {', '.join(NAMES)}")
    failed = False
    for paper in papers:
        begin, origin, flags = time.monotonic(), reliability.origin(), FLAGS.get(paper, "")
        with tempfile.TemporaryDirectory(prefix="soak ") as name:  # the space is on purpose
            for part in ("calm", "disturbed"):
                checkout(Path(name) / part)
            tally, length = soak(
                FOLDERS[paper],
                Path(name),
                args.kills,
                args.terms,
                args.seed,
                lambda text, paper=paper: print(f"{paper}: {text}", flush=True),
                flags,
                names,  # type: ignore[misc]
            )
        result = reliability.Soak(
            paper=paper,
            flags=flags,
            seed=args.seed,
            counts={k: (n, m) for k, (n, m) in tally.counts.items()},
            kills_after_stages=dict(tally.moments),
            faults=tally.faults,
            undisturbed_seconds=round(length, 1),
            seconds=round(time.monotonic() - begin, 1),
            origin=origin,
        )
        if tally.counts:  # else all was skipped
            reliability.keep(reliability.kept_at(paper, args.only), result)
        for fault, (done, survived) in tally.counts.items():
            print(f"{paper}: {fault}: {survived} of {done} survived")
        for line in tally.faults:
            print(f"{paper}: FAULT {line}", file=sys.stderr)
        failed = failed or bool(tally.faults)
    if failed:
        raise SystemExit("some disturbed runs did not end as the undisturbed one")
