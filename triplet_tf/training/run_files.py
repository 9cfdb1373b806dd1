"""Files of a run with the authors' names: the log for people, and their names for checkpoints."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.lists import ImageLists
from reproduction.runtime.tf_runtime import gpu_name
from reproduction.runtime.tf_states import States
from triplet_tf.config.base_config import TRIPLET_MODES, Config

ACCURACY = "test/Split_Val_Accuracy"  # the authors' name, as metrics.jsonl has it
RATIO = "test/embedding_ratio"
COLLAPSED = 1.2  # across / within below which an embedding has collapsed
SETTLED = 0.4  # of the steps, after which the ratio has to stay above it
IN_LOG = {
    "cross_entropy": "CE", "batch_accuracy": "accuracy", "metric_loss": "metric", "positive_distance": "d+",
    "negative_distance": "d-", "active_triplets": "active",
}  # fmt: skip


class LogFile:
    """`<log_filename>.txt`: appended, and echoed to stderr."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, line: str) -> None:
        """Adds a line; on a terminal it appears above the progress bar."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        tqdm.write(line, file=sys.stderr)

    def announce(self, config: Config, lists: ImageLists, parameters: int, done: int) -> None:
        """Writes what is about to run, after `done` steps."""
        self.write(
            f"{lists.name}: {len(lists.train.names)} training and {len(lists.test.names)} test images, "
            f"{lists.num_classes} classes{'' if lists.verified else ', not verified'}"
        )
        self.write(f"{config.net}, {config.train_mode}: {parameters:,} trainable parameters")
        passes = f" x {config.caffe_iter_size}" if config.caffe_iter_size > 1 else ""
        self.write(
            f"{gpu_name() or 'CPU'}: {config.train_iters - done} of {config.train_iters} steps of {config.batch_size}"
            f"{passes} images to go, lr {config.learning_rate:g}"
        )

    def step(self, step: int, scalars: Mapping[str, float], seconds: float) -> None:
        """Writes the scalars of a training step."""
        values = " ".join(f"{IN_LOG[name]} {value:.4f}" for name, value in scalars.items() if name in IN_LOG)
        self.write(f"step {step} {values} ({seconds:.3f} s)")

    def test(self, config: Config, line: dict[str, Any], earlier: list[dict[str, Any]]) -> None:
        """Writes the accuracies of a test and the best of the run; warns if the embedding has collapsed.

        Args:
          config: resolved flags.
          line: of this test, as in metrics.jsonl.
          earlier: lines of the tests before, oldest first.
        """
        best = best_test([*earlier, line])
        self.write(
            f"step {line['step']} accuracy {100 * line[ACCURACY]:.2f} macro {100 * line['test/macro_accuracy']:.2f} "
            f"across / within {line[RATIO]:.2f}; best {100 * best[ACCURACY]:.2f} at step {best['step']} "
            f"of {config.name}"
        )
        before = earlier[-1].get(RATIO, COLLAPSED) if earlier else COLLAPSED
        late = line["step"] >= SETTLED * config.train_iters  # before, one low test may pass
        if config.train_mode != "vanilla" and line[RATIO] < COLLAPSED and (late or before < COLLAPSED):
            advice = " or ".join(milder_flags(config))
            self.write(
                f"warning: the embedding is collapsing: across / within {line[RATIO]:.2f}; see docs/papers/triplet.md"
                f"{f', try {advice}' if advice else ''}"
            )


def milder_flags(config: Config) -> list[str]:
    """Returns the flags that may keep an embedding from collapsing and that this configuration takes."""
    starts_hard = config.train_mode == "hard" and config.first_third != "semi_hard"
    plain = config.distance == "squared" and not isinstance(config.margin, str)  # what semi-hard triplets need
    weighty = config.train_mode in TRIPLET_MODES and config.triplet_loss_lambda > 0.1
    return ["--first_third semi_hard"] * (starts_hard and plain) + ["--triplet_loss_lambda 0.1"] * weighty


class Checkpoints(States):
    """`model-<step>` of the shared loop, and the authors' names for the last and the best of them."""

    def __init__(self, session: Any, folder: Path, ends: list[int], name: str):
        super().__init__(session, folder, ends, ACCURACY, with_graph=False)
        self.name = name  # --checkpoint_filename

    def load(self) -> dict[str, Any] | None:
        """Restores the newest checkpoint and returns its position; also repairs the authors' names after a kill."""
        position = super().load()
        if position:
            self._link(position)  # a kill may have come between saving and linking
        return position

    def save(self, position: dict[str, Any]) -> None:
        """Saves a checkpoint, then lets the authors' names point to the last and the best one."""
        super().save(position)
        self._link(position)

    def _link(self, position: Mapping[str, Any]) -> None:
        link_checkpoint(self.folder / f"model-{position['step']}", self.folder / self.name)
        if position["history"]:
            best = best_test(position["history"])["step"]
            link_checkpoint(self.folder / f"model-{best}", self.folder / f"{self.name}best")


def best_test(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the line of the best test, the first of equals."""
    return max(history, key=lambda line: float(line[ACCURACY]))


def ratio_history(history: list[dict[str, Any]], total: int) -> dict[str, list[Any]]:
    """Returns the ratio across / within at every test, and the lowest one after SETTLED of the steps, for the record.

    Args:
      history: lines of the tests in metrics.jsonl.
      total: steps of the run.
    """
    ratios = [(line["step"], line[RATIO]) for line in history if RATIO in line]
    lowest = min((ratio for step, ratio in ratios if step >= SETTLED * total), default=None)
    return {"embedding_ratios": ratios, "lowest_ratio": [] if lowest is None else [lowest]}


def link_checkpoint(prefix: Path, name: Path) -> None:
    """Gives a checkpoint a second name (`model.ckpt`, `model.ckptbest`) without a second copy if links are possible.

    Args:
      prefix: `.../model-<step>`.
      name: the other prefix in the same folder; what has it is replaced, the index last.
    """
    files = sorted(prefix.parent.glob(f"{prefix.name}.*"), key=lambda path: path.name.endswith(".index"))
    for path in files:
        target = name.with_name(name.name + path.name.removeprefix(prefix.name))
        partial = target.with_name(f".{target.name}.partial")
        partial.unlink(missing_ok=True)
        try:
            os.link(path, partial)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, partial)
        os.replace(partial, target)
        partial.unlink(missing_ok=True)  # renaming one name of a file to another of the same file does nothing
