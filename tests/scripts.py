"""Runs a paper's script as a user does, in this process or in one of its own."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

from reproduction.runtime.flags import run_main

ROOT = Path(__file__).resolve().parent.parent


def command(package: str, script: str, *flags: object) -> list[str]:
    """Command line of a script of a paper, with this interpreter."""
    return [sys.executable, str(ROOT / package / script), *map(str, flags)]


def environment_of(package: str) -> dict[str, str]:
    """Variables of a script's own process: torch has the suite's one thread, TensorFlow as many as a user's run."""
    return {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS" or package.endswith("_torch")}


def run(
    package: str,
    script: str,
    *flags: object,
    code: int | None = 0,
    fresh: bool = False,
    cwd: Path = ROOT,
    timeout: float = 300,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Runs a script's main; the exit code must be `code`, if that is not None. An exception goes through.

    In this process unless `fresh` or with variables for its environment: importing a framework again takes longer
    than training the small network. TensorFlow runs that are compared bit for bit need fresh
    processes, because the first session of a process decides the threads of all.
    """
    argv = command(package, script, *flags)
    if fresh or environment:
        env = {**environment_of(package), **environment}
        done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout)
    else:
        done = _run_here(f"{package}.{Path(script).stem}", argv, cwd)
    assert code in (None, done.returncode), done.stdout[-2000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def _run_here(module: str, argv: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    main = importlib.import_module(module).main
    out, error, before, status = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = argv[1:]
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            run_main(main)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = before
        if "torch" in sys.modules:
            sys.modules["torch"].set_flush_denormal(False)  # of the whole process, so other tests would trip over it
    return subprocess.CompletedProcess(argv, status, out.getvalue(), error.getvalue())
