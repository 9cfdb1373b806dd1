"""`make gpu-check`: what is seen, whether it is right and resumes, how fast it is, and the hours of every table.

python -m benchmarks.gpu_check                            on the first CUDA GPU, under ten minutes (projected, untried)
python -m benchmarks.gpu_check --device cpu --rehearse    the same code with small networks, on any machine
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import interrupted, options, usage, verdict
from datasets.terminal import any_terminal
from reproduction.launch import measured
from reproduction.launch.pipeline import first_gpu
from reproduction.runtime.run_folder import REPO_ROOT, shown, write_bytes

SIDES = {"torch": "benchmarks.gpu_check.torch_side", "tensorflow": "benchmarks.gpu_check.tf_side"}
INSTALL = {
    "torch": "make setup",
    "tensorflow": "make setup GPU=1, then GPU=1 behind the commands of its papers",
}
NO_GPU = "gpu-check: no CUDA GPU: nvidia-smi lists none; DEVICE=cpu ARGS=--rehearse walks the same code without one"


def is_installed(framework: str, python: str) -> bool:
    """Whether an environment holds a framework; it is not imported."""
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({framework!r}) is None)"
    try:
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def mending(framework: str, seen: dict[str, Any], driver: str | None) -> str:
    """The line that says what to do where the driver lists a GPU and the framework sees none."""
    if not seen["built"]:
        why = "it is built for CPUs"
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return f"{framework} sees no GPU: CUDA_VISIBLE_DEVICES hides it; run: unset CUDA_VISIBLE_DEVICES"
    else:
        # an nvidia-smi that is too old for our query does not give the version
        why = f"{f'driver {driver}' if driver else 'the driver'} is older than CUDA {seen['built']} needs (a newer one "
        why += "mends it), or libraries lack"
    environment = ".venv-tf" if framework == "tensorflow" else ".venv"
    return f"{framework} sees no GPU: {why}; run: rm -rf {environment} && {INSTALL[framework]}"


def run_side(framework: str, python: str, device: str, results: Path, rehearse: bool, only_see: bool = False) -> int:
    """Runs the process of a framework; what it finds is in `results`."""
    words = ["--device", device, "--results", str(results)]
    words += ["--rehearse"] * rehearse + ["--only-see"] * only_see
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.run([python, "-m", SIDES[framework], *words], cwd=REPO_ROOT, env=env).returncode


def entries_of(path: Path) -> list[dict[str, Any]]:
    """What the processes have found so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def failures(framework: str, what: str, message: str) -> list[dict[str, Any]]:
    """Entries that say what failed, one for each paper of a framework."""
    papers = verdict.PAPERS_OF[framework]
    return [{"kind": "failure", "paper": paper, "what": what, "message": message} for paper in papers]


def check_framework(framework: str, python: str, device: str, results: Path, rehearse: bool) -> list[dict[str, Any]]:
    """Sees, compares, times, projects and resumes one framework; returns what cannot be in its own results."""
    print(f"\nstep 1: what {framework} sees", flush=True)
    code = run_side(framework, python, device, results, rehearse, only_see=device != "cpu")
    seen = verdict.of_kind(entries_of(results), "seen", framework=framework)
    if device != "cpu" and seen:
        if not seen[0]["gpus"]:
            gpus = usage.gpus()
            line = mending(framework, seen[0], gpus[0]["driver"] if gpus else None)
            print(line, flush=True)
            return failures(framework, framework, line)
        code = run_side(framework, python, device, results, rehearse)
    failed = failures(framework, framework, f"its process ended with exit code {code}") if code else []
    print(f"\nstep 3: a run of {framework} is killed, and the same command started again", flush=True)
    try:
        text = interrupted.kill_and_resume(framework, device, python)
        print(f"resume, {framework}: {text}", flush=True)
        return [*failed, {"kind": "resumed", "framework": framework, "text": text}]
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"resume, {framework}: FAILED: {error}", flush=True)
        return [*failed, *failures(framework, "resume", str(error))]


@any_terminal()
def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if every paper whose framework is here is ready, 1 if one is not or none is, 2 if there is no GPU."""
    args = options.parse(None if argv is None else list(argv))
    gpu, start = first_gpu(), time.monotonic()
    if args.device != "cpu" and gpu is None:
        print(NO_GPU, file=sys.stderr)
        return 2
    device = "cpu" if args.device == "cpu" else "cuda"
    pythons = {"torch": sys.executable, "tensorflow": args.tf_python or sys.executable}
    entries: list[dict[str, Any]] = []
    for listed in usage.gpus():
        text = "driver {driver}: {name}, compute capability {capability}, {memory_mib} MiB".format(**listed)
        print(text, flush=True)
        entries.append({"kind": "seen", "text": text})
    with tempfile.TemporaryDirectory() as top:
        for framework, python in pythons.items():
            if not is_installed(framework, python):
                print(f"{framework}: not installed, left out; install it: {INSTALL[framework]}", flush=True)
                continue
            results = Path(top) / f"{framework}.jsonl"
            extra = check_framework(framework, python, device, results, args.rehearse)
            entries += [*entries_of(results), *extra]
    verdicts = [verdict.verdict_of(paper, entries) for paper in verdict.PAPERS]
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    hours = {key: row for entry in verdict.of_kind(entries, "hours") for key, row in entry["hours"].items()}
    name = gpu if device == "cuda" and gpu else "CPU"
    written = [args.out / "report.txt"]
    if hours:  # else those of an earlier check stay
        written.append(args.out / measured.HOURS_FILE.name)
        measured.write(written[1], name, date, hours)
    kind = "rehearsal, its numbers mean nothing" if args.rehearse else f"{(time.monotonic() - start) / 60:.1f} min"
    text = verdict.block(f"gpu-check {date}, {name}: {kind}", entries, [line for _, line in verdicts])
    args.out.mkdir(parents=True, exist_ok=True)
    write_bytes(written[0], (text + "\n").encode())
    print(f"\nstep 6: a block of text for a report; it ends with a verdict for each paper\n{text}")
    print(f"wrote {' and '.join(map(shown, written))}")
    if hours and not args.rehearse:
        print("make plan PROFILE=paper and PROFILE=matched show the measured hours from now on", flush=True)
    return int(not (verdict.of_kind(entries, "agreement") and all(ready for ready, _ in verdicts)))


if __name__ == "__main__":
    raise SystemExit(main())
