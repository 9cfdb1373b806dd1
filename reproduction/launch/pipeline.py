"""Runs the commands of a reproduction; a profile only fills in flags.

Each paper's `reproduce.py` builds the list of commands; this file prints them exactly as they can be pasted, runs
them, and lets the scripts themselves say what is finished (their DONE stamps), so that a killed run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from datasets import check_name
from datasets.cli import present
from datasets.manifest import entries, entry
from datasets.terminal import any_terminal
from reproduction.launch import measured
from reproduction.launch.after_run import compare_runs, write_page
from reproduction.launch.jobs import Command, check_flags, ending, jobs_of, run_all
from reproduction.runtime.driver import first_gpu, visible_gpu
from reproduction.runtime.flags import FlagTable, Parser, add_flags, device, one_line_errors, seed, whole
from reproduction.runtime.run_folder import RUNS_ROOT, UserError, shown

ROWS = ("core", "all", "settings")
REQUEST_FLAGS: FlagTable = {  # what `request_of` reads
    "--profile": dict(
        choices=["auto", "paper", "matched", "cpu", "smoke"],
        default="auto",
        help="paper (GPU, hours), matched (hours), cpu (minutes) or smoke (seconds); auto: paper on a GPU, else cpu",
    ),
    "--dataset": dict(default="", help="data set; default: the profile's own"),
    "--seeds": dict(default="", help='for example "0 1 2"; default: the profile\'s own'),
    "--device": dict(
        type=device, default="auto", help="auto, cpu or cuda; auto: a GPU for the profiles paper and matched"
    ),
    "--data-dir": dict(default="", help="folder of the data sets; default: data/ of the repository"),
    "--copy": dict(
        default="",
        help="name of a copy of the data with other checksums: it is accepted, and rows carry the name (e.g. q90)",
    ),
    "--rows": dict(
        choices=ROWS,
        default="core",
        help="of profile matched; core: the rows that decide the paper's claims; all: further variants and data sets "
        "too; settings: short runs from which its settings are chosen",
    ),
    "--args": dict(
        default="",
        help="flags for the training scripts (class2str: most for stage 2 only); the results get a row of their own",
    ),
    "--force": dict(action="store_true", help="run finished stages again"),
}
RUN_FLAGS: FlagTable = {
    "--jobs": dict(
        type=whole(0), default=0, help="commands at the same time; 0: one on a GPU, else three for two cores"
    ),
    "--plan": dict(action="store_true", help="only list the commands, hours and gigabytes"),
}
DEFAULT_SEEDS = {"paper": (0, 1, 2), "matched": (0, 1, 2, 3, 4), "cpu": (0, 1, 2), "smoke": (0,)}


@dataclass(frozen=True)
class Request:
    """What the user asked of `make reproduce-<paper>`; `profile` is resolved, never `auto`.

    Attributes:
      copy: name of a copy of the data set that is not the published one, byte for byte: its rows carry the name.
      all_rows: also run the further rows of the matched profile, not only those that decide the paper's claims.
      settings: run only the short runs from which settings of the matched profile are chosen.
    """

    profile: str
    dataset: str
    seeds: tuple[int, ...]
    device: str = "auto"
    extra: tuple[str, ...] = ()
    force: bool = False
    data_dir: str | None = None
    copy: str = ""
    all_rows: bool = False
    settings: bool = False

    def row(self, variant: str = "") -> str:
        """`<dataset>[-copy]-<profile>[-variant]`; flags passed through ARGS make a variant of their own."""
        words = [word.lstrip("-").replace("=", "-") for word in self.extra]
        slug = re.sub(r"[^\w.+-]+", "_", "-".join(words)).strip("-")
        kind, _, path = self.dataset.partition(":")
        dataset = re.sub(r"[^\w.+]+", "_", Path(path).name if kind == "folder" else self.dataset)
        return "-".join(part for part in (dataset, self.copy, self.profile, variant, slug) if part)

    def base_row(self) -> str:
        """Returns the row without variant and passed-through flags, which contains the stage 1 of all of them."""
        return dataclasses.replace(self, extra=()).row()

    def shared_flags(self, row: str) -> tuple[str, ...]:
        """Flags that every script of a pipeline gets."""
        flags = ["--row", row, "--device", self.device]
        if self.data_dir:
            flags += ["--data-dir", self.data_dir]
        if self.copy:
            flags.append("--accept-unverified")
        if self.force:
            flags.append("--overwrite")
        return tuple(flags)


@dataclass(frozen=True)
class Reproduction:
    """What a paper's `reproduce.py` says about itself.

    Attributes:
      paper: name in records and tables ("class2str").
      folder: its package ("class2str_tf").
      framework: "tensorflow" or "torch".
      commands_of: turns a request into commands, in order.
      datasets: profile -> default data set.
      paper_gigabytes: download of the paper profile with its own data set, for the plan.
      seeds: profile -> seeds if SEEDS is empty.
      check: returns the name of a data set or raises ValueError or UserError that says what is allowed.
      missing: returns what is not on this machine and the commands that fetch it, or "".
      closing: last line to print after a finished run, for example what to open.
    """

    paper: str
    folder: str
    framework: str
    commands_of: Callable[[Request], list[Command]]
    datasets: Mapping[str, str]
    paper_gigabytes: float
    seeds: Mapping[str, Sequence[int]] = field(default_factory=lambda: DEFAULT_SEEDS)
    check: Callable[[str], str] = check_name
    missing: Callable[[Request, list[Command]], str] = lambda request, commands: ""
    closing: Callable[[Request], str] = lambda request: ""


def rates_around(usual: float) -> tuple[str, ...]:
    """Returns the learning rates that a baseline's is chosen from: a third, one and three times the usual one."""
    return tuple(f"{factor * usual:.2g}" for factor in (1 / 3, 1, 3))


