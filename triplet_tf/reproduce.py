"""`make reproduce-triplet`: the softmax baseline and three networks with two heads per seed, then the comparison.

Profile matched: MobileNet from ImageNet weights; all variants have the same batches, rate and steps.
"""

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
from datasets import weights
from datasets.fetch import find, places
from datasets.manifest import entry
from reproduction.launch.pipeline import Command, Reproduction, Request, run
from reproduction.runtime.run_folder import RUNS_ROOT, UserError, shown
from triplet_tf.config.base_config import MODES, PAPER, db_name, parse, resolve, training_parser
from triplet_tf.data_sampling.image_lists import OFFICIAL

DATASETS = {"paper": "aircrafts", "matched": "dogs", "cpu": "mnist5k", "smoke": "mnist5k"}
PAPER_GIGABYTES = 2.9  # FGVC-Aircraft (2.75, remembered) and the ResNet-50 checkpoint
STAGE2 = ("cntr", "semi_hard", "hard")
SCRIPT = "triplet_tf/fast_fgvr_semi_train.py"
HOURS = 1.9  # of 40,000 steps of ResNet-50 at the authors' 0.17 s a step
CPU_MINUTES = {"paper": 0.0, "matched": 6.0, "cpu": 0.6, "smoke": 0.2}  # no command waits for another: two at a time
RATE = "0.003"  # of profile matched
COLOUR_TIMES = 7  # three times the steps on CIFAR, and ten times the test images at each of the tests
RANKING = (
    "--margin", "--triplet_loss_lambda", "--center-update", "--center_update", "--emb_dim", "--distance",
    "--first-third", "--first_third",
)  # fmt: skip

SMALL = ("--net", "mobile", "--aug_style", "img", "--frame_size", "64", "--resize_sides", "68,76", "--bn_decay", "0.9",
         "--no-flip", "--init", "random")  # fmt: skip
FLAGS = {
    # all else: the defaults, which are the paper's; fewer, larger test batches: a network there does not mix images
    "paper": ("--net", "resnet50", "--aug_style", "img", "--eval-batch", "128"),
    "cpu": (*SMALL, "--train_iters", "300", "--logging_threshold", "50", "--test_interval", "3"),
    "matched": tuple(
        "--net mobile --aug_style img --frame_size 128 --resize_sides 136,144 --bn_decay 0.99 "
        f"--learning_rate {RATE} --train_iters 1500 --logging_threshold 50 --test_interval 15 "
        "--eval-batch 128 --amp auto --image-cache".split()
    ),
    "smoke": (*SMALL, "--train_iters", "4", "--logging_threshold", "2", "--test_interval", "1", "--batch_size", "8"),
}
# What a row of profile matched adds to its mode; "" is the paper's own method as released.
MATCHED: dict[str, tuple[str, ...]] = {
    "vanilla": ("--train_mode", "vanilla", "--vanilla_batches", "grouped"),
    "semi_hard": ("--train_mode", "semi_hard"),
    "": ("--train_mode", "hard"),
    "healthy": ("--train_mode", "hard", "--first_third", "semi_hard"),
    "shuffled": ("--train_mode", "vanilla"),
    "cntr": ("--train_mode", "cntr"),
    "soft": ("--train_mode", "hard", "--margin", "soft"),
}
CORE = ("vanilla", "semi_hard", "", "healthy")
FURTHER_SEEDS = 3
# Settings that may keep hardest triplets from collapsing, in the order of the tries; the first that does is `healthy`.
TRIES: dict[str, tuple[str, ...]] = {
    "try-first_third": ("--first_third", "semi_hard"),
    "try-soft": ("--learning_rate", "0.001", "--margin", "soft"),
    "try-lambda": ("--first_third", "lambda"),
    "try-euclidean": ("--distance", "euclidean"),
}
# Rates for softmax alone, the baseline; all variants of the profile have the same.
RATES = ("0.001", "0.003", "0.01")
SHORT = ("--eval_split", "val", "--train_iters", "500")
# 300 steps pass 10,000 images of CIFAR once: too early to compare losses
COLOUR = {"cpu": ("--train_iters", "900")}
ALSO = {"aircraft": "aircrafts", "flowers102": "flowers", "nabirds": "birds"}  # what `make data-` calls them


def commands_of(request: Request) -> list[Command]:
    """Lists per seed stage 1 (vanilla), then stage 2 in each mode; ARGS go to all, or name the one mode to run.

    Raises:
      UserError: flags that one of the commands refuses; better now than after the others have trained.
    """
    commands = _commands_of(request)
    free = request.profile != "matched" and "--train_mode" not in str(request.extra)
    for command in commands:
        args = training_parser().parse_args(command.flags)
        args.argv = command.flags
        try:
            resolve(args)
        except UserError as error:
            advice = "; add --train_mode hard" if free and "with --train_mode hard" in str(error) else ""
            raise UserError(f"{error}{advice}") from None
    return commands


