"""The command lines of train.py and analyze.py and what they resolve to; imports no framework."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from reproduction.runtime.driver import first_gpu
from reproduction.runtime.flags import CommonConfig, FlagTable, Parser, add_common, add_flags, number, run_flags, whole
from reproduction.runtime.run_folder import UserError, read_json

ARMS = ("A0", "A1", "A2", "A3", "A4", "A5")
ARM_NAMES = {
    "A0": "flat",
    "A1": "hierarchy-aware",
    "A2": "random tree",
    "A3": "deep supervision with classes",
    "A4": "inverted: finest earliest",
    "A5": "flat, as many parameters as A1",
}
TRUNKS = ("alexnet32", "alexnet", "torchvision")
PRESETS = ("paper32", "small", "mini", "fast")
SIZES = {"alexnet32": 32, "alexnet": 227, "torchvision": 224}
TREES = ("official", "derived", "random")
OFFICIAL_BY_DEFAULT = ("cifar10", "cifar100")  # Fashion-MNIST has an official tree, of ours
SIMILARITIES = ("logits", "confusion", "profile", "weights", "responses")
PARTS = ("confusion", "arms", "responses", "probes", "quality")  # what analyze.py measures
# flags that older runs do not know, and the values at which a run computes what it did before there were these flags
SINCE: dict[str, Any] = {
    "lr_schedule": "drops", "label_smoothing": 0.0, "dropout": 0.5, "eval_batch": 0, "train_held_out": False,
    "groupings": 0, "rates": "",
}  # fmt: skip
# flags of a finished run without which its files mean nothing
NEEDED = ("dataset", "seed", "preset", "epochs", "tree", "image_size", "data_dir")


@dataclass(frozen=True, kw_only=True)
class Common(CommonConfig):
    """The resolved flags that both scripts have."""

    threads: int
    argv: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Config(Common):
    """The resolved flags of train.py under their own names; `lambda_` is --lambda, a word that Python has taken."""

    dataset: str
    trunk: str
    preset: str
    image_size: int
    stage: str
    arm: str
    tree: str
    similarity: str
    levels: str
    taps: str
    lambda_: float
    schedule: str
    bt_switch: str
    predict: str
    epochs: int
    batch: int
    lr: float
    augment: str
    bn: bool
    subset: int
    held_out: int
    curve_images: int
    keep_epochs: str
    flat_run: str | None
    label_noise: float
    split_class: int
    folds: int
    fold: int
    max_steps: int
    checkpoint_steps: int
    deterministic: bool
    amp: str | None
    compile: bool
    channels_last: bool
    lr_schedule: str
    label_smoothing: float
    dropout: float
    eval_batch: int
    train_held_out: bool


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig(Common):
    """The resolved flags of analyze.py under their own names."""

    run: str
    compare: str
    summary: str
    rates: str
    what: str
    response: str
    response_images: int
    probe_images: int
    probe_test_images: int
    permutations: int
    groupings: int
    bootstrap: int
    thumbs: str | None


@contextlib.contextmanager
def as_user_error() -> Iterator[None]:
    """Turns a ValueError of `method` into a UserError with the same text: flags or files of the user caused it."""
    try:
        yield
    except ValueError as error:
        raise UserError(error) from None


def parse_taps(text: str) -> list[tuple[str, int]]:
    """The value of --taps, such as conv2:2,conv3:9,conv4:20.

    Raises:
      UserError: not of that form.
    """
    out = []
    for word in filter(None, text.split(",")):
        tap, _, groups = word.strip().partition(":")
        if tap not in ("conv1", "conv2", "conv3", "conv4", "conv5") or not groups.isdecimal():
            raise UserError(f"--taps: {word!r} is not of the form conv2:9 (conv1 to conv5, number of groups)")
        out.append((tap, int(groups)))
    if len({tap for tap, _ in out}) < len(out):
        raise UserError(f"--taps: {text!r} names a layer twice")
    return sorted(out)


def parse_numbers(name: str, text: str) -> list[int]:
    """A comma-separated list of whole numbers.

    Raises:
      UserError: names the flag.
    """
    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise UserError(f"{name}: {text!r} is not a list of whole numbers such as 2,9,20") from None


TRAIN_FLAGS: FlagTable = {
    "--dataset": dict(
        default="fashion_mnist",
        metavar="NAME",
        help=f"{', '.join(datasets.NAMES)}, or folder:PATH (default fashion_mnist)",
    ),
    "--trunk": dict(choices=TRUNKS, default="alexnet32", help="layers of the network (default alexnet32)"),
    "--preset": dict(
        choices=PRESETS,
        help="widths of alexnet32 (default: mini on a CPU, paper32 on a GPU; fast: for short trainings)",
    ),
    "--image-size": dict(
        type=whole(24),
        default=0,
        help="pad smaller images to this side; larger ones keep their size (default: the trunk's)",
    ),
    "--stage": dict(choices=("flat", "aware"), default="flat", help="flat: stage 1; aware: stage 2 (default flat)"),
    "--arm": dict(
        choices=ARMS,
        help="A0 flat, A1 tree, A2 random tree, A3 classes everywhere, A4 finest first, A5 flat and larger",
    ),
    "--tree": dict(
        default="",
        metavar="TREE",
        help="official, derived, random or a JSON file (default: official for CIFAR, else derived)",
    ),
    "--similarity": dict(choices=SIMILARITIES, default="logits", help="what a derived tree compares (default logits)"),
    "--levels": dict(
        default="", metavar="2,9,20", help="numbers of groups (default: the tree's, or up to three by size)"
    ),
    "--taps": dict(
        default="", metavar="conv2:2,...", help="layers with branches, and their groups (default conv2, conv3, conv4)"
    ),
    "--lambda": dict(
        type=number(0), default=1.0, help="weight of each branch's loss, with --schedule joint (default 1)"
    ),
    "--schedule": dict(
        choices=("joint", "bt"), default="joint", help="joint: constant loss weights (default); bt: B-CNN's weights"
    ),
    "--bt-switch": dict(
        default="", metavar="8,18,28", help="epochs, counted from 0, at whose end the weights of bt change"
    ),
    "--predict": dict(
        choices=("last", "product"), default="last", help="last: the last head decides (default); product: all heads"
    ),
    "--epochs": dict(type=whole(1), default=30, help="epochs (default 30)"),
    "--batch": dict(type=whole(1), default=128, help="batch size (default 128)"),
    "--lr": dict(type=number(0, above=True), default=0.01, help="learning rate (default 0.01)"),
    "--augment": dict(
        choices=("auto", "none", "crop_flip"), default="auto", help="auto: crop and mirror for CIFAR (default)"
    ),
    "--bn": dict(action="store_true", help="batch normalisation after each convolution"),
    "--subset": dict(type=whole(0), default=0, help="train on a fixed stratified subset of N images (0: all)"),
    "--held-out": dict(type=whole(0), default=0, help="training images to hold out (0: 5,000, at most a fifth)"),
    "--curve-images": dict(
        type=whole(0),
        default=0,
        help="test and held-out images to evaluate after every epoch (0: all)",
    ),
    "--keep-epochs": dict(
        default="auto",
        metavar="0,1,2",
        help="epochs whose weights are kept next to the last: auto, none or a list (the analysis of layers needs 0, 1)",
    ),
    "--flat-run": dict(metavar="DIR", help="folder of stage 1 (default: A0 next to this run)"),
    "--label-noise": dict(
        type=number(0, 0.5), default=0.0, help="share of training labels to make wrong, for the label study"
    ),
    "--split-class": dict(type=int, default=-1, help="class that gets two labels at random, for the label study"),
    "--folds": dict(type=whole(0), default=0, help="number of folds: train on all but one, predict that one"),
    "--fold": dict(type=whole(0), default=0, help="fold to predict, from 0"),
    "--max-steps": dict(type=whole(0), default=0, help="stop after N steps, for tests (0: never)"),
    "--checkpoint-steps": dict(type=whole(0), default=0, help="also save the full state every N steps"),
    "--threads": dict(type=whole(0), default=0, help="CPU threads (0: all cores)"),
    "--deterministic": dict(action="store_true", help="deterministic kernels on a GPU; a CPU always has them"),
    "--amp": dict(
        choices=("bf16", "tf32", "auto"),
        help="bf16: autocast (auto: if the device computes in it); tf32: TF32 products on a GPU (default float32); "
        "HCN-D11",
    ),
    "--compile": dict(action="store_true", help="torch.compile; HCN-D11"),
    "--channels-last": dict(action="store_true", help="channels-last memory format; HCN-D11"),
    "--lr-schedule": dict(
        choices=("drops", "onecycle"),
        default="drops",
        help="drops: divide the rate by ten, twice (default); onecycle: up to --lr and down again, Nesterov momentum",
    ),
    "--label-smoothing": dict(type=number(0, 1), default=0.0, help="label smoothing of all losses (default 0)"),
    "--dropout": dict(type=number(0, 0.95), default=0.5, help="dropout before fully connected layers (default 0.5)"),
    "--eval-batch": dict(type=whole(0), default=0, help="batch size of a test (0: 500)"),
    "--train-held-out": dict(
        action="store_true",
        help="train on the held-out images too; then no epoch, no weight of a head and no tree is chosen on them",
    ),
    "--out": dict(metavar="DIR", help="run folder (instead of --runs-dir and --name)"),
}
ANALYZE_FLAGS: FlagTable = {
    "--run": dict(metavar="DIR", default="", help="seed folder with A0, A1, ...: measure it"),
    "--compare": dict(metavar="VARIANT", default="A1", help="variant to compare with A0 (default A1)"),
    "--summary": dict(metavar="DIR", default="", help="folder of a row: draw plots and tables over its seeds"),
    "--rates": dict(metavar="DIR", default="", help="folder of trainings at several rates: print the best"),
    "--what": dict(default=",".join(PARTS), metavar="A,B", help=f"parts to measure: {', '.join(PARTS)} (default all)"),
    "--response": dict(
        choices=("mean", "max", "q95"), default="mean", help="how a feature map becomes one number (default mean)"
    ),
    "--response-images": dict(type=whole(0), default=2000, help="test images for responses (0: all; default 2000)"),
    "--probe-images": dict(type=whole(100), default=10000, help="training images for probes (default 10000)"),
    "--probe-test-images": dict(type=whole(0), default=0, help="test images for probes (0: all)"),
    "--permutations": dict(type=whole(99), default=9999, help="random groupings behind a p (default 9999)"),
    "--groupings": dict(
        type=whole(0),
        default=0,
        help="random groupings that early probes are compared with (0: two; all, if there are fewer)",
    ),
    "--bootstrap": dict(type=whole(10), default=2000, help="bootstrap samples of an interval (default 2000)"),
    "--threads": dict(type=whole(0), default=0, help="CPU threads (0: all cores)"),
    "--thumbs": dict(
        choices=("embed", "folder", "none"), help="images of the viewer: in the page, in a folder, or none"
    ),
}


def _parser(script: str, text: str, flags: FlagTable) -> Parser:
    parser = Parser(script, text)
    add_flags(parser.additions, flags)
    add_common(parser, "hierarchy")
    return parser


def train_parser() -> Parser:
    """Returns the parser of train.py; no flag is the authors', who released no code."""
    text = "Trains one variant: stage flat (and derives the hierarchy), or stage aware on top of it."
    return _parser("train.py", text, TRAIN_FLAGS)


