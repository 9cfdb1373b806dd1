"""`make bench`: every benchmark in its own process; prints one table, writes bench.json and docs/benchmarks.{md,json}.

python -m benchmarks                              all, into runs/bench and docs
python -m benchmarks MODULE [NAME ...] [--small]  some of them, printed only
python -m benchmarks MODULE [NAME ...] --page     the same, and puts their rows on the page in docs
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks import page
from benchmarks.measure import Benchmark, Measure, NotSupported, Result
from datasets.terminal import any_terminal
from reproduction.runtime.flags import one_line_errors
from reproduction.runtime.run_folder import REPO_ROOT, RUNS_ROOT, UserError, read_json, shown, write_json

NO_BENCHMARKS = {"__main__", "gpu_check", "measure", "page", "tf_sessions"}
LIMIT_S = 3 * 3600  # of one process; six trainings of `precision` take longest, half an hour on an idle core
DOCS = REPO_ROOT / "docs"


def modules() -> list[str]:
    """Modules of this folder that hold benchmarks."""
    return sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in NO_BENCHMARKS)


def benchmarks_of(module: str) -> dict[str, Benchmark]:
    """A module's BENCHMARKS: name -> function of `small` that returns one result or several."""
    benchmarks_by_name: dict[str, Benchmark] = importlib.import_module(f"benchmarks.{module}").BENCHMARKS
    return benchmarks_by_name


def run_one(module: str, name: str, small: bool) -> list[dict[str, Any]]:
    """Runs one benchmark in this process; entries of bench.json."""
    try:
        results = benchmarks_of(module)[name](small)
    except NotSupported as reason:
        results = Measure(name, "", [], note=f"not supported: {reason}")
    return [{"paper": module, **one.summary()} for one in ([results] if isinstance(results, Result) else results)]


def in_a_process(*words: str) -> Any:
    """What `--one` or `--names` prints last in a process of its own, so that this one imports no framework.

    Raises:
      RuntimeError: it failed or took too long; the message is the last line it wrote to stderr.
    """
    command = [sys.executable, "-m", "benchmarks", *words]
    # a session of its own, so that what it has started ends with it
    with subprocess.Popen(
        command, cwd=REPO_ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as child:
        try:
            out, error = child.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"stopped after {LIMIT_S} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode:
        raise RuntimeError((error.strip().splitlines() or [f"exit code {child.returncode}"])[-1])
    return json.loads(out.splitlines()[-1])


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory, as ratios.")
    parser.add_argument("module", nargs="?", choices=modules(), metavar="MODULE", help=", ".join(modules()))
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks of the module (default: all of them)")
    parser.add_argument("--small", action="store_true", help="sizes that take seconds, to see that it runs")
    parser.add_argument(
        "--page", action="store_true", help="put the rows on docs/benchmarks.md, in place of older ones"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of bench.json, benchmarks.md and scaling.png")
    parser.add_argument("--list", action="store_true", help="print what there is, run nothing")
    hidden = parser.add_mutually_exclusive_group()
    hidden.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    hidden.add_argument("--names", action="store_true", dest="say_names", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


@any_terminal()
@one_line_errors("benchmarks")
def main(argv: list[str] | None = None) -> int:
    """Runs what the command line names; returns 1 where something failed."""
    args = parsed(argv)
    if args.one or args.say_names:  # a child
        answer = run_one(args.module, args.names[0], args.small) if args.one else list(benchmarks_of(args.module))
        print(json.dumps(answer))
        return 0
    chosen = [args.module] if args.module else modules()
    known = {module: in_a_process(module, "--names") for module in chosen}
    for name in args.names:
        if name not in known[args.module]:
            raise UserError(f"unknown {name!r}: {args.module} has {', '.join(map(repr, known[args.module]))}")
    todo = [(module, name) for module in chosen for name in (args.names or known[module])]
    if args.list:
        print("\n".join(f"{module} {name!r}" for module, name in todo))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is running ends, too
    measured_on, start = page.circumstances(os.getloadavg()[0]), time.monotonic()
    entries: list[dict[str, Any]] = []
    failed = []
    print(page.markdown_table(page.COLUMNS, []), flush=True)
    for number, (module, name) in enumerate(todo, 1):
        began = time.monotonic()
        try:
            rows = in_a_process(module, name, "--one", *(["--small"] if args.small else []))
        except RuntimeError as error:
            failed.append(f"{module} {name!r}: {error}")
            print(f"failed: {failed[-1]}", file=sys.stderr, flush=True)
            rows = []
        entries += rows
        for entry in rows:
            print(page.line(entry), flush=True)
        took, total = time.monotonic() - began, time.monotonic() - start
        print(f"[{number}/{len(todo)}] {module} {name!r}: {took:.0f} s, {total:.0f} s in all", file=sys.stderr)
    measured_on += f"; {(time.monotonic() - start) / 60:.0f} minutes in all."
    whole = not args.module and not args.small
    out = args.out or (RUNS_ROOT / "bench" if whole else None)
    if out is not None:
        documents = args.out or DOCS
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "bench.json", entries)
        write_json(documents / "benchmarks.json", entries)  # committed: claims are judged by it
        page.write(documents, entries, failed, measured_on)
        print(f"wrote {shown(out / 'bench.json')} and {shown(documents / 'benchmarks.md')}", file=sys.stderr)
    elif args.page and not args.small:
        old, text = DOCS / "benchmarks.json", (DOCS / "benchmarks.md").read_text(encoding="utf-8")
        entries = page.merged(read_json(old), entries, measured_on)
        write_json(old, entries)
        page.write(DOCS, entries, failed, text.splitlines()[-1])
        print(f"wrote {shown(DOCS / 'benchmarks.md')}", file=sys.stderr)
    for failure in failed:
        print(f"failed: {failure}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
