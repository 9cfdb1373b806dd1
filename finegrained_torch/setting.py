"""What all stages share: flags, folders, data, and what one stage takes over from another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from finegrained_torch import data as data_sets
from finegrained_torch import flags, networks, splits
from finegrained_torch.classifier import Module, Optimization
from finegrained_torch.data import Data, Items
from finegrained_torch.training import Task, Trained, start_stage, train
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.arrays import read_npz
from reproduction.runtime.run_folder import Run, UserError, open_run, shown

# Names of the release's checkpoint folders.
FOLDERS = {"coarse": "classifier", "sub": "classifier_sub", "fine-tune": "fine-tuning", "multi-head": "multihead"}


M = TypeVar("M", bound=Module)


class Positions(NamedTuple):
    """Images of a training: items and positions of the training and of the validation images."""

    train: tuple[Items, np.ndarray]
    val: tuple[Items, np.ndarray]


class Setting:
    """What all stages share: flags, folders, device, and the data, loaded when a stage first needs it."""

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.out = Path(config["out_dir"])
        self.device = runtime.pick_device(config["device"])
        self.name = data_sets.short_name(config["dataset"])
        self.tables = self.out / f"sub_{self.name}"

    @cached_property
    def data(self) -> Data:
        data = data_sets.load(self.config)
        known = f", {data.num_sub_labels} known subclasses" if data.num_sub_labels else ""
        print(
            f"{data.name}: {len(data.train.coarse):,} training and {len(data.test.coarse):,} test images, "
            f"{data.num_coarse_labels} coarse classes{known}; device {self.device}, {torch.get_num_threads()} threads",
            flush=True,
        )
        return data

    @cached_property
    def data_hash(self) -> str:
        return data_sets.content_hash(self.data)

    @cached_property
    def train_items(self) -> Items:
        return Items.of(self.data.train)

    @cached_property
    def test_items(self) -> Items:
        return Items.of(self.data.test)

    @cached_property
    def pretrained(self) -> tuple[Any, str]:
        """State dict to start from (False: none) and its name."""
        if not self.config["pretrained"]:
            return False, "none"
        return networks.find_pretrained(
            self.config["weights"], self.config["data_dir"], self.config["accept_unverified"]
        )

    def kind(self) -> str:
        """Folder of the sub-labels that are trained on: pseudo, true, or the name of a control."""
        if not self.config["use_pseudo"]:
            return "true"
        return "pseudo" if self.config["sub_labels"] == "found" else self.config["sub_labels"]

    def folder(self, stage: str, head: str = "", alpha: float | None = None) -> Path:
        """Where a stage writes. DEVIATION FGL-D11: true, pseudo and every alpha have a folder of their own."""
        if stage in ("features", "uncertainty", "cluster"):
            return self.tables / "stages" / stage
        base = self.out / FOLDERS[stage] / self.name
        if stage == "coarse":
            return base if self.config["control"] == "none" else base / self.config["control"]
        base = base / self.kind()
        return base / head if head else base if alpha is None else base / f"alpha_{alpha:g}"

    def opened(self, stage: str, folder: Path, inputs: Mapping[str, str], **more: Any) -> Any:
        """The stage's folder; same settings and inputs go on or are finished, others are refused."""
        # DEVIATION FGL-D09: folders may exist, a manifest says what they hold, runs of other settings never mix
        settings = (
            flags.of_stage(self.config, stage) | more | {f"input_{name}": value for name, value in inputs.items()}
        )
        return open_run(folder, settings, overwrite=self.config["overwrite"])

    def optimization(self, key: tuple[int | str, ...]) -> Optimization:
        config = self.config
        return Optimization(config["optimizer"], config["schedule"], config["max_epochs"], key)

    def module(self, kind: Callable[..., M], key: tuple[int | str, ...], pretrained: bool = True, **options: Any) -> M:
        """A fresh module on the CPU; the backbone's initial weights are the same in every stage of a seed."""
        torch.manual_seed(runtime.derive(self.config["seed"], "weights"))
        return kind(
            self.config["lr"] or 0.1, pretrained=self.pretrained[0] if pretrained else False,
            network=self.config["network"], optimization=self.optimization(key), mean=self.data.mean,
            std=self.data.std, **options,
        )  # fmt: skip

    def other_classes(self, count: int) -> int:
        """Outputs for the other kind of label: `count` in the network of the released main.py, else none."""
        return count if self.config["network"] == "legacy" else 0

    def sub_labels(self) -> tuple[np.ndarray, int, str]:
        """Fine labels of the training images (-1: none), their number S, and the hash of where they come from.

        Raises:
          UserError: no clustering yet, or one of other images.
        """
        if not self.config["use_pseudo"]:
            return self.data.train.fine, self.data.num_sub_labels, self.data_hash
        control = self.config["sub_labels"]
        path = self.tables / "pseudo.csv" if control == "found" else self.tables / "controls" / control / "pseudo.csv"
        done = (self.folder("cluster") / "DONE").exists()
        if not path.exists() or not done:
            more = "" if control == "found" else f" --controls {control}"
            raise UserError(f"{shown(path)}: no finished clustering; run pipeline.py --stage cluster{more} first")
        labels = read_labels(path, self.data.train.coarse)
        # DEVIATION FGL-D14: the labels that exist are counted, whether or not a -1 is among them
        return labels, int(labels.max()) + 1, file_hash(path)

    def certain(self) -> np.ndarray:
        """Which training images the uncertainty stage kept, bool [N]."""
        path = self.tables / "uncertainty.npz"
        if not path.exists():
            raise UserError(f"{shown(path)}: not there; run pipeline.py --stage uncertainty first")
        return read_npz(path, ("certain",), "run pipeline.py --stage uncertainty --overwrite")["certain"]

    def positions(self, stage: str, fine: np.ndarray | None = None, keep: np.ndarray | None = None) -> Positions:
        """Which images a training sees.

        Args:
          stage: its name, for --split legacy. fine: int64 [N] labels to learn besides the coarse ones.
          keep: bool [N], images that may be used; None takes all.
        """
        data, seed = self.data, self.config["seed"]
        items = self.train_items
        if fine is not None:
            items = Items(items.images, torch.from_numpy(fine), items.coarse)
        usable = np.arange(len(items)) if keep is None else np.flatnonzero(keep)
        if data.validation is not None and stage != "sub":
            official = Items.of(data.validation)
            return Positions((items, usable), (official, np.arange(len(official))))
        if self.config["split"] == "legacy":
            train_at, val_at = splits.legacy_split(len(usable), seed, stage)
            return Positions((items, usable[train_at]), (items, usable[val_at]))
        train_at, val_at = splits.stored_split(self.out / "split.npz", len(items), seed, self.config["overwrite"])
        allowed = np.isin(np.arange(len(items)), usable)
        return Positions((items, train_at[allowed[train_at]]), (items, val_at[allowed[val_at]]))

    def fit(self, stage: str, run: Run, module: Module, where: Positions, **facts: Any) -> Trained:
        """Trains, and says before the first step what on."""
        start_stage(self.config)
        print(f"{stage}: {len(where.train[1]):,} training and {len(where.val[1]):,} validation images, "
              f"{networks.parameter_count(module, trainable=True):,} parameters", flush=True)  # fmt: skip
        facts |= {
            "maker": "finegrained_torch", "stage": stage, "dataset": self.data.name, "network": self.config["network"],
            "mean": list(self.data.mean), "std": list(self.data.std), "coarse_names": list(self.data.coarse_names),
        }  # fmt: skip
        key = module.optimization.key
        return train(Task(stage, run.folder, module, where.train, where.val, key, facts), self.config)


