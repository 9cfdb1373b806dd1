"""`make reproduce-class2str`: both stages of every row and seed, then the comparison. A profile only fills in flags."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from class2str_tf import matched
from class2str_tf.flags import RELEASED_DIGITS, SETTINGS, settings_of
from reproduction.launch.pipeline import Command, Reproduction, Request, run
from reproduction.runtime.run_folder import RUNS_ROOT, UserError, shown

DATASETS = {"paper": "cifar10", "matched": "cifar10", "cpu": "mnist5k", "smoke": "mnist5k"}
PAPER_GIGABYTES = 0.17  # CIFAR-10
STAGE2_SCRIPTS = {"mnist": "train_rnn_classifer_mnist.py", "cifar100": "train_rnn_classifier_cifar100.py"}

# Loss weights w_c, w_i, w_l2: the README's for CIFAR-10, the script's for MNIST, ours for the others (C2S-D23, C2S-D13)
WEIGHTS = {"mnist": (1, 100, 0.01), "cifar10": (4, 100, 0.1), "cifar100": (4, 100, 0.03), "imagenet": (4, 100, 0.03)}
# At the cpu profile's ten times larger learning rate the digits' bits stay near a coin under w_l2 0.01; measured: ours
CPU_WEIGHTS = {**WEIGHTS, "mnist": (1, 100, 0.03)}

# Variants of stage 2 that each profile runs: name -> flags. The first is the row itself.
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "paper": {
        "": ("--lh-preset", "released"),
        "budget": ("--lh-preset", "budget"),
        "stop": ("--label-grad", "stop"),
        "frozen": ("--finetune", "none"),
        "released": ("--label-grad", "stop", "--finetune", "none"),
    },
    "cpu": {  # frozen: the features are computed once, and a run takes minutes
        "": ("--lstm-units", "32,32", "--finetune", "none"),
        "released": ("--lh-preset", "released", "--finetune", "none"),
    },
    "smoke": {"": ("--lstm-units", "32,32", "--finetune", "none")},
}
# Hours of stage 1 and of stage 2 on its features, on a current GPU (LeNet: bound by the start of its kernels), minutes
# of both in the cpu profile on two cores with the seeds side by side: estimates
HOURS = {"vgg16": (3.0, 1.0), "lenet": (0.8, 0.1)}
MINUTES = (0.4, 0.3)
# ARGS that stage 1 has to know too (network, images, schedule, speed): where one is given it is run again for the row
BOTH_STAGES = (
    "--model", "--F", "--features", "--lenet", "--lenet-relu", "--pixels", "--epochs", "--max-steps", "--one-cycle",
    "--augment", "--train-images", "--hold-out", "--legacy-batches", "--xla", "--amp",
)  # fmt: skip
# ARGS that are a variant of the paper's table; any other ARGS name their row after themselves
NAMED: dict[tuple[str, ...], str] = {
    ("--label-grad", "stop"): "stop",
    ("--finetune", "all"): "finetune",
    ("--lh-preset", "budget"): "budget",
}


def commands_of(request: Request) -> list[Command]:
    """Stage 1 once per seed, then stage 2 of every variant on it.

    Raises:
      UserError: profile matched and ARGS that would change stage 1, which all its variants share.
    """
    if request.profile == "matched":
        if changed := for_stage1(request.extra):
            raise UserError(f"ARGS: {' '.join(changed)}: profile matched fixes stage 1; use PROFILE=cpu or paper")
        return matched.commands_of(request)
    kind = next(name for name, row in SETTINGS.items() if settings_of(request.dataset)["hidden"] == row["hidden"])
    variants = dict(VARIANTS[request.profile])
    if request.extra:  # flags passed through make one row of their own
        named = NAMED.get(request.extra)
        variants = {named or "": (*variants[""], *request.extra)}
        request = dataclasses.replace(request, extra=()) if named else request
    commands = []
    for seed in request.seeds:
        first = _stage1(request, seed)
        commands.append(first)
        for variant, flags in variants.items():
            commands.append(_stage2(request, seed, kind, variant, flags, first.folder))
    return commands


def for_stage1(extra: tuple[str, ...]) -> tuple[str, ...]:
    """The part of ARGS that stage 1 gets: flags of BOTH_STAGES with their values."""
    words: list[str] = []
    mine = False
    for word in extra:
        if word.startswith("--"):
            mine = word.partition("=")[0].replace("_", "-") in BOTH_STAGES
        if mine:
            words.append(word)
    return tuple(words)


def _stage1(request: Request, seed: int) -> Command:
    extra = for_stage1(request.extra)
    row = request.row() if extra else request.base_row()
    folder = RUNS_ROOT / "class2str" / row / f"seed{seed}"
    readme_line = request.profile == "paper" and request.dataset == "cifar10"
    flags = ["--B=256" if readme_line else "--B=200", "--dataset", request.dataset]
    flags += ["--name", f"seed{seed}", "--model", _model(request), "--seed", str(seed)]
    flags += {
        "paper": [],
        "cpu": ["--lr", "1e-3", "--epochs", "20"],
        "smoke": ["--lr", "1e-3", "--max-steps", "40"],
    }[request.profile]
    flags += [*_subset(request), *extra, "--runs-dir", shown(folder.parent), *request.shared_flags(row)]
    return Command(
        row,
        f"stage 1, CNN + FC, seed {seed}",
        "class2str_tf/train_fc_classifier.py",
        tuple(flags),
        folder,
        gpu_hours=HOURS[_model(request)][0],
        cpu_minutes=_large(request) * MINUTES[0],
        worker=f"seed{seed}",
    )


def _stage2(request: Request, seed: int, kind: str, variant: str, variant_flags: tuple[str, ...], cnn: Path) -> Command:
    row = request.row(variant)
    folder = RUNS_ROOT / "class2str" / row / f"seed{seed}"
    w_c, w_i, w_l2 = (WEIGHTS if request.profile == "paper" else CPU_WEIGHTS)[kind]
    flags = ["--B=200", "--dataset", request.dataset, "--name", f"seed{seed}", "--model", _model(request)]
    flags += [f"--w_c={w_c}", f"--w_i={w_i}", f"--w_l2={w_l2}", "--seed", str(seed)]
    flags += {
        "paper": [],
        "cpu": ["--lr", "1e-3", "--lr-drop-at", "0.8", "--epochs", "75", "--retry-collisions", "3"],
        "smoke": ["--lr", "1e-3", "--max-steps", "60"],
    }[request.profile]
    flags += [*_subset(request), *variant_flags, "--runs-dir", shown(folder.parent)]  # ARGS win over the profile
    if folder != cnn:
        flags += ["--cnn-dir", shown(cnn)]
    script = "class2str_tf/" + STAGE2_SCRIPTS.get(kind, "train_rnn_classifier_cifar.py")
    label = f" ({variant})" if variant else ""
    hours = HOURS[_model(request)][1 if "none" in flags else 0]  # with the CNN trained along as long as stage 1
    minutes = _large(request) * MINUTES[1]
    minutes *= 4 if kind == "cifar100" else 1  # 100 classes hardly ever get 100 strings: every initialisation is run
    return Command(
        row,
        f"stage 2, LH + Class2Str{label}, seed {seed}",
        script,
        (*flags, *request.shared_flags(row)),
        folder / "rnn",
        gpu_hours=hours,
        cpu_minutes=minutes,
        worker=f"seed{seed}",
    )


def _model(request: Request) -> str:
    small = request.profile != "paper" or settings_of(request.dataset)["hidden"] == SETTINGS["mnist"]["hidden"]
    return "lenet" if small else "vgg16"


def _large(request: Request) -> float:
    """How much longer 10,000 images take than the 4,000 digits."""
    return 1.0 if request.profile == "paper" or not _subset(request) else 2.2


def _subset(request: Request) -> list[str]:
    """The paper profile's MNIST images are those of the released reader; other profiles cut large sets to 10,000."""
    if request.profile == "paper" and request.dataset == "mnist":
        return ["--train-images", RELEASED_DIGITS]  # DEVIATION C2S-D30
    if request.profile == "paper" or request.dataset == "mnist5k" or request.dataset.startswith("folder:"):
        return []
    return ["--train-images", "10000"]


REPRODUCTION = Reproduction("class2str", "class2str_tf", "tensorflow", commands_of, DATASETS, PAPER_GIGABYTES)

if __name__ == "__main__":
    run(REPRODUCTION)
