"""What a reproduction prints and writes when its commands have finished: the comparison, and a page to open."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from reproduction.runtime.run_folder import REPO_ROOT, RUNS_ROOT, shown


def compare_runs(paper: str) -> int:
    """Prints the main numbers of the runs on this machine, on one screen, and how to see all of them.

    Args:
      paper: name in records and tables.
    Returns:
      The exit code of the comparison.
    """
    command = [sys.executable, "-m", "reproduction.compare", "--short", "--paper", paper]
    code = subprocess.run([*command, "--runs", str(RUNS_ROOT / paper)], cwd=REPO_ROOT).returncode
    print(
        f"\nevery number, seed and claim of these runs: make compare PAPER={paper} RUNS={shown(RUNS_ROOT / paper)}\n"
        f"the committed rows, and what was not run: make compare PAPER={paper}",
        flush=True,
    )
    return code


def write_page(paper: str) -> str | None:
    """Writes the page about the runs of one paper: plots, curves and tables.

    Args:
      paper: name in records and tables.
    Returns:
      The path of the page; "" if Jinja2 is not installed; None if it could not be written, as its own error says.
    """
    page = RUNS_ROOT / paper / "report.html"
    if importlib.util.find_spec("jinja2") is None:
        return ""
    command = [sys.executable, "-m", "reproduction.page.report", "--paper", paper, "--runs", str(RUNS_ROOT / paper)]
    done = subprocess.run([*command, "--out", str(page)], cwd=REPO_ROOT, stdout=subprocess.DEVNULL)
    return shown(page) if done.returncode == 0 else None
