"""The loop of both stages: a step of the graph, again and again, and a test where an epoch ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from class2str_tf.data.batches import Batches, steps_per_epoch
from class2str_tf.flags import Config
from reproduction.runtime import tf_runtime
from reproduction.runtime.loop import Training
from reproduction.runtime.metrics_log import read_metrics
from reproduction.runtime.run_folder import UserError, stop_signals
from reproduction.runtime.tf import tf, tf1
from reproduction.runtime.tf_states import States

SCALARS_EVERY = 10  # steps between two lines of the training scalars, as released
SAVE_EVERY_S = 30.0  # without a new best test, checkpoints are not written more often than this
RISE = 0.23  # share of the steps in which the rate of --one-cycle rises
LEGACY_SAVE = 10_000  # samples between two checkpoints of an epoch under --legacy-batches (C2S-D10)


@dataclass(frozen=True)
class Graph:
    """What the loop needs of a stage's graph; each stage adds the tensors that it evaluates.

    Attributes:
      batches: the images of a step.
      loss: scalar.
      scalars: name in metrics.jsonl -> scalar to log.
      train: the update of all weights and of the global step.
    """

    batches: Batches
    loss: tf.Tensor
    scalars: dict[str, tf.Tensor]
    train: tf.Operation


def run_steps(
    name: str,
    session: tf1.Session,
    graph: Graph,
    config: Config,
    folder: Path,
    num_images: int,
    total: int,
    evaluate: Callable[[int], dict[str, float]],
    best_by: str,
    offset: int = 0,
    before: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Trains to the end, from the newest checkpoint of the run folder if there is one.

    Args:
      name: for the progress bar and messages.
      session: with the graph's variables initialised.
      graph: of the stage.
      config: resolved flags.
      folder: run folder.
      num_images: size of the training set.
      total: steps of this training.
      evaluate: global step -> values over the whole test set; called where an epoch ends.
      best_by: the value whose best checkpoint stays on disk, named as in metrics.jsonl (`test/...`).
      offset: steps of earlier attempts; the global step counts on.
      before: values by which the best checkpoint is chosen before `best_by` is looked at.
    Returns:
      One line of metrics.jsonl a test, those of earlier attempts included.
    Raises:
      UserError: non-finite loss.
    """
    batch, per_epoch = config.B, steps_per_epoch(num_images, config.B)
    ends = [offset + step for step in range(1, total + 1) if test_due(step, per_epoch, config) or step == total]
    names = partial(checkpoint_name, per_epoch=per_epoch, config=config, last=ends[-1])
    seldom = 0.0 if config.legacy_batches else SAVE_EVERY_S  # released: at every 10,000 samples
    after = offset or -1  # -1: damaged checkpoints are an error, as no earlier attempt can be meant
    states = States(session, folder, ends, best_by, names, after, before=before)
    with stop_signals() as stop:
        training = Training(
            name, folder, ends, batch, states, stop, start=offset, save_every_s=seldom, log_by="step", events="logs"
        )
        metrics = training.metrics
        assert metrics is not None  # one process only
        if not training.resumed:
            session.run(tf1.assign(tf1.train.get_global_step(), offset))
        print(
            f"{tf_runtime.gpu_name() or 'CPU'}: {ends[-1] - training.step} of {total} steps of {batch} images to go, "
            f"lr {config.lr:g}",
            flush=True,
        )
        earlier = [line for line in read_metrics(folder) if best_by in line and line["step"] <= offset]
        past = earlier[-1] if earlier else {}  # of the attempts before this one
        graph.batches.start(session, training.step - offset)
        for _ in training.epochs():
            for step in training.steps(sys.maxsize if config.legacy_batches else num_images):
                if step % SCALARS_EVERY == 0:
                    scalars, loss, _ = session.run([graph.scalars, graph.loss, graph.train])
                    values = {name: float(value) for name, value in scalars.items()}
                    metrics.write(step + 1, values, "train", step * batch)  # the authors' axis: samples seen before
                else:
                    loss, _ = session.run([graph.loss, graph.train])
                training.log(loss)
            step = training.step
            line = {**evaluate(step), "epoch": (step - offset) / per_epoch}
            line["seconds"] = round(past.get("test/seconds", 0.0) + training.seconds, 3)
            line["images"] = past.get("test/images", 0) + training.images
            metrics.write(step, line, "test", (step - 1) * batch)
            row = {"step": step, **{f"test/{name}": value for name, value in line.items()}}
            training.end_epoch(row, save=states.best() == step)
    return [line for line in read_metrics(folder) if best_by in line]


def refuse_non_finite(name: str, finite: bool) -> None:
    """Ends a training whose network has outputs that are not finite: an update after the last loss has spoilt it.

    Raises:
      UserError: they are not finite.
    """
    if not finite:
        raise UserError(f"{name}: the outputs of the network are not finite; lower the learning rate")


def total_steps(config: Config, num_images: int) -> int:
    """Steps of a training: those of all epochs, or --max-steps where that is less."""
    return min(config.epochs * steps_per_epoch(num_images, config.B), config.max_steps or sys.maxsize)


def learning_rate(config: Config, step: tf.Tensor, total: int) -> tf.Tensor | float:
    """Adam's rate at a step of the `total` of an attempt: constant, or --one-cycle."""
    if not config.one_cycle:
        return config.lr
    done = tf.cast(step % total, tf.float32) / total  # the step counts on over attempts
    return config.lr * tf.where(done < RISE, 0.01 + 0.99 * done / RISE, (1 - done) / (1 - RISE))


def test_due(step: int, per_epoch: int, config: Config) -> bool:
    """Returns whether a test is due: once an epoch; with --legacy-batches each time 10,000 more samples are passed."""
    if not config.legacy_batches:
        return step % per_epoch == 0
    before = (step - 1) % per_epoch * config.B
    return before // LEGACY_SAVE < (before + config.B) // LEGACY_SAVE


def checkpoint_name(step: int, per_epoch: int, config: Config, last: int) -> str:
    """`model-<samples seen>`; under --legacy-batches the multiple of 10,000 in the epoch, reused as released."""
    if step == last or not config.legacy_batches:
        return f"model-{step * config.B}"
    return f"model-{((step - 1) % per_epoch + 1) * config.B // LEGACY_SAVE * LEGACY_SAVE}"
