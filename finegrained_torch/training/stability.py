"""`--stage stability`: how alike the clusterings of seeds are whose run folders lie next to each other.

Nothing is clustered here. The record belongs to the row `<row>-stability` and lies in the folder of the lowest seed, so
that a comparison with a further seed replaces the one before: two of them would count some pairs of seeds twice.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil

import numpy as np

from finegrained_torch.flags import SUB_LABELS, of_stage
from finegrained_torch.method.agreement import between_seeds
from finegrained_torch.training.record import finish
from finegrained_torch.training.report import sibling_seeds
from finegrained_torch.training.setting import Setting, file_hash, read_labels
from reproduction.runtime.run_folder import open_run


def compare_seeds(setting: Setting) -> None:
    """Compares the pseudo-labels of this seed and its siblings, and those of each control that all of them have.

    It is computed every time, because seeds may have been added. Fewer than two seeds: one line says so.

    Raises:
      UserError: damaged labels, or labels of other images.
    """
    done = [
        out
        for out in sorted((setting.out, *sibling_seeds(setting.out)), key=lambda out: (len(out.name), out.name))
        if (out / f"sub_{setting.name}" / "stages" / "cluster" / "DONE").exists()
    ]
    if len(done) < 2:
        print(f"stability: {len(done)} seed with clusters here, needs two; left out", flush=True)
        return
    coarse, tables = setting.data.train.coarse, [out / f"sub_{setting.name}" for out in done]
    metrics: dict[str, dict[str, float | None]] = {}
    by_class: dict[int, dict[str, float]] = {}
    for name in SUB_LABELS:
        files = [(table if name == "found" else table / "controls" / name) / "pseudo.csv" for table in tables]
        if not all(file.exists() for file in files):
            continue
        ari_by_class = between_seeds([read_labels(file, coarse) for file in files], coarse)
        for label, ari in ari_by_class.items():
            by_class.setdefault(label, {})[name] = ari
        if ari_by_class:
            suffix = "" if name == "found" else f"_{name}"
            metrics[f"stability{suffix}"] = {"last": float(np.mean([*ari_by_class.values()]))}
    inputs = {out.name: file_hash(table / "pseudo.csv") for out, table in zip(done, tables, strict=True)}
    details = {
        "seeds": len(done),
        "class_names": list(setting.data.coarse_names),
        "stability_by_class": [{"class": label, **scores} for label, scores in sorted(by_class.items())],
    }
    lowest = copy.copy(setting)  # with the data that is loaded
    lowest.config = dataclasses.replace(setting.config, seed=int(done[0].name.removeprefix("seed")))
    with open_run(tables[0] / "stages" / "stability", of_stage(lowest.config, "stability"), True) as run:
        finish(lowest, run, "stability", inputs, metrics, details, variant="stability")
    for table in tables[1:]:  # comparisons of fewer seeds
        shutil.rmtree(table / "stages" / "stability", ignore_errors=True)
    words = ", ".join(f"{name} {value['last']:.3f}" for name, value in metrics.items())
    print(f"stability: ARI between {len(done)} seeds: {words or 'no class has two clusters'}", flush=True)
