"""`--stage report`: report.md, metrics.json and figures/*.png of a run folder, over the seeds beside it.

Everything comes from records, predictions and arrays that the stages wrote; nothing is trained or clustered here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finegrained_torch import figures, gather, quality, tables
from finegrained_torch.figures import Figure
from finegrained_torch.gather import SeedFolder
from finegrained_torch.tables import BASE
from reproduction.compare.claims import Result, check_claims
from reproduction.compare.tables import Paper, paper_of
from reproduction.runtime.record import commit_and_dirty, machine, versions_of
from reproduction.runtime.run_folder import DATA_ROOT, UserError, shown, write_bytes, write_json

# pairs compared image by image besides every row with base
_PAIRS = (("ft-deep", "ft"), ("ft-true", "ft"), ("ft", "ft-random"), ("mh09", "mh01"), ("mh09", "ft"))
_WORDS = {"supported": "yes", "not supported": "no", "inconclusive": "undecided"}


def write_report(out_dir: Path, config: Mapping[str, Any] | None = None) -> Path:
    """Writes the report of one run folder; the tables cover the seeds that lie beside it (seed42, seed43, ...).

    Args:
      out_dir: the --out_dir of a run with at least one finished stage.
      config: flags that say where the data lie (data_dir, accept_unverified); None: in the usual place.
    Returns:
      Path of report.md.
    Raises:
      UserError: nothing to report on, or damaged files.
    Source: section 7 of the specification.
    """
    runs = gather.read_seeds(Path(out_dir))
    here = runs[0]
    by_seed = sorted(runs, key=lambda run: run.seed)
    places = {"data_dir": str(DATA_ROOT), "accept_unverified": False, "limit_train": 0, "use_pseudo": True}
    images = figures.training_images({**places, **here.config, **(config or {})})
    pictures = figures.draw(here, images)
    paper = paper_of("finegrained")
    claims = check_claims(paper, gather.as_collection(by_seed))
    rows = tables.ordered([name for run in by_seed for name in run.rows])
    published = _published(paper, here.dataset)
    tests = mcnemar_tests(by_seed, rows)
    parts = [
        _head(here, by_seed),
        "## Main table\n\n" + main_table(by_seed, rows, published) + "\n\n" + _table_notes(here, by_seed, published),
        "## Row against row, image by image\n\n" + _mcnemar_table(tests, by_seed) if tests else "",
        "## Claims\n\n" + claims_lines(claims),
        quality.section(here, by_seed),
        _figures(pictures),
        _footer(here),
    ]
    facts = {
        "dataset": here.dataset,
        "row": gather.base_row(here),
        "seeds": [run.seed for run in by_seed],
        "rows": {name: _row_facts(by_seed, name) for name in rows},
        "mcnemar": tests,
        "claims": [_claim_facts(result) for result in claims],
        "clusters": {str(run.seed): run.records["cluster"].model_dump(mode="json")["metrics"]
                     for run in by_seed if "cluster" in run.records},
        "scores": {str(run.seed): run.cluster_details().get("scores", {}) for run in by_seed},
        "figures": [figure.file for figure in pictures],
    }  # fmt: skip
    write_json(here.folder / "metrics.json", facts)
    path = here.folder / "report.md"
    write_bytes(path, ("\n\n".join(part for part in parts if part) + "\n").encode())
    print(f"report: {shown(path)}, {len(pictures)} pictures, seeds {' '.join(str(run.seed) for run in by_seed)}")
    return path


def _head(here: SeedFolder, runs: Sequence[SeedFolder]) -> str:
    record = next(iter(here.records.values()))
    seeds = ", ".join(str(run.seed) for run in runs)
    return (
        f"# Fine-grained labels on {here.dataset}\n\n"
        f"Profile {record.profile}; seeds {seeds}; pictures and per-class tables of seed {here.seed}. "
        "Accuracies are percent of the test set with coarse labels, at the epoch best on validation; ± is the standard "
        "deviation over seeds; differences are points, paired by seed, with their 95 percent t interval."
    )


def _values(runs: Sequence[SeedFolder], variant: str, metric: str) -> dict[int, float]:
    found = {run.seed: run.metric(variant, metric) for run in runs}
    return {seed: value for seed, value in found.items() if value is not None}


def _details(runs: Sequence[SeedFolder], variant: str, name: str) -> list[Any]:
    return [run.records[variant].details.get(name) for run in runs if variant in run.records]


def _several(values: Sequence[Any], form: str) -> str:
    """One text where all seeds agree, else each seed's."""
    texts = [format(value, form) for value in values if value is not None]
    return "-" if not texts else texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def main_table(runs: Sequence[SeedFolder], rows: Sequence[str], published: Mapping[str, str]) -> str:
    """The table of section 7.1 as Markdown; a row no seed has finished is not in it.

    Args:
      runs: by seed. rows: variants, in order. published: variant -> the release's own accuracy.
    """
    auroc = any(_values(runs, name, "auroc") for name in rows)
    head = ["row", "S", "LR", "epochs", "images", "val acc", "test acc", "minus base", "macro acc", "NLL"]
    head += ["AUROC", "AUROC, batch mean"] * auroc + ["authors"] * bool(published)
    base = _values(runs, BASE, "accuracy")
    lines = []
    for name in rows:
        ours = _values(runs, name, "accuracy")
        cells = [
            tables.title(name) + ("" if len(ours) == len(runs) else f" ({len(ours)} of {len(runs)} seeds)"),
            "-" if name.startswith("base") or not name else _several(_details(runs, name, "num_sub"), "d"),
            _several(_details(runs, name, "lr"), ".3g"),
            _several(_details(runs, name, "epochs"), "d"),
            _several(_details(runs, name, "training_images"), ",d"),
            tables.spread(list(_values(runs, name, "val_accuracy").values()), 100),
            tables.spread(list(ours.values()), 100),
            "" if name == BASE else tables.difference(ours, base),
            tables.spread(list(_values(runs, name, "macro_accuracy").values()), 100),
            tables.spread(list(_values(runs, name, "nll").values()), 1, 3),
        ]
        if auroc:
            for metric in ("auroc", "auroc_batches"):
                cells.append(tables.spread(list(_values(runs, name, metric).values()), 1, 4))
        if published:
            cells.append(published.get(name, "-"))
        lines.append(cells)
    return tables.markdown(head, lines)


