"""Times the real loops of the papers: images/s of each epoch, and how long the GPU waits after the first."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
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
        later = sorted(self.rates[1:] or self.rates)
        return later[len(later) // 2]

    @property
    def waits(self) -> float | None:
        """Mean share of time, or None."""
        return sum(self.waiting) / len(self.waiting) if self.waiting else None


def timed_loop(
    loop: Any, clock: Clock, refuse: Callable[[bool], None] | None = None
) -> contextlib.AbstractContextManager[Any]:
    """Lets a paper's loop run with a `Training` that writes down how fast its steps are.

    Args:
      loop: the module, which has imported `Training`.
      clock: is filled.
      refuse: makes it an error to wait for the device, or allowed again. It is one inside an epoch, but for the waits
        that `Training` names: the look at the losses, and a checkpoint that is due.
    """
    refused = refuse or (lambda on: None)

    class Timed(Training):
        def steps(self) -> Iterator[int]:
            watched: contextlib.AbstractContextManager[list[float]] = contextlib.nullcontext([])
            if self.epoch:
                watched = watch_gpu()
            with watched as waiting:
                try:
                    for step in super().steps():
                        refused(True)
                        yield step
                        refused(False)
                finally:
                    refused(False)
            clock.rates.append((self.step - self._first) * self.batch_size / max(self.seconds, 1e-9))
            clock.waiting += waiting

    return mock.patch.object(loop, "Training", Timed)


def host_peak_mib() -> float:
    """Peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


@dataclass(frozen=True)
class Report:
    """Prints what a part found, for people, and appends it to a file of JSON lines, for the parent.

    Attributes:
      path: the file.
    """

    path: Path

    def add(self, kind: str, line: str, **values: Any) -> None:
        """Prints `line` and writes the values."""
        print(line, flush=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def attempt(self, paper: str, what: str, work: Callable[[], None]) -> None:
        """Runs a part of the check; a failure is reported and the next part goes on."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever a driver or a framework raises, the others are still looked at
            traceback.print_exc()
            reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:160]}"
            self.add("failure", f"{paper}: {what}: FAILED: {reason}", paper=paper, what=what, message=reason)


def speed_line(paper: str, network: str, precision: str, clock: Clock, peak_mib: float) -> tuple[str, dict[str, Any]]:
    """The line about a measured loop, and its values for `Report.add`."""
    waits = "not measured" if clock.waits is None else f"{100 * clock.waits:.0f} %"
    text = f"{paper} {network} {precision}: {clock.images_per_s:,.0f} images/s, GPU waits: {waits}, "
    text += f"peak {peak_mib:,.0f} MiB"
    return text, {
        "paper": paper, "network": network, "precision": precision, "images_per_s": clock.images_per_s,
        "waits": clock.waits, "peak_mib": peak_mib,
    }  # fmt: skip
