"""`--stage report`: the common page of one run folder over its seeds, and the plots that only this paper has.

Everything comes from records, predictions and arrays that the stages wrote; nothing is trained or clustered here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from finegrained_torch import flags, plots
from finegrained_torch.data import images
from finegrained_torch.training.setting import Setting
from reproduction.compare.collect import PROFILES, Collection, Entry, SeedRun, join
from reproduction.compare.comparison import compare
from reproduction.compare.export import write_text
from reproduction.compare.extras import predictions
from reproduction.compare.tables import paper_of
from reproduction.page.report import build, markdown_report
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.arrays import confusion_counts, read_npz
from reproduction.runtime.faults import first_line
from reproduction.runtime.record import load_record
from reproduction.runtime.run_folder import DATA_ROOT, UserError, read_json, shown


def report(setting: Setting) -> None:
    """Writes the report of this run folder."""
    config = setting.config
    write_report(setting.out, config.data_dir, config.accept_unverified, config.dataset)
    runtime.set_threads(config.threads)  # scikit-learn changes it


def write_report(
    out_dir: Path, data_dir: str = str(DATA_ROOT), accept_unverified: bool = False, dataset: str = ""
) -> Path:
    """Writes report.md, report.html and figures/ of a run folder; the tables cover the seeds that lie next to it.

    Args:
      out_dir: the --out_dir of a run with at least one finished stage.
      data_dir: where the data lies.
      accept_unverified: whether files with another checksum are read.
      dataset: --dataset of the command; "" for that of the records, which have only the last part of a `folder:PATH`.
    Returns:
      Path of report.md.
    Raises:
      UserError: nothing to report on, or damaged files.
    """
    folder = Path(out_dir)
    entries = read_entries(folder)
    if not entries:
        raise UserError(f"{shown(folder)}: no finished stage to report on; --stage coarse is the first")
    datasets = sorted({str(entry.record.config["dataset"]) for entry in entries})
    if len(datasets) > 1:
        raise UserError(f"{shown(folder)}: stages of several data sets ({', '.join(datasets)}); one per --out_dir")
    same_folder = dataset.startswith("folder:") and datasets == [f"folder:{Path(dataset.removeprefix('folder:')).name}"]
    collection = Collection(*join(entries))
    try:
        config = entries[0].record.config
        part = int(config.get("limit_train", 0)), bool(config.get("hold_out", False))
        draw(
            folder, collection, images.load(dataset if same_folder else datasets[0], data_dir, accept_unverified, *part)
        )
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(
            f"{shown(folder)}: all records are complete, but a picture cannot be written ({reason}); "
            "--stage report tries again"
        ) from error
    siblings = [entry for other in sibling_seeds(folder) for entry in read_entries(other)]
    all_seeds = Collection(*join([*entries, *(e for e in siblings if str(e.record.config["dataset"]) == datasets[0])]))
    comparisons = [comparison.only_run() for comparison in compare([paper_of("finegrained")], all_seeds)]
    page, text = folder / "report.html", folder / "report.md"
    write_text(page, build(comparisons, all_seeds, page))
    write_text(text, markdown_report(comparisons, all_seeds))
    seeds = sorted({run.seed for group in all_seeds.rows.values() for run in group.runs})
    print(f"report: {shown(page)} and {shown(text)}, seeds {' '.join(map(str, seeds))}")
    return text


def sibling_seeds(folder: Path) -> list[Path]:
    """Returns the run folders seed<k> next to a run folder that is called so too."""
    seeds = [other for other in sorted(folder.parent.glob("seed*")) if re.fullmatch(r"seed\d+", other.name)]
    return [other for other in seeds if other != folder and other.is_dir()] if folder in seeds else []


def read_entries(folder: Path) -> list[Entry]:
    """Reads the finished stages of one run folder, each under the row of its variant.

    A run by hand has one row name for all its variants; here each gets its own, and counts as one of the cpu profile,
    so that its claims are tested.

    Raises:
      UserError: a record is damaged.
    """
    entries = []
    for path in sorted(folder.rglob("record.json")):
        if not (path.parent / "DONE").exists():
            continue
        record = load_record(path)
        row = record.row
        if record.profile == "custom":
            row = flags.row_name(row, _variant(path.parent)) or row
        profile = record.profile if record.profile in PROFILES else "cpu"
        entries.append(Entry(path, record.model_copy(update={"row": row, "profile": profile}), "runs"))
    return entries


def _variant(folder: Path) -> str:
    """Returns the variant in the manifest of a stage, that of base if it has none."""
    manifest = folder / "manifest.json"
    return str(read_json(manifest, "").get("variant", flags.BASE)) if manifest.exists() else flags.BASE


def draw(folder: Path, collection: Collection, data: images.Data) -> None:
    """Draws uncertainty, confusion and learning-rate plots of one seed into figures/.

    Args:
      folder: the run folder.
      collection: its records.
      data: with the images that were trained on.
    """
    names, coarse, target = data.coarse_names, data.train.coarse, folder / "figures"
    for path in sorted(folder.glob("sub_*/uncertainty.npz")):
        stored = read_npz(path, ("uncertainty", "mean_prediction", "certain"), "run --stage uncertainty --overwrite")
        values = stored["uncertainty"]
        if len(values) != len(coarse):
            wrong = f"{len(values)} values for {len(coarse)} training images"
            raise UserError(f"{shown(path)}: {wrong}; run --stage uncertainty --overwrite")
        plots.certainty_examples(
            target / "certainty.png", data.train.images, values, coarse, stored["mean_prediction"], names
        )
        plots.uncertainty_histogram(target / "uncertainty.png", values, coarse, stored["certain"], names)
    variants = _by_variant(collection)
    matrices: list[tuple[str, np.ndarray]] = []
    for variant in (flags.BASE, "ft", "ft-deep", "ft-keep", "ft-true"):
        tested = predictions(variants[variant]) if variant in variants and len(matrices) < 3 else None
        if tested is not None:
            counts = confusion_counts(tested["labels"], tested["predicted"], len(names))
            matrices.append((flags.TITLES.get(variant, variant), counts))
    if matrices:
        plots.confusions(target / "confusion.png", matrices, names)
    rates = [(title, read_json(path, "lr", "loss")) for title, path in _rate_curves(variants)]
    if rates:
        plots.lr_curves(target / "lr_find.png", rates)


def _by_variant(collection: Collection) -> dict[str, SeedRun]:
    """Variant -> its run, in the order of the table."""
    runs = {_variant(group.runs[0].last.path.parent): group.runs[0] for group in collection.rows.values()}
    return {variant: runs[variant] for variant in flags.ordered(list(runs))}


def _rate_curves(variants: Mapping[str, SeedRun]) -> Iterator[tuple[str, Path]]:
    """Yields (title, lr_find.json) of each training whose learning rate came from a range test."""
    for variant, run in variants.items():
        for entry in run.entries:
            path = entry.path.parent / "lr_find.json"
            if path.exists():
                title = flags.TITLES.get(variant, variant)
                sub = entry.record.stage == "sub"
                yield f"sub classifier of {title.removeprefix('control: ')}" if sub else title, path
