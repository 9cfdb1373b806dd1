"""`make reproduce-hierarchy`: the variants of every seed, the label study, the analysis and the viewer.

Profile matched: the core rows are A0, A1 and A2 on CIFAR-100; the further rows add variants, trees, schedules and sets;
ROWS=settings trains at three rates on a part of the images and tabulates how well each does on the others.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets import DatasetError, image_folders
from hierarchy_cnn_torch.flags import ARMS, OFFICIAL_BY_DEFAULT, train_parser
from reproduction.launch.pipeline import Command, Reproduction, Request, run
from reproduction.runtime.run_folder import RUNS_ROOT, UserError, shown

DATASETS = {"paper": "cifar100", "matched": "cifar100", "cpu": "fashion_mnist", "smoke": "mnist5k"}
PAPER_GIGABYTES = 0.17  # CIFAR-100

# What each profile fills in for train.py and analyze.py
TRAIN = {
    "paper": "--preset paper32 --epochs 60 --lr 0.01",
    "matched": "--preset fast --bn --dropout 0 --epochs 12 --lr-schedule onecycle --label-smoothing 0.1 "
    "--amp auto --channels-last --eval-batch 1000",
    "cpu": "--preset mini --channels-last --epochs 6 --lr 0.005 --batch 32 --subset 10000 --held-out 5000 "
    "--curve-images 1000 --image-size 28 --threads 1",
    "smoke": "--preset mini --channels-last --epochs 2 --lr 0.003 --batch 16 --subset 500 --held-out 150 "
    "--curve-images 100 --image-size 28 --threads 1",
}
# after 6 epochs the small network is right on a third of CIFAR-10's images: too early to compare variants
COLOUR = {"cpu": ["--epochs", "20"]}
ANALYZE = {
    "paper": "--groupings 40",
    "matched": "--probe-images 5000 --probe-test-images 5000 --groupings 40",
    "cpu": "--probe-images 2500 --probe-test-images 2000 --response-images 2000",
    "smoke": "--threads 1 --probe-images 200 --probe-test-images 100 --response-images 100 --permutations 99 "
    "--bootstrap 50",
}
FOLDS = {"paper": 5, "matched": 2, "cpu": 2, "smoke": 2}
# seeds whose training labels are studied with planted noise; each costs about one more variant
NOISE_SEEDS = {"paper": 3, "cpu": 1, "smoke": 1}
STAGE_2 = ["--stage", "aware", "--keep-epochs", "none"]
SPLIT = 4  # the class that the label study splits, if there are as many
LABEL_STUDY = ["--stage", "flat", "--keep-epochs", "none", "--label-noise", "0.02", "--split-class", str(SPLIT)]
OFFICIAL = (*OFFICIAL_BY_DEFAULT, "fashion_mnist")
HOURS = {"paper": 0.5, "matched": 0.02}  # one variant of CIFAR-100 on a current GPU, an estimate
MINUTES = {"paper": 60.0, "matched": 4.0, "cpu": 0.6, "smoke": 0.1}  # one variant on two cores
TRAIN_SCRIPT, ANALYZE_SCRIPT = "hierarchy_cnn_torch/train.py", "hierarchy_cnn_torch/analyze.py"

# Profile matched. Branch losses add gradient to the trunk, so networks with and without branches have a rate of their
# own, each the best of RATES on a held-out part of the training images: ROWS=settings (docs/papers/hierarchy.md).
FLAT_RATE, AWARE_RATE = 0.15, 0.15
RATES = (0.0167, 0.05, 0.15)  # a third, one and three times the usual rate
CORE, FURTHER = ("A0", "A1", "A2"), ("A3", "A5", "A4")
WHOLE = ["--train-held-out"]
LONG = ["--epochs", "40", "--label-smoothing", "0"]  # until the flat network over-fits
# To choose the rates: half as many epochs, on four fifths of the training images
SWEEP = ["--epochs", "6", "--held-out", "10000", "--curve-images", "1000", "--keep-epochs", "none"]


def variants(arms: Sequence[str], *more: str) -> dict[str, list[str]]:
    """Returns variant -> its own flags and those that all of them share."""
    stage_1 = ["--stage", "flat", "--keep-epochs", "auto"]
    return {arm: ["--arm", arm, *(stage_1 if arm == "A0" else STAGE_2), *more] for arm in arms}


def rated(arms: Sequence[str], *more: str) -> dict[str, list[str]]:
    """Returns `variants` of the profile matched with their rates."""
    rates = {arm: FLAT_RATE if arm in ("A0", "A5") else AWARE_RATE for arm in arms}
    return {arm: [*words, "--lr", f"{rates[arm]:g}", *more] for arm, words in variants(arms).items()}


def whole(dataset: str, extra: Sequence[str]) -> list[str]:
    """Returns the flag to train on the held-out images too, unless the tree or a choice is made on them.

    Args:
      dataset: name of the data set.
      extra: flags of ARGS.
    """
    args, _ = train_parser().parse_known_args(extra)
    held_out = args.tree in ("derived", "random") or args.predict == "product" or args.folds
    return WHOLE if dataset in OFFICIAL_BY_DEFAULT and not held_out else []


def rate_commands(request: Request) -> list[Command]:
    """Lists the trainings that the rates are chosen from, then the command that tabulates them.

    The trainings have a row of no profile, so that no claim is tested on them; the table has a record of its own.
    """
    row, seed, commands = request.row("rates"), request.seeds[0], []
    trained, top = row.replace("-matched-", "-trained-"), RUNS_ROOT / "hierarchy" / row / f"seed{seed}"
    for rate in RATES:
        for arm, words in variants(CORE, *SWEEP, "--lr", f"{rate:g}", "--seed", str(seed)).items():
            folder = top / f"rate{rate:g}" / arm
            place = ("--runs-dir", shown(folder.parent), "--name", arm, *request.extra)
            flags = ("--dataset", request.dataset, *TRAIN["matched"].split(), *words, *place)
            title, minutes = f"rate {rate:g}, variant {arm}", 0.4 * MINUTES["matched"]
            flags += request.shared_flags(trained)
            commands.append(
                Command(trained, title, TRAIN_SCRIPT, flags, folder, 0.4 * HOURS["matched"], minutes, f"rate{rate:g}")
            )
    flags = ("--rates", shown(top), *request.shared_flags(row))
    return [*commands, Command(row, "table of the rates", ANALYZE_SCRIPT, flags, top / "rates")]


def for_folder(dataset: str, profile: str) -> tuple[list[str], list[str]]:
    """Returns flags that a folder of few images or few classes needs: for every training, and for the label study.

    Raises:
      UserError: the folder cannot be used.
    """
    if not dataset.startswith("folder:"):
        return [], []
    try:
        images = image_folders.read(Path(dataset.removeprefix("folder:")))
    except DatasetError as error:
        raise UserError(error) from None
    if len(images.classes) < 3:
        raise UserError(
            f"{dataset}: {len(images.classes)} classes; groups of classes need at least 3, in sub-folders of their own"
        )
    words = TRAIN[profile].split()
    held_out = int(words[words.index("--held-out") + 1]) if "--held-out" in words else 0
    training = sum(len(names) for split, (names, _) in images.splits.items() if split != "test")
    few = ["--held-out", "0"] if training < 2 * held_out else []  # 0: a fifth
    last = len(images.classes) - 1
    return few, ["--split-class", str(last)] if last < SPLIT else []


def study(
    request: Request,
    row: str,
    trained: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    more: Sequence[str] = (),
    noisy: int = 0,
    times: float = 1.0,
) -> list[Command]:
    """Lists for each seed the variants, the label study and the analysis; then the summary, which waits for them.

    Args:
      request: what the user asked for.
      row: of the variants, and name of their folder.
      trained: variant -> its own flags.
      seeds: to train.
      more: flags of every training, before those of the variant.
      noisy: number of seeds whose labels are studied.
      times: how many times as long as in the core rows a variant trains.
    """
    top, profile, commands = RUNS_ROOT / "hierarchy" / row, request.profile, []
    hours, minutes, folds = HOURS.get(profile, 0.0), MINUTES[profile] * times, FOLDS[profile]
    few_images, few_classes = for_folder(request.dataset, profile)
    common = ["--dataset", request.dataset, *TRAIN[profile].split(), *few_images, *more]

    def add(title: str, seed: int, row: str, name: str, flags: Sequence[str]) -> None:
        place = ["--seed", str(seed), "--runs-dir", shown(top / f"seed{seed}"), "--name", name]
        words, folder = (*common, *place, *flags, *request.shared_flags(row)), top / f"seed{seed}" / name
        commands.append(
            Command(row, f"{title}, seed {seed}", TRAIN_SCRIPT, words, folder, hours, minutes, f"seed{seed}")
        )

    for number, seed in enumerate(seeds):
        for arm, flags in trained.items():
            add(f"variant {arm} ({'stage 1' if arm == 'A0' else 'stage 2'})", seed, row, arm, flags)
        folder = top / f"seed{seed}"
        # near and far flips need groups: the official tree's, or those stage 1 has just derived
        tree = "official" if request.dataset in OFFICIAL else shown(folder / "A0" / "tree.json")
        for fold in range(folds if number < noisy else 0):
            words = ["--fold", str(fold), "--folds", str(folds), "--tree", tree, *LABEL_STUDY, *few_classes]
            add(f"label study, part {fold + 1} of {folds}", seed, request.row("labels"), f"fold{fold}", words)
        every = ["--groupings", "210"] if "--groupings" in ANALYZE[profile] and request.dataset == "cifar10" else []
        flags = ("--run", shown(folder), *ANALYZE[profile].split(), *every, *request.shared_flags(row))
        title, out = f"analysis and viewer, seed {seed}", folder / "analysis"
        commands.append(Command(row, title, ANALYZE_SCRIPT, flags, out, hours / 2, minutes, f"seed{seed}"))
    title, flags = "plots and tables over the seeds", ("--summary", shown(top))
    return [*commands, Command(row, title, ANALYZE_SCRIPT, flags, top / "summary")]


def matched(request: Request) -> list[Command]:
    """Lists the core rows, then the further ones in the order in which they answer questions.

    Flags of ARGS come last: the user's own rate holds for every variant.
    """
    if request.settings:
        return rate_commands(request)
    extra, few = request.extra, request.seeds[:3]
    held_out = whole(request.dataset, extra)
    commands = study(request, request.row(), rated(CORE, *held_out, *extra), request.seeds)
    if not request.all_rows:
        return commands
    flat = ["--lr", f"{FLAT_RATE:.3g}", *extra]  # of the label study
    commands += study(request, request.row(), rated(FURTHER, *held_out, *extra), few, flat, noisy=len(few))
    commands += study(request, request.row(), {}, request.seeds[3:], flat, noisy=len(request.seeds), times=0.5)
    asked, _ = train_parser().parse_known_args(extra)
    if request.dataset in OFFICIAL_BY_DEFAULT and not asked.tree:  # else the core rows have that tree, or the user's
        commands += study(request, request.row("derived"), rated(CORE, "--tree", "derived", *extra), few)
    commands += study(request, request.row("long"), rated(CORE, *held_out, *LONG, *extra), few, times=40 / 12)
    if request.dataset == DATASETS["matched"]:
        ten = dataclasses.replace(request, dataset="cifar10", copy="")
        commands += study(ten, ten.row(), rated(CORE, *whole("cifar10", extra), *extra), few)
    return commands


def commands_of(request: Request) -> list[Command]:
    """Lists for each seed stage 1, stage 2, the label study and the analysis; then the summary."""
    if request.profile == "matched":
        return matched(request)
    # flags of ARGS go to all variants: they must differ in nothing but the hierarchy
    colour = COLOUR.get(request.profile, []) if request.dataset.startswith("cifar") else []
    more, times = [*colour, *request.extra], 2.2 if colour else 1.0  # 20 epochs instead of 6
    noisy = NOISE_SEEDS[request.profile]
    return study(request, request.row(), variants(ARMS), request.seeds, more, noisy, times=times)


def pages(request: Request) -> str:
    """What to open after a run: the viewer of each seed."""
    if request.settings:
        return f"copy the best rates into FLAT_RATE and AWARE_RATE of {shown(Path(__file__))}"
    top = RUNS_ROOT / "hierarchy" / request.row()
    views = [shown(top / f"seed{seed}" / "analysis" / "view.html") for seed in request.seeds]
    return "open in a browser: " + "  ".join(views)


REPRODUCTION = Reproduction(
    "hierarchy", "hierarchy_cnn_torch", "torch", commands_of, DATASETS, PAPER_GIGABYTES, closing=pages
)

if __name__ == "__main__":
    run(REPRODUCTION)
