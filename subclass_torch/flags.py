"""Command line of notebook.py: the authors' flags verbatim, ours, and how both resolve. No framework import."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from typing import Any

from reproduction.runtime.flags import (
    CommonConfig,
    Parser,
    add_common,
    as_dict,
    dataset_name,
    finish_parsing,
    flag,
    number,
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


def make_parser() -> Parser:
    """The parser; flags that depend on the data set or on --compat have the default None."""
    p = Parser("notebook.py", "Subclass deep neural networks: find the neglected classes, then train on subclasses.")
    g = p.original_group()
    g.add_argument(
        "--dataset",
        type=dataset_name,
        default="cifar10",
        help="cifar10, cifar100, svhn, another set of python -m datasets, or folder:PATH",
    )
    g.add_argument("--model", choices=MODELS, default="vgg16", help="network (WRN: 28-10, for svhn 16-8)")
    g.add_argument("--batch_size", type=whole(1), default=128, help="batch size of training and test (default 128)")
    g.add_argument("--epochs_class", type=whole(1), default=10, help="epochs of stage 1 (default 10)")
    g.add_argument("--epochs", type=whole(1), default=300, help="epochs of stage 2 (default 300)")
    g.add_argument("--learning_rate", type=number(0, above=True), help="learning rate (default 0.1; svhn 0.01)")
    g.add_argument(
        "--data_augmentation", action="store_true", default=None, help="crop and mirror (default: on; svhn off)"
    )
    g.add_argument("--cutout", action="store_true", help="apply cutout")
    g.add_argument("--subclass", action="store_true", help="the method; without it the plain network is trained")
    g.add_argument(
        "--subclass_label_weight",
        type=number(0, 1),
        default=0.9,
        help="w of the loss: an active other half of the class costs 1 - w (default 0.9)",
    )
    g.add_argument("--numClasses2Repartition", type=whole(0), default=2, help="classes to split (default 2)")
    g.add_argument("--numSubclassesPerClass", type=whole(1), default=2, help="subclasses of each of them (default 2)")
    g.add_argument("--n_holes", type=whole(0), default=1, help="cutout holes (default 1)")
    g.add_argument("--length", type=whole(0), default=16, help="side of a hole in pixels (default 16)")
    g.add_argument("--no-cuda", action="store_true", help="same as --device cpu")
    g.add_argument("--seed", type=whole(0), default=0, help="decides all random draws (default 0)")
    a = p.additions
    a.add_argument("--no-data_augmentation", "--no-data-augmentation", action="store_false", dest="data_augmentation")
    flag(
        a,
        "--compat",
        choices=["paper", "official"],
        default="paper",
        help="official: set every switch to the released behaviour",
    )
    a.add_argument(
        "--stage", choices=["all", "identify", "train"], default="all", help="identify: stage 1; train: stage 2"
    )
    a.add_argument(
        "--neglected",
        metavar="FILE",
        help="file of neglected classes: *_neglected.json of stage 1, or the mean over seeds; for --stage train, or "
        "for a plain network that reports their accuracy",
    )
    flag(a, "--baseline-loss", choices=["sigmoid", "softmax"], default="sigmoid", help="loss without --subclass")
    flag(a, "--beside", metavar="FOLDER", help="finished plain run to compare with (confusion, gains)")
    flag(
        a, "--always-subclass", action="store_true", default=None, help="run the method without --subclass too; SDN-D01"
    )
    flag(a, "--stage1-lr", choices=["scheduled", "constant"], help="constant: stage 1 ignores the schedule; SDN-D04")
    flag(
        a,
        "--neglect-weight",
        choices=["batch", "sample"],
        help="add a degree once for each batch, or once for each sample of the class; SDN-D05",
    )
    flag(a, "--neglect-total", choices=["mean", "compound"], help="mean, or the released running total; SDN-D06")
    flag(a, "--mixing", choices=["wide", "wrap"], help="average, or sums that wrap at 256; SDN-D10")
    flag(a, "--kmeans-view", choices=["plain", "augmented"], help="images for k-means; SDN-D12")
    flag(a, "--milestones", type=whole_list, help='epochs of stage 2 after which the rate falls, "60 120 160"')
    flag(a, "--gamma", type=number(0, 1, above=True), help="factor at a milestone (default 0.2; svhn 0.1)")
    flag(a, "--subset", type=whole(0), default=0, help="train on a fixed stratified subset of N images (0: all)")
    flag(a, "--max-steps", type=whole(0), default=0, help="stop each stage after N steps (0: never)")
    flag(
        a,
        "--chance-epochs",
        type=whole(0),
        metavar="N",
        help="stop a stage whose training accuracy is at chance after N epochs (0: no check; default: a warning after "
        f"{CHANCE_EPOCHS}; with --compat official never more than a warning)",
    )
    flag(a, "--checkpoint-steps", type=whole(0), default=0, help="also save the full state every N steps")
    flag(
        a,
        "--amp",
        choices=["bf16", "tf32", "auto"],
        help="bf16: autocast (auto: if the device computes in it); tf32: TF32 products on a GPU (default float32)",
    )
    flag(
        a,
        "--schedule",
        choices=["steps", "onecycle"],
        default="steps",
        help="onecycle: the rate rises to --learning_rate and falls again, over all updates of the stage",
    )
    flag(a, "--eval-batch", type=whole(0), default=0, help="batch size of a test (0: --batch_size)")
    flag(
        a,
        "--holdout",
        type=whole(0),
        default=0,
        help="test on N training images that are not trained on, instead of the test split (0: test split)",
    )
    flag(
        a,
        "--repartition",
        choices=["neglected", "random"],
        default="neglected",
        help="random: split equally many other classes instead, drawn once for all seeds",
    )
    flag(
        a,
        "--copies",
        choices=["mixed", "plain", "none"],
        default="mixed",
        help="what doubles a split class: mixed images, copies of its images, or nothing",
    )
    flag(a, "--compile", action="store_true", help="torch.compile")
    flag(a, "--channels-last", action="store_true", help="channels-last memory format")
    flag(a, "--deterministic", action="store_true", help="deterministic GPU kernels")
    flag(a, "--threads", type=whole(0), default=0, help="CPU threads (0: all cores)")
    flag(a, "--workers", type=whole(0), default=0, help="accepted without effect: the device makes the batches")
    names = ("--data-dir", "--data_dir", "--data-root", "--data_root")
    a.add_argument(*names, default=str(DATA_ROOT), metavar="DIR", help="data sets (default: data/ of the repository)")
    flag(
        a, "--name", help="run folder below --runs-dir (default: <dataset>_<model>, with _baseline without --subclass)"
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
        "data_augmentation": not svhn, "learning_rate": 0.01 if svhn else 0.1, "gamma": 0.1 if svhn else 0.2,
        "milestones": [80, 120, 160, 220] if svhn else [60, 120, 160, 220, 260], "chance_epochs": CHANCE_EPOCHS,
    }  # fmt: skip
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
    if classes and subclass and args.numClasses2Repartition > classes:
        raise UserError(f"--numClasses2Repartition {args.numClasses2Repartition}: {args.dataset} has {classes} classes")
    if args.stage != "all" and not subclass:
        raise UserError(f"--stage {args.stage}: needs --subclass; without it there is one stage only")
    if args.neglected and subclass and args.stage != "train":
        raise UserError("--neglected: only with --stage train")
    if classes and args.repartition == "random" and 2 * args.numClasses2Repartition > classes:
        raise UserError(f"--repartition random: {args.numClasses2Repartition} other classes of {classes} do not exist")
    if args.name is None:
        stem = args.dataset.removeprefix("folder:").strip("/").rpartition("/")[2]
        word = "".join(c if c.isalnum() else "_" for c in stem)
        values["name"] = f"{word}_{args.model}" + ("" if subclass else "_baseline")
    return Config(
        **values, num_classes=classes, num_subclasses=classes + added if classes else None,
        processes=int(os.environ.get("WORLD_SIZE", "1")),
    )  # fmt: skip


def parse(argv: list[str] | None = None) -> Config:
    """Parses and resolves the flags; --help and --print-config print and exit here."""
    return finish_parsing(make_parser(), resolve, argv)


_NOT_FLAGS = {"stage", "neglected", "beside", "workers", "no_cuda", "checkpoint_steps", "chance_stops"}


def of_run(config: Config, stage1: bool) -> dict[str, Any]:
    """The part of the configuration that decides what a stage computes; a run folder belongs to it."""
    left_out = _NOT_FLAGS | (STAGE2_ONLY if stage1 else frozenset())
    # the check for chance accuracy computes nothing; its default stays, which is in the records of older runs
    values = as_dict(config) | {"chance_epochs": CHANCE_EPOCHS}
    unchanged = {name for name, value in SINCE.items() if values[name] == value}
    return {name: value for name, value in values.items() if name not in left_out | unchanged}
