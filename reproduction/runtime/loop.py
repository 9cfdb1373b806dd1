"""One resumable training loop for all papers: an iterator over epochs and steps, not a trainer.

    training = Training("stage1", folder, ends, batch_size, checkpoint, stop)
    for epoch in training.epochs():                         # starts where the newest whole checkpoint says
        for indices in training.batches(order_of(epoch)):   # progress bar, due checkpoints, requests to stop
            loss = ...                                      # forward, backward, step: in the paper's file
            training.log(loss, right=right)                 # waits for no device
        accuracy = evaluate(network, test)
        training.end_epoch({"accuracy": accuracy})          # curve, checkpoint, a stop between two epochs

An epoch is the stretch of steps between two evaluations: a pass over the training set, or a test interval. Every random
draw of a run is a function of seed, epoch and step, so position, curve and the checkpoint's content are the full state.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from reproduction.runtime.metrics_log import MetricsLog
from reproduction.runtime.run_folder import Stop, UserError, shown

WARM_UP, PROJECT_AFTER = 5, 50  # steps left out of the measured rate, and steps it is measured over
LOSSES = 50  # losses looked at together if a look waits for the GPU


def check_device(folder: Path, before: str, now: str) -> None:
    """Refuses to go on with a training on another kind of device, which rounds differently.

    Args:
      folder: of the run.
      before: "cpu" or "cuda", of the checkpoint.
      now: of this process.
    Raises:
      UserError: they differ.
    """
    if before != now:
        raise UserError(
            f"{shown(folder)}: its checkpoint was computed on {before}, this is {now}, which rounds differently; go on "
            "there (CUDA_VISIBLE_DEVICES= hides a GPU), or --overwrite starts anew"
        )


def check_losses(
    name: str,
    losses: Sequence[Any],
    step: int,
    batch_size: int,
    newest: Callable[[], str | None],
    advice: str = "lower the learning rate",
) -> None:
    """Ends a training with one line at a loss that is not finite.

    Args:
      name: of the training.
      losses: scalar tensors or numbers, of the last steps.
      step: steps that are done.
      batch_size: images of a step.
      newest: returns the name of the newest checkpoint, None if there is none.
      advice: what to do.
    Raises:
      UserError: a loss is not finite.
    """
    for number, loss in enumerate(losses, step - len(losses)):
        if not math.isfinite(loss):
            checkpoint = newest()
            raise UserError(
                f"{name}: non-finite loss at step {number} (batch of {batch_size}); "
                f"{f'last checkpoint {checkpoint}' if checkpoint else 'no checkpoint yet'}; {advice}"
            )


def epoch_ends(steps: int, epochs: int, most: int = 0) -> list[int]:
    """Numbers of steps after which an epoch ends.

    Args:
      steps: of an epoch.
      epochs: of the training.
      most: steps of the training at most; 0: all of its epochs.
    """
    limit = min(most or epochs * steps, epochs * steps)
    return [min(limit, end) for end in range(steps, limit + steps, steps)]


class Checkpoint(Protocol):
    """Restores and saves everything that is trained; `torch_states.States` and `tf_states.States` do.

    Attributes:
      device: "cpu" or "cuda"; stored with the position.
      waits: whether looking at a loss waits for a device (a GPU).
      writes: whether this process writes files (rank 0).
      agree_every: steps from one question to all processes whether to stop to the next; each may wait for a device.
    """

    device: str
    waits: bool
    writes: bool
    agree_every: int

    def load(self) -> dict[str, Any] | None:
        """Restores the newest undamaged state and returns the position saved with it; None if there is none."""

    def save(self, position: dict[str, Any]) -> None:
        """Writes the full state, complete under its name or not there; every process calls it."""

    def newest(self) -> str | None:
        """Name of the newest checkpoint, for messages."""

    def agreed(self, answer: bool) -> bool:
        """Whether the answer is yes on any process."""


class Training:
    """Position and curve of one training; the module shows how it is used.

    Attributes:
      epoch: the epoch that runs or comes next, from 0.
      step: steps that are done, over all epochs.
      history: one dict an epoch, oldest first.
      sums: name -> float64 sum over this epoch of what `log` was given (this process's share).
      state: the paper's own values that a resumed run needs; saved with every checkpoint.
      seconds: time of all training steps, those of earlier starts too; without tests, checkpoints and plots.
      epoch_seconds: the same of this epoch.
      images: images of these steps.
      resumed: whether a checkpoint was restored.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        ends: Sequence[int],
        batch_size: int,
        checkpoint: Checkpoint,
        stop: Stop,
        *,
        start: int = 0,
        state: Mapping[str, Any] | None = None,
        checkpoint_steps: int = 0,
        save_every_s: float = 0.0,
        log_by: str = "epoch",
        events: str = "tensorboard",
    ):
        """Restores the newest checkpoint, if there is one, and opens metrics.jsonl.

        Args:
          name: for the progress bar and messages.
          folder: run folder.
          ends: ascending numbers of steps after which an epoch ends; the last is the length of the training.
          batch_size: images of a step.
          checkpoint: restores and saves what is trained.
          stop: set by SIGINT or SIGTERM.
          start: steps that were done before this training began (an earlier attempt).
          state: first values of `state`, for a training that starts anew.
          checkpoint_steps: also save every so many steps; 0: only at the end of an epoch.
          save_every_s: seconds; at the end of an epoch save not more often than this.
          log_by: "epoch" or "step", what the lines of metrics.jsonl count in.
          events: folder of the TensorBoard files below `folder`.
        Raises:
          UserError: checkpoints are there but none can be restored, or the newest is of another kind of device.
        """
        self.name, self.folder, self.ends, self.batch_size = name, folder, list(ends), batch_size
        self._start = start
        self._checkpoint, self._stop = checkpoint, stop
        self._checkpoint_steps, self._save_every_s = checkpoint_steps, save_every_s
        position = checkpoint.load() or {}
        check_device(folder, position.get("device", checkpoint.device), checkpoint.device)
        self.resumed = bool(position)
        self.epoch: int = position.get("epoch", 0)
        self.step: int = position.get("step", start)
        self.history: list[dict[str, Any]] = list(position.get("history", []))
        self.sums: dict[str, Any] = dict(position.get("sums", {}))
        self.state: dict[str, Any] = position.get("state") or dict(state or {})
        counted = position if "images" in position else {}  # a run of an older version counts from here on
        self.seconds: float = counted.get("seconds", 0.0)
        self.epoch_seconds: float = counted.get("epoch_seconds", 0.0)
        self.images: int = counted.get("images", 0)
        self._losses: list[Any] = []
        self._steps_here = 0  # done by this process
        self._saved_at = time.monotonic()
        count = self.epoch if log_by == "epoch" else self.step
        self.metrics = MetricsLog(folder, count or -1, events) if checkpoint.writes else None
        if self.resumed and not self.finished and checkpoint.writes:
            inside = f", step {self.step_in_epoch + 1}" if self.step_in_epoch else ""
            print(f"{name}: going on at epoch {self.epoch + 1}{inside}", flush=True)

    @property
    def finished(self) -> bool:
        """Whether the last epoch has ended."""
        return self.epoch >= len(self.ends)

    @property
    def images_per_s(self) -> float | None:
        """Images of a training second, for records; None if nothing was trained."""
        return self.images / self.seconds if self.images and self.seconds else None

    @property
    def _first(self) -> int:
        """First step of this epoch."""
        return self.ends[self.epoch - 1] if self.epoch else self._start

    @property
    def step_in_epoch(self) -> int:
        """Steps of this epoch that are done."""
        return self.step - self._first

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, from 0; the loop's body closes each with `end_epoch`."""
        while not self.finished:
            epoch = self.epoch
            yield epoch
            assert self.epoch == epoch + 1, "the loop must call end_epoch"
        if self.metrics is not None:
            self.metrics.close()

    def steps(self, images: int = sys.maxsize) -> Iterator[int]:
        """The steps of this epoch that are left, counted from 0 over all epochs.

        Args:
          images: of a whole epoch; its last batch has what is left of them.
        """
        end, size, began = self.ends[self.epoch], self.batch_size, time.monotonic()
        with tqdm(
            total=(end - self._first) * size,
            initial=self.step_in_epoch * size,
            unit="img",
            leave=False,
            desc=f"{self.name} {self.epoch + 1}/{len(self.ends)}",
            disable=None if self._checkpoint.writes else True,
        ) as bar:
            while self.step < end:
                yield self.step
                self.images += min(size, images - self.step_in_epoch * size)
                self.step += 1
                self._steps_here += 1
                at_end = self.step == end
                due = not at_end and self._checkpoint_steps and self.step % self._checkpoint_steps == 0
                asks = not at_end and self.step % self._checkpoint.agree_every == 0
                leaving = asks and self._checkpoint.agreed(self._stop.requested)
                if not self._checkpoint.waits or len(self._losses) >= LOSSES or due or leaving or at_end:
                    self._look_at_losses(bar)
                now = time.monotonic()
                self.seconds, self.epoch_seconds = self.seconds + now - began, self.epoch_seconds + now - began
                began = now
                self._project(bar)
                bar.update(size)
                if due or leaving:
                    self.save()
                    began = time.monotonic()
                if leaving:
                    self._stop.leave(self.folder)

    def batches(self, order: Any) -> Iterator[Any]:
        """The batches of this epoch that are left: slices of `order`, int64 [N] (the last one may be shorter)."""
        first, size = self._first, self.batch_size
        for step in self.steps(len(order)):
            yield order[(step - first) * size : (step - first + 1) * size]

    def log(self, loss: Any, **sums: Any) -> None:
        """Takes the loss of a step, which must be finite, and adds the other values to `sums`; waits for no device.

        Args:
          loss: scalar tensor or number, shown by the progress bar.
          sums: scalar tensors or numbers, added in float64.
        """
        self._losses.append(loss.detach() if hasattr(loss, "detach") else loss)
        for name, value in sums.items():
            number = value.detach().double() if hasattr(value, "detach") else float(value)
            self.sums[name] = self.sums.get(name, 0.0) + number

    def end_epoch(self, row: dict[str, Any], save: bool = False) -> None:
        """Ends an epoch: appends `row` to the history, saves, and leaves if a signal asked for it.

        Args:
          row: the numbers of the epoch.
          save: save even if less than `save_every_s` has passed; the same on every process.
        """
        self.history.append(row)
        self.epoch += 1
        self.sums, self.epoch_seconds = {}, 0.0
        leaving = self._checkpoint.agreed(self._stop.requested)
        late = self._checkpoint.agreed(time.monotonic() - self._saved_at >= self._save_every_s)
        if leaving or late or save or self.finished:
            self.save()
        if leaving and not self.finished:
            self._stop.leave(self.folder)

    def save(self) -> None:
        """Writes the full state now."""
        names = ("epoch", "step", "history", "sums", "state", "seconds", "epoch_seconds", "images")
        self._checkpoint.save({name: getattr(self, name) for name in names})
        self._saved_at = time.monotonic()

    def _look_at_losses(self, bar: Any) -> None:
        losses, self._losses = [float(loss) for loss in self._losses], []
        check_losses(self.name, losses, self.step, self.batch_size, self._checkpoint.newest)
        if losses:
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)

    def _project(self, bar: Any) -> None:
        """Prints once how long the training will go on, at the rate of PROJECT_AFTER steps of this process."""
        if self._steps_here == WARM_UP:
            self._warm = time.monotonic()
        if self._steps_here == WARM_UP + PROJECT_AFTER and self._checkpoint.writes:
            rate = PROJECT_AFTER / (time.monotonic() - self._warm)
            left = (self.ends[-1] - self.step) / rate / 60
            bar.write(f"{self.name}: {rate * self.batch_size:,.0f} images/s, about {left:.1f} min of training to go")
