"""Runs the scripts of a PyTorch paper as a user does, in this process or in one of their own."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import torch

from reproduction.runtime.flags import run_main

ROOT = Path(__file__).resolve().parent.parent


def command(package: str, script: str, *flags: object) -> list[str]:
    """Command line of a script of a paper, with this interpreter."""
    return [sys.executable, str(ROOT / package / script), *map(str, flags)]


def run(
    package: str, script: str, *flags: object, code: int = 0, fresh: bool = False, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs a script's main and returns its exit code and what it printed; the code must be `code`.

    In this process unless `fresh`: importing torch and Lightning again takes longer than training the small network.
    """
    argv = command(package, script, *flags)
    if fresh:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=env, timeout=timeout)
    else:
        done = _run_here(f"{package}.{Path(script).stem}", argv)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def _run_here(module: str, argv: list[str]) -> subprocess.CompletedProcess[str]:
    main = importlib.import_module(module).main
    out, error, before, status = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = argv[1:]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            run_main(main)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = before
        torch.set_flush_denormal(False)  # a setting of the whole process, which other tests would trip over
    return subprocess.CompletedProcess(argv, status, out.getvalue(), error.getvalue())
