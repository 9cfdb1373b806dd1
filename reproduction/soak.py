"""`make soak`: disturbs each paper's smoke pipeline in every way a machine can, and compares the outcome.

Both runs take place in copies of this checkout, so that nothing here is touched: one is left alone, the other is
killed, stopped, starved of disk and given broken files. Whatever happened to it, the same command must bring it to the
same figures, bit for bit. Counts are printed and written to runs/soak/soak.json.

    python -m reproduction.soak --papers class2str --kills 20
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduction.flags import Parser, flag, run_main, whole
from reproduction.runs import REPO_ROOT, RUNS_ROOT, UserError, write_json
from reproduction.sweep import FOLDERS

TIMES = ("second", "time", "images_per_s", "elapsed")  # what may differ between two runs of the same figures
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".index", ".data-00000-of-00001")
TIMEOUT = 1200  # seconds; a smoke pipeline takes about one minute
AT_ITS_END = 5  # seconds in which a pipeline may still finish instead of stopping
FILE_LIMIT = 200_000  # bytes a file may have on the "full" disk: logs fit, checkpoints do not


@dataclass
class Copy:
    """A copy of the checkout in which one paper's smoke pipeline runs.

    Attributes:
      root: the copied folder.
      folder: the paper's package.
    """

    root: Path
    folder: str

    def start(self, limit: int | None = None) -> subprocess.Popen[str]:
        """Starts the pipeline in a process group of its own; `limit`: largest file it may write, bytes."""

        def before() -> None:
            if limit:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails with an error, as on a full disk
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        command = [
            sys.executable,
            "-m",
            f"{self.folder}.reproduce",
            "--profile",
            "smoke",
            "--device",
            "cpu",
            "--seeds",
            "0",
        ]
        return subprocess.Popen(
            command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True, preexec_fn=before, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def finish(self) -> None:
        """Runs the pipeline to its end.

        Raises:
          Broken: it ended with an error.
        """
        code, text = end(self.start())
        if code:
            raise Broken(f"exit code {code}: {' / '.join(text.strip().splitlines()[-3:])}")

    def figures(self) -> dict[str, Any]:
        """Every figure of the run but times: metrics and details of the records, and the curves."""
        runs = self.root / "runs"
        found: dict[str, Any] = {}
        for path in sorted(runs.rglob("record.json")):
            record = json.loads(path.read_text())
            found[str(path.relative_to(runs))] = [timeless(record[part]) for part in ("metrics", "details")]
        for path in sorted(runs.rglob("metrics.jsonl")):
            lines = path.read_text().splitlines()
            found[str(path.relative_to(runs))] = [timeless(json.loads(line)) for line in lines]
        return found

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, the newest last."""
        files = [path for path in (self.root / "runs").rglob("*") if path.name.endswith(CHECKPOINTS)]
        return sorted(files, key=lambda path: path.stat().st_mtime_ns)

    def generations(self) -> int:
        """Most checkpoints that lie beside each other in the folder of an unfinished stage."""
        count: Counter[Path] = Counter()
        for path in self.checkpoints():
            stage = path.parent.parent if path.parent.name == "checkpoints" else path.parent
            if not path.name.endswith(".index") and not (stage / "DONE").exists():
                count[stage] += 1
        return max(count.values(), default=0)

    def clear(self) -> None:
        """Removes all runs."""
        shutil.rmtree(self.root / "runs", ignore_errors=True)


class Broken(Exception):
    """A disturbed run did not do what it has to."""


