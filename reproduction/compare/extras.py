"""Further tables that a paper's toml asks for: rows compared image by image, and entries of the records' details."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reproduction.compare.collect import Collection, RowRuns, SeedRun, row_of
from reproduction.compare.tables import RATE, DetailTable, Paper
from reproduction.runtime.arrays import read_npz
from reproduction.runtime.run_folder import UserError, shown

PREDICTIONS = "predictions.npz"
ADVICE = "run its stage again with --overwrite"
IMAGE_BY_IMAGE = (
    "Test images that only a, and that only b, classifies correctly; p of the exact McNemar test. One seed is one pair "
    "of networks: p says whether these two differ, not whether the methods do."
)


@dataclass(frozen=True)
class Extra:
    """A table with its title and a note for its reader; cells are plain text."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: list[list[str]]


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[int, int, float]:
    """Tests whether two classifiers differ on the same images.

    Args:
      correct_a: bool [N], whether a classifies each image correctly.
      correct_b: bool [N], the same of b.
    Returns:
      (images only a gets right, images only b gets right, two-sided p of the exact binomial test in (0, 1]).
    Raises:
      ValueError: the lengths differ.
    Source: McNemar 1947, in its exact form.
    """
    if correct_a.shape != correct_b.shape:
        raise ValueError(f"{correct_a.shape} and {correct_b.shape}: predictions of different test sets")
    only_a = int(np.count_nonzero(correct_a & ~correct_b))
    only_b = int(np.count_nonzero(correct_b & ~correct_a))
    if only_a + only_b == 0:
        return 0, 0, 1.0
    from scipy.stats import binomtest

    return only_a, only_b, float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def predictions(run: SeedRun) -> dict[str, np.ndarray] | None:
    """Reads `labels` and `predicted` of a run's test set.

    Args:
      run: one seed of a row.
    Returns:
      int64 [N] arrays by name; None if no stage with a test accuracy left its predictions in a run folder.
    Raises:
      UserError: the file is damaged.
    """
    for entry in reversed(run.entries):
        path = entry.path.parent / PREDICTIONS
        if entry.source == "runs" and "accuracy" in entry.record.metrics and path.is_file():
            arrays = read_npz(path, ("labels", "predicted"), ADVICE)
            if arrays["predicted"].shape != arrays["labels"].shape:
                raise UserError(f"{shown(path)}: not one prediction for each label; {ADVICE}")
            return arrays
    return None


def _pairs(paper: Paper, rows: Sequence[str]) -> list[tuple[str, str]]:
    """Rows (a, b) to compare: both exist and have the same base row; each pair once."""
    bases = [row for row in rows if not any(row.startswith(f"{other}-") for other in rows)]
    pairs = []
    for base in bases:
        variants = [row.removeprefix(base).removeprefix("-") for row in rows if f"{row}-".startswith(f"{base}-")]
        for left, right in paper.paper.pairs:
            for a in variants if left == "*" else [left]:
                if a != right and {a, right} <= set(variants):
                    pairs.append((row_of(base, a), row_of(base, right)))
    return list(dict.fromkeys(pairs))


def rows_in_order(paper: Paper, records: Collection) -> dict[str, RowRuns]:
    """The rows with runs: those of the paper's toml in its order, then the others by name."""
    groups = {group.row: group for group in records.of(paper.paper.id)}
    titles = paper.full_titles()
    order = [*(row for row in titles if row in groups), *sorted(groups.keys() - titles.keys())]
    return {row: groups[row] for row in order}


