"""Command lines of main.py and pipeline.py: the authors' names verbatim, ours, and how they resolve. No framework."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from reproduction.runtime.flags import (
    CommonConfig,
    FlagTable,
    Parser,
    add_common,
    add_flags,
    as_dict,
    dataset_name,
    finish_parsing,
    flag,
    is_set,
    number,
    seed,
    whole,
)
from reproduction.runtime.run_folder import DATA_ROOT, UserError

STAGES = ("coarse", "features", "uncertainty", "cluster", "sub", "fine-tune", "multi-head", "stability", "report")
STRATEGIES = {"fine-tuning": ("fine-tune",), "multi-head": ("multi-head",), "all": ("fine-tune", "multi-head")}
MAIN_STRATEGIES = {"base": (), "transfer": ("fine-tune",), "multihead": ("multi-head",)}

BASE = ""
# Variants of a row `<dataset>-<profile>[-variant]` and their titles, in the order of the table
TITLES = {
    BASE: "base",
    "ft": "FT pseudo (plain)",
    "ft-deep": "FT pseudo (deep_layer)",
    "ft-keep": "FT pseudo (keep_sub_head)",
    "mh01": "MH pseudo, alpha 0.1",
    "mh09": "MH pseudo, alpha 0.9",
    "ft-true": "FT true",
    "mh01-true": "MH true, alpha 0.1",
    "mh09-true": "MH true, alpha 0.9",
    "base-budget": "control: base trained on for FT's epochs",
    "base-certain": "control: base on certain images only",
    "ft-random": "control: FT, random sub-labels",
    "mh09-random": "control: MH, alpha 0.9, random sub-labels",
    "ft-kmeans": "control: FT, k-means in the 4-d space",
    "ft-pixels": "control: FT, k-means on pixels",
    "ft-nofilter": "control: FT, no filter",
    "ft-noumap": "control: FT, clusters without UMAP",
}
HEADS = {"plain": "", "deep_layer": "-deep", "keep_sub_head": "-keep"}
SUB_LABELS = ("found", "random", "kmeans", "pixels", "nofilter", "noumap")

# --precision -> what autocast takes
AMP: dict[str, str | None] = {"32-true": None, "tf32": "tf32", "bf16-mixed": "bf16", "auto": "auto"}
OURS = ("small", "resnet10", "resnet10n")  # networks without ImageNet weights

TRAINING_CHILD = "FINEGRAINED_TRAINING_CHILD"  # set in the environment while Lightning starts processes

# Which flags decide what a stage computes; a stage's folder belongs to them and to the hash of its inputs.
_DATA = ("dataset", "limit_train", "network", "seed")
_EPOCHS = ("max_epochs", "min_epochs", "patience")
_SPEED = ("precision", "compile", "devices")
_TRAINING = (*_DATA, "split", "pretrained", "batch_size", *_EPOCHS, "lr", "optimizer", "schedule", *_SPEED)
_UMAP = ("umap_neighbors", "umap_min_dist", "umap_components")
STAGE_FLAGS: dict[str, tuple[str, ...]] = {
    "coarse": (*_TRAINING, "control"),
    "features": (*_DATA, "csv_features"),
    "uncertainty": (*_DATA, "n_aug", "aug_set", "threshold"),
    "cluster": (*_DATA, "threshold", *_UMAP, "min_cluster_size", "controls"),
    "sub": (*_TRAINING, "use_pseudo", "sub_labels"),
    "fine-tune": (*_TRAINING, "use_pseudo", "sub_labels", "freeze"),
    "multi-head": (*_TRAINING, "use_pseudo", "sub_labels"),
    "stability": _DATA,
}
# Flags that older runs do not know: at these values, which compute the same, they are not in the flags of a stage.
_SINCE: dict[str, Any] = {"augment": "none", "channels_last": False, "eval_batch": 0, "hold_out": False}
SINCE: dict[str, dict[str, Any]] = {
    **{stage: {"hold_out": False} for stage in STAGE_FLAGS},
    "coarse": {**_SINCE, "freeze": False},
    "fine-tune": _SINCE,
    **{stage: {**_SINCE, "true_images": "all"} for stage in ("sub", "multi-head")},
}


@dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """Resolved flags of pipeline.py under their names, which `pipeline_parser` describes; argv is the command line."""

    dataset: str
    threshold: float
    n_aug: int
    batch_size: int
    max_epochs: int
    min_epochs: int
    patience: int
    pretrained: bool
    strategy: str
    alpha: list[float]
    use_pseudo: bool
    stage: list[str]
    head: list[str]
    freeze: bool
    sub_labels: str
    control: str
    split: str
    lr: float | None
    weights: str | None
    network: str
    optimizer: str
    schedule: str
    aug_set: str
    umap_neighbors: int
    umap_min_dist: float
    umap_components: int
    min_cluster_size: int
    cluster_workers: int
    controls: list[str]
    csv_features: bool
    limit_train: int
    hold_out: bool
    precision: Literal["32-true", "tf32", "bf16-mixed", "auto"]
    augment: str
    true_images: str
    compile: bool
    channels_last: bool
    eval_batch: int
    devices: int
    parallel: str
    threads: int
    num_workers: int
    out_dir: str
    print_config: bool
    argv: list[str]

    @property
    def test_batch(self) -> int:
        """Images at a time where nothing is trained."""
        return self.eval_batch or self.batch_size


@dataclass(frozen=True, kw_only=True)
class MainConfig(Config):
    """Resolved flags of main.py."""

    legacy_net: bool


AnyConfig = TypeVar("AnyConfig", bound=Config)


def _choice(values: Iterable[str], text: str) -> dict[str, Any]:
    """What `add_argument` takes for one of several words, of which the first is the default."""
    words = list(values)
    return {"choices": words, "default": words[0], "help": f"{text} (default {words[0]})"}


def _switch(group: Any, name: str, text: str, default: bool | None) -> None:
    """--name and --no-name (and --no_name)."""
    dest = name.lstrip("-")
    group.add_argument(name, action="store_true", default=default, dest=dest, help=text)
    group.add_argument(f"--no-{dest}", f"--no_{dest}", action="store_false", dest=dest, help=argparse.SUPPRESS)


PERCENT = number(0, 100, above=True)
ALPHA: dict[str, Any] = dict(type=number(0, 1), nargs="+", default=[0.1, 0.9], metavar="A")
PRETRAINED = "ImageNet weights (default with resnet18 and --legacy-net); --no-pretrained: random ones"
PROTOCOL: FlagTable = {  # constructor parameters that both scripts have
    "--threshold": dict(type=PERCENT, default=90.0, help="percent of a class that is certain (default 90)"),
    "--n_aug": dict(type=whole(1), default=5, help="views of an image for its uncertainty (default 5)"),
    "--batch_size": dict(type=whole(1), default=200, help="batch of all processes together (default 200)"),
    "--max_epochs": dict(type=whole(1), default=50, help="most epochs of a training (default 50)"),
    "--min_epochs": dict(type=whole(1), default=30, help="fewest epochs of a training (default 30)"),
    "--patience": dict(type=whole(1), default=4, help="validations without a new best loss (default 4)"),
}
ADDITIONS: FlagTable = {
    "--head": dict(
        choices=list(HEADS),
        nargs="+",
        default=["plain"],
        metavar="HEAD",
        help=f"head of fine-tuning; one run for each value: {', '.join(HEADS)} (default plain)",
    ),
    "--freeze": dict(action="store_true", help="fine-tune only batch norms and head; FGL-D26"),
    "--sub-labels": _choice(SUB_LABELS, "pseudo-labels as found, or those of a control"),
    "--sublabels": dict(choices=SUB_LABELS, dest="sub_labels", default=argparse.SUPPRESS, help=argparse.SUPPRESS),
    "--control": _choice(
        ("none", "budget", "certain"), "stage coarse: train base further with a fresh head, or on certain images"
    ),
    "--split": _choice(("fixed", "legacy"), "fixed: disjoint; legacy: overlap as released; FGL-D04"),
    "--lr": dict(type=number(0, above=True), help="learning rate (default: a range test before every training)"),
    "--weights": dict(metavar="FILE", help="ImageNet state dict (default: resnet18-f37072fd.pth in data/weights)"),
    "--network": _choice(("resnet18", *OURS), "resnet10: 24 to 192 channels; resnet10n: 16 to 128; small: 3 layers"),
    "--optimizer": _choice(("sgd", "adam"), "optimizer"),
    "--schedule": _choice(
        ("restarts", "cosine", "constant", "onecycle"),
        "of the rate: warm restarts every 10 epochs, one cosine, constant, or up to --lr and down",
    ),
    "--augment": _choice(("none", "shifts"), "shifts: move training images by up to two pixels, and mirror"),
    "--true-images": _choice(("all", "certain"), "with --no-use_pseudo: images whose true subclasses are learned"),
    "--aug-set": _choice(("flips", "shifts", "picture"), "views; flips: released, shifts: a pixel, picture: as drawn"),
    "--umap-neighbors": dict(type=whole(2), default=30, help="n_neighbors of UMAP (default 30)"),
    "--umap-min-dist": dict(type=number(0, 1), default=0.0, help="min_dist of UMAP (default 0)"),
    "--umap-components": dict(type=whole(1), default=4, help="dimensions after UMAP (default 4)"),
    "--min-cluster-size": dict(type=whole(2), default=100, help="min_cluster_size of HDBSCAN (default 100)"),
    "--cluster-workers": dict(type=whole(0), default=0, help="classes in parallel (0: by memory and cores)"),
    "--controls": dict(
        nargs="*",
        choices=SUB_LABELS[1:],
        default=[],
        metavar="NAME",
        help=f"stage cluster: controls to compute too: {', '.join(SUB_LABELS[1:])}",
    ),
    "--csv-features": dict(action="store_true", help="features as text too, as released (640 MB for CIFAR)"),
    "--limit-train": dict(type=whole(0), default=0, help="train on a fixed stratified subset of N images (0: all)"),
    "--hold-out": dict(action="store_true", help="test on a fixed fifth of the training images; for choosing settings"),
    "--precision": _choice(AMP, "tf32: on a GPU; auto: bf16-mixed if the device has it; FGL-D33"),
    "--compile": dict(action="store_true", help="torch.compile; FGL-D33"),
    "--channels-last": dict(action="store_true", help="train in the channels-last memory format; FGL-D33"),
    "--eval-batch": dict(type=whole(0), default=0, help="batch of validation, test and step 1 (0: --batch_size)"),
    "--devices": dict(type=whole(1), default=1, help="processes of a training (default 1)"),
    "--parallel": _choice(("ddp_spawn", "ddp_fork"), "Lightning's strategy with several --devices"),
    "--threads": dict(type=whole(0), default=0, help="CPU threads (0: all cores)"),
    "--num-workers": dict(type=whole(0), default=0, help="loader processes (default 0: images are in memory)"),
    "--out-dir": dict(metavar="DIR", help="folder of the run (default: <runs-dir>/<name>)"),
    "--data-dir": dict(default=str(DATA_ROOT), metavar="DIR", help="data sets (default: data/ of the repository)"),
    "--name": dict(help="run folder below --runs-dir (default: the data set)"),
    "--seed": dict(type=seed, default=42, help="all random draws depend on it alone (default 42)"),
}


def pipeline_parser() -> Parser:
    """pipeline.py: every constructor parameter of the released class as a flag of the same name."""
    p = Parser("pipeline.py", "Fine-grained labels by uncertainty, UMAP and HDBSCAN: every stage of the method.")
    g = p.originals
    also = "cifar10, cifar100, another set of python -m datasets, or folder:PATH (default cifar10)"
    g.add_argument("--dataset", type=dataset_name, default="cifar10", help=also)
    add_flags(g, PROTOCOL)
    _switch(g, "--pretrained", PRETRAINED, None)
    steps = "step 2, with --stage all only (default all: what the released default fine-tuning ran)"
    g.add_argument("--strategy", choices=list(STRATEGIES), default="all", help=steps)
    text = "weight of the coarse loss in multi-head, one run each (default 0.1 0.9: what the released default 0.2 ran)"
    g.add_argument("--alpha", **ALPHA, help=text)
    _switch(g, "--use_pseudo", "learn pseudo-labels (default); --no-use_pseudo: the true subclasses", True)
    text = f"stages to run: {', '.join(STAGES)}; all (default): all but stability"
    flag(p.additions, "--stage", nargs="+", choices=[*STAGES, "all"], default=["all"], metavar="STAGE", help=text)
    add_flags(p.additions, ADDITIONS)
    add_common(p, "finegrained")
    return p


def main_parser() -> Parser:
    """main.py: its two flags, and ours."""
    p = Parser("main.py", "Base network, transfer from fine labels, or multi-head.")
    g, a = p.originals, p.additions
    also = "mnist, cifar10, cifar100, another set of python -m datasets, or folder:PATH (default cifar10)"
    g.add_argument("--dataset", type=dataset_name, default="cifar10", help=also)
    steps = "base: coarse labels; transfer: after fine ones; multihead: with them"
    g.add_argument("--strategy", **_choice(MAIN_STRATEGIES, steps))
    add_flags(a, PROTOCOL)
    _switch(a, "--pretrained", PRETRAINED, None)
    a.add_argument("--alpha", **ALPHA, help="weight of the coarse loss in multihead, one run each (default 0.1 0.9)")
    _switch(a, "--use_pseudo", "learn pseudo-labels instead of the true subclasses (default: true subclasses)", False)
    text = "the released main.py: 7x7 stem, S + C outputs, Adam 1e-3, batch 128, 180 epochs"
    flag(a, "--legacy-net", action="store_true", help=text)
    add_flags(a, ADDITIONS)
    add_common(p, "finegrained")
    return p


def resolve(args: argparse.Namespace) -> Config:
    """Resolves the flags of pipeline.py.

    Raises:
      UserError: flags that exclude each other.
    """
    if "all" not in args.stage and args.strategy != "all":
        raise UserError(f"--strategy {args.strategy}: only with --stage all")
    more = _stages_of(STRATEGIES[args.strategy], args.use_pseudo) if "all" in args.stage else []
    args.stage = [stage for stage in STAGES if stage in (*args.stage, *more)]
    return _common(Config, args)


def resolve_main(args: argparse.Namespace) -> MainConfig:
    """Resolves the flags of main.py: the stages follow from its strategy."""
    steps = MAIN_STRATEGIES[args.strategy]
    args.stage = [s for s in _stages_of(steps, args.use_pseudo) if s != "report"] if steps else ["coarse"]
    if args.legacy_net:
        # The released main.py: Adam, batches of 128 (its loaders' default), 180 epochs, no early stopping, one rate
        for name, fixed in (("network", "legacy"), ("optimizer", "adam"), ("schedule", "constant")):
            if is_set(args, name) and getattr(args, name) != fixed:
                raise UserError(f"--{name} {getattr(args, name)}: --legacy-net has its own, {fixed}")
            setattr(args, name, fixed)
        for name, released in (("lr", 1e-3), ("batch_size", 128), ("max_epochs", 180), ("min_epochs", 180)):
            if not is_set(args, name):
                setattr(args, name, released)
    return _common(MainConfig, args)


def _stages_of(steps: Sequence[str], use_pseudo: bool) -> list[str]:
    """Lists the stages of a whole run, in order; with true subclasses step 1 is left out, as released."""
    first = STAGES[:4] if use_pseudo else ()
    second = ("sub", *steps) if "fine-tune" in steps else steps
    return [*first, *second, "report"]


def _common(kind: type[AnyConfig], args: argparse.Namespace) -> AnyConfig:
    """Resolves the flags that both scripts have, and refuses those that exclude each other."""
    if args.pretrained is None:
        args.pretrained = args.network not in OURS
    if args.pretrained and args.network in OURS:
        raise UserError(f"--pretrained: there are no ImageNet weights for --network {args.network}")
    if args.weights and not args.pretrained:
        raise UserError("--weights: only with --pretrained")
    if args.min_epochs > args.max_epochs:
        if is_set(args, "min_epochs"):
            raise UserError(f"--min_epochs {args.min_epochs}: more than --max_epochs {args.max_epochs}")
        args.min_epochs = args.max_epochs
    if not args.use_pseudo and args.sub_labels != "found":
        raise UserError(f"--sub_labels {args.sub_labels}: only with pseudo-labels, not with the true subclasses")
    if args.control != "none" and args.stage != ["coarse"]:
        raise UserError(f"--control {args.control}: only with --stage coarse")
    if args.schedule == "onecycle":
        if args.lr is None:
            raise UserError("--schedule onecycle: needs --lr, its peak; the range test measures a constant rate")
        if is_set(args, "min_epochs") and args.min_epochs < args.max_epochs:
            raise UserError("--schedule onecycle: ends with --max_epochs; leave out --min_epochs")
        args.min_epochs = args.max_epochs
    if args.true_images != "all" and args.use_pseudo:
        raise UserError(f"--true_images {args.true_images}: only with --no-use_pseudo")
    if args.devices > 1 and args.compile:
        raise UserError("--compile: only with one of --devices")
    for name, values in (("alpha", args.alpha), ("head", args.head)):
        if len(set(values)) < len(values):
            raise UserError(f"--{name} {' '.join(map(str, values))}: names one value twice")
    args.controls = [name for name in SUB_LABELS if name in args.controls]  # in any order they are the same settings
    args.name = args.name or re.sub(r"[^\w.-]", "_", Path(args.dataset.removeprefix("folder:")).name)
    args.out_dir = str(Path(args.out_dir) if args.out_dir else Path(args.runs_dir) / args.name)
    return kind(**vars(args))


def parse_pipeline(argv: list[str] | None = None) -> Config:
    """Parses pipeline.py's command line; answers --help and --print-config by itself."""
    return finish_parsing(pipeline_parser(), resolve, argv)


