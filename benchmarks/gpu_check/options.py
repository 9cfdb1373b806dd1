"""Command lines of `python -m benchmarks.gpu_check` and of its two processes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from reproduction.runtime.flags import Parser, device, flag
from reproduction.runtime.run_folder import RUNS_ROOT


@dataclass(frozen=True)
class ChildOptions:
    """What the parent tells a process.

    Attributes:
      device: cpu or cuda.
      results: file of JSON lines.
      rehearse: small networks and sizes.
      only_see: say what the framework sees, and end.
    """

    device: str
    results: Path
    rehearse: bool
    only_see: bool


def child_options() -> ChildOptions:
    """Parses the command line of a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--only-see", action="store_true")
    return ChildOptions(**vars(parser.parse_args()))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line of `make gpu-check`."""
    parser = Parser("python -m benchmarks.gpu_check", "Checks, times and projects all papers on this machine's GPU.")
    group = parser.additions
    flag(group, "--device", type=device, default="auto", help="cpu: only to rehearse; else the first CUDA GPU")
    flag(group, "--rehearse", action="store_true", help="small networks and sizes: walks the code, measures nothing")
    flag(group, "--tf-python", default="", help="Python of the environment that holds TensorFlow (default: this one)")
    flag(group, "--out", type=Path, help="folder of hours.json and report.txt (default: runs/gpu-check)")
    args = parser.parse_args(argv)
    if args.device == "cpu" and not args.rehearse:
        parser.error("--device cpu is only to rehearse: add --rehearse (make gpu-check DEVICE=cpu ARGS=--rehearse)")
    args.out = args.out or RUNS_ROOT / ("gpu-check-rehearsal" if args.rehearse else "gpu-check")
    return args
