"""Several arms and seeds side by side: starts train.py once for each, as many at a time as there are cores.

Small networks gain little from a second thread, so two processes of one thread are faster than one of two, and the
result does not depend on the number of cores. Flags that are not listed here go to train.py as they are.

    python hierarchy_cnn_torch/arms.py --arms A1,A2 --seeds 0,1 --runs-dir runs/hierarchy/mine --stage aware
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import os
import queue
import shlex
import subprocess
import threading
from collections.abc import Sequence

from hierarchy_cnn_torch.flags import ARMS
from reproduction.flags import Parser, flag, run_main, whole
from reproduction.runs import UserError, shown, stop_signals

TRAIN = Path(__file__).resolve().parent / "train.py"


def parser() -> Parser:
    """The flags of this script alone."""
    p = Parser("arms.py", __doc__.splitlines()[0])
    flag(p.additions, "--arms", required=True, metavar="A1,A2", help="arms, or fold0,fold1 of a label study")
    flag(p.additions, "--seeds", required=True, metavar="0,1,2")
    flag(p.additions, "--runs-dir", required=True, metavar="DIR", help="runs go to DIR/seed<k>/<arm>")
    flag(p.additions, "--jobs", type=whole(0), default=0, help="processes at a time (0: all cores, one on a GPU)")
    flag(p.additions, "--tree", default="", help="as for train.py; {seed} stands for the seed's folder")
    return p


def command_lines(
    arms: Sequence[str], seeds: Sequence[int], top: Path, tree: str, rest: Sequence[str]
) -> list[list[str]]:
    """One train.py command per seed and arm, seeds outermost."""
    lines = []
    for seed in seeds:
        folder = top / f"seed{seed}"
        for arm in arms:
            words = [str(TRAIN), *rest, "--seed", str(seed), "--runs-dir", str(folder), "--name", arm]
            words += ["--fold", arm.removeprefix("fold")] if arm.startswith("fold") else ["--arm", arm]
            words += ["--tree", tree.replace("{seed}", str(folder))] if tree else []
            lines.append(words)
    return lines


def run_all(lines: Sequence[Sequence[str]], jobs: int) -> int:
    """Runs the commands, `jobs` at a time; each output line is led by its run.

    Returns:
      The first exit code that is not 0, else 0. After a failure or a signal nothing new is started.
    """
    waiting: queue.SimpleQueue[Sequence[str]] = queue.SimpleQueue()
    for line in lines:
        waiting.put(line)
    codes: list[int] = []
    children: list[subprocess.Popen[str]] = []
    with stop_signals() as stop:

        def work() -> None:
            while not waiting.empty() and not any(codes) and not stop.requested:
                try:
                    words = waiting.get_nowait()
                except queue.Empty:
                    return
                label = f"{words[words.index('--runs-dir') + 1].rsplit('/', 1)[-1]}/{words[words.index('--name') + 1]}"
                child = subprocess.Popen(
                    [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
                children.append(child)
                for text in child.stdout or ():
                    print(f"{label} | {text.rstrip()}", flush=True)
                codes.append(child.wait())

        workers = [threading.Thread(target=work) for _ in range(jobs)]
        for worker in workers:
            worker.start()
        told = False
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.join(0.2)
            if stop.requested and not told:
                told = True
                for child in list(children):
                    if child.poll() is None:
                        child.send_signal(stop.signal_number)
        if stop.requested:
            return 128 + stop.signal_number
    return next((code for code in codes if code), 0)


def main() -> None:
    """Command line."""
    args, rest = parser().parse_known_args()

    def go() -> None:
        arms = args.arms.split(",")
        if not all(arm in ARMS or (arm.startswith("fold") and arm[4:].isdigit()) for arm in arms):
            raise UserError(f"--arms {args.arms}: of {', '.join(ARMS)}, or fold0, fold1, ...")
        if not all(seed.isdigit() for seed in args.seeds.split(",")):
            raise UserError(f"--seeds {args.seeds}: whole numbers such as 0,1,2")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        device = rest[rest.index("--device") + 1] if "--device" in rest[:-1] else "auto"
        from reproduction.pipeline import gpu_listed

        on_gpu = device.startswith("cuda") or (device == "auto" and gpu_listed())
        jobs = args.jobs or (1 if on_gpu else cores)
        seeds = [int(seed) for seed in args.seeds.split(",")]
        lines = command_lines(arms, seeds, Path(args.runs_dir), args.tree, rest)
        for words in lines:
            print(f"  $ python {shlex.join([shown(words[0]), *words[1:]])}", flush=True)
        code = run_all(lines, min(jobs, len(lines)))
        if code:
            raise SystemExit(code)

    run_main(go)


if __name__ == "__main__":
    main()