def parse_main(argv: list[str] | None = None) -> MainConfig:
    """Parses main.py's command line."""
    return finish_parsing(main_parser(), resolve_main, argv)


def of_stage(config: Config, stage: str) -> dict[str, Any]:
    """Selects the part of the configuration that decides what a stage computes; --freeze: only where it fine-tunes."""
    values = as_dict(config) | ({"freeze": False} if stage == "coarse" and config.control != "budget" else {})
    since = {name: values[name] for name, value in SINCE.get(stage, {}).items() if values[name] != value}
    return {name: values[name] for name in STAGE_FLAGS[stage]} | since


def variant(
    stage: str,
    use_pseudo: bool = True,
    head: str = "plain",
    alpha: float | None = None,
    sub_labels: str = "found",
    control: str = "none",
) -> str:
    """Returns the suffix of a row.

    Args:
      stage: coarse, features, uncertainty, cluster, sub, fine-tune or multi-head; sub counts to the row it feeds.
      use_pseudo: False trains on the true fine labels.
      head: of fine-tuning, one of HEADS.
      alpha: weight of the coarse loss, for multi-head.
      sub_labels: one of SUB_LABELS, whose labels are trained on.
      control: none, budget or certain, for coarse.
    Returns:
      Such as "", "ft-deep", "mh09-true", "ft-random", "base-certain".
    """
    if stage in ("coarse", "features", "uncertainty", "cluster", "report"):
        return BASE if control == "none" else f"base-{control}"
    digits = "" if alpha is None else f"{alpha:g}".replace(".", "")  # 0.1 -> 01, 0.25 -> 025, 1 -> 1
    name = "ft" if stage in ("sub", "fine-tune") else f"mh{digits}"
    if stage == "fine-tune":
        name += HEADS[head]
    labels = sub_labels if use_pseudo else "true"
    return name if labels == "found" else f"{name}-{labels}"


def row_name(base_row: str | None, suffix: str) -> str | None:
    """Returns the full name of a row; None (a run by hand) stays None."""
    return base_row if base_row is None or not suffix else f"{base_row}-{suffix}"


def ordered(suffixes: Sequence[str]) -> list[str]:
    """Sorts variants in the order of the table, others after them."""
    known = [name for name in TITLES if name in suffixes]
    return known + sorted(set(suffixes) - TITLES.keys())
