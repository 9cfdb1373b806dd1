"""Flags: the authors' 22 with their defaults, our additions, what they resolve to, and the composed run name.

Source: config/base_config.py of the released code.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reproduction.runtime.flags import (
    CommonConfig,
    FlagTable,
    Parser,
    add_common,
    add_flags,
    finish_parsing,
    is_set,
    number,
    run_flags,
    whole,
)
from reproduction.runtime.run_folder import DATA_ROOT, REPO_ROOT, RUNS_ROOT, UserError, read_json, shown
from triplet_tf.config.networks import NETS, TABLE, Net

PAPER = "triplet"
SETS = ("flowers", "aircrafts", "cars", "dogs", "birds")  # the first two as released; the others: STL-D04
MODES = ("vanilla", "semi_hard", "hard", "hard_awtl", "cntr")
TRIPLET_MODES = ("semi_hard", "hard", "hard_awtl")
BATCH_SIDE, BATCH_FRAME = 256, 224  # aug_style batch: images on load, and the only frame it knows
# What belongs to a trained network; --eval takes it from the run folder unless it stands on the command line.
TRAINED = (
    "net", "emb_dim", "frame_size", "aug_style", "resize_sides", "train_mode", "db_name", "tap", "bn_decay",
    "eval_split", "batch_size", "Triplet_K", "seed", "flip", "image_cache",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """The resolved flags, under the authors' names.

    `test_interval` counts steps, `name` and `pretrained_dir` are filled in, `eval` is the checkpoint of --checkpoint.
    """

    emb_dim: int
    batch_size: int
    gpu: str
    checkpoint_dir: str | None
    db_name: str
    net: str
    tuple_loader_queue_size: int
    train_mode: str
    aug_style: str
    triplet_loss_lambda: float
    caffe_iter_size: int
    logging_threshold: int
    test_interval: int
    train_iters: int
    margin: float | str
    Triplet_K: int
    checkpoint_suffix: str
    checkpoint_filename: str
    learning_rate: float
    end_learning_rate: float
    log_filename: str
    frame_size: int
    pretrained_dir: str
    init: str
    weight_decay: str
    center_update: str
    eval_split: str
    tap: str | None
    resize_sides: list[int]
    bn_decay: float | None
    flip: bool
    vanilla_batches: str
    first_third: str
    distance: str
    image_cache: bool
    amp: str | None
    xla: bool
    eval_batch: int

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.runs_dir) / self.name

    @property
    def network(self) -> Net:
        """What is fixed about the backbone."""
        return TABLE[self.net]

    @property
    def grouped(self) -> bool:
        """Whether batches hold P classes with K images each."""
        return self.train_mode != "vanilla" or self.vanilla_batches == "grouped"

    @property
    def frame_side(self) -> int:
        """Side of the network's input: --frame_size under aug_style img, 224 under batch."""
        return self.frame_size if self.aug_style == "img" else BATCH_FRAME


def margin(text: str) -> float | str:
    """Type of --margin: a finite number, or 'soft' or 'none' in any case."""
    if text.lower() in ("soft", "none"):
        return text.lower()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 'soft' or 'none'")
    return value


def db_name(text: str) -> str:
    """Type of --db_name: one of SETS, csv:NAME or folder:PATH."""
    kind, colon, name = text.partition(":")
    if text in SETS or (colon and kind == "folder" and name):
        return text
    if colon and kind == "csv" and name and name == Path(name).name and name not in (".", ".."):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(SETS)}, csv:NAME or folder:PATH")


def file_stem(text: str) -> str:
    """Type of --log_filename: the beginning of a file name in the run folder."""
    if not text or text != Path(text).name or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file name; the file lies in the run folder")
    return text


def checkpoint_stem(text: str) -> str:
    """Type of --checkpoint_filename: as `file_stem`, and not the name of our own checkpoints, model-STEP."""
    if text.startswith("model-"):
        raise argparse.ArgumentTypeError(f"{text!r}: names that begin with 'model-' are those of single steps")
    return file_stem(text)


def sides(text: str) -> list[int]:
    """Type of --resize_sides: two whole numbers, the smaller first."""
    try:
        low, high = (int(word) for word in text.split(","))
    except ValueError:
        low, high = 0, -1
    if not 1 <= low <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not two whole numbers LOW,HIGH with 1 <= LOW <= HIGH")
    return [low, high]


