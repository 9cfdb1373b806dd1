"""`make reproduce-subclass`: per seed the plain network, then both stages of the method, then the comparison.

Profile matched: stage 1 of ten seeds, their mean ranking, then per seed every variant with the same classes.
ROWS=settings trains the plain network at three rates on four fifths of the training images and tests it on the others.
"""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduction.launch.pipeline import Command, Reproduction, Request, rates_around, run
from reproduction.runtime.run_folder import RUNS_ROOT, UserError

SCRIPT = "subclass_torch/notebook.py"
RANKING = "subclass_torch/ranking.py"
DATASETS = {"paper": "cifar10", "matched": "cifar10", "cpu": "mnist5k", "smoke": "mnist5k"}
CLASSES_TO_SPLIT = {"cifar100": 10}
CUTOUT = {"cifar10": 16, "cifar100": 8, "svhn": 20}
# Of one seed on one current GPU, and of one seed on two cores: estimates for `make plan`.
GPU_HOURS = {"cifar10": (1.6, 1.8), "cifar100": (1.6, 1.7), "svhn": (16.0, 22.0)}
WIDE = 1.7  # times as long with the wide residual network
CPU_MINUTES = (0.8, 1.1)

# Profile matched: every variant makes UPDATES updates, EPOCHS passes over the images that are not doubled.
EPOCHS, BATCH, RATE, RANKED = 10, 128, "0.1", 10
UPDATES = 50_000 * EPOCHS // BATCH
HELD_OUT = 10_000  # a fifth of CIFAR's training images: RATE is chosen on them, with half the epochs
MATCHED_MINUTES = {"stage1": 1.0, "train": 4.3}  # two cores with bfloat16, from the records
PLAIN = {"baseline": (), "softmax": ("--baseline-loss", "softmax")}
SPLIT: dict[str, tuple[str, ...]] = {
    "": (),
    "doubled": ("--numSubclassesPerClass", "1"),
    "random": ("--repartition", "random"),
    "copied": ("--copies", "plain"),
    "undoubled": ("--copies", "none"),
    "epochs": ("--max_steps", "0"),  # equal epochs instead of equal updates
}
CORE = ("baseline", "", "doubled", "random")
FURTHER = ("copied", "undoubled", "softmax", "epochs")
FURTHER_SET, FURTHER_SEEDS = "cifar100", 3  # of ROWS=all


def flags_of(profile: str, dataset: str) -> list[str]:
    """Flags that both networks of a pair share.

    The cpu profile's learning rate, epochs and batch size were found by measurement: at the paper's 0.1 the small
    network with this loss stays at chance.
    """
    split = ["--numClasses2Repartition", str(CLASSES_TO_SPLIT.get(dataset, 2))]
    if profile == "paper":
        length = CUTOUT.get(dataset, 16)
        test = ["--eval-batch", "1000"]  # fewer, larger batches: networks in evaluation mode do not mix images
        return ["--dataset", dataset, "--model", "vgg16", "--cutout", "--length", str(length), *split, *test]
    flags = ["--dataset", dataset, "--model", "vgg_small", "--batch_size", "64", "--learning_rate", "0.02", *split]
    if profile == "smoke":
        short = ["--epochs_class", "1", "--epochs", "1", "--subset", "200", "--chance-epochs", "0"]
        return [*flags, *(short if not dataset.startswith("folder:") else short[:4])]
    flags += ["--cutout", "--length", "8"]
    if dataset in ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100"):
        flags += ["--subset", "10000", "--epochs_class", "4", "--epochs", "10", "--milestones", "6 8"]
    else:
        flags += ["--epochs_class", "6", "--epochs", "20", "--milestones", "10 15"]
    return flags


def matched_flags(dataset: str, rate: str) -> list[str]:
    """Flags that all trainings of the profile matched share."""
    flags = ["--dataset", dataset, *f"--model vgg_fast --batch_size {BATCH} --eval-batch 500".split()]
    return [*flags, *f"--learning_rate {rate} --schedule onecycle --amp auto --channels-last".split()]


def trains_plain(request: Request) -> bool:
    """Whether there is a plain network to compare with: under these flags the method runs without --subclass too."""
    return not {"official", "--compat=official", "--always-subclass", "--always_subclass"} & set(request.extra)


