"""`python -m tests.fuzz --inputs 100000`: damaged and hostile inputs through every parser; counts and faults of each.

Our own damage makes 45 percent of a target's inputs, hypothesis draws the others (drawn.py). Each framework's targets
run in a child process with bounded memory; a child that dies is a fault of the input that it was at, and the next child
goes on behind it. Deterministic by --seed. Exit code 1 where there is a fault.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from datasets.terminal import any_terminal
from tests.fuzz import drawn, engine
from tests.fuzz.targets import table
from tests.soak import reliability

DRAWN = 0.55  # of a target's inputs are drawn by hypothesis

NOTHING: dict[str, Any] = {"inputs": 0, "hypothesis": 0, "seconds": 0, "faults": []}


def share_out(inputs: int, names: list[str]) -> dict[str, int]:
    """Inputs of each target, in proportion to its share; `inputs` or a few more in all."""
    whole = sum(table()[name].share for name in names)
    return {name: max(1, -int(-inputs * table()[name].share // whole)) for name in names}


def child(work: dict[str, int], seed: int, begin: tuple[str, int], folder: Path) -> None:
    """Runs targets one after another; a line of JSON on stdout for each."""
    engine.watch()
    faulthandler.enable()  # a child that dies says where
    warnings.simplefilter("ignore")
    names = list(work)
    for name in names[names.index(begin[0]) if begin[0] else 0 :]:
        target, place = table()[name], folder / "scratch"
        place.mkdir(exist_ok=True)
        start = begin[1] if name == begin[0] else 0
        engine.warm_up(target, place)
        engine.limit_memory()
        began, note = time.monotonic(), engine.Note(folder / "note", name, start)
        by_hypothesis = math.ceil(DRAWN * work[name])
        ours = work[name] - by_hypothesis
        before = len(target.seeds()) + len(target.hostile()) + ours
        found = engine.run(target, ours, seed, place, start, note)
        found += drawn.run(target, by_hypothesis, seed, place, max(0, start - before), note)
        faults = [{"input": f.number, "what": f.what, "hex": f.data[:2000].hex()} for f in found]
        result = {"name": name, "inputs": note.position + 1 - start, "hypothesis": note.drawn}
        print(json.dumps({**result, "seconds": round(time.monotonic() - began, 1), "faults": faults}), flush=True)


def parent(work: dict[str, int], seed: int, module: str = "tests.fuzz") -> list[dict[str, Any]]:
    """All targets of one framework, in as many children (of `module`) as it takes; one result per target."""
    results: dict[str, dict[str, Any]] = {}
    begin = ("", 0)
    while True:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            words = ["--child", json.dumps([work, begin, folder]), "--seed", str(seed)]
            said = Path(folder) / "errors"
            with open(said, "w", encoding="utf-8") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", module, *words],
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    encoding="utf-8",
                )
            for line in process.stdout or ():
                new = json.loads(line)
                old = results.get(new["name"], NOTHING)
                result = results[new["name"]] = {"name": new["name"], **{key: old[key] + new[key] for key in NOTHING}}
                print(
                    f"{new['name']:20} {result['inputs']:7,} inputs, {result['hypothesis']:6,} of them hypothesis', "
                    f"{result['seconds']:7.1f} s, {len(result['faults'])} faults",
                    flush=True,
                )
            if process.wait() == 0:
                return list(results.values())
            note, error = Path(folder) / "note", said.read_text(errors="replace", encoding="utf-8")
            if not note.exists():
                raise SystemExit(f"fuzz: the child could not begin\n{error[-2000:]}")
            name, position, by_hypothesis = json.loads(note.read_text(encoding="utf-8"))
            deadly = Path(folder) / "scratch" / table()[name].file
            fault = {
                "input": f"position {position}",
                "what": f"the process died ({process.returncode}): {error[:400]}",
                "hex": deadly.read_bytes()[:2000].hex() if deadly.is_file() else "",
            }
            old = results.get(name, NOTHING)
            count = position + 1 - (begin[1] if begin[0] == name else 0)
            new = {"inputs": count, "hypothesis": by_hypothesis, "seconds": 0, "faults": [fault]}
            results[name] = {"name": name, **{key: old[key] + new[key] for key in NOTHING}}
            begin = (name, position + 1)


@any_terminal()
def main() -> int:
    """Command line."""
    p = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, allow_abbrev=False)
    p.add_argument("--inputs", type=int, default=100_000, help="in all (default 100000)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--targets", default="", help="comma-separated names; default: all")
    p.add_argument(
        "--frameworks", default=",torch,tf", help="which groups: '' (no framework), torch, tf (default: all three)"
    )
    p.add_argument("--out", type=Path, default=reliability.FOLDER / "fuzz.json")
    p.add_argument("--child", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child:
        work, begin, folder = json.loads(args.child)
        child(work, args.seed, tuple(begin), Path(folder))
        return 0
    asked = args.targets.split(",") if args.targets else list(table())
    if unknown := [name for name in asked if name not in table()]:
        p.error(f"--targets {unknown[0]}: choose from {', '.join(table())}")
    kinds = args.frameworks.split(",")
    work = share_out(args.inputs, [name for name in asked if table()[name].framework in kinds])
    results: list[dict[str, Any]] = []
    begin, origin = time.monotonic(), reliability.origin()
    for kind in kinds:
        group = {name: count for name, count in work.items() if table()[name].framework == kind}
        results += parent(group, args.seed) if group else []
    faults = [(r["name"], fault) for r in results for fault in r["faults"]]
    for name, fault in faults:
        print(f"FAULT {name} input {fault['input']}: {fault['what']}")
    whole, by_hypothesis = (sum(r[key] for r in results) for key in ("inputs", "hypothesis"))
    seconds = round(time.monotonic() - begin, 1)
    kept = {"seed": args.seed, "inputs": whole, "hypothesis": by_hypothesis, "faults": len(faults)}
    kept |= {"seconds": seconds, "targets": results, "origin": origin}
    reliability.keep(args.out, reliability.Fuzz.model_validate(kept))
    print(f"{whole:,} inputs, {by_hypothesis:,} of them hypothesis'; {len(results)} targets, {len(faults)} faults")
    print(args.out)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
