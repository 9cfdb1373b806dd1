"""What a half of `make gpu-check` reports: lines for people, JSON for the parent, the check of one network."""

from __future__ import annotations

import functools
import io
import json
import tempfile
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.agreement import Agreement
from benchmarks.gpu_check.clock import Clock
from reproduction.runtime.faults import first_line

# heading of the lines below it; the numbers of the steps are those of CONTRIBUTING.md
COMPARISON_AND_SPEED = "\nsteps 2 and 4, for each network: comparison with the CPU, then the speed of its training"


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
        except Exception as error:  # whatever a driver or a framework raises, the others are still looked at
            traceback.print_exc()
            reason = f"{type(error).__name__}: {first_line(error)}"
            self.add("failure", f"{paper}: {what}: FAILED: {reason}", paper=paper, what=what, message=reason)


def check_network(
    paper: str,
    network: str,
    compare: Callable[[], Iterable[Agreement]],
    run: Callable[[str, Path], tuple[Clock, float]],
    precisions: Iterable[str],
    report: Report,
    speeds: dict[str, dict[str, float]],
) -> None:
    """Compares a network with the CPU and times its loop in each precision; a part that fails is reported.

    Args:
      paper: its id.
      network: name in lines and in `speeds`.
      compare: trains on both devices, one agreement a precision.
      run: (precision, empty folder) -> what the loop took, and the peak memory in MiB.
      precisions: to time.
      report: gets every line.
      speeds: filled: network -> precision -> images/s.
    """

    def compared() -> None:
        for agreement in compare():
            text = agreement.describe()
            report.add(
                "agreement",
                f"{paper} {network}, {text}",
                paper=paper,
                network=network,
                text=text,
                precision=agreement.precision,
                close=agreement.is_close,
            )

    def timed(precision: str) -> None:
        # what a loop prints about its training (accuracies, advice) says nothing about noise
        quiet = io.StringIO()
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(quiet), redirect_stderr(quiet):
            clock, peak_mib = run(precision, Path(folder))
        speeds.setdefault(network, {})[precision] = clock.images_per_s
        waits = "not measured" if clock.waits is None else f"{100 * clock.waits:.0f} %"
        text = f"{paper} {network} {precision}: {clock.images_per_s:,.0f} images/s, GPU waits: {waits}, "
        report.add(
            "speed",
            f"{text}peak {peak_mib:,.0f} MiB",
            paper=paper,
            network=network,
            precision=precision,
            images_per_s=clock.images_per_s,
            waits=clock.waits,
            peak_mib=peak_mib,
        )

    report.attempt(paper, f"{network} against the CPU", compared)
    for precision in precisions:
        report.attempt(paper, f"training loop of {network} in {precision}", functools.partial(timed, precision))
