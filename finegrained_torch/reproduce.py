"""`make reproduce-finegrained`: per seed base and clusters, then every row of the table on them; then the report.

Profile matched: each variant behind base has two cycles of epochs; base itself is the first half of `base-budget`.
ROWS=settings trains base at three rates on four fifths of the training images and tests it on the others.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets import pathmnist
from datasets.fetch import find
from finegrained_torch.flags import SUB_LABELS, row_name
from reproduction.launch.pipeline import Command, Reproduction, Request, on_gpu, rates_around, run
from reproduction.runtime.run_folder import DATA_ROOT, RUNS_ROOT, shown

SCRIPT = "finegrained_torch/pipeline.py"
DATASETS = {"paper": "cifar10", "matched": "cifar100", "cpu": "mnist5k", "smoke": "mnist5k"}
PAPER_GIGABYTES = 0.17  # CIFAR-10
# The release's seed and the next two; sweep and benchmarks look for this name
SEEDS = {"paper": (42, 43, 44), "matched": (0, 1, 2, 3, 4), "cpu": (42, 43, 44), "smoke": (42,)}
STEP_1 = "coarse features uncertainty cluster".split()
CONTROLS = SUB_LABELS[1:]
CONTROLS_OF = {"matched": ("random", "kmeans", "noumap"), "smoke": CONTROLS[:3]}  # else all
REPORT = "report over all seeds"  # waits for all of them
NOTEBOOK = {"pathmnist": ("--patience", "5")}  # PathMNIST.ipynb, where the published numbers stand
NO_SUBCLASSES = ("pathmnist", "svhn", "fashion_mnist")  # their classes are the coarse ones
# One training at the paper's settings on a current GPU, and the clusterings on the CPU beside it: estimates
GPU_HOURS, CLUSTER_HOURS = 0.2, 0.5
# Minutes of step 1 and of one training with the seeds side by side on two cores: estimates; matched: half of what one
# core took in the records of seed 0, in bfloat16
CPU_MINUTES = {"cpu": (1.0, 0.28), "smoke": (0.8, 0.2), "paper": (900.0, 600.0), "matched": (8.0, 4.3)}

# Profile matched: network, peak rate, and how many seeds run the further rows.
NETWORK, RATE, FURTHER_SEEDS = "resnet10n", "0.1", 3

Row = tuple[str, str, tuple[str, ...], int]  # variant, what it is, flags, trainings


def flags_of(profile: str, dataset: str, rate: str = RATE) -> list[str]:
    """Flags that all stages of a run share; the rate is that of profile matched.

    The cpu profile's network, rate, epochs and cluster size were found by measurement: longer training of the base
    network erases the subclasses of the digits 5 to 9. A mirrored digit is another sign: shifts are its views.
    """
    flags = ["--dataset", dataset]
    if profile == "paper":  # all else: the defaults, which are those of the authors' pipeline.py
        return [*flags, *NOTEBOOK.get(dataset, ())]
    if profile == "matched":
        flags += ["--network", NETWORK, "--schedule", "onecycle", "--lr", rate, "--batch_size", "128"]
        return [*flags, "--augment", "shifts", "--precision", "auto"]
    epochs = "2" if profile == "smoke" else "6"
    flags += ["--network", "small", "--schedule", "cosine", "--lr", "0.05", "--batch_size", "100"]
    flags += ["--max_epochs", epochs, "--min_epochs", epochs]
    flags += ["--min_cluster_size", "15" if profile == "smoke" else "40"]
    flags += ["--cluster_workers", "1"]  # the seeds run side by side already
    if dataset in ("mnist5k", "mnist"):
        flags += ["--aug_set", "shifts"]
    if dataset != "mnist5k" and not dataset.startswith("folder:"):
        flags += ["--limit_train", "600" if profile == "smoke" else "10000"]
    elif profile == "smoke" and dataset == "mnist5k":
        flags += ["--limit_train", "600"]
    return flags


def cycle(dataset: str) -> int:
    """Epochs of one cycle of the learning rate in profile matched; on CIFAR-10 after 24, base is below the gate."""
    return 40 if dataset == "cifar10" else 24


def epochs(count: int) -> tuple[str, ...]:
    """Flags for a training of so many epochs; one cycle ends with the last of them."""
    return ("--max_epochs", str(count))


def matched_rows(dataset: str) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows of profile matched behind base, each of as many epochs as two cycles.

    Multi-head is one training of all epochs, the others two. Sub-labels of every kind are those of the certain images.

    Returns:
      (core rows; multi-head; fine-tuning from k-means labels and with the deep head), in the order of running.
    """
    once, twice = epochs(cycle(dataset)), epochs(2 * cycle(dataset))
    coarse, tune = ("--stage", "coarse", *once), ("--stage", "sub", "fine-tune", *once)
    both = ("--stage", "multi-head", "--alpha", "0.9", *twice)
    true, random = ("--no-use_pseudo", "--true-images", "certain"), ("--sub_labels", "random")
    certain = ("--stage", "coarse", "--control", "certain")
    core: list[Row] = [
        ("base-budget", "control: base trained on for fine-tuning's epochs", (*coarse, "--control", "budget"), 1),
        ("ft", "fine-tuning from pseudo-labels", tune, 2),
        ("ft-random", "control: fine-tuning from random labels", (*tune, *random), 2),
        ("ft-true", "fine-tuning from the true subclasses of the same images", (*tune, *true), 2),
    ]
    multi_head: list[Row] = [
        ("mh09", "multi-head, alpha 0.9", both, 2),
        ("mh09-true", "multi-head from the true subclasses of the same images", (*both, *true), 2),
        ("mh09-random", "control: multi-head from random labels", (*both, *random), 2),
        ("base-certain", "control: base on multi-head's images and epochs", (*certain, *twice), 2),
    ]
    last: list[Row] = [
        ("ft-kmeans", "control: fine-tuning from k-means labels", (*tune, "--sub_labels", "kmeans"), 2),
        ("ft-deep", "fine-tuning from pseudo-labels, deep head", (*tune, "--head", "deep_layer"), 1),
    ]
    if dataset.startswith("folder:") or dataset in NO_SUBCLASSES:
        core, multi_head = ([row for row in rows if "true" not in row[0]] for rows in (core, multi_head))
    return core, multi_head, last