def _framework_sees_gpu(framework: str) -> bool:
    test = {
        "tensorflow": "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))",
        "torch": "import torch; print(torch.cuda.device_count())",
    }[framework]
    answer = subprocess.run([sys.executable, "-c", test], capture_output=True, text=True, encoding="utf-8")
    return answer.stdout.strip() not in ("", "0")


def request_of(args: argparse.Namespace, reproduction: Reproduction) -> Request:
    """The request of parsed flags, with the profile resolved.

    Raises:
      UserError: a profile or data set that the paper does not have, an invalid or repeated seed, an invalid name of a
        copy, or an open quote.
    """
    profile = args.profile
    if profile == "auto":
        profile = "paper" if visible_gpu() and args.device != "cpu" else "cpu"
    if profile not in reproduction.datasets:
        known = ", ".join(reproduction.datasets)
        raise UserError(f"argument --profile: this paper has no profile {profile}; it has {known}")
    try:
        seeds = tuple(seed(word) for word in args.seeds.replace(",", " ").split()) or tuple(reproduction.seeds[profile])
    except argparse.ArgumentTypeError as error:
        raise UserError(f"argument --seeds: {error}") from None
    if len(set(seeds)) != len(seeds):
        raise UserError(f"argument --seeds: {args.seeds!r} names a seed twice")
    try:
        dataset = reproduction.check(args.dataset or reproduction.datasets[profile])
    except (ValueError, UserError) as error:
        raise UserError(f"argument --dataset: {error}") from None
    if not re.fullmatch(r"[\w.]*", args.copy):
        raise UserError(f"argument --copy: {args.copy!r} is not a name of letters, digits, dots and underscores")
    try:
        extra = tuple(shlex.split(args.args))
    except ValueError as error:
        raise UserError(f"argument --args: {args.args!r} cannot be split into flags ({error})") from None
    if args.rows == "settings" and profile != "matched":
        raise UserError(f"argument --rows: settings are chosen for the profile matched, not for {profile}")
    return Request(
        profile=profile,
        dataset=dataset,
        seeds=seeds,
        device=args.device,
        extra=extra,
        force=args.force,
        data_dir=args.data_dir or None,
        copy=args.copy,
        all_rows=args.rows == "all",
        settings=args.rows == "settings",
    )


def on_gpu(request: Request) -> bool:
    """Returns whether the commands use the GPU: then one at a time, with all cores for the input."""
    if request.device == "cpu":
        return False
    return request.profile == "paper" or (request.profile == "matched" and visible_gpu())


def one_thread_each(request: Request, commands: Sequence[Command]) -> list[Command]:
    """On a CPU every command gets one thread: no number depends on cores, or on what else runs.

    The small profiles leave a GPU alone unless --device asks for it; TensorFlow without CUDA would refuse to run there.
    """
    if on_gpu(request):
        return list(commands)
    hide_gpu = request.device == "auto" and visible_gpu()
    return [dataclasses.replace(command, threads=1, hide_gpu=hide_gpu) for command in commands]


