"""Hours of every table of `make plan` on this machine: images of each command, divided by the measured images/s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu_check.report import Report
from benchmarks.hours import TABLES, cells, configurations
from reproduction.launch.jobs import Command
from reproduction.launch.measured import key_of

ALIKE = 0.5  # a network of fewer multiply-adds than this share of the measured one waits for other things
Speeds = Mapping[str, Mapping[str, float]]  # network -> precision -> images/s


def network_of(paper: str, config: Mapping[str, Any]) -> str:
    """Which of the measured networks a configuration trains, or the nearest one."""
    if paper == "subclass":
        return str(config["model"])
    if paper == "finegrained":
        return str(config["network"])
    if paper == "hierarchy":
        return f"alexnet32 {config['preset'] or 'paper32'}"
    return str(config["model"] if paper == "class2str" else config["net"])


def hours_of(images: float, multiply_adds: float, measured_adds: float, images_per_s: float) -> float | None:
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
    paper: str, speeds: Speeds, small: bool
) -> tuple[dict[str, dict[str, float]], list[tuple[str, float, int, int]]]:
    """Projects the tables of a paper.

    Args:
      paper: key of `benchmarks.hours.TABLES`.
      speeds: measured.
      small: only the first table, with any measured network's speed: for a rehearsal.
    Returns:
      (key of a command -> precision -> hours; for each table its name, hours of all seeds in float32, commands of a
      seed that are measured, and all of them).
    """
    folder, counted = TABLES[paper]
    hours: dict[str, dict[str, float]] = {}
    tables = []
    any_speed = next(iter(speeds.values()), {})
    for line in list(cells(paper)[0])[: 1 if small else None]:
        if not line.startswith("make "):
            continue  # ImageNet, which no plan holds
        name, commands, seeds, _ = configurations(folder, line)
        parts = [(command, config, *counted(command, config)) for command, config in commands]
        measured_adds: dict[str, float] = {}
        for _, config, adds, _ in parts:  # the first command of a network trains it alone
            measured_adds.setdefault(network_of(paper, config), adds)
        whole, known = 0.0, 0
        for command, config, adds, images in parts:
            network = network_of(paper, config)
            own: Mapping[str, float] = any_speed if small else speeds.get(network, {})
            row = {
                precision: value + waiting_hours(paper, command)
                for precision, rate in own.items()
                if (value := hours_of(images, adds, measured_adds[network], rate)) is not None
            }
            if row:
                hours[key_of(command)[0]] = row
            whole += row.get("float32", command.gpu_hours)
            known += bool(row)
        tables.append((name, seeds * whole, known, len(parts)))
    return hours, tables


def waiting_hours(paper: str, command: Command) -> float:
    """Hours of a command in which the CPU works alone, by the estimate of the plan: the clusterings of fine-grained."""
    if paper != "finegrained" or "cluster" not in command.flags:
        return 0.0
    from finegrained_torch.reproduce import CLUSTER_HOURS

    return CLUSTER_HOURS


def report(paper: str, speeds: Speeds, small: bool, out: Report) -> None:
    """Projects and reports the tables of a paper."""
    hours, tables = project(paper, speeds, small)
    for name, whole, known, count in tables:
        what = "all" if known == count else f"{known} of {count}, the others as planned"
        out.add("table", f"{paper} {name}: {whole:.2g} h for all seeds (commands measured: {what})", paper=paper,
                name=name, hours=whole)  # fmt: skip
    out.add("hours", f"{paper}: {len(hours)} commands projected", paper=paper, hours=hours)
