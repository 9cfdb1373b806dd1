"""Plots and tables over the seeds of a row; the first seed's record points at them, so the page shows them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hierarchy_cnn_torch import plots
from hierarchy_cnn_torch.report import tables
from reproduction.runtime.run_folder import UserError, read_json, shown, together


def origin_of(folders: list[Path]) -> str:
    """Where a table comes from: seeds, commits, data checksums, preset, epochs."""
    records = [read_json(folder / "analysis" / "record.json", "commit", "dirty", "seed") for folder in folders]
    first = read_json(folders[0] / "A0" / "record.json", "data", "config")
    commits = sorted({r["commit"][:10] + ("+" if r["dirty"] else "") for r in records})
    checksums = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(first["data"].items())[:4])
    seeds = ", ".join(str(r["seed"]) for r in records)
    run = first["config"]
    return (
        f"Seeds {seeds}; {run['dataset']}, preset {run['preset']}, {run['epochs']} epochs; "
        f"commit {', '.join(commits)}; data {checksums}"
    )


def summarise(row: Path) -> None:
    """Writes <row>/summary, and the same tables and plots into the first seed's analysis folder.

    Raises:
      UserError: no seed of the row has been analysed, or the files of one are damaged.
    """
    with together(row, "analyze.py --run FOLDER --overwrite writes them anew"):
        _summarise(row)


def _summarise(row: Path) -> None:
    folders = sorted(path.parent.parent for path in row.glob("seed*/analysis/DONE"))
    if not folders:
        raise UserError(f"{shown(row)}: no analysed seed; run analyze.py --run {shown(row)}/seed0 first")
    seeds = [read_json(folder / "analysis" / "analysis.json", "seed") for folder in folders]
    out = row / "summary"
    shutil.rmtree(out, ignore_errors=True)  # of fewer seeds, or of other parts of the analysis
    out.mkdir()
    tables.write_all(seeds, origin_of(folders), out)
    for name, needs, draw in (
        ("F3", "probes", plots.f3_probes),
        ("F5", "selectivity", plots.f5_selectivity),
        ("F7", "gap", plots.f7_gaps),
        ("F8", "curves", plots.f8_curves),
    ):
        measured = [seed for seed in seeds if needs in seed]
        if measured:
            draw(measured, out / f"{name}.png")
    for path in out.iterdir():
        shutil.copyfile(path, folders[0] / "analysis" / path.name)
    for name in ("T1", "T2", "T3", "T4"):
        if (out / f"{name}.md").exists():
            print((out / f"{name}.md").read_text(encoding="utf-8"))
    if "agreement" in seeds[0]:
        print(agreement_of(seeds[0]))
    view = folders[0] / "analysis" / "view.html"
    print(f"plots and tables of {len(seeds)} seed(s): {shown(out)}")
    print(f"open {shown(view)} in a browser: the viewer, on seed {seeds[0]['seed']}", flush=True)


def agreement_of(seed: Mapping[str, Any]) -> str:
    """Returns a line on how alike the tree of the statistics and the one that stage 1 derives are."""
    numbers = ", ".join(f"{name.replace('_', ' ')} {v:.2f}" for name, v in seed["agreement"].items() if v is not None)
    return f"seed {seed['seed']}: agreement of the tree {seed['tree']} with the derived one (1: equal): {numbers}"
