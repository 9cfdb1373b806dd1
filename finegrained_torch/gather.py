"""What a run folder holds, for the report: records, predictions and curves of every row, over the seeds beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finegrained_torch import tables
from reproduction.compare.collect import Collection, Entry, join
from reproduction.runtime.arrays import read_npz
from reproduction.runtime.record import Record, load_record
from reproduction.runtime.run_folder import UserError, read_json, read_metrics, shown


@dataclass
class SeedFolder:
    """One --out_dir: its seed, and the finished rows in it.

    Attributes:
      dataset: as in the names of its folders.
      config: resolved flags of the coarse stage, or of any other where that is missing.
      rows: variant -> folder of the training whose test accuracy is the row's.
      subs: variant -> folder of the sub classifier it starts from.
      records: variant -> its record; "cluster" -> the cluster stage's; "sub:<variant>" -> the sub classifier's.
    """

    folder: Path
    seed: int
    dataset: str
    config: dict[str, Any]
    rows: dict[str, Path] = field(default_factory=dict)
    subs: dict[str, Path] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def labels(self) -> Path:
        """Folder of features, uncertainty and clusters."""
        return self.folder / f"sub_{self.dataset}"

    def cluster_details(self) -> dict[str, Any]:
        """`details` of the cluster stage's record, {} where it has not run."""
        return self.records["cluster"].details if "cluster" in self.records else {}

    def metric(self, variant: str, name: str) -> float | None:
        """A figure of a row: of the epoch that is best on validation, else of the last."""
        found = self.records[variant].metrics.get(name) if variant in self.records else None
        if found is None:
            return None
        return found.best_on_val if found.best_on_val is not None else found.last


def _kind(name: str) -> dict[str, Any]:
    """Arguments of `tables.variant` for a folder named pseudo, true or after a control."""
    return {"use_pseudo": name != "true", "sub_labels": "found" if name in ("pseudo", "true") else name}


def _trainings(folder: Path, dataset: str) -> Iterator[tuple[str, Path]]:
    """(key of `records`, folder) of every training that can lie in a run folder."""
    base = folder / "classifier" / dataset
    yield tables.BASE, base
    for control in ("budget", "certain"):
        yield tables.variant("coarse", control=control), base / control
    for below in sorted((folder / "fine-tuning" / dataset).glob("*/*")):
        if below.name in tables.HEADS:
            yield tables.variant("fine-tune", head=below.name, **_kind(below.parent.name)), below
    for below in sorted((folder / "multihead" / dataset).glob("*/alpha_*")):
        alpha = float(below.name.removeprefix("alpha_"))
        yield tables.variant("multi-head", alpha=alpha, **_kind(below.parent.name)), below
    for below in sorted((folder / "classifier_sub" / dataset).glob("*")):
        yield "sub:" + tables.variant("sub", **_kind(below.name)), below
    yield "cluster", folder / f"sub_{dataset}" / "stages" / "cluster"


def dataset_of(folder: Path) -> str:
    """The one data set whose stages lie in a run folder.

    Raises:
      UserError: none, or several.
    """
    found = {path.parent.name for path in folder.glob("classifier*/*/record.json")}
    found |= {path.parents[1].name for path in folder.glob("classifier_sub/*/*/record.json")}
    found |= {path.parents[2].name.removeprefix("sub_") for path in folder.glob("sub_*/stages/*/record.json")}
    if not found:
        raise UserError(f"{shown(folder)}: no finished stage to report on; --stage coarse is the first")
    if len(found) > 1:
        raise UserError(f"{shown(folder)}: stages of several data sets ({', '.join(sorted(found))}); one per --out_dir")
    return found.pop()


def read_folder(folder: Path) -> SeedFolder:
    """Everything that is finished in one --out_dir.

    Raises:
      UserError: nothing is, or a record is damaged.
    """
    dataset = dataset_of(folder)
    out = SeedFolder(folder, 0, dataset, {})
    for key, below in _trainings(folder, dataset):
        if not (below / "record.json").exists() or not (below / "DONE").exists():
            continue
        record = load_record(below / "record.json")
        out.records[key] = record
        out.seed = record.seed
        if key.startswith("sub:"):
            out.subs[key.removeprefix("sub:")] = below
        elif key != "cluster":
            out.rows[key] = below
        if not out.config or key == tables.BASE:
            kept = below / "config.json"
            out.config = read_json(kept, "") if kept.exists() else dict(record.config)
    if not out.records:
        raise UserError(f"{shown(folder)}: no finished stage to report on; --stage coarse is the first")
    return out


def read_seeds(folder: Path) -> list[SeedFolder]:
    """The run folder and, where it is called seed<k>, the finished ones of other seeds beside it, by seed.

    The first entry is always that of `folder` itself.
    """
    first = read_folder(folder)
    found = [first]
    if re.fullmatch(r"seed\d+", folder.name):
        for other in sorted(folder.parent.glob("seed*")):
            if other == folder or not re.fullmatch(r"seed\d+", other.name):
                continue
            try:
                beside = read_folder(other)
            except UserError:
                continue  # just begun
            if beside.dataset == first.dataset:
                found.append(beside)
    return [first, *sorted(found[1:], key=lambda run: run.seed)]


def base_row(run: SeedFolder) -> str:
    """Name of the base row, `<dataset>-custom` for runs by hand."""
    for key in (tables.BASE, "cluster"):
        if key in run.records:
            return run.records[key].row
    variant, record = next((key.removeprefix("sub:"), record) for key, record in run.records.items())
    return record.row.removesuffix(f"-{variant}")


def as_collection(runs: list[SeedFolder]) -> Collection:
    """The records as the comparison reads them; a run by hand counts as one of the profile it resembles."""
    base = base_row(runs[0])
    entries = []
    for run in runs:
        for key, record in run.records.items():
            variant = tables.BASE if key == "cluster" else key.removeprefix("sub:")
            row = tables.row_name(base, variant) or base
            profile = record.profile if record.profile in ("paper", "cpu") else "cpu"
            changed = record.model_copy(update={"row": row, "profile": profile})
            entries.append(Entry(run.rows.get(key, run.folder) / "record.json", changed, "runs"))
    rows, problems = join(entries)
    return Collection(rows, problems)


PREDICTIONS = ("labels", "predicted", "log_probabilities")


def predictions(folder: Path) -> dict[str, np.ndarray]:
    """labels, predicted int64 [n] and log_probabilities float32 [n, C] of a row's test set.

    Raises:
      UserError: missing or damaged.
    """
    return read_npz(folder / "predictions.npz", PREDICTIONS, "run its stage again with --overwrite")


def curve(folder: Path) -> list[dict[str, float]]:
    """Lines of a training's metrics.jsonl."""
    return read_metrics(folder)


def lr_curve(folder: Path) -> dict[str, Any] | None:
    """The LR range test of a training, None where the rate was given."""
    path = folder / "lr_find.json"
    return read_json(path) if path.exists() else None
