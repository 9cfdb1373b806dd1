"""Command line of notebook_yt8m.py: the authors' TensorFlow 1 flags, ours, and how they resolve."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from reproduction.runtime.flags import CommonConfig, Parser, add_common, finish_parsing, flag, number, whole
from reproduction.runtime.run_folder import UserError

CLASSES = 3862
_FOLDER = "data/yt8m/video"
# Flags that the released script defines and never reads [SDN-Y10], with their defaults.
UNUSED: dict[str, Any] = {
    "feature_names": "mean_rgb",
    "dr_method": "subclassVgg16",
    "perform_training": True,
    "optimizer": "AdamOptimizer",
    "regularization_penalty": 1e-3,
}
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


def _add_boolean(group: argparse._ArgumentGroup, name: str, help_text: str) -> None:
    group.add_argument(f"--{name}", type=boolean, nargs="?", const=True, default=True, help=help_text)
    group.add_argument(f"--no{name}", action="store_false", dest=name, help=argparse.SUPPRESS)


def make_parser() -> Parser:
    """The parser."""
    p = Parser("notebook_yt8m.py", "Subclass deep neural networks on YouTube-8M (video level).")
    g = p.original_group()
    subclass_files = f"{_FOLDER}/train_subclass"
    g.add_argument(
        "--train_data_pattern_glob",
        default=f"{subclass_files}/train*.tfrecord",
        help="training files with subclass labels",
    )
    labelling = f"{subclass_files}/subclassLabellingData.npz"
    g.add_argument("--subclass_labelling_data_save_fname", default=labelling, help="file of the subclass map")
    g.add_argument(
        "--eval_data_pattern_glob", default=f"{_FOLDER}/validate/validate*.tfrecord", help="files to test on"
    )
    g.add_argument("--feature_names", default=UNUSED["feature_names"], help="accepted, unused: rgb and audio are read")
    _add_boolean(g, "shuffle_data", "shuffle shards and records (default True)")
    g.add_argument("--num_parallel_calls", type=whole(0), default=4, help="batches prepared in advance (default 4)")
    g.add_argument(
        "--shuffle_buffer_size", type=whole(1), default=10000, help="records in the shuffling buffer (default 10000)"
    )
    g.add_argument("--num_subclasses", type=whole(1), default=CLASSES + 100, help="outputs S (default 3962)")
    g.add_argument("--num_classes", type=whole(1), default=CLASSES, help="classes C (default 3862)")
    g.add_argument(
        "--num_train_observations", type=whole(1), default=3888919, help="accepted, unused: the records are counted"
    )
    g.add_argument("--top_k", type=whole(1), default=20, help="retrieval set of MAP and GAP (default 20)")
    g.add_argument("--dr_method", default=UNUSED["dr_method"], help="accepted, unused")
    _add_boolean(g, "perform_training", "accepted, unused")
    g.add_argument("--optimizer", default=UNUSED["optimizer"], help="accepted, unused: Adam")
    g.add_argument("--batch_size", type=whole(1), default=1024)
    g.add_argument("--regularization_penalty", type=number(0), default=1e-3, help="accepted, unused: see --l2")
    g.add_argument("--base_learning_rate", type=number(0, above=True), default=0.001)
    g.add_argument("--learning_rate_decay", type=number(0, 1, above=True), default=0.95)
    g.add_argument("--learning_rate_decay_examples", type=number(1), default=4000000)
    g.add_argument("--num_epochs", type=whole(1), default=1)
    g.add_argument("--max_steps", type=whole(1), default=90000000000)
    a = p.additions
    flag(
        a,
        "--compat",
        choices=["paper", "official"],
        default="paper",
        help="official: l2 none, dropout inactive, plain loss",
    )
    flag(a, "--l2", choices=["declared", "none"], help="0.005 * sum(w^2) of both kernels, or nothing; SDN-Y02")
    flag(a, "--dropout", choices=["active", "inactive"], help="dropout in training; SDN-Y03")
    flag(
        a,
        "--label-loss",
        choices=["subclass", "plain"],
        help="subclass: siblings are negatives with weight 1 - w; plain: weight 1; SDN-Y04",
    )
    flag(
        a, "--subclass-label-weight", type=number(0, 1), default=0.9, help="weight w of the subclass loss (default 0.9)"
    )
    a.add_argument("--stage", choices=["train", "identify", "create", "all"], default="train",
                   help="identify: neglected classes; create: subclass files; all: both, then train")  # fmt: skip
    flag(
        a,
        "--plain-data-pattern-glob",
        default=f"{_FOLDER}/train/train*.tfrecord",
        help="training files with class labels",
    )
    flag(a, "--num-neglected", type=whole(0), help="neglected classes (default: num_subclasses - num_classes)")
    flag(a, "--kmeans-videos", type=whole(2), default=4096, help="clusters are fitted on at most N videos")
    flag(a, "--records-per-shard", type=whole(1), default=4096, help="records in a file that create writes")
    flag(a, "--trust-pickle", action="store_true", help="read the authors' pickled npz (runs code inside it)")
    flag(a, "--checkpoint-steps", type=whole(1), default=1000, help="save the full state every N steps")
    flag(a, "--amp", choices=["bf16", "tf32"], help="bf16: autocast; tf32: TF32 products on a GPU")
    flag(a, "--compile", action="store_true", help="torch.compile")
    flag(a, "--threads", type=whole(0), default=0)
    flag(a, "--name", default="yt8m", help="run folder below --runs-dir (default yt8m)")
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
