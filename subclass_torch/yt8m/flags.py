"""Command line of notebook_yt8m.py: the authors' TensorFlow 1 flags, ours, and how they resolve."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from reproduction.runtime.flags import (
    CommonConfig,
    FlagTable,
    Parser,
    add_common,
    add_flags,
    finish_parsing,
    number,
    whole,
)
from reproduction.runtime.run_folder import UserError

CLASSES = 3862
_FOLDER = "data/yt8m/video"
TRAIN, PLAIN, EVAL = (
    f"{_FOLDER}/{name}*.tfrecord" for name in ("train_subclass/train", "train/train", "validate/validate")
)
MAP = f"{_FOLDER}/train_subclass/subclassLabellingData.npz"
# Flags without effect, as in the released script, which only prints with the last one [SDN-Y10], with their defaults.
UNUSED: dict[str, Any] = {
    "feature_names": "mean_rgb",
    "dr_method": "subclassVgg16",
    "perform_training": True,
    "optimizer": "AdamOptimizer",
    "regularization_penalty": 1e-3,
    "num_train_observations": 3888919,
}
DECIDE_NOTHING = frozenset({"checkpoint_steps", "ignored", *UNUSED})
STAGE2_ONLY = frozenset(  # with the flags of --stage create
    "train_data_pattern_glob eval_data_pattern_glob subclass_labelling_data_save_fname num_subclasses num_neglected "
    "top_k num_epochs label_loss subclass_label_weight kmeans_videos records_per_shard".split()
)
# flag -> (default, value of --compat official)
SWITCHES = {"l2": ("declared", "none"), "dropout": ("active", "inactive"), "label_loss": ("subclass", "plain")}


@dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """Resolved flags of notebook_yt8m.py under their names; `make_parser` describes them.

    Attributes that are no flags:
      argv: the command line.
      ignored: names of the flags without effect that were set.
      dataset: "yt8m".
    """

    train_data_pattern_glob: str
    subclass_labelling_data_save_fname: str
    eval_data_pattern_glob: str
    feature_names: str
    shuffle_data: bool
    num_parallel_calls: int
    shuffle_buffer_size: int
    num_subclasses: int
    num_classes: int
    num_train_observations: int
    top_k: int
    dr_method: str
    perform_training: bool
    optimizer: str
    batch_size: int
    regularization_penalty: float
    base_learning_rate: float
    learning_rate_decay: float
    learning_rate_decay_examples: float
    num_epochs: int
    max_steps: int
    compat: str
    l2: str
    dropout: str
    label_loss: str
    subclass_label_weight: float
    stage: str
    plain_data_pattern_glob: str
    num_neglected: int
    kmeans_videos: int
    records_per_shard: int
    trust_pickle: bool
    checkpoint_steps: int
    amp: str | None
    compile: bool
    threads: int
    print_config: bool
    argv: list[str] = field(default_factory=list)
    ignored: list[str]
    dataset: str


def boolean(text: str) -> bool:
    """Type of a TensorFlow 1 boolean flag: --flag, --flag=False, --noflag."""
    if text.lower() in ("true", "t", "1"):
        return True
    if text.lower() in ("false", "f", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is not True or False")


ORIGINALS: FlagTable = {
    "--train_data_pattern_glob": dict(default=TRAIN, help="training files with subclass labels"),
    "--subclass_labelling_data_save_fname": dict(default=MAP, help="file of the subclass map"),
    "--eval_data_pattern_glob": dict(default=EVAL, help="files to test on"),
    "--feature_names": dict(default=UNUSED["feature_names"], help="accepted, unused: rgb and audio are read"),
    "--num_parallel_calls": dict(type=whole(0), default=4, help="batches prepared in advance (default 4)"),
    "--shuffle_buffer_size": dict(type=whole(1), default=10000, help="records in the shuffling buffer (default 10000)"),
    "--num_subclasses": dict(type=whole(1), default=CLASSES + 100, help="outputs S (default 3962)"),
    "--num_classes": dict(type=whole(1), default=CLASSES, help="classes C (default 3862)"),
    "--num_train_observations": dict(
        type=whole(1), default=UNUSED["num_train_observations"], help="accepted, unused: the records are counted"
    ),
    "--top_k": dict(type=whole(1), default=20, help="retrieval set of MAP and GAP (default 20)"),
    "--dr_method": dict(default=UNUSED["dr_method"], help="accepted, unused"),
    "--optimizer": dict(default=UNUSED["optimizer"], help="accepted, unused: Adam"),
    "--batch_size": dict(type=whole(1), default=1024, help="videos of a step, also in the test (default 1024)"),
    "--regularization_penalty": dict(type=number(0), default=1e-3, help="accepted, unused: see --l2"),
    "--base_learning_rate": dict(type=number(0, above=True), default=0.001, help="first learning rate (default 0.001)"),
    "--learning_rate_decay": dict(
        type=number(0, 1, above=True), default=0.95, help="factor of the rate at each decay (default 0.95)"
    ),
    "--learning_rate_decay_examples": dict(
        type=number(1), default=4000000, help="videos from one decay to the next (default 4000000)"
    ),
    "--num_epochs": dict(type=whole(1), default=1, help="passes of stage 2 over the videos (default 1)"),
    "--max_steps": dict(type=whole(1), default=90000000000, help="end each stage after N steps (default 90000000000)"),
}
BOOLEANS = {
    "shuffle_data": "shuffle shards and records (default True)",
    "perform_training": "accepted, unused",
}
ADDITIONS: FlagTable = {
    "--compat": dict(
        choices=["paper", "official"], default="paper", help="official: l2 none, dropout inactive, plain loss"
    ),
    "--l2": dict(choices=["declared", "none"], help="0.005 * sum(w^2) of both kernels, or nothing; SDN-Y02"),
    "--dropout": dict(choices=["active", "inactive"], help="dropout in training; SDN-Y03"),
    "--label-loss": dict(
        choices=["subclass", "plain"],
        help="subclass: siblings are negatives with weight 1 - w; plain: weight 1; SDN-Y04",
    ),
    "--subclass-label-weight": dict(type=number(0, 1), default=0.9, help="weight w of the subclass loss (default 0.9)"),
    "--stage": dict(
        choices=["train", "identify", "create", "all"],
        default="train",
        help="identify: neglected classes; create: subclass files; all: both, then train",
    ),
    "--plain-data-pattern-glob": dict(default=PLAIN, help="training files with class labels"),
    "--num-neglected": dict(type=whole(0), help="neglected classes (default: num_subclasses - num_classes)"),
    "--kmeans-videos": dict(
        type=whole(2), default=4096, help="clusters are fitted on at most N videos, half of them mixed (default 4096)"
    ),
    "--records-per-shard": dict(type=whole(1), default=4096, help="records of a file of --stage create (default 4096)"),
    "--trust-pickle": dict(action="store_true", help="read the authors' pickled npz (runs code inside it)"),
    "--checkpoint-steps": dict(type=whole(1), default=1000, help="save the full state every N steps (default 1000)"),
    "--amp": dict(choices=["bf16", "tf32"], help="bf16: autocast; tf32: TF32 products on a GPU; SDN-Y11"),
    "--compile": dict(action="store_true", help="torch.compile; SDN-Y11"),
    "--threads": dict(type=whole(0), default=0, help="CPU threads (default 0: all cores)"),
    "--name": dict(default="yt8m", help="run folder below --runs-dir (default yt8m)"),
}


def make_parser() -> Parser:
    """The parser."""
    p = Parser("notebook_yt8m.py", "Subclass deep neural networks on YouTube-8M (video level).")
    add_flags(p.originals, ORIGINALS)
    for name, text in BOOLEANS.items():
        p.originals.add_argument(f"--{name}", type=boolean, nargs="?", const=True, default=True, help=text)
        p.originals.add_argument(f"--no{name}", action="store_false", dest=name, help=argparse.SUPPRESS)
    add_flags(p.additions, ADDITIONS)
    add_common(p, "subclass")
    return p


def resolve(args: argparse.Namespace) -> Config:
    """Fills in what --compat decides.

    Raises:
      UserError: numbers of classes that do not fit each other.
    """
    values = vars(args).copy()
    for name, (ours, official) in SWITCHES.items():
        if values[name] is None:
            values[name] = official if args.compat == "official" else ours
    added = args.num_subclasses - args.num_classes
    if added < 0:
        raise UserError(f"--num_subclasses {args.num_subclasses}: fewer than --num_classes {args.num_classes}")
    neglected = added if args.num_neglected is None else args.num_neglected  # two subclasses each
    if neglected > args.num_classes:
        raise UserError(f"--num-neglected {neglected}: there are {args.num_classes} classes")
    if neglected != added and args.stage in ("create", "all"):
        raise UserError(f"--num-neglected {neglected}: --num_subclasses leaves room for {added} (two each)")
    ignored = [name for name, default in UNUSED.items() if values[name] != default]
    return Config(**values | {"num_neglected": neglected}, ignored=ignored, dataset="yt8m")


def parse(argv: list[str] | None = None) -> Config:
    """Parses and resolves the flags; --help and --print-config print and exit here."""
    return finish_parsing(make_parser(), resolve, argv)