def _commands_of(request: Request) -> list[Command]:
    if request.profile == "matched" and any(word.startswith("--train_mode") for word in request.extra):
        raise UserError("ARGS: --train_mode: profile matched fixes the modes; use PROFILE=cpu or paper")
    if request.profile == "matched" and request.settings:
        every = ("--test_interval", "1")  # 50 steps
        tries = [(name, MATCHED[""], (*every, *flags)) for name, flags in TRIES.items()]
        tries += [(f"rate-{rate}", MATCHED["vanilla"], ("--learning_rate", rate)) for rate in RATES]
        return [
            _command(request, seed, name, request.row(name), request.extra, mode, (*SHORT, *more))
            for seed in request.seeds[:1]
            for name, mode, more in tries
        ]
    if request.profile == "matched":
        return [
            _command(request, seed, variant, request.row(variant), request.extra, MATCHED[variant])
            for number, seed in enumerate(request.seeds)
            for variant in (MATCHED if request.all_rows and number < FURTHER_SEEDS else CORE)
        ]
    modes, extra = modes_of(request.extra)
    row = dataclasses.replace(request, extra=extra).row()
    return [
        _command(request, seed, mode, row if mode == "hard" else f"{row}-{mode}", extra, ("--train_mode", mode))
        for seed in request.seeds
        for mode in modes
    ]  # the paper's own method has the row itself


def checked(name: str) -> str:
    """Returns the name of a data set of the paper, or one of datasets.NAMES, csv:NAME or folder:PATH.

    Raises:
      ValueError: with what is allowed.
    """
    if name in datasets.NAMES:
        return name
    try:
        return db_name(ALSO.get(name, name))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{error}, or one of {', '.join(datasets.NAMES)}") from None


def modes_of(extra: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the modes to run, and ARGS without --train_mode. Stage 1 runs always: the others are compared with it.

    Raises:
      UserError: an unknown mode.
    """
    words = [part for word in extra for part in (word.split("=", 1) if word.startswith("--train_mode=") else [word])]
    if "--train_mode" not in words:
        return ("vanilla", *STAGE2), tuple(words)
    place = words.index("--train_mode")
    mode = words[place + 1] if place + 1 < len(words) else ""
    if mode not in MODES:
        raise UserError(f"ARGS: --train_mode {mode}: choose {', '.join(MODES)}")
    others = tuple(words[:place] + words[place + 2 :])
    return ("vanilla",) if mode == "vanilla" else ("vanilla", mode), others


def without_ranking(extra: tuple[str, ...], grouped: bool = False) -> tuple[str, ...]:
    """Returns ARGS without what only the second head knows, for stage 1; `grouped` batches hold --Triplet_K images."""
    unknown = RANKING if grouped else (*RANKING, "--Triplet_K")
    words = [part for word in extra for part in (word.split("=", 1) if word.startswith(unknown) else [word])]
    drop = {place + shift for place, word in enumerate(words) if word in unknown for shift in (0, 1)}
    return tuple(word for place, word in enumerate(words) if place not in drop)


def missing(request: Request, commands: Sequence[Command]) -> str:
    """Returns the commands that fetch what profile matched lacks here, data or weights, in one line; or ""."""
    if request.profile != "matched" or all((command.folder / "DONE").is_file() for command in commands):
        return ""
    config, fetch = parse(training_parser(), list(commands[0].flags)), []
    root, checkpoint = Path(config.data_dir), Path(config.pretrained_dir) / config.network.checkpoint
    option = f" --root {shown(root)}" if request.data_dir else ""
    if config.db_name in OFFICIAL:
        name = OFFICIAL[config.db_name]
        source = importlib.import_module(f"datasets.{name}").SOURCE
        archives = [find([file.name], places(root, *source.folders)) for file in entry(name).files]
        if not source.present(root) and not all(archives):
            fetch.append(f"python -m datasets.{name}{option}")
    packed = weights.PACKED.get(checkpoint.name, "")
    known = {packed, checkpoint.name} & set(weights.present(root).split(", "))
    if config.init == "imagenet" and packed and not known and not weights.is_there(checkpoint):
        fetch.append(f"python -m datasets.weights {packed}{option}")
    return f"not all files of PROFILE=matched are here; run {' and '.join(fetch)}, then this again" if fetch else ""


def _command(
    request: Request,
    seed: int,
    name: str,
    row: str,
    extra: tuple[str, ...],
    mode: tuple[str, ...],
    more: tuple[str, ...] = (),
) -> Command:
    """The command of one training.

    Args:
      request: of the user.
      seed: of the run.
      name: mode or variant, for people and for the worker.
      row: of the table.
      extra: ARGS.
      mode: flags of the mode.
      more: flags that the profile has otherwise; ARGS come after them.
    """
    folder = RUNS_ROOT / PAPER / row / f"seed{seed}"
    db = f"csv:{request.dataset}" if request.dataset in datasets.NAMES else request.dataset
    colour = COLOUR.get(request.profile, ()) if request.dataset.startswith("cifar") else ()
    vanilla = "vanilla" in mode
    if vanilla:
        extra = without_ranking(extra, any(word.endswith("grouped") for word in (*mode, *extra)))
    flags = ["--db_name", db, *mode, *FLAGS[request.profile], *more, *colour, *extra, "--seed", str(seed)]
    flags += ["--name", f"seed{seed}", "--runs-dir", shown(folder.parent), *request.shared_flags(row)]
    stage = "stage 1, softmax" if vanilla else f"stage 2, two heads ({name or 'hard'})"
    return Command(
        row,
        f"{stage}, seed {seed}",
        SCRIPT,
        tuple(flags),
        folder,
        gpu_hours=HOURS,
        worker=f"seed{seed}-{name or 'hard'}",
        cpu_minutes=CPU_MINUTES[request.profile] * (COLOUR_TIMES if colour else 0.4 if more else 1),
    )


REPRODUCTION = Reproduction(
    PAPER, "triplet_tf", "tensorflow", commands_of, DATASETS, PAPER_GIGABYTES, check=checked, missing=missing
)

if __name__ == "__main__":
    run(REPRODUCTION)