@dataclass
class Tally:
    """Counts of one paper: name of the fault -> [times done, times survived], and what went wrong."""

    counts: dict[str, list[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def one(self, name: str) -> Iterator[None]:
        """Counts what happens inside as one more of `name`."""
        count = self.counts.setdefault(name, [0, 0])
        count[0] += 1
        try:
            yield
            count[1] += 1
        except Broken as error:
            self.faults.append(f"{name}: {error}")


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
    mine = copy.figures()
    wrong = sorted(name for name in calm.keys() | mine.keys() if mine.get(name) != calm.get(name))
    if wrong:
        raise Broken(f"figures differ in {', '.join(wrong[:3])}")


def kills(copy: Copy, calm: dict[str, Any], tally: Tally, number: int, length: float, draw: random.Random) -> None:
    """Kills the pipeline at random moments, chained: each start goes on where the one before was killed.

    Where a run ends before its kill comes it is compared, and a new one is begun, until `number` kills are done.
    """
    while number:
        copy.clear()
        done = 0
        while number:
            process = copy.start()
            try:
                process.communicate(timeout=draw.uniform(0.1, 0.5) * length)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                number, done = number - 1, done + 1
        with tally.one("chains of SIGKILL"):
            copy.finish()
            same(copy, calm)
        tally.counts.setdefault("SIGKILL", [0, 0])
        survived = not tally.faults or not tally.faults[-1].startswith("chains")
        tally.counts["SIGKILL"] = [tally.counts["SIGKILL"][0] + done, tally.counts["SIGKILL"][1] + done * survived]


def stops(copy: Copy, calm: dict[str, Any], tally: Tally, number: int, length: float, draw: random.Random) -> None:
    """SIGTERM: the pipeline says how to go on, ends with an error code, and does go on."""
    for _ in range(number):
        copy.clear()
        with tally.one("SIGTERM"):
            process = copy.start()
            try:
                process.communicate(timeout=draw.uniform(0.3, 0.8) * length)
            except subprocess.TimeoutExpired:
                process.terminate()
                began = time.monotonic()
                code, text = end(process)
                at_its_end = not code and time.monotonic() - began < AT_ITS_END
                if not at_its_end and (not code or "Traceback" in text or "goes on" not in text):
                    raise Broken(f"exit code {code}: {' / '.join(text.strip().splitlines()[-2:])}") from None
            copy.finish()
            same(copy, calm)


def refused(copy: Copy, name: str, limit: int | None = None) -> str:
    """Runs the pipeline, which must end with an error code and a clear line; returns what it printed."""
    code, text = end(copy.start(limit))
    if not code:
        raise Broken(f"{name}: ended as if nothing had happened")
    if "Traceback" in text or "error" not in text:
        raise Broken(f"{name}: {' / '.join(text.strip().splitlines()[-3:])}")
    return text


def faults(copy: Copy, calm: dict[str, Any], tally: Tally, length: float) -> None:
    """Full disk, a file in place of the runs, a truncated checkpoint, two runs at once, a clock set back."""
    copy.clear()
    with tally.one("full disk"):
        refused(copy, "full disk", limit=FILE_LIMIT)
        copy.finish()
        same(copy, calm)

    copy.clear()
    with tally.one("file where the runs should lie"):
        (copy.root / "runs").write_text("")
        refused(copy, "file in the way")
        (copy.root / "runs").unlink()

    with tally.one("truncated newest checkpoint"):
        half_way(copy, length, checkpoints=2)  # a lone one has none before it: that is refused, with a line
        for path in copy.checkpoints()[-1:]:
            os.truncate(path, path.stat().st_size // 2)
        copy.finish()
        same(copy, calm)

    copy.clear()
    with tally.one("two runs of one folder"):
        first = copy.start()
        while not any((copy.root / "runs").rglob("metrics.jsonl")) and first.poll() is None:
            time.sleep(0.05)
        second = copy.start()
        code, text = end(second)
        if "in use" not in text and "another" not in text and first.poll() is None:
            raise Broken(f"the second was not refused: {code} {text.strip().splitlines()[-1:]}")
        end(first)
        copy.finish()
        same(copy, calm)

    with tally.one("clock set back by a day"):
        half_way(copy, length)
        for path in (copy.root / "runs").rglob("*"):
            os.utime(path, times=(time.time() + 86_400, time.time() + 86_400))
        copy.finish()
        same(copy, calm)


def half_way(copy: Copy, length: float, checkpoints: int = 1) -> None:
    """A run killed in a stage that has this many checkpoints; left to its end where no stage ever has."""
    copy.clear()
    process = copy.start()
    deadline = time.monotonic() + 10 * length
    while copy.generations() < checkpoints and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def checkout(target: Path, source: Path = REPO_ROOT) -> Path:
    """Copies the tracked files of a checkout (of an unpacked archive: all but runs, data and caches)."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=source, capture_output=True, text=True)
    skip = shutil.ignore_patterns("runs", "data", ".*", "__pycache__")
    if listed.returncode:
        shutil.copytree(source, target, ignore=skip)
        return target
    for name in filter(None, listed.stdout.split("\0")):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
    return target


def soak(folder: str, work: Path, number: int, terms: int, seed: int, say: Callable[[str], None]) -> Tally:
    """Everything, for one paper.

    Args:
      folder: the paper's package.
      work: a folder with two checkouts, `calm` and `disturbed`.
      number: of SIGKILLs.
      terms: of SIGTERMs.
      seed: of the random moments.
      say: told what is going on.
    """
    tally, draw = Tally(), random.Random(f"{seed} {folder}")
    calm = Copy(work / "calm", folder)
    begin = time.monotonic()
    calm.finish()
    length = time.monotonic() - begin
    figures = calm.figures()
    say(f"undisturbed: {length:.0f} s, {len(figures)} files of figures")
    disturbed = Copy(work / "disturbed", folder)
    kills(disturbed, figures, tally, number, length, draw)
    say(f"{number} kills done")
    stops(disturbed, figures, tally, terms, length, draw)
    say(f"{terms} stops done")
    faults(disturbed, figures, tally, length)
    return tally


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    p = Parser("python -m reproduction.soak", "Kills, stops and starves the smoke pipelines; compares the figures.")
    flag(p.additions, "--papers", default="", help=f"of {', '.join(FOLDERS)}; default: all that are here")
    flag(p.additions, "--kills", type=whole(0), default=20, help="SIGKILLs for each paper")
    flag(p.additions, "--terms", type=whole(0), default=3, help="SIGTERMs for each paper")
    flag(p.additions, "--seed", type=whole(0), default=0, help="of the random moments")
    args = p.parse_args(argv)
    run_main(lambda: _main(args))


def _main(args: Any) -> None:
    here = [paper for paper, folder in FOLDERS.items() if (REPO_ROOT / folder / "reproduce.py").exists()]
    papers = args.papers.split() or here
    if unknown := [paper for paper in papers if paper not in here]:
        raise UserError(f"--papers {' '.join(unknown)}: of {', '.join(here)}")
    results: dict[str, Any] = {}
    for paper in papers:
        with tempfile.TemporaryDirectory(prefix="soak ") as name:  # the space is on purpose
            for part in ("calm", "disturbed"):
                checkout(Path(name) / part)
            tally = soak(
                FOLDERS[paper], Path(name), args.kills, args.terms, args.seed,
                lambda text, paper=paper: print(f"{paper}: {text}", flush=True),  # type: ignore[misc]
            )  # fmt: skip
        results[paper] = {"counts": tally.counts, "faults": tally.faults}
        for fault, (done, survived) in tally.counts.items():
            print(f"{paper}: {fault}: {survived} of {done} survived")
        for line in tally.faults:
            print(f"{paper}: FAULT {line}", file=sys.stderr)
        (RUNS_ROOT / "soak").mkdir(parents=True, exist_ok=True)
        write_json(RUNS_ROOT / "soak" / "soak.json", results)
    if any(result["faults"] for result in results.values()):
        raise SystemExit("some disturbed runs did not end as the undisturbed one")


if __name__ == "__main__":
    main()
