"""`make bench`: every pair in a process of its own; prints the ratios, writes bench.json and docs/benchmarks.md."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from typing import Any

import benchmarks
from reproduction.record import commit_and_dirty, machine, versions_of
from reproduction.runs import REPO_ROOT, RUNS_ROOT, write_bytes, write_json

NOT_PAIRS = {"__main__", "measure"}


def modules() -> list[str]:
    """Modules of this folder that hold PAIRS, one for each paper."""
    return sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in NOT_PAIRS)


def names(module: str) -> list[str]:
    """Pairs of a module: a dict from name to a function that returns a `measure.Pair`; a script of its own has none."""
    return list(getattr(importlib.import_module(f"benchmarks.{module}"), "PAIRS", {}))


def run_one(module: str, name: str) -> None:
    """Child process: measures one pair and prints its summary as the last line."""
    pair = importlib.import_module(f"benchmarks.{module}").PAIRS[name]()
    print(json.dumps(pair.summary()))


def line(entry: dict[str, Any]) -> str:
    """One row of the Markdown table."""
    return (
        f"| {entry['paper']} | {entry['name']} | {entry['baseline']:,.4g} | {entry['ours']:,.4g} | {entry['unit']} "
        f"| {entry['ratio']:.2f} ({entry['ratio_min']:.2f} to {entry['ratio_max']:.2f}) | {entry['n']} |"
    )


HEAD = "| paper | what | straightforward | ours | unit | ratio (spread) | n |\n|---|---|---|---|---|---|---|"


def main() -> None:
    """Runs all pairs, or those of the modules named on the command line."""
    if sys.argv[1:2] == ["--one"]:
        run_one(*sys.argv[2:4])
        return
    entries, failed = [], []
    print(HEAD)
    for module in sys.argv[1:] or modules():
        if not names(module):
            print(f"\nbenchmarks/{module}.py, with its own table:\n", flush=True)
            if subprocess.run([sys.executable, f"benchmarks/{module}.py"], cwd=REPO_ROOT).returncode:
                failed.append(module)
            continue
        for name in names(module):
            command = [sys.executable, "-m", "benchmarks", "--one", module, name]
            child = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True)
            if child.returncode != 0:
                failed.append(f"{module}: {name}: {child.stderr.strip().splitlines()[-1:]}")
                continue
            entries.append({"paper": module, **json.loads(child.stdout.splitlines()[-1])})
            print(line(entries[-1]), flush=True)
    write_json_list(entries)
    for failure in failed:
        print(f"failed: {failure}", file=sys.stderr)
    raise SystemExit(bool(failed))


def write_json_list(entries: list[dict[str, Any]]) -> None:
    """Writes runs/bench/bench.json, and docs/benchmarks.md with the machine it was measured on."""
    folder = RUNS_ROOT / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", entries)
    commit, dirty = commit_and_dirty()
    here = machine()
    versions = ", ".join(f"{k} {v}" for k, v in versions_of("tensorflow", "torch", "numpy").items())
    text = (
        "# Benchmarks\n\nWritten by `make bench`: each pair in one process, interleaved after a warm-up; medians, and\n"
        "the smallest and largest ratio of the repeats. A ratio above 1 means ours is better.\n\n"
        f"{HEAD}\n" + "\n".join(map(line, entries)) + "\n\n"
        f"Machine: {here.cpu}, {here.cores} cores, {here.system}; {versions}; commit {commit[:10]}"
        f"{' with uncommitted changes' if dirty else ''}.\n"
    )
    write_bytes(REPO_ROOT / "docs" / "benchmarks.md", text.encode())


if __name__ == "__main__":
    main()
