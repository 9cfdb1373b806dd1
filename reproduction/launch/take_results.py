"""`make results`: runs reproductions in a git worktree at HEAD and copies their records to reproduction/results/.

The worktree is clean by construction, so work can go on in the checkout meanwhile; a record with uncommitted changes
is never copied. Afterwards the generated tables are rewritten; look at them, then commit.

    python -m reproduction.take_results --papers subclass --profile cpu --seeds "0 1 2"
    python -m reproduction.take_results --from /elsewhere/runs      only copies records, of runs on another machine
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reproduction.compare import readme
from reproduction.compare.collect import RESULTS
from reproduction.launch.pipeline import REQUEST_FLAGS, RUN_FLAGS
from reproduction.launch.sweep import FOLDERS, split_papers
from reproduction.runtime.flags import FlagTable, Parser, add_flags, run_main
from reproduction.runtime.record import Record, load_record
from reproduction.runtime.run_folder import REPO_ROOT, UserError, read_json, shown, write_json

WORKTREE = REPO_ROOT / ".worktree"
FLAGS: FlagTable = {
    "--papers": dict(default="", help=f"of {', '.join(FOLDERS)}; default: class2str, with --from all"),
    **REQUEST_FLAGS,
    "--jobs": RUN_FLAGS["--jobs"],
    "--profile": dict(choices=["cpu", "matched", "paper"], default="cpu"),
    "--data-dir": dict(default="", help="default: data/ of this checkout"),
    "--from": dict(dest="source", default="", metavar="DIR", help="take the records below DIR, run nothing"),
}
OVER_SEEDS = {"stability"}  # stages of which one record compares all seeds: the newest replaces those of all seeds
Place = tuple[str, str, str, str]  # paper, row, seed (* for all seeds), stage
PLAIN_NAME = re.compile(r"[\w+:][\w.+:-]*")  # of a file or folder: no separator, no leading dot


def newest_records(runs: Path, papers: Sequence[str]) -> dict[Place, tuple[Record, Any]]:
    """Reads the records below a runs folder: the newest of each place, checked, and as the JSON value it was read from.

    Raises:
      UserError: see `take`.
    """
    newest: dict[Place, tuple[Record, Any]] = {}
    for path in sorted(runs.rglob("record.json")):
        record = load_record(path)
        if record.profile not in ("cpu", "matched", "paper") or (papers and record.paper not in papers):
            continue
        if not all(PLAIN_NAME.fullmatch(name) for name in (record.paper, record.row, record.stage)):
            raise UserError(f"{shown(path)}: paper, row or stage is no plain name and cannot name a file")
        if record.dirty or record.commit == "unknown":
            raise UserError(
                f"{record.paper} {record.row} seed {record.seed}: made with uncommitted changes or outside git; such a "
                "run cannot be a committed result"
            )
        place = (record.paper, record.row, "*" if record.stage in OVER_SEEDS else str(record.seed), record.stage)
        if place not in newest or newest[place][0].date <= record.date:
            newest[place] = record, json.loads(path.read_text(encoding="utf-8"))
    if not newest:
        of = f" of {', '.join(papers)}" if papers else ""
        raise UserError(f"{shown(runs)}: no record of a cpu, matched or paper run{of}")
    return newest


def take(runs: Path, results: Path = RESULTS, papers: Sequence[str] = ()) -> list[Path]:
    """Copies the records below a runs folder to results/<paper>/<row>/seed<k>[-<stage>].json, in place of older ones.

    Smoke runs stay where they are; a seed with one stage has no stage in its name; of two records of one row, seed and
    stage the newer is taken.

    Args:
      runs: folder with run folders at any depth.
      results: folder of the committed records.
      papers: the papers to take; all if empty.
    Returns:
      The files written.
    Raises:
      UserError: no record is there, or one is broken or was made with uncommitted changes or outside git; then none is
        taken.
    """
    newest = newest_records(runs, papers)
    replaced = set()
    for paper, row, seed, stage in newest:  # what an earlier run of the same seed and stage left
        folder = results / paper / row
        present = {*folder.glob(f"seed{seed}.json"), *folder.glob(f"seed{seed}-*.json")}
        replaced |= {path for path in present if read_json(path, "stage")["stage"] == stage}
    stages = Counter(place[:3] for place in newest)
    written = []
    for (paper, row, seed, stage), (record, content) in newest.items():
        path = results / paper / row / f"seed{record.seed}.json"
        if stages[paper, row, seed] > 1 or (path.exists() and path not in replaced):  # there it holds another stage
            path = path.with_name(f"seed{record.seed}-{stage}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        written.append(path)
    for old in replaced - set(written):
        old.unlink()
    return written


def run_in_worktree(papers: Sequence[str], flags: Sequence[str]) -> Path:
    """Checks out HEAD into a worktree and runs the reproductions there; runs of an earlier, stopped call are resumed.

    Returns:
      The runs folder of the worktree.
    """

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=REPO_ROOT, capture_output=True, text=True, encoding="utf-8")
        if done.returncode:
            raise UserError(f"git {' '.join(words)}: {done.stderr.strip() or 'failed'}")
        return done.stdout.strip()

    head = git("rev-parse", "HEAD")
    if not WORKTREE.exists():
        git("worktree", "add", "--detach", str(WORKTREE), head)
    checked_out = git("-C", str(WORKTREE), "rev-parse", "HEAD")
    if checked_out != head:
        raise UserError(
            f"{shown(WORKTREE)} is at {checked_out[:10]}, not HEAD: take what has finished there, python -m "
            f"reproduction.take_results --from {shown(WORKTREE)}/runs, then git worktree remove --force "
            f"{shown(WORKTREE)}"
        )
    for paper in papers:
        command = [sys.executable, "-m", f"{FOLDERS[paper]}.reproduce", *flags]
        if subprocess.run(command, cwd=WORKTREE).returncode:
            raise UserError(f"{paper} did not finish; the same command goes on in {shown(WORKTREE)}")
    return WORKTREE / "runs"


def remove_worktree(papers: Sequence[str]) -> None:
    """Removes the worktree, unless an earlier call that was stopped left other runs there.

    Args:
      papers: whose finished runs were taken; all if empty.
    """
    runs = WORKTREE / "runs"
    folders = [path.parent for path in sorted(runs.rglob("config.json"))]
    others = [
        folder
        for folder in folders
        if not (folder / "DONE").exists() or (papers and folder.relative_to(runs).parts[0] not in papers)
    ]
    if others:
        print(
            f"{shown(WORKTREE)} stays, other runs are there ({len(others)}, such as {shown(others[0])}): the command "
            f"that began them goes on; git worktree remove --force {shown(WORKTREE)} deletes them"
        )
    else:
        subprocess.run(["git", "worktree", "remove", "--force", str(WORKTREE)], cwd=REPO_ROOT, check=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    p = Parser(
        "python -m reproduction.take_results", "Runs reproductions in a worktree at HEAD and takes their records."
    )
    add_flags(p.additions, FLAGS)
    run_main(lambda: _main(p.parse_args(argv)))


def _main(args: Any) -> None:
    papers = split_papers(args.papers)
    runs = Path(args.source)
    if not args.source:
        data = str(Path(args.data_dir or REPO_ROOT / "data").resolve())
        flags = ["--profile", args.profile, "--dataset", args.dataset, "--seeds", args.seeds, "--device", args.device]
        flags += ["--data-dir", data, "--copy", args.copy, "--rows", args.rows, f"--args={args.args}"]
        flags += ["--jobs", str(args.jobs), *["--force"] * args.force]
        runs = run_in_worktree(papers or ["class2str"], flags)
    for path in take(runs, papers=papers):
        print(f"took {shown(path)}")
    readme.main(["--write"])  # an error ends the program here: the worktree stays, its records are not lost
    if not args.source:
        remove_worktree(papers)