def _published(paper: Paper, dataset: str) -> dict[str, str]:
    """variant -> the release's accuracy, {} where it prints none for this data set."""
    found = {}
    for row in paper.row:
        name, _, rest = row.row.partition("-paper")
        if name == dataset:
            for number in paper.beside(row):
                if number.metric == "accuracy":
                    found[rest.lstrip("-")] = number.printed
    return found


def _table_notes(here: SeedFolder, runs: Sequence[SeedFolder], published: Mapping[str, str]) -> str:
    notes = []
    if published:
        notes.append(
            "Authors: one run of their notebook, seed 42, best validation epoch; its AUROC is the mean over batches."
        )
    elif here.dataset in ("cifar10", "cifar100"):
        notes.append("Authors: not reported. The release holds no accuracy on CIFAR.")
    notes.append(
        "S: labels of the sub classifier. FT sees the certain images first and all images then, about twice base's "
        "optimisation; MH with pseudo-labels sees certain images only. The control rows separate these effects."
    )
    if len(runs) < 3:
        notes.append(f"{len(runs)} seed{'s' if len(runs) > 1 else ''}: read no difference as settled.")
    return "\n".join(f"* {note}" for note in notes)


def mcnemar_tests(runs: Sequence[SeedFolder], rows: Sequence[str]) -> list[dict[str, Any]]:
    """Exact McNemar tests on the test set: each row against base, then the pairs worth knowing.

    Returns:
      [{a, b, seeds: {seed: [images only a gets right, only b, p]}}], without pairs no seed has.
    """
    pairs = [(name, BASE) for name in rows if name != BASE]
    pairs += [pair for pair in _PAIRS if pair[0] in rows and pair[1] in rows]
    kept: dict[Path, Any] = {}

    def correct(folder: Path) -> Any:
        if folder not in kept:
            held = gather.predictions(folder)
            kept[folder] = held["predicted"] == held["labels"]
        return kept[folder]

    found = []
    for a, b in pairs:
        seeds: dict[str, list[float]] = {}
        for run in runs:
            if a in run.rows and b in run.rows:
                try:
                    seeds[str(run.seed)] = list(tables.mcnemar(correct(run.rows[a]), correct(run.rows[b])))
                except ValueError as error:
                    raise UserError(f"{shown(run.rows[a])}: {error} (against {shown(run.rows[b])})") from None
        if seeds:
            found.append({"a": a, "b": b, "seeds": seeds})
    return found