def rate_commands(request: Request) -> list[Command]:
    """The plain network at each rate that RATE is chosen from, tested on held-out training images.

    Raises:
      UserError: the passed-through flags leave no plain network.
    """
    if not trains_plain(request):
        raise UserError(f"--rows settings: trains the plain network; {' '.join(request.extra)} always runs the method")
    commands, seed = [], request.seeds[0]
    minutes = 0.4 * MATCHED_MINUTES["train"]  # half the epochs, four fifths of the images
    for rate in rates_around(float(RATE)):
        row = request.row(f"rate-{rate}")
        flags = [*matched_flags(request.dataset, rate), "--epochs", str(EPOCHS // 2), "--holdout", str(HELD_OUT)]
        flags += [*request.extra, "--seed", str(seed), "--name", f"{row}/seed{seed}", *request.shared_flags(row)]
        stage, folder = f"plain network, rate {rate}", RUNS_ROOT / "subclass" / row / f"seed{seed}"
        commands.append(Command(row, stage, SCRIPT, tuple(flags), folder, 0.01, minutes, f"rate-{rate}"))
    return commands


def matched(request: Request) -> list[Command]:
    """Stage 1 of RANKED seeds, their mean ranking, then for each seed every variant; the further ones come last.

    ROWS=all of CIFAR-10 goes on with CIFAR-100, of fewer seeds.
    """
    split = CLASSES_TO_SPLIT.get(request.dataset, 2)
    shared = [*matched_flags(request.dataset, RATE), "--numClasses2Repartition", str(split)]
    runs, ranked = RUNS_ROOT / "subclass", request.base_row() + "-ranking"
    names = [f"{ranked}/seed{seed}" for seed in range(RANKED)]
    minutes = MATCHED_MINUTES["stage1"]
    commands = []
    for seed, name in enumerate(names):
        flags = [*shared, "--subclass", "--stage", "identify", "--epochs_class", "2", "--seed", str(seed)]
        flags += ["--name", name, *request.shared_flags(ranked)]
        stage = f"seed {seed}, stage 1"
        commands.append(Command(ranked, stage, SCRIPT, tuple(flags), runs / name, 0.01, minutes, f"seed{seed}"))
    folders = [f"runs/subclass/{name}" for name in names]
    mean = f"{ranked}/mean"
    flags = ["--runs", *folders, "--classes", str(split), "--name", mean, *request.shared_flags(ranked)]
    commands.append(Command(ranked, "mean ranking", RANKING, tuple(flags), runs / mean))
    shared += ["--neglected", f"runs/subclass/{mean}/neglected.json", "--epochs", str(EPOCHS)]
    minutes, few = MATCHED_MINUTES["train"], request.seeds[: FURTHER_SEEDS if request.all_rows else 0]
    plain = trains_plain(request)
    for seed, variant in [*itertools.product(request.seeds, CORE), *itertools.product(few, FURTHER)]:
        if variant in PLAIN and not plain:
            continue
        row = request.row(variant)
        flags = [*shared, "--max_steps", str(UPDATES), *(PLAIN | SPLIT)[variant], *request.extra]
        if variant in SPLIT:
            baseline = f"runs/subclass/{request.row('baseline')}/seed{seed}"
            flags += ["--subclass", "--stage", "train", *(["--beside", baseline] if plain else [])]
        flags += ["--seed", str(seed), "--name", f"{row}/seed{seed}", *request.shared_flags(row)]
        stage, folder = f"seed {seed}, {variant or 'subclasses'}", runs / row / f"seed{seed}"
        commands.append(Command(row, stage, SCRIPT, tuple(flags), folder, 0.02, minutes, f"seed{seed}"))
    if request.all_rows and request.dataset == DATASETS["matched"] and not request.extra:
        seeds = request.seeds[:FURTHER_SEEDS]
        commands += matched(replace(request, dataset=FURTHER_SET, copy="", seeds=seeds, all_rows=False))
    return commands


def commands_of(request: Request) -> list[Command]:
    """For each seed: baseline (if there is one), stage 1, stage 2; the last is compared with the first."""
    if request.settings:
        return rate_commands(request)
    if request.profile == "matched":
        return matched(request)
    shared = [*flags_of(request.profile, request.dataset), *request.extra]
    row = request.row().replace("-model-", "-")  # ARGS="--model wideresnet" is the row <dataset>-paper-wideresnet
    hours = GPU_HOURS.get(request.dataset, (1.6, 1.8)) if request.profile == "paper" else (0.0, 0.0)
    wide = WIDE if "wideresnet" in request.extra else 1.0
    commands, plain = [], trains_plain(request)
    for seed in request.seeds:
        for stage, method in (("baseline", False), ("identify", True), ("train", True))[not plain :]:
            row_name = row if method else f"{row}-baseline"
            name = f"{row_name}/seed{seed}"
            flags = [*shared, "--seed", str(seed), "--name", name, *request.shared_flags(row_name)]
            if method:
                flags += ["--subclass", "--stage", stage]
            if stage == "train" and plain:
                flags += ["--beside", f"runs/subclass/{row}-baseline/seed{seed}"]
            share = {"baseline": 1.0, "identify": 0.25, "train": 1.0}[stage]
            words = {"baseline": "without subclasses", "identify": "stage 1", "train": "stage 2"}[stage]
            commands.append(
                Command(
                    row=row_name,
                    stage=f"seed {seed}, {words}",
                    script=SCRIPT,
                    flags=tuple(flags),
                    folder=RUNS_ROOT / "subclass" / name,
                    gpu_hours=wide * (0.05 if stage == "identify" and hours[0] else hours[int(method)]),
                    cpu_minutes=share * CPU_MINUTES[int(method)],
                    worker=f"seed{seed}",
                )
            )
    return commands


REPRODUCTION = Reproduction("subclass", "subclass_torch", "torch", commands_of, DATASETS, paper_gigabytes=0.2)

if __name__ == "__main__":
    run(REPRODUCTION)