def fetch_data(paper: str, request: Request, commands: Sequence[Command]) -> None:
    """Fetches the data set before any command starts, so that a missing network is reported once, not by every job.

    Nothing is fetched if all commands have finished, or for sets that a script prepares itself.

    Raises:
      UserError: no network, with the command that needs none.
      DatasetError: files that cannot be used.
    """
    name = request.dataset
    if name not in datasets.NAMES or all((command.folder / "DONE").is_file() for command in commands):
        return
    root = Path(request.data_dir) if request.data_dir else None
    try:
        if not present(entry(name), root):
            datasets.load(name, root, bool(request.copy))
    except datasets.NoNetwork:
        raise UserError(
            f"{name}: not on this machine, and no network (or downloads are off, DATASETS_OFFLINE). Where to put "
            f"files by hand: docs/data.md. Without a download: make reproduce-{paper} PROFILE=cpu DATASET=mnist5k"
        ) from None


def commands_for(reproduction: Reproduction, request: Request) -> list[Command]:
    """Returns the commands of a request, and refuses flags of ARGS that its scripts do not know."""
    commands = one_thread_each(request, reproduction.commands_of(request))
    if request.extra:
        check_flags(commands)
    return commands


def get_files(reproduction: Reproduction, request: Request, commands: list[Command]) -> None:
    """Downloads the data set of the commands; refuses what no download brings."""
    if absent := reproduction.missing(request, commands):
        raise UserError(absent)
    fetch_data(reproduction.paper, request, commands)


@any_terminal()
def run(reproduction: Reproduction, argv: Sequence[str] | None = None) -> None:
    """The whole of `python -m <folder>.reproduce`."""
    paper, program = reproduction.paper, f"{reproduction.folder}.reproduce"
    parser = Parser(f"python -m {program}", f"Runs every stage of {reproduction.folder} and prints the comparison.")
    add_flags(parser.additions, REQUEST_FLAGS | RUN_FLAGS)
    args = parser.parse_args(argv)
    with one_line_errors(parser.prog):
        request = request_of(args, reproduction)
    with one_line_errors(program):
        commands = commands_for(reproduction, request)
        if args.plan:
            of_paper = request.dataset == reproduction.datasets["paper"]
            _print_plan(paper, request, commands, reproduction.paper_gigabytes if of_paper else None)
            return
        if request.profile == "paper" and on_gpu(request) and not _framework_sees_gpu(reproduction.framework):
            listed = visible_gpu() and reproduction.framework == "tensorflow"
            setup = " (make setup GPU=1, then the same make command with GPU=1)" * listed
            raise UserError(
                f"PROFILE=paper needs a CUDA GPU and {reproduction.framework} sees none{setup}; PROFILE=cpu runs the "
                "same stages in minutes, DEVICE=cpu runs the paper's own settings here, for days"
            )
        get_files(reproduction, request, commands)
        seeds = " ".join(map(str, request.seeds))
        print(f"{paper}: profile {request.profile}, data set {request.dataset}, seeds {seeds}")
        environment = Path(sys.prefix).name  # .venv, or .venv-tf with GPU=1
        print(f"each line below can be pasted by itself, after: . {environment}/bin/activate\n", flush=True)
        start = time.monotonic()
        failure = run_all(commands, jobs_of(commands, args.jobs, on_gpu(request)))
        if failure:
            command, code = failure
            first = "correct what the error above names, then " * (code == 2)
            raise SystemExit(
                f"{program}: stopped: {command.stage} {ending(code)}; "
                f"{first}the same make command{' without FORCE=1' * request.force} goes on from here "
                f"({shown(command.folder)})"
            )
        print(
            f"\nall stages finished after {(time.monotonic() - start) / 60:.1f} min; records under "
            f"{shown(RUNS_ROOT / paper)}\n",
            flush=True,
        )
        code = compare_runs(paper)
        page = write_page(paper)
        pages = [line for line in (f"open in a browser: {page}" if page else "", reproduction.closing(request)) if line]
        print("\n".join(["", *pages, "", *next_steps(reproduction, request)]))
        raise SystemExit(code or page is None)