def resolve_train(args: argparse.Namespace) -> Config:
    """Checks what can be checked without data and fills in what depends on other flags.

    Raises:
      UserError: flags that do not fit each other.
    """
    datasets.check_name(args.dataset)
    arm = args.arm or ("A0" if args.stage == "flat" else "A1")
    if (arm == "A0") != (args.stage == "flat"):
        raise UserError(f"--arm {arm} with --stage {args.stage}: A0 is stage flat, A1 to A5 are stage aware")
    tree = args.tree or ("official" if args.dataset in OFFICIAL_BY_DEFAULT else "derived")
    if tree not in TREES and not Path(tree).exists():
        raise UserError(f"--tree {tree}: not official, derived or random, and no such file")
    parse_taps(args.taps)
    parse_numbers("--levels", args.levels)
    parse_numbers("--bt-switch", args.bt_switch)
    if args.keep_epochs not in ("auto", "none"):
        parse_numbers("--keep-epochs", args.keep_epochs)
    if args.folds == 1 or (args.fold and args.fold >= args.folds):
        raise UserError(f"--fold {args.fold} of --folds {args.folds}: at least 2 folds, numbered from 0")
    if (args.label_noise or args.split_class >= 0) and not args.folds:
        raise UserError("--label-noise and --split-class need --folds: planted labels are judged out of fold")
    if args.folds and args.stage != "flat":
        raise UserError("--folds belongs to --stage flat")
    if args.train_held_out and (args.folds or args.predict == "product"):
        raise UserError("--train-held-out with --folds or --predict product: both need images that are held out")
    if args.train_held_out and tree in ("derived", "random"):
        raise UserError(
            f"--train-held-out with a tree that stage 1 derives from held-out images (--tree {tree}): leave it out, or "
            "give --tree official or a tree file"
        )
    folder = Path(args.out) if args.out else Path(args.runs_dir) / args.name
    resolved = {
        "arm": arm,
        "tree": tree,
        "preset": args.preset or ("mini" if args.device == "cpu" or not _gpu() else "paper32"),
        "image_size": args.image_size or SIZES[args.trunk],
        "runs_dir": str(folder.parent),
        "name": folder.name,
    }
    if args.augment == "auto":
        resolved["augment"] = "crop_flip" if args.dataset.startswith("cifar") else "none"
    if args.stage == "aware" and not args.flat_run:
        resolved["flat_run"] = str(folder.parent / "A0")
    config: Config = _fill(Config, {**vars(args), **resolved})
    return config


