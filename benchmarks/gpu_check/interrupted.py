"""Kills a run without warning and lets the same command go on: on this device, by the paper's own script."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reproduction.runtime.run_folder import REPO_ROOT, read_json

# framework -> script, flags that write checkpoints often (a fast GPU must not end before the kill), where they lie
COMMANDS = {
    "torch": (
        "hierarchy_cnn_torch/train.py --dataset mnist5k --preset mini --epochs 1 --subset 500 --held-out 150 --batch 16"
        " --curve-images 100 --lr 0.003 --keep-epochs none --checkpoint-steps 1 --deterministic",
        "*/checkpoints/state-*.pt",
    ),
    "tensorflow": (
        "class2str_tf/train_fc_classifier.py --dataset mnist5k --model lenet --B 200 --train-images 1000"
        " --epochs 8 --lr 1e-3",
        "*/model-*.index",
    ),
}
LIMIT_S = 240


def kill_and_resume(framework: str, device: str, python: str = sys.executable) -> str:
    """Starts a run, kills it (SIGKILL) as soon as a checkpoint is there, and runs the same command to its end.

    Args:
      framework: key of COMMANDS.
      device: cpu or cuda.
      python: of the environment that holds the framework.
    Returns:
      One line that says what happened.
    Raises:
      RuntimeError: the run ended before it could be killed, did not go on from its checkpoint, or left no record.
    """
    line, pattern = COMMANDS[framework]
    with tempfile.TemporaryDirectory() as top:
        runs = Path(top)
        command = [python, *line.split(), "--device", device, "--runs-dir", top, "--name", "killed"]
        with subprocess.Popen(
            command, cwd=REPO_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
        ) as first:
            end = time.monotonic() + LIMIT_S
            while not any(runs.glob(pattern)) and first.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            ended = first.poll()
            first.kill()
            error = first.communicate()[1]
        if ended is not None:
            raise RuntimeError(f"ended with exit code {ended} before it could be killed: {_last_line(error)}")
        done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, encoding="utf-8", timeout=LIMIT_S)
        if done.returncode:
            raise RuntimeError(f"the same command ended with exit code {done.returncode}: {_last_line(done.stderr)}")
        resumed = [text for text in done.stdout.splitlines() if "going on at epoch" in text]
        if not resumed:
            raise RuntimeError("the same command did not go on from the checkpoint")
        record = read_json(runs / "killed" / "record.json", "metrics")
        return f"killed after a checkpoint; {resumed[0]}; {len(record['metrics'])} metrics recorded"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1][:160]
