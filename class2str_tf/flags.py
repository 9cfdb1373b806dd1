"""Command lines of the Class2Str scripts: the authors' flags with their defaults, our flags, one resolution.

`SETTINGS` is the one table of sizes per data set (deviation C2S-D08: the released scripts each hard-code their own).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from class2str_tf.stage1_folder import adopt_architecture, adopt_lh, find_cnn, stage1_digest
from reproduction.runtime import flags as shared
from reproduction.runtime.flags import FlagTable, Parser, add_flags, dataset_name, finish_parsing, is_set, number, whole
from reproduction.runtime.run_folder import UserError

# num_bits L; LSTM units as released, and for the poster's count of parameters (MNIST: its reduction in percent only);
# hidden width H of Class2Str and Str2Class; decay mu; folder that the released stage 2 reads; C2S-D04, -D08, -D28
SETTINGS: dict[str, dict[str, Any]] = {
    "mnist": {"bits": 4, "released": (10,), "budget": (2,), "hidden": 100, "mu": 1.0, "cnn": "saved", "epochs": 100},
    "cifar10": {
        "bits": 4, "released": (100, 20, 100), "budget": (3, 3), "hidden": 500, "mu": 0.9, "cnn": "cifar10_cnn",
        "epochs": 1000,
    },
    "cifar100": {
        "bits": 7, "released": (40, 40), "budget": (13, 13), "hidden": 1000, "mu": 0.9, "cnn": "cifar100_cnn",
        "epochs": 1000,
    },
    "imagenet": {
        "bits": 10, "released": (2000, 2000), "budget": (668, 668), "hidden": 2000, "mu": 1.0, "cnn": "logs",
        "epochs": 500,
    },
}  # fmt: skip
MOST_BITS = 20  # timing.py looks the class of a string up in a table of all 2^L strings
FIRST = "first:"
RELEASED_DIGITS = FIRST + "50000"  # the released MNIST reader never goes past these
# Flags that came after the first runs, with the values at which they change nothing: run folders leave them out then
SINCE: dict[str, Any] = {
    "one_cycle": False, "amp": None, "augment": False, "eval_batch": 0, "weight_decay": None, "hold_out": False,
    "codes": "learned", "fc_weights": 0, "fc_linear": False, "cnn_dir": None, "stage1": None,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(shared.CommonConfig):
    """The resolved flags of a stage-1 script.

    Attributes:
      B: batch size.
      F: channels of VGG16's first block.
      features: "paper512" or "released8192"; part of the architecture, like model, F, lenet, lenet_relu and pixels.
      max_steps: None for all epochs.
      train_images: 0 for all, N for a stratified subset, "first:N" for the first N.
      weight_decay: None for the paper's value.
      hold_out: "stratified" with --hold-out (True in runs from before the same share of each class was held out).
      fc_weights: 0 for the full FC classifier, else the largest number of weights of the reduced one.
      fc_linear: True if the reduced FC classifier has no ReLU.
      cnn_dir: run folder of the stage 1 from which training starts, or None.
      stage1: digest of the newest checkpoint in cnn_dir, or None.

    `--help` describes the other attributes.
    """

    B: int
    F: int
    dataset: str
    model: str
    features: str
    lenet: str
    lenet_relu: bool
    pixels: str
    epochs: int
    max_steps: int | None
    lr: float
    legacy_batches: bool
    xla: bool
    train_images: int | str
    one_cycle: bool = False
    amp: str | None = None
    augment: bool = False
    eval_batch: int = 0
    weight_decay: float | None = None
    hold_out: str | bool = False
    fc_weights: int = 0
    fc_linear: bool = False
    cnn_dir: str | None = None
    stage1: str | None = None

    @property
    def folder(self) -> Path:
        """Where stage 1 writes: <runs-dir>/<name>."""
        return Path(self.runs_dir) / self.name


@dataclass(frozen=True, kw_only=True)
class Stage2Config(Config):
    """The resolved flags of a stage-2 script.

    Attributes:
      w_c: weight of the string cross-entropy L_c.
      w_i: weight of the inverse loss L_i.
      w_l2: weight of the confidence term L_b.
      mu: decay over bits, above 0.
      n_sequence: bits L of a class string.
      hidden: hidden units H of Class2Str and of Str2Class.
      lstm_units: units of each LSTM.
      cnn_dir: run folder of stage 1.
      codes: source of the class strings: "learned" (by Class2Str), "random" or "tree".
    """

    w_c: float
    w_i: float
    w_l2: float
    lr_drop_at: float
    label_grad: str
    finetune: str
    mu: float
    n_sequence: int
    lh_preset: str
    lstm_units: list[int]
    decode: str
    retry_collisions: int
    no_cache_features: bool
    no_reduced_fc: bool
    hidden: int
    cnn_dir: str
    codes: str = "learned"

    @property
    def folder(self) -> Path:
        """Where stage 2 writes: rnn/ below stage 1."""
        return super().folder / "rnn"


@dataclass(frozen=True, kw_only=True)
class MnistConfig(Stage2Config):
    """Stage 2 of the MNIST script, which has two flags of its own."""

    gpu: int
    w_inv_loss: float


@dataclass(frozen=True, kw_only=True)
class ImageNetConfig(Stage2Config):
    """Stage 2 of the ImageNet script, which has a flag of its own."""

    restore: int


def of_run(config: Config) -> dict[str, Any]:
    """Returns the flags that a run folder belongs to."""
    return shared.run_flags(config, SINCE)


def settings_of(dataset: str) -> dict[str, Any]:
    """Returns the row of SETTINGS for a data set; other sets use that of the most similar data set of the paper."""
    if dataset in ("mnist", "mnist5k", "fashion_mnist"):
        return SETTINGS["mnist"]
    if dataset in SETTINGS:
        return SETTINGS[dataset]
    if dataset == "svhn":
        return SETTINGS["cifar10"]
    if not dataset.startswith("folder:"):
        known = f"mnist5k, fashion_mnist, svhn, {', '.join(SETTINGS)}"
        raise UserError(f"--dataset {dataset}: Class2Str has no settings for this set; choose {known} or folder:PATH")
    folder = Path(dataset.removeprefix("folder:"))
    classes = folder / "train" if (folder / "train").is_dir() else folder
    if not classes.is_dir():
        raise UserError(f"--dataset {dataset}: no such folder")
    num_classes = sum(entry.is_dir() and not entry.name.startswith(".") for entry in classes.iterdir())
    nearest = "cifar10" if num_classes <= 16 else "cifar100" if num_classes <= 128 else "imagenet"
    return {**SETTINGS[nearest], "bits": max(1, math.ceil(math.log2(max(num_classes, 2))))}


def released_pixels(dataset: str) -> str:
    """Value of --pixels as released: "unit" for digits, else "raw" (C2S-D26)."""
    return "unit" if settings_of(dataset) is SETTINGS["mnist"] else "raw"


def image_count(text: str) -> int | str:
    """Type of --train-images: a number, or `first:N`."""
    if text.startswith(FIRST):
        return f"{FIRST}{whole(1)(text.removeprefix(FIRST))}"
    return whole(0)(text)


def _named(default: str) -> Callable[[str], str]:
    """Type of --dataset; the ImageNet scripts also accept `imagenet`."""
    return lambda text: text if text == default == "imagenet" else dataset_name(text)


ARCHITECTURE: FlagTable = {
    "--features": dict(
        choices=["paper512", "released8192"],
        default="paper512",
        help="VGG16 with five pools (512 features), or with three as released (8192); C2S-D03",
    ),
    "--lenet": dict(choices=["released", "poster"], default="released", help="LeNet as released or the poster's"),
    "--lenet-relu": dict(action="store_true", help="ReLU between LeNet's linear layers; C2S-D11"),
    "--pixels": dict(
        choices=["auto", "raw", "unit", "centred"],
        default="auto",
        help="raw: 0-255 (released CIFAR); unit: [0, 1] (released MNIST); centred: -2 to 2; auto: by data; C2S-D26",
    ),
}
TRAINING: FlagTable = {
    "--epochs": dict(type=whole(1), help="default: the paper's for the data set"),
    "--max-steps": dict(type=whole(1), help="stop after this many steps"),
    "--lr": dict(type=number(0, above=True), default=1e-4, help="Adam's learning rate (default 1e-4)"),
    "--legacy-batches": dict(action="store_true", help="released batch order and saving; C2S-D10, C2S-D15"),
    "--xla": dict(action="store_true", help="compile with XLA; C2S-D32"),
    "--train-images": dict(
        type=image_count,
        default=0,
        metavar="N",
        help="N: a fixed stratified subset of N training images; first:N: the first N (the released MNIST reader: "
        "first:50000, C2S-D30); 0: all",
    ),
    "--one-cycle": dict(action="store_true", help="lr rises over 23 %% of the steps, then falls to 0"),
    "--amp": dict(
        choices=["bf16", "tf32", "auto"],
        help="bf16: bfloat16 on a CPU; tf32: TF32 on a GPU; auto: what the device has, else float32; C2S-D32",
    ),
    "--augment": dict(action="store_true", help="shift by up to two pixels and flip, inside the graph"),
    "--eval-batch": dict(type=whole(0), default=0, help="batch size of a test; 0: as in training"),
    "--weight-decay": dict(
        type=number(0), help="factor of the L2 penalty (0.001; stage 2: trained CNN, reduced FC and, if given, LH)"
    ),
    "--hold-out": dict(
        action="store_const",
        const="stratified",
        default=False,
        help="test on a fixed fifth of the training images, which is then not trained on; for choosing settings",
    ),
}
STAGE_1: FlagTable = {
    "--cnn-dir": dict(metavar="DIR", help="start from the CNN and classifier of this stage-1 run"),
    "--fc-weights": dict(
        type=whole(0), default=0, help="train a new FC classifier with at most N weights (reduced FC); 0: the full one"
    ),
    "--fc-linear": dict(action="store_true", help="no ReLU in the classifier of --fc-weights"),
}
STAGE_2: FlagTable = {
    "--lr-drop-at": dict(type=number(0, 1), default=1.0, help="fraction of the steps after which lr is a tenth"),
    "--cnn-dir": dict(metavar="DIR", help="run folder of stage 1 (default: <runs-dir>/<name>)"),
    "--label-grad": dict(choices=["flow", "stop"], default="flow", help="gradient into the strings; C2S-D01"),
    "--finetune": dict(
        choices=["none", "bn", "all"],
        help="all (default, not on ImageNet): train the CNN too (C2S-D02); none: frozen, as released; bn: frozen, "
        "batch normalisation in training mode, as the released MNIST script (C2S-D31)",
    ),
    "--codes": dict(
        choices=["learned", "random", "tree"],
        default="learned",
        help="class strings: learned by Class2Str, random (by seed), or from a tree of the classes' mean features",
    ),
    "--mu": dict(type=number(0, above=True), help="decay over bits (default 0.9, MNIST/ImageNet 1); C2S-D04"),
    "--n-sequence": dict(
        type=whole(1), help=f"bits of a class string, at most {MOST_BITS} (default by data set; ImageNet 10)"
    ),
    "--lh-preset": dict(choices=["released", "budget"], default="released", help="sizes of the LSTMs; C2S-D28"),
    "--lstm-units": dict(metavar="N,N", help="LSTM sizes such as 32,32; overrides --lh-preset"),
    "--decode": dict(choices=["exact", "hamming", "ml", "str2class"], default="exact", help="main number's decoder"),
    "--retry-collisions": dict(type=whole(0), default=0, help="new tries if strings collide; the last counts; C2S-D23"),
    "--no-cache-features": dict(action="store_true", help="run the frozen CNN at every step (same result)"),
    "--no-reduced-fc": dict(action="store_true", help="skip the reduced FC classifier"),
}


def fc_parser(prog: str, dataset: str = "cifar10", original_flags: bool = True) -> Parser:
    """Parser of a stage-1 script.

    Args:
      prog: file name of the script.
      dataset: its default data set.
      original_flags: False for the ImageNet script, which was released without any flag (B fixed at 200).
    """
    parser = Parser(prog, "Stage 1: convolutional network with the fully connected classifier.")
    group = parser.originals if original_flags else parser.additions
    group.add_argument("--B", type=whole(1), default=200, help="batch size (default 200)")
    group.add_argument("--F", type=whole(1), default=64, help="channels of VGG16's first block (default 64)")
    group.add_argument("--dataset", type=_named(dataset), default=dataset, help=f"default {dataset}")
    group.add_argument("--name", default="default", help="run folder (default `default`)")
    group.add_argument("--model", choices=["vgg16", "lenet", "early"], default="vgg16", help="default vgg16")
    add_flags(parser.additions, ARCHITECTURE | TRAINING | STAGE_1)
    shared.add_common(parser, "class2str")
    return parser


def rnn_parser(prog: str, dataset: str, model: str, batch: int = 200, flavour: str = "") -> Parser:
    """Parser of a stage-2 script.

    Args:
      prog: file name of the script.
      dataset: its default data set.
      model: its default network.
      batch: its default batch size.
      flavour: "mnist" and "imagenet" have original flags of their own.
    """
    parser = Parser(prog, "Stage 2: LH classifier, Class2Str and Str2Class on the features of stage 1.")
    group = parser.originals
    common = parser.additions if flavour == "mnist" else group  # the MNIST script was released with three flags only
    group.add_argument("--B", type=whole(1), default=batch, help=f"batch size (default {batch})")
    common.add_argument("--F", type=whole(1), default=64, help="channels of VGG16's first block (default 64)")
    common.add_argument("--dataset", type=_named(dataset), default=dataset, help=f"default {dataset}")
    common.add_argument("--name", default="default", help="run folder of stage 1; this stage writes to its rnn/")
    models = ["vgg", "vgg16", "lenet"] if flavour == "imagenet" else ["vgg16", "lenet", "early"]
    common.add_argument("--model", choices=models, default=model, help=f"default: that of stage 1, else {model}")
    if flavour == "mnist":
        group.add_argument("--gpu", type=whole(0), default=0, help="CUDA device, if one is visible; --device wins")
        group.add_argument("--w_inv_loss", type=number(0), default=100.0, help="weight of the inverse loss, w_i")
    for name, default, term in (
        ("--w_c", 1.0, "string cross-entropy"),
        ("--w_i", 100.0 if flavour == "mnist" else 1.0, "inverse loss"),
        ("--w_l2", 0.01 if flavour == "mnist" else 1.0, "confidence of the bits, a sum over the batch"),
    ):
        common.add_argument(name, type=number(0), default=default, help=f"weight of the {term} (default {default:g})")
    if flavour == "imagenet":
        group.add_argument("--restore", type=int, choices=[0, 1], default=0, help="accepted; a run always resumes")
    add_flags(parser.additions, ARCHITECTURE | TRAINING | STAGE_2)
    shared.add_common(parser, "class2str")
    return parser


def _common(args: argparse.Namespace) -> dict[str, Any]:
    """What both stages resolve alike."""
    config = {key: value for key, value in vars(args).items() if key not in ("argv", "print_config")}
    if config["pixels"] == "auto":
        config["pixels"] = released_pixels(args.dataset)
    if args.legacy_batches and args.dataset == "mnist" and not is_set(args, "train_images"):
        config["train_images"] = RELEASED_DIGITS
    if args.model == "vgg":
        config["model"] = "vgg16"
    if args.hold_out and args.dataset == "imagenet":
        raise UserError("--hold-out: not for imagenet, whose images stay on disk")
    if args.eval:
        adopt_architecture(config, args, Path(args.eval).parent)
    return config


def resolve_fc(args: argparse.Namespace) -> Config:
    """Resolved configuration of stage 1."""
    values = _common(args) | {"epochs": args.epochs or 1000}
    if args.cnn_dir:
        adopt_architecture(values, args, Path(args.cnn_dir))
        values["stage1"] = stage1_digest(Path(args.cnn_dir))
    return Config(**values)


def resolve_rnn(args: argparse.Namespace) -> Stage2Config:
    """Resolved configuration of stage 2.

    Raises:
      UserError: LSTM widths that are no list of whole numbers, too long strings.
    """
    if (args.n_sequence or 0) > MOST_BITS:
        raise UserError(f"--n-sequence {args.n_sequence}: at most {MOST_BITS} bits")
    sizes = settings_of(args.dataset)
    values, cnn_dir = _common(args), find_cnn(args, sizes["cnn"])
    if "w_inv_loss" in values and not is_set(args, "w_i"):
        values["w_i"] = args.w_inv_loss  # DEVIATION C2S-D13: declared by the authors, used nowhere
    adopt_architecture(values, args, cnn_dir)
    values |= {
        "epochs": args.epochs or sizes["epochs"],
        "n_sequence": args.n_sequence or sizes["bits"],
        "mu": sizes["mu"] if args.mu is None else args.mu,
        "hidden": sizes["hidden"],
        "finetune": args.finetune or ("none" if args.dataset == "imagenet" else "all"),
        "lstm_units": _units(args.lstm_units) or list(sizes[args.lh_preset]),
        "cnn_dir": str(cnn_dir),
        "stage1": stage1_digest(cnn_dir),
    }
    adopt_lh(values, args)
    kind = MnistConfig if "w_inv_loss" in values else ImageNetConfig if "restore" in values else Stage2Config
    return kind(**values)


def _units(text: str | None) -> list[int]:
    if not text:
        return []
    try:
        units = [int(word) for word in text.split(",")]
    except ValueError:
        units = [0]
    if min(units) < 1:
        raise UserError(f"argument --lstm-units: {text!r} is not a list of whole numbers >= 1, for example 100,20,100")
    return units


def parse_fc(parser: Parser, argv: list[str] | None = None) -> Config:
    """Configuration of a stage-1 script; answers --print-config without importing TensorFlow."""
    return finish_parsing(parser, resolve_fc, argv)


def parse_rnn(parser: Parser, argv: list[str] | None = None) -> Stage2Config:
    """Configuration of a stage-2 script; answers --print-config without importing TensorFlow."""
    return finish_parsing(parser, resolve_rnn, argv)