def _share(text: str) -> float:
    value = number(0, 1)(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number >= 0 and < 1")
    return value


# Flags that older runs do not know: at these values, which compute the same, they are not in the flags of a run.
SINCE: dict[str, Any] = {
    "vanilla_batches": "shuffled",
    "first_third": "same",
    "distance": "squared",
    "image_cache": False,
    "amp": None,
    "xla": False,
    "eval_batch": 0,
}


def of_run(config: Config) -> dict[str, Any]:
    """Returns the flags that a run folder belongs to."""
    return run_flags(config, SINCE)


# the authors' flags, with types and defaults as released
ORIGINALS: FlagTable = {
    "--emb_dim": dict(type=whole(1), default=256, help="size of the embedding (default 256)"),
    "--batch_size": dict(type=whole(1), default=32, help="images per step, also in tests (default 32)"),
    "--gpu": dict(default="0", help="CUDA_VISIBLE_DEVICES, if --device is auto (default: unchanged, or 0)"),
    "--checkpoint_dir": dict(metavar="NAME", help="run folder below --runs-dir (default: named after the flags)"),
    "--db_name": dict(
        type=db_name, default="flowers", help=f"{', '.join(SETS)}, csv:NAME, folder:PATH (default flowers); STL-D04"
    ),
    "--net": dict(choices=NETS, default="resnet50", help="network; resnet50 is v2 (default resnet50)"),
    "--tuple_loader_queue_size": dict(type=whole(1), default=10, help="parallel decode calls (default 10)"),
    "--train_mode": dict(choices=MODES, default="vanilla", help="loss; vanilla is softmax alone (default vanilla)"),
    "--aug_style": dict(choices=("batch", "img"), default="batch", help="crop per batch or per image (default batch)"),
    "--triplet_loss_lambda": dict(type=number(0), default=1, help="weight of the triplet loss (default 1)"),
    "--caffe_iter_size": dict(type=whole(1), default=1, help="mini-batches per update (default 1); STL-D03"),
    "--logging_threshold": dict(type=whole(1), default=500, help="steps between two log lines (default 500)"),
    "--test_interval": dict(
        type=whole(1), default=10, help="test after every N x --logging_threshold steps (default 10)"
    ),
    "--train_iters": dict(type=whole(1), default=40000, help="steps, over which the rate decreases (default 40000)"),
    "--margin": dict(type=margin, default=0.2, help="number; in mode hard also soft or none (default 0.2); STL-D10"),
    "--Triplet_K": dict(type=whole(1), default=4, help="images of each class in a grouped batch (default 4)"),
    "--checkpoint_suffix": dict(default="base_config", help="end of the run folder's name (default base_config)"),
    "--checkpoint_filename": dict(
        type=checkpoint_stem, default="model.ckpt", help="name of the last checkpoint (default model.ckpt)"
    ),
    "--learning_rate": dict(type=number(0), default=0.01, help="rate at the first step (default 0.01)"),
    "--end_learning_rate": dict(type=number(0), default=0, help="rate after the last step (default 0)"),
    "--log_filename": dict(type=file_stem, default="logger", help="name of the log file without .txt (default logger)"),
    "--frame_size": dict(type=whole(1), default=224, help="side of the crop under --aug_style img (default 224)"),
}
ADDITIONS: FlagTable = {
    "--name": dict(help="run folder below --runs-dir, as --checkpoint_dir"),
    "--pretrained-dir": dict(metavar="DIR", help="ImageNet checkpoints (default: weights/ of the data folder)"),
    "--init": dict(choices=("imagenet", "random"), default="imagenet", help="initial weights (default imagenet)"),
    "--yes": dict(action="store_true", help="accepted without effect: no question is asked; STL-D09"),
    "--weight-decay": dict(choices=("off", "on"), default="off", help="on: add the network's L2 terms; STL-D02"),
    "--center-update": dict(choices=("on", "off"), default="on", help="off: fixed centers, as released; STL-D01"),
    "--eval-split": dict(
        choices=("test", "val"),
        default="test",
        help="images of the tests in training: test list, or validation list, which is then not trained on; STL-D06",
    ),
    "--tap": dict(metavar="ENDPOINT", help="layer below the embedding (default: as released); STL-D07"),
    "--resize-sides": dict(
        type=sides, default=[350, 512], metavar="LOW,HIGH", help="shorter side under --aug_style img (default 350,512)"
    ),
    "--bn-decay": dict(
        type=_share, help="decay of batch norm's moving statistics (default: 0.997 to 0.9997, by network)"
    ),
    "--no-flip": dict(dest="flip", action="store_false", help="never mirror an image"),
    "--vanilla-batches": dict(
        choices=("shuffled", "grouped"),
        default="shuffled",
        help="batches in mode vanilla; grouped: as in the other modes (default shuffled, as released); STL-D22",
    ),
    "--first-third": dict(
        choices=("same", "semi_hard", "lambda"),
        default="same",
        help="mode hard, first third of the steps: semi-hard triplets, or lambda rising from 0 (default same); STL-D21",
    ),
    "--distance": dict(
        choices=("squared", "euclidean"),
        default="squared",
        help="distance in mode hard, and so the unit of the margin (default squared, as released); STL-D23",
    ),
    "--image-cache": dict(
        action="store_true",
        help="decode every image once, into cache/ of the data folder; only with --aug_style img; STL-D24",
    ),
    "--amp": dict(
        choices=("bf16", "tf32", "auto"),
        help="bf16: on a CPU; tf32: products on a GPU; auto: what the device computes in (default float32); STL-D25",
    ),
    "--xla": dict(action="store_true", help="compile with XLA; STL-D25"),
    "--eval-batch": dict(type=whole(0), default=0, help="batch size of a test (0: --batch_size)"),
    "--checkpoint": dict(dest="eval", metavar="CHECKPOINT", help="same as --eval"),
}


def training_parser(prog: str = "fast_fgvr_semi_train.py") -> Parser:
    """Returns the parser of the training script; eval.py takes the same flags."""
    parser = Parser(prog, "Softmax classifier with a ranking regularizer: trains, and tests at intervals.")
    add_flags(parser.originals, ORIGINALS)
    for names, folder, text in (
        ("--data-dir --data_dir --datasets-dir --datasets_dir", DATA_ROOT, "data sets (default: data/"),
        ("--runs-dir --runs_dir --models-dir --models_dir", RUNS_ROOT / PAPER, f"run folders (default: runs/{PAPER}/"),
    ):
        text += " of the repository)"
        parser.additions.add_argument(*names.split(), metavar="DIR", default=str(folder), help=text)
    add_flags(parser.additions, ADDITIONS)
    add_common(parser, PAPER)
    return parser


def composed_name(config: Config) -> str:
    """Returns the run name of the released code; the margin is not in it."""
    db = Path(config.db_name.partition(":")[2]).name if ":" in config.db_name else config.db_name
    weight = config.triplet_loss_lambda  # whole numbers without a point, as when the flag was an int
    return (
        f"{db}_{config.net}_lr{config.learning_rate}_B{config.batch_size}_caf{config.caffe_iter_size}"
        f"_iter{config.train_iters // 1000}K_lambda{int(weight) if float(weight).is_integer() else weight}"
        f"_trn_mode_{config.train_mode}_{config.checkpoint_suffix}"
    )


def resolve(args: argparse.Namespace) -> Config:
    """Returns the resolved configuration.

    Raises:
      UserError: values that do not go together.
    """
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(Config)}
    values["test_interval"] = args.test_interval * args.logging_threshold
    values["pretrained_dir"] = args.pretrained_dir or str(Path(args.data_dir) / "weights")
    config = Config(**values)
    config = dataclasses.replace(config, name=args.checkpoint_dir or args.name or composed_name(config))
    if args.eval:
        config = adopt_trained(config, args)
    check(config)
    return config