def next_steps(reproduction: Reproduction, request: Request) -> list[str]:
    """Returns a heading and three commands for after a run: the paper's level, its own settings, the user's images.

    A step that the user has just done is replaced by the report on all papers.
    """

    def commands(profile: str) -> list[Command]:
        seeds = tuple(reproduction.seeds[profile])
        return reproduction.commands_of(Request(profile, reproduction.datasets[profile], seeds))

    make, steps = f"make reproduce-{reproduction.paper}", []
    gpu = " GPU=1" * (Path(sys.prefix).name == ".venv-tf")
    if request.profile != "matched" and "matched" in reproduction.datasets:
        hours = math.fsum(command.cpu_minutes for command in commands("matched")) / 60
        time_needed = f"about {hours:.0f} hour{'s' * (hours >= 1.5)} on two cores"
        steps.append((f"{make} PROFILE=matched{gpu}", f"accurate enough to judge, {time_needed}"))
    if request.profile != "paper":
        hours = math.fsum(command.gpu_hours for command in commands("paper"))
        cost = f"about {hours:.0f} GPU hours, {reproduction.paper_gigabytes:.1f} GB to download"
        steps.append((f"{make} PROFILE=paper{gpu}", f"the paper's own settings, {cost}"))
    if not request.dataset.startswith("folder:"):
        steps.append((f"{make} DATASET=folder:PATH{gpu}", "your own images, one sub-folder for each class"))
    steps.append(("make report", "one page about all five papers, your runs included: runs/report.html"))
    return ["next steps:", *(f"  {command:<44} {words}" for command, words in steps[:3])]


def _measured_here() -> measured.Measured | None:
    """Hours that `make gpu-check` measured on this machine's GPU; None without one, whatever the folder holds."""
    gpu = first_gpu()
    return measured.read(gpu) if gpu else None


def gpu_estimate(commands: Sequence[Command]) -> str:
    """GPU hours of the commands: measured ones of this machine (`make gpu-check`), estimates for the rest."""
    stored = _measured_here()
    hours, known = measured.planned_hours(commands, stored)
    # sum() rounds otherwise from Python 3.12 on: 10.35 hours were shown as 10.4 or 10.3
    text = f"about {math.fsum(hours):.1f} GPU hours"
    if stored is None or not known:
        return f"{text} (estimate)"
    some = f"{known} of {len(commands)} commands measured, the others estimates"
    share = "measured" if known == len(commands) else some
    return f"{text} ({share}, on this machine's {stored.gpu}, {stored.date})"


def measured_on_gpu(request: Request, commands: Sequence[Command]) -> str:
    """Returns how long the commands take on this machine's GPU, as far as `make gpu-check` measured it, or ""."""
    stored = _measured_here() if on_gpu(request) else None
    known = [hours for command in commands if (hours := measured.hours_of(command, stored)) is not None]
    if stored is None or not known:
        return ""
    share = "all" if len(known) == len(commands) else f"{len(known)} of {len(commands)}"
    total = measured.hours_text(math.fsum(known))
    return f"about {total} GPU hours for {share} commands (measured, on {stored.gpu}, {stored.date})"


def _download(request: Request, paper_gigabytes: float | None) -> str:
    """What the paper profile downloads, for the plan; `paper_gigabytes` is None for a set that is not the profile's."""
    if request.profile != "paper" or request.dataset.startswith("folder:"):
        return "no download beyond DATASET's"
    if paper_gigabytes is not None:
        return f"{paper_gigabytes:.1f} GB to download"
    chosen = entries().get(request.dataset)
    if chosen is None or not chosen.download_bytes:
        return "size of the download not known"
    return f"{chosen.download_bytes / 1e9:.1f} GB of images to download"


def _print_plan(paper: str, request: Request, commands: Sequence[Command], paper_gigabytes: float | None) -> None:
    download = _download(request, paper_gigabytes)
    cpu = math.fsum(command.cpu_minutes for command in commands)
    estimate = gpu_estimate(commands) if request.profile == "paper" else f"about {cpu:.0f} min on two cores (estimate)"
    print(f"{paper}: PROFILE={request.profile} DATASET={request.dataset}: {len(commands)} commands")
    print(f"  {estimate}, {download}")
    if request.profile == "matched" and (line := measured_on_gpu(request, commands)):
        print(f"  {line}")
    for command in commands:
        print(f"  {command.line()}")
    if request.profile == "matched":
        from reproduction.compare.comparison import planned  # reads every record: only for this plan

        rows: dict[str, set[str]] = {}
        for command in commands:
            rows.setdefault(command.row, set()).update(re.findall(r"seed\d+", str(command.folder)))
        seeds = {row: len(names) or 1 for row, names in rows.items()}
        print("\n".join(f"  {line}" for line in planned(paper, seeds)))
