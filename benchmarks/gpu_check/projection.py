"""Hours of every table of `make plan` on this machine: images of each command, divided by the measured images/s."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu_check.report import Report
from benchmarks.hours import TABLES, cells, configurations, request_of
from reproduction.launch.jobs import Command
from reproduction.launch.measured import Measured, hours_of, hours_text, key_of

ALIKE = 0.5  # a network of fewer multiply-adds than this share of the measured one waits for other things
NETWORK_FLAG = {"class2str": "model", "subclass": "model", "finegrained": "network", "triplet": "net"}
Speeds = Mapping[str, Mapping[str, float]]  # network -> precision -> images/s


def network_of(paper: str, config: Mapping[str, Any]) -> str:
    """Which of the measured networks a configuration trains, or the nearest one."""
    if paper == "hierarchy":
        return f"alexnet32 {config['preset'] or 'paper32'}"
    return str(config[NETWORK_FLAG[paper]])


def training_hours(images: float, multiply_adds: float, measured_adds: float, images_per_s: float) -> float | None:
    """Hours of training on so many images.

    Args:
      images: in all.
      multiply_adds: of an image in the network that is trained.
      measured_adds: of an image in the network that was measured.
      images_per_s: of that one.
    Returns:
      None where the network is so much smaller that its speed says nothing.
    """
    share = multiply_adds / measured_adds
    return images / images_per_s * share / 3600 if share >= ALIKE else None


def project(
    paper: str, speeds: Speeds, small: bool, auto: str
) -> tuple[dict[str, dict[str, float]], list[tuple[str, float, int, int]]]:
    """Projects the tables of a paper: all of profile `paper`, and the core rows of profile `matched`.

    Args:
      paper: key of `benchmarks.hours.TABLES`.
      speeds: measured.
      small: only the first table of each profile, with any measured network's speed: for a rehearsal.
      auto: precision that `--amp auto` chooses on this device.
    Returns:
      (key of a command -> precision -> hours; for each table its name, hours of all seeds, commands that are measured,
      and all of them). What is not measured counts in profile `paper` as planned, in `matched` not at all.
    """
    folder, counted = TABLES[paper]
    commands_of = importlib.import_module(f"{folder}.reproduce").commands_of
    hours: dict[str, dict[str, float]] = {}
    tables = []
    any_speed = next(iter(speeds.values()), {})
    for profile in ("paper", "matched"):
        # by what they ask for: COPY and ROWS are further rows; ImageNet is no make command, and in no plan
        lines = {request_of(folder, line): line for line in cells(paper, profile)[0] if line.startswith("make ")}
        for request, line in list(lines.items())[: 1 if small else None]:
            name, trainings, _, _ = configurations(folder, line)
            measured_adds: dict[str, float] = {}
            for command, config in trainings:
                adds, images = counted(command, config)
                network = network_of(paper, config)
                measured_adds.setdefault(network, adds)  # the first command of a network trains it alone
                speeds_of_network: Mapping[str, float] = any_speed if small else speeds.get(network, {})
                row = {
                    precision: value + waiting_hours(paper, command)
                    for precision, rate in speeds_of_network.items()
                    if images and (value := training_hours(images, adds, measured_adds[network], rate)) is not None
                }
                if row:
                    hours[key_of(command)[0]] = row | ({"auto": row[auto]} if auto in row else {})
            commands = commands_of(request)
            hours_of_commands = [hours_of(command, Measured("", "", hours)) for command in commands]
            planned = [command.gpu_hours if profile == "paper" else 0.0 for command in commands]
            whole = math.fsum(
                plan if known is None else known for plan, known in zip(planned, hours_of_commands, strict=True)
            )
            known = sum(value is not None for value in hours_of_commands)
            tables.append((name if profile == "paper" else f"{name} {profile}", whole, known, len(commands)))
    return hours, tables


def waiting_hours(paper: str, command: Command) -> float:
    """Hours of a command in which the CPU works alone, by the estimate of the plan: the clusterings of fine-grained."""
    if paper != "finegrained" or "cluster" not in command.flags:
        return 0.0
    from finegrained_torch.reproduce import CLUSTER_HOURS, CPU_MINUTES, NETWORK

    first, training = CPU_MINUTES["matched"]
    return (first - training) / 60 if NETWORK in command.flags else CLUSTER_HOURS


def report(papers: Sequence[str], speeds: Speeds, small: bool, auto: str, out: Report) -> None:
    """Projects and reports the tables of some papers; see `project`."""
    print("\nstep 5: hours of the tables of `make plan` at these speeds", flush=True)
    for paper in papers:
        out.attempt(paper, "hours", functools.partial(_report, paper, speeds, small, auto, out))


def _report(paper: str, speeds: Speeds, small: bool, auto: str, out: Report) -> None:
    hours, tables = project(paper, speeds, small, auto)
    for name, whole, known, count in tables:
        others = "left out" if name.endswith(" matched") else "as planned"
        what = "all" if known == count else f"{known} of {count}, the others {others}"
        text = f"{paper} {name}: {hours_text(whole)} h for all seeds (commands measured: {what})"
        out.add("table", text, paper=paper, name=name, hours=whole)
    out.add("hours", f"{paper}: {len(hours)} commands projected", paper=paper, hours=hours)