def rows_of(profile: str, dataset: str) -> list[Row]:
    """The rows of a profile behind base: all of the paper profile, or the part of them that a CPU affords."""
    known = not dataset.startswith("folder:") and dataset not in NO_SUBCLASSES
    tune = ("--stage", "sub", "fine-tune")
    mh09 = ("mh09", "multi-head, alpha 0.9", ("--stage", "multi-head", "--alpha", "0.9"), 1)
    if profile == "smoke":
        return [("ft", "fine-tuning from pseudo-labels", tune, 2), mh09]
    heads = ("--head", "plain", "deep_layer", "keep_sub_head")
    rows: list[Row] = [("ft", "fine-tuning from pseudo-labels, three heads", (*tune, *heads), 4)]
    if profile == "cpu":
        rows.append(mh09)
        if known:
            rows.append(("ft-true", "fine-tuning from true subclasses", (*tune, "--no-use_pseudo"), 2))
    else:
        rows.append(("mh01", "multi-head, alpha 0.1 and 0.9", ("--stage", "multi-head"), 2))
        if known:
            true = ("--stage", "sub", "fine-tune", "multi-head", "--no-use_pseudo")
            rows.append(("ft-true", "fine-tuning and multi-head from true subclasses", true, 4))
    for control, words in (("budget", "base trained on for fine-tuning's epochs"), ("certain", "certain images only")):
        rows.append((f"base-{control}", f"control: {words}", ("--stage", "coarse", "--control", control), 1))
    for name in ("random",) if profile == "cpu" else ("random", "kmeans", "nofilter", "noumap"):
        rows.append((f"ft-{name}", f"control: fine-tuning from {name} labels", (*tune, "--sub_labels", name), 2))
    return rows


def has_pathmnist(data_dir: str | None) -> bool:
    """Tells whether the file of PathMNIST is there."""
    return find(["pathmnist.npz"], pathmnist.folders(Path(data_dir) if data_dir else DATA_ROOT)) is not None


def commands_of(request: Request) -> list[Command]:
    """Step 1 and rows of every seed, then the report; profile matched: the core rows of all seeds, then further ones.

    The report waits for all commands before it. It comes again behind the further rows.
    """
    if request.settings:
        return rate_commands(request)
    if request.profile != "matched":
        rows = rows_of(request.profile, request.dataset)
        return [*(command for seed in request.seeds for command in seed_commands(request, seed, rows)), report(request)]
    core, multi_head, last = matched_rows(request.dataset)
    commands = [command for seed in request.seeds for command in seed_commands(request, seed, core)]
    commands.append(report(request))
    if not request.all_rows:
        return commands
    seeds = request.seeds[:FURTHER_SEEDS]
    default_set = request.dataset == DATASETS["matched"]
    commands += [command for seed in seeds for command in row_commands(request, seed, multi_head)]
    if default_set:
        commands += commands_of(dataclasses.replace(request, dataset="cifar10", copy="", seeds=seeds, all_rows=False))
    commands += [command for row in last for seed in seeds for command in row_commands(request, seed, [row])]
    commands.append(report(request))
    if default_set and has_pathmnist(request.data_dir):  # with all rows: its claim needs the deep head
        commands += commands_of(dataclasses.replace(request, dataset="pathmnist", copy="", seeds=seeds))
    return commands