def _mcnemar_table(tests: Sequence[Mapping[str, Any]], runs: Sequence[SeedFolder]) -> str:
    head = ["a", "b", *(f"seed {run.seed}" for run in runs)]
    rows = []
    for test in tests:
        cells = []
        for run in runs:
            found = test["seeds"].get(str(run.seed))
            cells.append("-" if found is None else f"{found[0]:.0f} : {found[1]:.0f}, p = {found[2]:.2g}")
        rows.append([tables.title(test["a"]), tables.title(test["b"]), *cells])
    return (
        "Test images that only a, and that only b, classifies correctly; p of the exact McNemar test. One seed is one "
        "pair of networks: p says whether these two differ, not whether the methods do.\n\n"
        + tables.markdown(head, rows)
    )


def claims_lines(results: Sequence[Result]) -> str:
    """One line per claim: yes, no or undecided, with its numbers."""
    lines = []
    for result in results:
        claim = result.claim
        if result.effect is None:
            lines.append(f"* {claim.id} **not run**. {claim.text}.")
            continue
        unit = {"points": " points", "percent": " %"}.get(claim.unit, "")
        digits = 0 if claim.unit == "count" else 2 if claim.unit in ("points", "percent") else 3
        sign = "+" if claim.combine == "difference" else ""
        numbers = f"{result.effect:{sign}.{digits}f}{unit}"
        if result.low is not None and claim.test == "interval":
            numbers += f", 95 % interval {result.low:{sign}.{digits}f} to {result.high:{sign}.{digits}f}"
        each = ", ".join(f"{value:{sign}.{digits}f}" for value in result.values)
        word = _WORDS.get(result.word, result.word)
        lines.append(f"* {claim.id} **{word}**. {claim.text}: {numbers} (seeds: {each}).")
    return "\n".join(lines)


def _claim_facts(result: Result) -> dict[str, Any]:
    return {
        "id": result.claim.id, "text": result.claim.text, "answer": _WORDS.get(result.word, result.word),
        "effect": result.effect, "low": result.low, "high": result.high, "values": list(result.values),
        "seeds": list(result.seeds), "unit": result.claim.unit,
    }  # fmt: skip


def _row_facts(runs: Sequence[SeedFolder], name: str) -> dict[str, Any]:
    metrics = ("accuracy", "macro_accuracy", "nll", "val_accuracy", "auroc", "auroc_batches")
    values = {metric: _values(runs, name, metric) for metric in metrics}
    facts: dict[str, Any] = {metric: found for metric, found in values.items() if found}
    return facts | {key: _details(runs, name, key) for key in ("num_sub", "lr", "epochs", "training_images")}


def _figures(pictures: Sequence[Figure]) -> str:
    if not pictures:
        return ""
    shown_ones = [f"![{figure.caption}](figures/{figure.file})\n\n{figure.caption}" for figure in pictures]
    return "## Pictures\n\n" + "\n\n".join(shown_ones)


def _footer(here: SeedFolder) -> str:
    record = next(iter(here.records.values()))
    commit, dirty = commit_and_dirty()
    cluster = here.records["cluster"].versions if "cluster" in here.records else {}
    versions = versions_of() | record.versions | cluster
    made = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"Made on {machine().cpu} at commit {commit[:10]}{' with uncommitted changes' if dirty else ''}; {made}. "
        "UMAP repeats bit for bit within one environment, not across versions or machines; labels are kept as files."
    )
