"""Shows that a change moved no number: smoke pipelines of two commits, bit for bit, and old runs resumed by new code.

    python -m tests.soak.same_bits OLD [--papers "subclass hierarchy"] [--work /tmp/bits]

Each paper's smoke pipeline runs with two seeds under OLD and under this checkout: every metric, detail and curve of the
records must be equal (times excluded; what OLD does not record is left out). Then a pipeline of OLD is killed in each
stage that leaves checkpoints, and this checkout must finish that run with the same bits. Results of OLD are kept in the
work folder for the next call.
About four minutes a paper on an idle core.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from reproduction.launch.sweep import FOLDERS
from reproduction.runtime.flags import Parser, flag, run_main
from reproduction.runtime.run_folder import REPO_ROOT, UserError, write_json
from tests.soak.smoke_copy import Broken, Copy, checkout, end

SEEDS = "0 1"


def old_checkout(commit: str, target: Path) -> Path:
    """Unpacks the tracked files of a commit."""
    target.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=REPO_ROOT, capture_output=True)
    if archive.returncode:
        raise UserError(f"{commit}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(target)], input=archive.stdout, check=True)
    return target


def known_part(value: Any, old: Any) -> Any:
    """Returns a JSON value without the entries of objects that the old commit's value does not have."""
    if isinstance(value, dict) and isinstance(old, dict):
        return {key: known_part(item, old[key]) for key, item in value.items() if key in old}
    if isinstance(value, list) and isinstance(old, list) and len(value) == len(old):
        return [known_part(item, before) for item, before in zip(value, old, strict=True)]
    return value


def same(new: Copy, old: dict[str, Any]) -> None:
    """Compares what the new code computed with what the old commit did.

    Raises:
      Broken: a number that the old commit has is missing or differs.
    """
    numbers = new.numbers()
    wrong = sorted(name for name in old if known_part(numbers.get(name), old[name]) != old[name])
    if wrong or numbers.keys() - old.keys():
        raise Broken(f"figures differ in {', '.join((wrong or sorted(numbers.keys() - old.keys()))[:3])}")


def undisturbed(copy: Copy, kept: Path) -> dict[str, Any]:
    """Numbers of a whole smoke pipeline; from the file `kept` where an earlier call has left them."""
    if not kept.exists():
        copy.clear()
        copy.finish()
        write_json(kept, copy.numbers())
    numbers: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return numbers


def kill_in_stage(copy: Copy, finished: int) -> bool:
    """Kills a pipeline as soon as a stage has a checkpoint and `finished` stages are done; False: that never came."""
    copy.clear()
    process = copy.start()
    while process.poll() is None and not (copy.finished() >= finished and copy.states()):
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    end(process)
    return bool(copy.states())


def resume_old(old: Copy, new: Copy, expected: dict[str, Any]) -> int:
    """Kills a run of the old commit in each of its stages and finishes it with the new code.

    Returns:
      How many runs were handed over.
    Raises:
      Broken: a number differs, or the new code does not go on.
    """
    handed_over = 0
    for finished in (0, 1):
        if kill_in_stage(old, finished):
            new.clear()
            shutil.move(old.root / "runs", new.root / "runs")
            for file in (new.root / "runs").rglob("config.json"):  # a flag that holds a path is a flag all the same
                text = file.read_text(encoding="utf-8").replace(str(old.root), str(new.root))
                file.write_text(text, encoding="utf-8")
            new.finish()
            same(new, expected)
            handed_over += 1
    return handed_over


def compare(paper: str, commit: str, work: Path) -> str:
    """Compares one paper; returns what was found, in one line."""
    old_root, new_root = work / "old", work / "new"
    if not old_root.exists():
        old_checkout(commit, old_root)
    shutil.rmtree(new_root, ignore_errors=True)
    checkout(new_root)
    old, new = (
        Copy(root, FOLDERS[paper], "--checkpoint-steps 5" if paper in ("subclass", "hierarchy") else "", SEEDS)
        for root in (old_root, new_root)
    )
    expected = undisturbed(old, work / f"{paper}.json")
    new.finish()
    same(new, expected)
    resumed = resume_old(old, new, expected)
    return f"{paper}: {len(expected)} files equal; {resumed} runs of the old commit finished with the same bits"


def main() -> None:
    """Command line."""
    p = Parser("python -m tests.soak.same_bits", "Compares the smoke pipelines of two commits bit for bit.")
    p.additions.add_argument("commit", help="the old commit")
    flag(p.additions, "--papers", default="", help=f"of {', '.join(FOLDERS)}; default: all")
    flag(p.additions, "--work", help="folder for both checkouts and the old numbers; default: a temporary one")
    args = p.parse_args()

    def go() -> None:
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(args.work or temporary)
            work.mkdir(parents=True, exist_ok=True)
            failed = []
            for paper in args.papers.split() or FOLDERS:
                try:
                    print(compare(paper, args.commit, work), flush=True)
                except Broken as error:
                    print(f"{paper}: {error}", flush=True)
                    failed.append(paper)
        if failed:
            raise UserError(f"numbers moved: {', '.join(failed)}")

    run_main(go)


if __name__ == "__main__":
    main()
