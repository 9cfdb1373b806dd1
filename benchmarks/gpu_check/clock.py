"""Times the real loops of the papers: images/s of each epoch, and how long the GPU waits after the first."""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from benchmarks.gpu_check.usage import watch_gpu
from reproduction.runtime.loop import Training

EPOCHS = 2  # the first warms up


@dataclass
class Clock:
    """What a loop took.

    Attributes:
      rates: images/s of each epoch.
      waiting: share of time in which the GPU waited, of each epoch after the first; empty if the driver does not tell.
    """

    rates: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)

    @property
    def images_per_s(self) -> float:
        """Median of the epochs after the first."""
        return statistics.median_high(self.rates[1:] or self.rates)

    @property
    def waits(self) -> float | None:
        """Mean share of time, or None."""
        return statistics.fmean(self.waiting) if self.waiting else None


def timed_loop(
    loop: Any, clock: Clock, refuse: Callable[[bool], None] = lambda refused: None
) -> contextlib.AbstractContextManager[Any]:
    """Lets a paper's loop run with a `Training` that writes down how fast its steps are.

    Args:
      loop: the module, which has imported `Training`.
      clock: is filled.
      refuse: makes it an error to wait for the device, or allowed again. It is one inside an epoch, but for the waits
        that `Training` names: the look at the losses, and a checkpoint that is due.
    """

    class Timed(Training):
        def steps(self, images: int = sys.maxsize) -> Iterator[int]:
            with watch_gpu() as waiting:
                try:
                    for step in super().steps(images):
                        refuse(True)
                        yield step
                        refuse(False)
                finally:
                    refuse(False)
            clock.rates.append(self.step_in_epoch * self.batch_size / max(self.epoch_seconds, 1e-9))
            clock.waiting += waiting if self.epoch else []

    return mock.patch.object(loop, "Training", Timed)
