"""Command line of notebook.py: the authors' flags verbatim, ours, and how both resolve. No framework import."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from reproduction.runtime.flags import (
    CommonConfig,
    FlagTable,
    Parser,
    add_common,
    add_flags,
    dataset_name,
    finish_parsing,
    number,
    run_flags,
    seed,
    whole,
)
from reproduction.runtime.run_folder import DATA_ROOT, UserError

MODELS = ("wideresnet", "vgg16", "wrn_small", "vgg_small", "vgg_fast")  # the last three are ours
NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "mnist": 10, "mnist5k": 10, "fashion_mnist": 10}
CHANCE_EPOCHS = 5

# Switches of the list of deviations: flag -> (default, value of --compat official). None: by data set.
SWITCHES: dict[str, tuple[Any, Any]] = {
    "always_subclass": (False, True),
    "data_augmentation": (None, True),
    "learning_rate": (None, 0.1),
    "stage1_lr": ("scheduled", "constant"),
    "neglect_weight": ("batch", "sample"),
    "neglect_total": ("mean", "compound"),
    "mixing": ("wide", "wrap"),
    "kmeans_view": ("plain", "augmented"),
}
STAGE2_ONLY = frozenset(
    "epochs milestones gamma subclass_label_weight numClasses2Repartition numSubclassesPerClass num_subclasses mixing "
    "kmeans_view baseline_loss subclass always_subclass repartition copies".split()
)
# Flags that older runs do not know: at these values, which compute the same, they are not in the flags of a run.
SINCE: dict[str, Any] = {
    "schedule": "steps", "eval_batch": 0, "holdout": 0, "repartition": "neglected", "copies": "mixed",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """Resolved flags of notebook.py under their names; `make_parser` describes them.

    Attributes that are no flags:
      argv: the command line.
      chance_stops: whether training accuracy at chance is an error.
      num_classes: C; None for a folder, whose classes are known once it is read.
      num_subclasses: S; None for a folder.
      processes: how many torchrun has started.
    """

    dataset: str
    model: str
    batch_size: int
    epochs_class: int
    epochs: int
    learning_rate: float
    data_augmentation: bool
    cutout: bool
    subclass: bool
    subclass_label_weight: float
    numClasses2Repartition: int
    numSubclassesPerClass: int
    n_holes: int
    length: int
    no_cuda: bool
    compat: str
    stage: str
    neglected: str | None
    baseline_loss: str
    beside: str | None
    always_subclass: bool
    stage1_lr: str
    neglect_weight: str
    neglect_total: str
    mixing: str
    kmeans_view: str
    milestones: list[int]
    gamma: float
    subset: int
    max_steps: int
    chance_epochs: int
    checkpoint_steps: int
    amp: str | None
    schedule: str
    eval_batch: int
    holdout: int
    repartition: str
    copies: str
    compile: bool
    channels_last: bool
    deterministic: bool
    threads: int
    workers: int
    print_config: bool
    argv: list[str] = field(default_factory=list)
    chance_stops: bool
    num_classes: int | None
    num_subclasses: int | None
    processes: int


def whole_list(text: str) -> list[int]:
    """Type of --milestones: ascending epochs, separated by blanks or commas; "" for none."""
    try:
        values = [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        values = [-1]
    if any(value < 1 for value in values) or values != sorted(set(values)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of ascending epochs >= 1")
    return values


ORIGINALS: FlagTable = {  # flags that depend on the data set or on --compat have the default None
    "--dataset": dict(
        type=dataset_name,
        default="cifar10",
        help="cifar10, cifar100, svhn, another set of python -m datasets, or folder:PATH",
    ),
    "--model": dict(choices=MODELS, default="vgg16", help="network (WRN: 28-10, for svhn 16-8)"),
    "--batch_size": dict(type=whole(1), default=128, help="batch size of training and test (default 128)"),
    "--epochs_class": dict(type=whole(1), default=10, help="epochs of stage 1 (default 10)"),
    "--epochs": dict(type=whole(1), default=300, help="epochs of stage 2 (default 300)"),
    "--learning_rate": dict(type=number(0, above=True), help="learning rate (default 0.1; svhn 0.01)"),
    "--data_augmentation": dict(action="store_true", default=None, help="crop and mirror (default: on; svhn off)"),
    "--cutout": dict(action="store_true", help="apply cutout"),
    "--subclass": dict(action="store_true", help="the method; without it the plain network is trained"),
    "--subclass_label_weight": dict(
        type=number(0, 1), default=0.9, help="w of the loss: an active sibling subclass costs 1 - w (default 0.9)"
    ),
    "--numClasses2Repartition": dict(type=whole(0), default=2, help="classes to split (default 2)"),
    "--numSubclassesPerClass": dict(type=whole(1), default=2, help="subclasses of each of them (default 2)"),
    "--n_holes": dict(type=whole(0), default=1, help="cutout holes (default 1)"),
    "--length": dict(type=whole(0), default=16, help="side of a hole in pixels (default 16)"),
    "--no-cuda": dict(action="store_true", help="same as --device cpu"),
    "--seed": dict(type=seed, default=0, help="decides all random draws (default 0)"),
}
ADDITIONS: FlagTable = {
    "--compat": dict(
        choices=["paper", "official"], default="paper", help="official: set every switch to the released behaviour"
    ),
    "--stage": dict(choices=["all", "identify", "train"], default="all", help="identify: stage 1; train: stage 2"),
    "--neglected": dict(
        metavar="FILE",
        help="file of neglected classes: *_neglected.json of stage 1, or the mean over seeds; for --stage train, or "
        "for a plain network that reports their accuracy",
    ),
    "--baseline-loss": dict(choices=["sigmoid", "softmax"], default="sigmoid", help="loss without --subclass"),
    "--beside": dict(metavar="FOLDER", help="finished plain run to compare with (confusion, gains)"),
    "--always-subclass": dict(action="store_true", default=None, help="run the method without --subclass too; SDN-D01"),
    "--stage1-lr": dict(choices=["scheduled", "constant"], help="constant: stage 1 ignores the schedule; SDN-D04"),
    "--neglect-weight": dict(
        choices=["batch", "sample"],
        help="add a degree once for each batch, or once for each sample of the class; SDN-D05",
    ),
    "--neglect-total": dict(choices=["mean", "compound"], help="mean, or the released running total; SDN-D06"),
    "--mixing": dict(choices=["wide", "wrap"], help="average, or sums that wrap at 256; SDN-D10"),
    "--kmeans-view": dict(choices=["plain", "augmented"], help="images for k-means; SDN-D12"),
    "--milestones": dict(type=whole_list, help='epochs of stage 2 after which the rate falls, "60 120 160"'),
    "--gamma": dict(type=number(0, 1, above=True), help="factor at a milestone (default 0.2; svhn 0.1)"),
    "--subset": dict(type=whole(0), default=0, help="train on a fixed stratified subset of N images (0: all)"),
    "--max-steps": dict(type=whole(0), default=0, help="stop each stage after N steps (0: never)"),
    "--chance-epochs": dict(
        type=whole(0),
        metavar="N",
        help="stop a stage whose training accuracy is at chance after N epochs (0: no check; default: a warning after "
        f"{CHANCE_EPOCHS}; with --compat official never more than a warning)",
    ),
    "--checkpoint-steps": dict(type=whole(0), default=0, help="also save the full state every N steps"),
    "--amp": dict(
        choices=["bf16", "tf32", "auto"],
        help="bf16: autocast (auto: if the device computes in it); tf32: TF32 products on a GPU (default float32); "
        "SDN-D28",
    ),
    "--schedule": dict(
        choices=["steps", "onecycle"],
        default="steps",
        help="onecycle: the rate rises to --learning_rate and falls again, over all updates of the stage",
    ),
    "--eval-batch": dict(type=whole(0), default=0, help="batch size of a test (0: --batch_size)"),
    "--holdout": dict(
        type=whole(0),
        default=0,
        help="test on N training images that are not trained on, instead of the test split (0: test split)",
    ),
    "--repartition": dict(
        choices=["neglected", "random"],
        default="neglected",
        help="random: split equally many other classes than those of --neglected, drawn once for all seeds",
    ),
    "--copies": dict(
        choices=["mixed", "plain", "none"],
        default="mixed",
        help="what doubles a split class: mixed images, copies of its images, or nothing",
    ),
    "--compile": dict(action="store_true", help="torch.compile; SDN-D28"),
    "--channels-last": dict(action="store_true", help="channels-last memory format; SDN-D28"),
    "--deterministic": dict(action="store_true", help="deterministic GPU kernels"),
    "--threads": dict(type=whole(0), default=0, help="CPU threads (0: all cores)"),
    "--workers": dict(type=whole(0), default=0, help="accepted without effect: the device makes the batches"),
}


def make_parser() -> Parser:
    """The parser."""
    p = Parser("notebook.py", "Subclass deep neural networks: find the neglected classes, then train on subclasses.")
    for name, options in ORIGINALS.items():  # --no-cuda has no second spelling
        p.originals.add_argument(name, **options)
    no_augmentation = ("--no-data_augmentation", "--no-data-augmentation")
    p.additions.add_argument(
        *no_augmentation, action="store_false", dest="data_augmentation", help="no crop and mirror; SDN-D02"
    )
    add_flags(p.additions, ADDITIONS)
    names = ("--data-dir", "--data_dir", "--data-root", "--data_root")
    p.additions.add_argument(
        *names, default=str(DATA_ROOT), metavar="DIR", help="data sets (default: data/ of the repository)"
    )
    p.additions.add_argument(
        "--name", help="run folder below --runs-dir (default: <dataset>_<model>, with _baseline without --subclass)"
    )
    add_common(p, "subclass")
    return p


def resolve(args: argparse.Namespace) -> Config:
    """Fills in what the data set or --compat decides.

    Raises:
      UserError: more classes to repartition than exist, or flags that exclude each other.
    """
    values = vars(args).copy()
    svhn = args.dataset == "svhn"
    by_data_set = {
        # DEVIATION SDN-D02: off for svhn, as the flag's comment says. DEVIATION SDN-D03: 0.01 for svhn, likewise
        "data_augmentation": not svhn,
        "learning_rate": 0.01 if svhn else 0.1,
        "gamma": 0.1 if svhn else 0.2,
        "milestones": [80, 120, 160, 220] if svhn else [60, 120, 160, 220, 260],
        "chance_epochs": CHANCE_EPOCHS,
    }
    defaults = by_data_set | {
        name: official if args.compat == "official" else ours
        for name, (ours, official) in SWITCHES.items()
        if ours is not None or args.compat == "official"
    }
    values |= {name: value for name, value in defaults.items() if values[name] is None}
    subclass = values["subclass"] = args.subclass or values["always_subclass"]
    values["chance_stops"] = args.chance_epochs is not None and args.compat != "official"
    if args.no_cuda:
        values["device"] = "cpu"
    classes = NUM_CLASSES.get(args.dataset)
    added = args.numClasses2Repartition * (args.numSubclassesPerClass - 1) if subclass else 0
    if classes and (subclass or args.neglected) and args.numClasses2Repartition > classes:
        raise UserError(f"--numClasses2Repartition {args.numClasses2Repartition}: {args.dataset} has {classes} classes")
    if args.stage != "all" and not subclass:
        raise UserError(f"--stage {args.stage}: needs --subclass; without it there is one stage only")
    if args.neglected and subclass and args.stage != "train":
        raise UserError("--neglected: only with --stage train")
    if args.repartition == "random" and not args.neglected:
        raise UserError("--repartition random: needs --neglected FILE, a ranking that all seeds share (ranking.py)")
    if classes and args.repartition == "random" and 2 * args.numClasses2Repartition > classes:
        raise UserError(f"--repartition random: {args.numClasses2Repartition} other classes of {classes} do not exist")
    if args.name is None:
        stem = args.dataset.removeprefix("folder:").strip("/").rpartition("/")[2]
        word = "".join(c if c.isalnum() else "_" for c in stem)
        values["name"] = f"{word}_{args.model}" + ("" if subclass else "_baseline")
    return Config(
        **values,
        num_classes=classes,
        num_subclasses=classes + added if classes else None,
        processes=int(os.environ.get("WORLD_SIZE", "1")),
    )


def parse(argv: list[str] | None = None) -> Config:
    """Parses and resolves the flags; --help and --print-config print and exit here."""
    return finish_parsing(make_parser(), resolve, argv)


def identify_command(script: str, argv: list[str]) -> str:
    """Returns the command line that runs stage 1 for the given one, to paste.

    Args:
      script: notebook.py or notebook_yt8m.py.
      argv: arguments of the run that lacks stage 1.
    """
    words = [word for word in argv if word != "--overwrite"]
    line = shlex.join(["python", f"subclass_torch/{script}", *words, "--stage", "identify"])
    return re.sub("--stage[ =](train|create) ", "", line)


_NOT_FLAGS = {"stage", "neglected", "beside", "workers", "no_cuda", "checkpoint_steps", "chance_stops"}


def of_run(config: Config, stage1: bool) -> dict[str, Any]:
    """The part of the configuration that decides what a stage computes; a run folder belongs to it."""
    left_out = _NOT_FLAGS | (STAGE2_ONLY if stage1 else frozenset())
    # the check for chance accuracy computes nothing; its default stays, which is in the records of older runs
    values = run_flags(config, SINCE) | {"chance_epochs": CHANCE_EPOCHS}
    return {name: value for name, value in values.items() if name not in left_out}