def file_hash(path: Path) -> str:
    """sha256 of a file, first 16 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def read_labels(path: Path, coarse: np.ndarray) -> np.ndarray:
    """Pseudo-labels of a clustering, int64 [N], -1 for none.

    Raises:
      UserError: another number of images, gaps in the numbering, or a label in two coarse classes.
    """
    try:
        # not np.loadtxt: a character such as U+10FFFF where it expects a digit ends the process
        labels = np.array(
            [int(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()], np.int64
        )
    except (ValueError, OverflowError) as error:
        raise UserError(f"{shown(path)}: not a column of whole numbers ({error})") from None
    if len(labels) != len(coarse):
        raise UserError(f"{shown(path)}: {len(labels)} labels for {len(coarse)} training images; run --stage cluster")
    found = np.unique(labels[labels >= 0])
    if len(found) == 0 or labels.min() < -1 or not np.array_equal(found, np.arange(len(found))):
        raise UserError(f"{shown(path)}: labels must be 0, 1, 2, ... without gaps, and -1")
    pairs = np.unique(np.stack([labels[labels >= 0], coarse[labels >= 0]]), axis=1)
    if pairs.shape[1] != len(found):
        raise UserError(f"{shown(path)}: a label occurs in two coarse classes; it belongs to another data set")
    return labels


def best_weights(folder: Path, need: str) -> tuple[dict[str, Any], str]:
    """Best checkpoint of a finished stage and its hash.

    Raises:
      UserError: the stage has not finished; `need` says what to run.
    """
    if not (folder / "DONE").exists():  # DEVIATION FGL-D10: stages hand over through files, so each can be resumed
        raise UserError(f"{shown(folder)}: has not finished; run pipeline.py --stage {need} first")
    path = folder / "best.ckpt"
    return runtime.read_checkpoint(path), file_hash(path)