def image_by_image(paper: Paper, records: Collection) -> Extra | None:
    """Compares rows by McNemar's test, seed by seed, if run folders hold both rows' predictions.

    Args:
      paper: `paper.pairs` names the rows to compare.
      records: of all papers; a damaged file becomes one line of `records.problems`.
    """
    groups = rows_in_order(paper, records) if paper.paper.pairs else {}
    # rows that choose a learning rate are tested on other images
    tested: dict[str, dict[int, dict[str, np.ndarray]]] = {row: {} for row in groups if RATE not in row}
    for row, by_seed in tested.items():
        for run in groups[row].runs:
            try:
                arrays = predictions(run)
            except UserError as error:
                records.problems.append(str(error))
                continue
            if arrays is not None:
                by_seed[run.seed] = arrays
    seeds = sorted({seed for by_seed in tested.values() for seed in by_seed})
    rows = []
    for a, b in _pairs(paper, list(tested)):
        cells = {seed: "-" for seed in seeds}
        for seed in sorted(tested[a].keys() & tested[b].keys()):
            both = tested[a][seed], tested[b][seed]
            if not np.array_equal(both[0]["labels"], both[1]["labels"]):
                records.problems.append(f"{a} and {b}, seed {seed}: predictions of different test sets")
                continue
            only_a, only_b, p = mcnemar(*(arrays["predicted"] == arrays["labels"] for arrays in both))
            cells[seed] = f"{only_a} : {only_b}, p = {p:.2g}"
        if any(cell != "-" for cell in cells.values()):
            rows.append([a, b, *cells.values()])
    head = ("a", "b", *(f"seed {seed}" for seed in seeds))
    return Extra("Row against row, image by image", IMAGE_BY_IMAGE, head, rows) if rows else None


def _entries(
    value: Any, path: Sequence[str], labels: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The objects at the end of a path below a record's details, each with the labels on the way to it."""
    if path:
        steps = value if path[0] == "*" else [path[0]]
        for step in steps if isinstance(value, dict) else ():
            if step in value:
                yield from _entries(value[step], path[1:], (*labels, step) if path[0] == "*" else labels)
    elif isinstance(value, list):
        yield from (((*labels, str(item.get("class", ""))), item) for item in value if isinstance(item, dict))
    elif isinstance(value, dict):
        yield labels, value


def over_seeds(values: Sequence[Any], form: str, scale: float = 1.0) -> str:
    """Mean ± standard deviation of the numbers among `values`; equal ones stand alone, none is "-"."""
    numbers = [scale * v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    if not numbers:
        return "-"
    text = format(statistics.fmean(numbers), f"z{form}")  # z: no minus before a zero
    return text if len(set(numbers)) == 1 else f"{text} ± {format(statistics.stdev(numbers), form)}"


def detail_table(table: DetailTable, groups: Sequence[RowRuns], names: Mapping[str, str]) -> Extra | None:
    """Builds one table of the records' details over seeds; None if no record has the entry.

    Args:
      table: which entry, and its columns.
      groups: the paper's rows, in order.
      names: label of a line -> what is printed for it.
    """
    keys, path = [column.key for column in table.columns], table.path.split("/") if table.path else []
    rows = []
    for group in groups:
        if table.rates and RATE not in group.row:
            continue
        lines: dict[tuple[str, ...], list[Any]] = {}
        class_names: list[Any] = []
        for run in group.runs:
            details = {name: _detail_or_metric(run, name) for name in path[:1] or keys}
            class_names = class_names or run.listed("class_names")
            for labels, entry in _entries(details, path, ()):
                lines.setdefault(labels, []).append(entry)
        for labels, entries in lines.items():
            cells = [over_seeds([entry.get(c.key) for entry in entries], c.form, c.scale) for c in table.columns]
            if any(cell != "-" for cell in cells):
                rows.append([group.row, *(_name(label, names, class_names) for label in labels), *cells])
    width = max((len(row) for row in rows), default=0) - len(keys) - 1
    head = ("row", *table.labels[:width], *(column.name for column in table.columns))
    return Extra(table.title, table.note, head, rows) if rows else None


def _detail_or_metric(run: SeedRun, name: str) -> Any:
    known = any(name in entry.record.details for entry in run.entries)  # null there: it does not apply
    return run.detail(name) if known else run.number(name, "last")


def _name(label: str, names: Mapping[str, str], class_names: Sequence[Any]) -> str:
    if label.isdigit() and int(label) < len(class_names):
        return str(class_names[int(label)])
    return names.get(label, label)


def extras_of(paper: Paper, records: Collection, only_rates: bool = False) -> list[Extra]:
    """Builds the further tables of one paper from the records; a table without lines is omitted.

    Args:
      paper: its toml.
      records: of all papers.
      only_rates: leave out all but the tables of rows that choose a learning rate.
    """
    groups = list(rows_in_order(paper, records).values())
    tables = [] if only_rates else [image_by_image(paper, records)]
    chosen = [table for table in paper.details if table.rates or not only_rates]
    tables += [detail_table(table, groups, paper.paper.names) for table in chosen]
    return [extra for extra in tables if extra is not None]