def adopt_trained(config: Config, args: argparse.Namespace) -> Config:
    """Takes what belongs to the trained network from the config.json next to a checkpoint, if there is one."""
    folder = Path(args.eval).parent
    if not (folder / "config.json").exists():
        print(f"{shown(folder)}: no config.json; the network is that of the flags given here", file=sys.stderr)
        return config
    trained = read_json(folder / "config.json", "net", "train_mode", "db_name", "data_dir")
    if trained["net"] not in TABLE:
        raise UserError(f"{shown(folder / 'config.json')}: net {trained['net']!r} is not one of {', '.join(NETS)}")
    typed = {key for key in TRAINED if is_set(args, key) or (key == "flip" and is_set(args, "no_flip"))}
    changes = {key: trained[key] for key in TRAINED if key in trained and key not in typed}
    if not any(is_set(args, name) for name in ("data_dir", "datasets_dir")):
        data_dir = Path(trained["data_dir"])  # recorded as given: seen from where the run was started
        changes["data_dir"] = str(data_dir if data_dir.is_dir() else REPO_ROOT / data_dir)
    return dataclasses.replace(config, name=folder.name, **changes)


def check(config: Config) -> None:
    """Refuses values that do not go together.

    Raises:
      UserError: one line with flag, value and what is allowed.
    """
    mode, batch, k = config.train_mode, config.batch_size, config.Triplet_K
    side, smallest = config.frame_side, config.network.smallest
    low = config.resize_sides[0] if config.aug_style == "img" else side
    grouped = "--vanilla_batches grouped" if mode == "vanilla" else f"--train_mode {mode}"
    word_as_margin, first = isinstance(config.margin, str), config.first_third
    faults = {
        f"--margin {config.margin}: a word goes with --train_mode hard only; {mode} takes a number (STL-D10)": (
            word_as_margin and mode != "hard"
        ),
        # DEVIATION STL-D26: the released code accepts these, and its batches cut through the groups
        f"--batch_size {batch} is not a multiple of --Triplet_K {k}, which {grouped} needs (STL-D26)": (
            config.grouped and batch % k
        ),
        f"--first_third {first}: only with --train_mode hard": first != "same" and mode != "hard",
        f"--first_third semi_hard: needs a number as --margin, not {config.margin}": (
            first == "semi_hard" and word_as_margin
        ),
        f"--distance {config.distance}: only with --train_mode hard, and not with --first_third semi_hard": (
            config.distance != "squared" and (mode != "hard" or first == "semi_hard")
        ),
        "--image_cache: only with --aug_style img": config.image_cache and config.aug_style != "img",
        f"--Triplet_K {k}: --train_mode {mode} needs at least 2 (STL-D26)": mode in TRIPLET_MODES and k < 2,
        f"--frame_size {side} is larger than the shorter side that an image may get, {low} (--resize_sides)": (
            side > low
        ),
        f"--frame_size {side}: --net {config.net} needs at least {smallest}": side < smallest,
    }
    for message, is_wrong in faults.items():
        if is_wrong:
            raise UserError(message)