def _fill(kind: Any, values: dict[str, Any]) -> Any:
    """Makes a frozen configuration of flags by name; names that it lacks are left out."""
    names = {entry.name: entry.name.rstrip("_") for entry in dataclasses.fields(kind)}
    return kind(**{name: values[flag] for name, flag in names.items() if flag in values})


def of_run(config: Config | AnalysisConfig) -> dict[str, Any]:
    """Returns the flags of a run for its folder and record; those of SINCE are left out at their old values."""
    return run_flags(config, SINCE)


def read_config(folder: Path) -> Config:
    """Reads the flags of a finished run of train.py; a flag that came later has its default.

    Args:
      folder: run folder.
    Raises:
      UserError: config.json is missing or damaged.
    """
    stored = read_json(folder / "config.json", *NEEDED)
    config: Config = _fill(Config, {**vars(train_parser().parse_args([])), "arm": "A0", **stored})
    return config


def analyze_parser() -> Parser:
    """Returns the parser of analyze.py."""
    text = "Measures the variants of one seed, or, with --summary, draws all seeds of a row."
    return _parser("analyze.py", text, ANALYZE_FLAGS)


def resolve_analyze(args: argparse.Namespace) -> AnalysisConfig:
    """Checks the flags of analyze.py.

    Raises:
      UserError: not exactly one of --run, --summary and --rates, or an unknown variant or part.
    """
    if [bool(args.run), bool(args.summary), bool(args.rates)].count(True) != 1:
        raise UserError("give one of --run (a seed), --summary (a row) and --rates (trainings at several rates)")
    if args.compare not in ARMS:
        raise UserError(f"--compare {args.compare}: not one of {', '.join(ARMS)}")
    unknown = [part for part in args.what.split(",") if part not in PARTS]
    if unknown:
        raise UserError(f"--what {unknown[0]}: not one of {', '.join(PARTS)}")
    config: AnalysisConfig = _fill(AnalysisConfig, vars(args))
    return config


def _gpu() -> bool:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return first_gpu() is not None if visible is None else visible not in ("", "-1")  # both hide every GPU


def keep_epochs(text: str, epochs: int) -> list[int]:
    """Epochs whose weights are kept: 0 (untrained), 1, 2, 3, 5, 8, 12, 20, 30, ... and the last; or a list; or none.

    The loop keeps the last epoch in any case.
    """
    if text == "none":
        return []
    if text != "auto":
        return sorted({e for e in parse_numbers("--keep-epochs", text) if 0 <= e <= epochs})
    return sorted({e for e in [0, 1, 2, 3, 5, 8, 12, *range(20, epochs, 10)] if e <= epochs} | {epochs})
