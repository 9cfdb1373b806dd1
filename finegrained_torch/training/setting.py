"""What all stages of a command share: flags, folders, data, and what one stage reads of another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from finegrained_torch import flags
from finegrained_torch.data import images, splits
from finegrained_torch.data.images import Data, Items
from finegrained_torch.flags import AMP, Config
from finegrained_torch.networks import resnet
from finegrained_torch.training.modules import Module, Optimization, seed_everything
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.arrays import read_npz
from reproduction.runtime.run_folder import Run, UserError, open_run, read_json, shown, write_bytes

# Names of the release's checkpoint folders.
FOLDERS = {"coarse": "classifier", "sub": "classifier_sub", "fine-tune": "fine-tuning", "multi-head": "multihead"}


M = TypeVar("M", bound=Module)
Part = tuple[Items, np.ndarray]  # items, and the positions int64 [n] of those images in them that are used


def whole(split: images.Split) -> Part:
    """Returns all images of a split."""
    return Items.of(split), np.arange(len(split.coarse))


@dataclass(frozen=True)
class Task:
    """What a training sees.

    Attributes:
      stage: for messages.
      folder: where it writes.
      module: at its initial weights.
      train: the training images.
      val: the validation images.
      key: seeds of the order, (seed, stage).
      facts: stored together with the best weights.
    """

    stage: str
    folder: Path
    module: Module
    train: Part
    val: Part
    key: tuple[int | str, ...]
    facts: dict[str, Any]


class Setting:
    """Flags, folders, device and data of a command; the data is loaded when a stage first needs it.

    Attributes:
      config: resolved flags.
      out: the --out_dir.
      device: of the networks.
      name: of the data set, in names of folders.
      tables: folder of features, uncertainty and clusters.
    """

    def __init__(self, config: Config):
        self.config = config
        self.out = Path(config.out_dir)
        self.device = runtime.pick_device(config.device)
        self.name = images.short_name(config.dataset)
        self.tables = self.out / f"sub_{self.name}"

    @cached_property
    def data(self) -> Data:
        """The data set, loaded and announced at the first use."""
        config = self.config
        part = config.limit_train, config.hold_out
        data = images.load(config.dataset, config.data_dir, config.accept_unverified, *part)
        known = f", {data.num_sub_labels} known subclasses" if data.num_sub_labels else ""
        print(
            f"{data.name}: {len(data.train.coarse):,} training and {len(data.test.coarse):,} test images, "
            f"{data.num_coarse_labels} coarse classes{known}; device {self.device}, {torch.get_num_threads()} threads, "
            f"training in {runtime.precision(self.device, AMP[config.precision])}",
            flush=True,
        )
        return data

    @cached_property
    def data_hash(self) -> str:
        """16 hexadecimal digits; results of earlier stages that name another hash belong to other data."""
        return images.content_hash(self.data)

    @cached_property
    def train_items(self) -> Items:
        """The training split as tensors; without an official validation split it also contains those images."""
        return Items.of(self.data.train)

    @cached_property
    def test(self) -> Part:
        """The whole test split as tensors."""
        return whole(self.data.test)

    @cached_property
    def pretrained(self) -> tuple[Any, str]:
        """State dict to start from (False: none), and its name."""
        config = self.config
        if not config.pretrained:
            return False, "none"
        return resnet.find_pretrained(config.weights, config.data_dir, config.accept_unverified)

    @property
    def labels_kind(self) -> str:
        """Which sub-labels are trained on: pseudo, true, or the name of a control; also the name of a folder."""
        if not self.config.use_pseudo:
            return "true"
        return "pseudo" if self.config.sub_labels == "found" else self.config.sub_labels

    def folder(self, stage: str, head: str = "", alpha: float | None = None) -> Path:
        """Returns where a stage writes. DEVIATION FGL-D11: true, pseudo and every alpha have a folder of their own."""
        if stage in ("features", "uncertainty", "cluster"):
            return self.tables / "stages" / stage
        base = self.out / FOLDERS[stage] / self.name
        if stage == "coarse":
            return base if self.config.control == "none" else base / self.config.control
        base = base / self.labels_kind
        return base / head if head else base if alpha is None else base / f"alpha_{alpha:g}"

    def open_stage(
        self, stage: str, folder: Path, inputs: Mapping[str, str], **more: Any
    ) -> AbstractContextManager[Run]:
        """Opens a stage's folder; a run of the same settings and inputs goes on or is finished, others are refused.

        Args:
          stage: its name.
          folder: of `folder`.
          inputs: name -> hash of what the stage reads.
          **more: the value of a flag with several values that this run is for, such as alpha=0.1.
        """
        # DEVIATION FGL-D09: folders may exist, a manifest says what they hold, runs of other settings never mix
        settings = flags.of_stage(self.config, stage) | more
        settings |= {f"input_{name}": value for name, value in inputs.items()}
        return open_run(folder, settings, overwrite=self.config.overwrite)

    def new_module(
        self, kind: Callable[..., M], key: tuple[int | str, ...], pretrained: bool = True, **options: Any
    ) -> M:
        """Builds a module on the CPU; the backbone's initial weights are the same in every stage of a seed.

        Args:
          kind: LitResnet or MultiHead.
          key: seeds of order and dropout, (seed, stage).
          pretrained: whether --pretrained applies.
          **options: of `kind`.
        """
        config = self.config
        torch.manual_seed(runtime.derive(config.seed, "weights"))
        return kind(
            config.lr or 0.1,
            pretrained=self.pretrained[0] if pretrained else False,
            network=config.network,
            optimization=Optimization(config.optimizer, config.schedule, config.max_epochs, key, config.augment),
            mean=self.data.mean,
            std=self.data.std,
            **options,
        )

    def other_classes(self, count: int) -> int:
        """Returns the outputs for the other kind of label: `count` in the network of the released main.py, else 0."""
        return count if self.config.network == "legacy" else 0

    def sub_labels(self) -> tuple[np.ndarray, int, str]:
        """Returns the fine labels of the training images (-1: none), their number S, and the hash of their source.

        Raises:
          UserError: no clustering yet, or one of other images; no subclasses of the data set are known.
        """
        if not self.config.use_pseudo:
            if not self.data.num_sub_labels:
                raise UserError(f"no subclasses of {self.data.name} are known; learn pseudo-labels, with --use_pseudo")
            fine, digest = self.data.train.fine, self.data_hash
            if self.config.true_images == "certain":
                fine = np.where(self.certain(), fine, -1)
                digest = f"{digest} {file_hash(self.tables / 'uncertainty.npz')}"
            return fine, self.data.num_sub_labels, digest
        control = self.config.sub_labels
        path = self.tables / "pseudo.csv" if control == "found" else self.tables / "controls" / control / "pseudo.csv"
        finished = (self.folder("cluster") / "DONE").exists()
        if not path.exists() or not finished:
            reason, controls = "no finished clustering; run pipeline.py --stage cluster", {control} - {"found"}
            if finished:
                reason = "the finished clustering lacks it; run pipeline.py --stage cluster --overwrite"
                manifest = read_json(self.folder("cluster") / "manifest.json", "settings")
                controls |= set(manifest["settings"]["controls"])
            names = [name for name in flags.SUB_LABELS if name in controls]
            more = " ".join(["", "--controls", *names]) if names else ""
            raise UserError(f"{shown(path)}: {reason}{more} first")
        labels = read_labels(path, self.data.train.coarse)
        # DEVIATION FGL-D14: the labels that exist are counted, whether or not a -1 is among them
        return labels, int(labels.max()) + 1, file_hash(path)

    def certain(self) -> np.ndarray:
        """Returns which training images the uncertainty stage found certain, bool [N].

        Raises:
          UserError: the stage has not finished, or it ran on other images.
        """
        path, again = self.tables / "uncertainty.npz", "run pipeline.py --stage uncertainty --overwrite"
        if not path.exists() or not (self.folder("uncertainty") / "DONE").exists():
            raise UserError(f"{shown(path)}: has not finished; run pipeline.py --stage uncertainty first")
        stored = read_npz(path, ("certain", "coarse"), again)
        if not np.array_equal(stored["coarse"], self.data.train.coarse):
            raise UserError(f"{shown(path)}: belongs to other training images; {again}")
        return stored["certain"]

    def parts(self, stage: str, fine: np.ndarray | None, keep: np.ndarray | None) -> tuple[Part, Part]:
        """Chooses the training and the validation images of a training; the arguments are those of `task`."""
        data, seed = self.data, self.config.seed
        items = self.train_items
        if fine is not None:
            items = Items(items.images, torch.from_numpy(fine), items.coarse)
        usable = np.arange(len(items)) if keep is None else np.flatnonzero(keep)
        # DEVIATION FGL-D34: the official validation images have no pseudo-labels, so the sub classifier is validated on
        # training images; the notebook clusters the validation images too and trains on all certain training images
        if data.validation is not None and stage != "sub":
            return (items, usable), whole(data.validation)
        if self.config.split == "legacy":
            train_at, val_at = splits.legacy_split(len(usable), seed, stage)
            return (items, usable[train_at]), (items, usable[val_at])
        train_at, val_at = splits.stored_split(self.out / "split.npz", len(items), seed, self.config.overwrite)
        allowed = np.isin(np.arange(len(items)), usable)
        return (items, train_at[allowed[train_at]]), (items, val_at[allowed[val_at]])

    def task(
        self,
        stage: str,
        run: Run,
        module: Module,
        fine: np.ndarray | None = None,
        keep: np.ndarray | None = None,
        **facts: Any,
    ) -> Task:
        """Describes a training, and prints what it trains on.

        Args:
          stage: its name.
          run: its folder.
          module: at its initial weights.
          fine: int64 [N] labels to learn in addition to the coarse ones; None: the known ones.
          keep: bool [N], images that may be used; None: all.
          **facts: stored with the best weights, such as `classes`.
        """
        train, val = self.parts(stage, fine, keep)
        counts = f"{len(train[1]):,} training and {len(val[1]):,} validation images"
        print(f"{stage}: {counts}, {runtime.parameter_count(module, trainable=True):,} parameters", flush=True)
        facts |= {
            "maker": "finegrained_torch",
            "stage": stage,
            "dataset": self.data.name,
            "network": self.config.network,
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "coarse_names": list(self.data.coarse_names),
            "limit_train": self.config.limit_train,
            "hold_out": self.config.hold_out,
        }
        return Task(stage, run.folder, module, train, val, module.optimization.key, facts)


def start_stage(config: Config) -> None:
    """Sets seeds and threads, at the start of every stage."""
    # DEVIATION FGL-D31: seeded at the start of every stage, so that a resumed stage draws what an undisturbed one does
    seed_everything(config.seed, workers=True, verbose=False)
    runtime.set_threads(config.threads)  # UMAP and scikit-learn change it
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def file_hash(path: Path) -> str:
    """Returns the sha256 of a file, first 16 hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def write_column(path: Path, values: np.ndarray) -> None:
    """Writes one value per line, exactly: floats with as many digits as read back to the same number."""
    write_bytes(path, ("\n".join(map(repr, values.tolist())) + "\n").encode())


