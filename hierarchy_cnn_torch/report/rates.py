"""The choice of the learning rates of the profile matched: what each rate and variant reached on held-out images."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from hierarchy_cnn_torch import deviations, flags
from hierarchy_cnn_torch.networks.alexnet import TAPS
from hierarchy_cnn_torch.report.measure import npz
from reproduction.compare.tabular import markdown_table
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import UserError, open_run, read_json, shown, together, write_bytes

OF_ALL = ("data", "data_verified", "precision", "deterministic")  # fields that the trainings' records have in common
Swept = dict[str, dict[str, dict[str, float]]]  # rate -> variant -> name -> number


def measure(folder: Path) -> Swept:
    """Measures the finished trainings of a sweep.

    Args:
      folder: holds rate<number>/<variant> for each training.
    Returns:
      rate as text, smallest first -> variant -> accuracy on all held-out images, in [0, 1], and for each convolution
      the mean L2 norm of its gradient over all steps.
    Raises:
      UserError: no flat network or no network with branches has finished, or rates lack a variant that others have.
    """
    swept: Swept = {}
    for done in sorted(folder.glob("rate*/A?/DONE"), key=lambda path: (rate_of(path.parent), path.parent.name)):
        saved, curves = npz(done.parent / "predictions.npz"), npz(done.parent / "curves.npz")
        numbers = {"accuracy": float((saved["val_logits"].argmax(1) == saved["val_labels"]).mean())}
        numbers |= dict(zip(TAPS, curves["gradients"][:, 0].mean(0).astype(float).tolist(), strict=False))
        swept.setdefault(f"{rate_of(done.parent):g}", {})[done.parent.name] = numbers
    variants = {tuple(row) for row in swept.values()}
    if len(variants) != 1 or "A0" not in (only := next(iter(variants))) or len(only) < 2:
        raise UserError(
            f"{shown(folder)}: A0 and the same variants with branches must have finished at every rate; run: "
            "make reproduce-hierarchy PROFILE=matched ROWS=settings"
        )
    return swept


def rate_of(folder: Path) -> float:
    """The rate that a training was given."""
    return float(read_json(folder / "config.json", "lr")["lr"])


def best_rates(swept: Swept) -> dict[str, float]:
    """Chooses the rates: `flat` for A0, and `aware`, the one at which the networks with branches do best on average."""

    def aware(rate: str) -> float:
        return fmean(numbers["accuracy"] for variant, numbers in swept[rate].items() if variant != "A0")

    flat = max(swept, key=lambda rate: swept[rate]["A0"]["accuracy"])
    return {"flat": float(flat), "aware": float(max(swept, key=aware))}


def table(swept: Swept) -> str:
    """Writes the sweep as a Markdown table and a line about the choice."""
    chosen, edges = best_rates(swept), {float(rate) for rate in (list(swept)[0], list(swept)[-1])}
    rows = [
        [
            rate,
            variant,
            f"{100 * numbers['accuracy']:.2f}",
            *(f"{numbers[tap]:.3f}" for tap in TAPS if tap in numbers),
            "best" if chosen["flat" if variant == "A0" else "aware"] == float(rate) else "",
        ]
        for rate, row in swept.items()
        for variant, numbers in row.items()
    ]
    head = ["rate", "variant", "held-out accuracy %", *(f"gradient {tap}" for tap in TAPS), "chosen"]
    line = f"Best rates: flat {chosen['flat']:g}, with branches {chosen['aware']:g} (one for all of them)."
    if edges & set(chosen.values()) and len(swept) > 1:
        line += " A best rate is the smallest or largest that was tried."
    return f"{markdown_table(head, rows)}\n\n{line}\n"


def tabulate(config: flags.AnalysisConfig) -> None:
    """Prints and writes the table of a sweep, and a record of it.

    Raises:
      UserError: trainings are missing.
    """
    top, began = Path(config.rates), time.monotonic()
    with together(top, "train.py --overwrite writes a training anew"):
        swept = measure(top)
        folders = sorted(path.parent for path in top.glob("rate*/A?/DONE"))
        records = [read_json(folder / "record.json", *OF_ALL) for folder in folders]
        flat = flags.read_config(next(folder for folder in folders if folder.name == "A0"))
        text = table(swept)
    in_record: dict[str, Any] = flags.of_run(config) | {"dataset": flat.dataset, "seed": flat.seed}
    with open_run(top / "rates", in_record, overwrite=True) as run:
        record = make_record(
            paper="hierarchy",
            row=config.row,
            stage="rates",
            seed=flat.seed,
            argv=sys.argv,
            config=in_record,
            metrics={f"rate_{name}": {"last": rate} for name, rate in best_rates(swept).items()},
            details={"rates": swept},
            seconds=time.monotonic() - began,
            curve=None,
            data=records[0]["data"],
            data_verified=all(record["data_verified"] for record in records),
            deviations=deviations.active(flat),
            precision=", ".join(sorted({record["precision"] for record in records})),
            deterministic=all(record["deterministic"] for record in records),
            versions=versions_of("torch", "numpy"),
            artefacts=[{"kind": "text", "path": "rates.md", "title": "rates: accuracy and gradient norms"}],
        )
        run.finish(record, lambda: write_bytes(run.folder / "rates.md", text.encode()))
        print(f"{text}\n{shown(run.folder / 'rates.md')}", flush=True)