def parse(parser: Parser, argv: list[str] | None = None) -> Config:
    """Parses and resolves the flags of a script; answers --print-config without importing TensorFlow."""
    return finish_parsing(parser, resolve, argv)


def choose_gpu(config: Config, argv: Sequence[str] | None = None) -> None:
    """Sets CUDA_VISIBLE_DEVICES from --gpu, unless --device says otherwise; call before TensorFlow is imported.

    The default of --gpu gives way to what the environment says: the user, or Ray, which has shared the GPUs out.

    Args:
      config: resolved flags.
      argv: flags on the command line; None takes the process's own.
    """
    if config.device != "auto":
        return
    if is_set(argparse.Namespace(argv=sys.argv[1:] if argv is None else argv), "gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = config.gpu
    else:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", config.gpu)


def warn_of_frame(config: Config) -> None:
    """Prints one line if --frame_size has no effect."""
    if config.aug_style == "batch" and config.frame_size != BATCH_FRAME:
        print(
            f"--frame_size {config.frame_size} has no effect under --aug_style batch, which crops {BATCH_FRAME} "
            "of 256; use --aug_style img",
            file=sys.stderr,
        )


def describe(config: Config) -> str:
    """Describes the network in a few words, for messages."""
    head = "" if config.train_mode == "vanilla" else f" with a {config.emb_dim}-d embedding"
    db = config.db_name
    db = f"folder:{shown(db.partition(':')[2])}" if db.startswith("folder:") else db
    return f"{config.net}{head} at frame size {config.frame_side} on {db}"