def rate_commands(request: Request) -> list[Command]:
    """Base at each rate that RATE is chosen from, for half the epochs, on four fifths of the training images."""
    short = ("--stage", "coarse", "--hold-out", *epochs(cycle(request.dataset) // 2))
    minutes = 0.4 * minutes_of(request)[1]
    return [
        command_of(request, request.seeds[0], "", f"base, rate {rate}", short, GPU_HOURS, minutes, rate)
        for rate in rates_around(float(RATE))
    ]


def minutes_of(request: Request) -> tuple[float, float]:
    """Minutes of step 1 and of one training on two cores: estimates."""
    large = 2.6 if request.profile == "cpu" and request.dataset != "mnist5k" else 1.0  # 10,000 images for 4,000
    first, training = CPU_MINUTES[request.profile]
    if request.profile == "matched":
        large = cycle(request.dataset) / cycle("cifar100")
    return large * first, large * training


def seed_commands(request: Request, seed: int, rows: Sequence[Row]) -> list[Command]:
    """Step 1 of a seed, then its rows."""
    step_1 = ["--stage", *STEP_1, "--controls", *CONTROLS_OF.get(request.profile, CONTROLS)]
    if request.profile == "matched":
        step_1 += epochs(cycle(request.dataset))
    stage = "step 1: base, features, uncertainty, clusters"
    first = command_of(request, seed, "", stage, step_1, GPU_HOURS + CLUSTER_HOURS, minutes_of(request)[0])
    return [first, *row_commands(request, seed, rows)]


def row_commands(request: Request, seed: int, rows: Sequence[Row]) -> list[Command]:
    """Rows of a seed whose step 1 has run."""
    each = minutes_of(request)[1]
    return [
        command_of(request, seed, variant, f"step 2: {words}", flags, trainings * GPU_HOURS, trainings * each)
        for variant, words, flags, trainings in rows
    ]


def report(request: Request) -> Command:
    """The report in the first seed's folder, which covers all seeds; profile matched also compares their clusters."""
    matched = request.profile == "matched"
    stages = ["--stage", *(["stability"] if matched else []), "report"]
    return command_of(request, request.seeds[0], "stability" if matched else "", REPORT, stages, 0.02, 0.3)


def command_of(
    request: Request,
    seed: int,
    variant: str,
    stage: str,
    flags: Sequence[str],
    hours: float,
    minutes: float,
    rate: str = "",
) -> Command:
    """One command.

    Args:
      request: what the user asked for.
      seed: of the run folder.
      variant: of the row, "" for base.
      stage: what it does, as printed.
      flags: its own flags.
      hours: on a GPU with the paper's settings, an estimate.
      minutes: on two cores, an estimate.
      rate: to try instead of RATE; it names the row.
    """
    row = request.row(f"rate-{rate}" if rate else "")
    name = f"{row}/seed{seed}"
    shared = flags_of(request.profile, request.dataset, rate or RATE)
    if request.profile == "matched" and not on_gpu(request):
        shared += ["--cluster_workers", "1"]  # the seeds run side by side already
    words = [*flags, *shared, *request.extra, "--seed", str(seed), "--name", name, *request.shared_flags(row)]
    return Command(
        row=row_name(row, variant) or row,
        stage=f"seed {seed}, {stage}",
        script=SCRIPT,
        flags=tuple(words),
        folder=RUNS_ROOT / "finegrained" / name,
        gpu_hours=hours if request.profile == "paper" else 0.0,
        cpu_minutes=minutes,
        worker=None if stage == REPORT else f"seed{seed}" + f"-rate-{rate}" * bool(rate),
    )


def report_of(request: Request) -> str:
    """What to open after a run."""
    if request.settings:
        return f"the rate in use is RATE of {shown(Path(__file__))}"
    folder = RUNS_ROOT / "finegrained" / request.row() / f"seed{request.seeds[0]}"
    return f"open in a browser: {shown(folder / 'report.html')}"


REPRODUCTION = Reproduction(
    "finegrained", "finegrained_torch", "torch", commands_of, DATASETS, PAPER_GIGABYTES, SEEDS, closing=report_of
)

if __name__ == "__main__":
    run(REPRODUCTION)