def read_column(path: Path) -> np.ndarray:
    """Reads one of the CSV files as int64 [N].

    Raises:
      UserError: missing, or not one whole number per line.
    """
    try:
        # not np.loadtxt: a character such as U+10FFFF where it expects a digit ends the process
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return np.array([int(line) for line in lines if line.strip()], np.int64)
    except OSError as error:
        raise UserError(f"{shown(path)}: {error.strerror or error}; --stage cluster writes it") from None
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{shown(path)}: not a column of whole numbers ({error}); --stage cluster writes it anew"
        ) from None


def read_labels(path: Path, coarse: np.ndarray) -> np.ndarray:
    """Reads the pseudo-labels of a clustering.

    Args:
      path: pseudo.csv.
      coarse: int64 [N], coarse labels of the training images.
    Returns:
      int64 [N], -1 for none.
    Raises:
      UserError: another number of images, gaps in the numbering, or a label in two coarse classes.
    """
    labels = read_column(path)
    if len(labels) != len(coarse):
        raise UserError(f"{shown(path)}: {len(labels)} labels for {len(coarse)} training images; run --stage cluster")
    kinds = np.unique(labels[labels >= 0])
    if len(kinds) == 0 or labels.min() < -1 or not np.array_equal(kinds, np.arange(len(kinds))):
        raise UserError(f"{shown(path)}: labels must be 0, 1, 2, ... without gaps, and -1")
    pairs = np.unique(np.stack([labels[labels >= 0], coarse[labels >= 0]]), axis=1)
    if pairs.shape[1] != len(kinds):
        raise UserError(f"{shown(path)}: a label occurs in two coarse classes; it belongs to another data set")
    return labels


def best_weights(folder: Path, need: str) -> tuple[dict[str, Any], str]:
    """Reads the best checkpoint of a finished stage; returns its content and its hash.

    Args:
      folder: of the stage.
      need: name of the stage, for the message.
    Raises:
      UserError: the stage has not finished.
    """
    if not (folder / "DONE").exists():  # DEVIATION FGL-D10: stages hand over through files, so each can be resumed
        raise UserError(f"{shown(folder)}: has not finished; run pipeline.py --stage {need} first")
    path = folder / "best.ckpt"
    return runtime.read_checkpoint(path), file_hash(path)
