"""Checkpoints of a TensorFlow training: Saver stores the variables, metrics.jsonl the curve, clock.json the time."""

from __future__ import annotations

import bisect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reproduction.runtime.metrics_log import read_metrics
from reproduction.runtime.run_folder import UserError, read_json, shown, write_json
from reproduction.runtime.tf_runtime import checkpoints, gpu_name, restore_newest, save_checkpoint

CLOCK = "clock.json"  # step of a checkpoint -> training seconds and images until then, and the kind of device


def read_clock(folder: Path) -> dict[str, dict[str, Any]]:
    """Training seconds and images by step, as text; a damaged file costs these numbers, never the training."""
    path = folder / CLOCK
    if not path.exists():
        return {}
    try:
        clock: dict[str, dict[str, Any]] = read_json(path, "")
        if not all(isinstance(entry, dict) for entry in clock.values()):
            raise UserError(f"{shown(path)}: not an object for each step; it is damaged or another file")
    except UserError as error:
        print(f"{error}; seconds and images are counted from here", file=sys.stderr, flush=True)
        return {}
    return clock


def speed(line: Mapping[str, Any]) -> dict[str, Any]:
    """`seconds` and `images_per_s` of a record, from the line of the last test."""
    seconds, images = line["test/seconds"], line.get("test/images")  # a run of an older version counted no images
    return {"seconds": seconds, "images_per_s": images / seconds if images and seconds else None}


class States:
    """Checkpoints of a TensorFlow training, for `loop.Training`.

    Attributes:
      session: with the graph's variables.
      folder: run folder.
      ends: steps after which an epoch ends, as of the Training.
      test: name of the accuracy in metrics.jsonl by which the best checkpoint is chosen; lines with it are the curve.
      prefix: step -> file name of the checkpoint.
      after: only checkpoints of later steps count.
      with_graph: whether the last checkpoint comes with the graph (`.meta`).
      before: names of values by which the best checkpoint is chosen before `test` is looked at.
    """

    waits, writes, agree_every = False, True, 1  # a step returns its loss as a number

    def __init__(
        self,
        session: Any,
        folder: Path,
        ends: Sequence[int],
        test: str,
        prefix: Callable[[int], str] = "model-{}".format,
        after: int = -1,
        with_graph: bool = True,
        before: Sequence[str] = (),
    ):
        from reproduction.runtime.tf import tf1

        self.session, self.folder, self.ends, self.test, self.prefix = session, folder, list(ends), test, prefix
        self.after, self.with_graph, self.best_by = after, with_graph, (*before, test)
        self.device = "cuda" if gpu_name() else "cpu"
        self.saver = tf1.train.Saver(max_to_keep=0)  # save_checkpoint keeps the newest two and the best

    def load(self) -> dict[str, Any] | None:
        step = restore_newest(self.session, self.saver, self.folder, self.after)
        if step is None:
            return None
        history = [line for line in self._tests() if line["step"] <= step]
        clock = read_clock(self.folder).get(str(step), {})
        return {"epoch": bisect.bisect_right(self.ends, step), "step": step, "history": history, **clock}

    def save(self, position: dict[str, Any]) -> None:
        step, best = position["step"], self.best()
        clock = {name: position[name] for name in ("seconds", "images")} | {"device": self.device}
        write_json(self.folder / CLOCK, read_clock(self.folder) | {str(step): clock})  # first: no checkpoint lacks it
        prefix, with_graph = self.folder / self.prefix(step), self.with_graph and step == self.ends[-1]
        keep = [] if best is None else [best]
        save_checkpoint(self.session, self.saver, prefix, keep=keep, with_graph=with_graph)

    def best(self) -> int | None:
        """Returns the step of the best test, the first of equal ones, of earlier attempts too; None without a test."""
        history = self._tests()
        return max(history, key=lambda line: [line[name] for name in self.best_by])["step"] if history else None

    def _tests(self) -> list[dict[str, Any]]:
        return [line for line in read_metrics(self.folder) if self.test in line]

    def newest(self) -> str | None:
        return shown(present[0][1]) if (present := checkpoints(self.folder)) else None

    def agreed(self, answer: bool) -> bool:
        return answer
