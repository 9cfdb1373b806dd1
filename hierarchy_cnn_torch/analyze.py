"""Measures the variants of one seed, or, with --summary, draws and tabulates all seeds of a row.

python hierarchy_cnn_torch/analyze.py --run runs/hierarchy/fashion_mnist-cpu/seed0
python hierarchy_cnn_torch/analyze.py --summary runs/hierarchy/fashion_mnist-cpu
python hierarchy_cnn_torch/analyze.py --rates runs/hierarchy/cifar100-q90-matched-rates/seed0
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import functools
import json
import time

from datasets import DatasetError
from hierarchy_cnn_torch import flags
from reproduction.runtime import run_data
from reproduction.runtime.flags import finish_parsing, run_main
from reproduction.runtime.run_folder import UserError, flags_hash, open_run, read_json, shown, together


def analyze_seed(config: flags.AnalysisConfig) -> None:
    """Measures one seed: analysis.json, arrays, view.html and the record that the claims are tested on.

    Raises:
      UserError: stage 1 or the data set is missing, or files of the run are damaged.
    """
    from dataclasses import replace

    from hierarchy_cnn_torch import deviations, plots
    from hierarchy_cnn_torch.data import images
    from hierarchy_cnn_torch.report import measure, tables
    from hierarchy_cnn_torch.viewer.from_run import view_of_run
    from hierarchy_cnn_torch.viewer.view import write
    from reproduction.runtime import torch_runtime as runtime
    from reproduction.runtime.record import make_record, versions_of
    from reproduction.runtime.run_folder import write_json

    seed_folder = Path(config.run)
    flat = measure.flat_config(seed_folder)
    # data that stage 1 was allowed to take unverified are the data to analyse
    accepted = config.accept_unverified or flat.accept_unverified
    flat = replace(flat, data_dir=config.data_dir, accept_unverified=accepted)
    in_record = flags.of_run(config) | {"dataset": flat.dataset, "seed": flat.seed}  # the same for every seed of a row
    arms = sorted(path.parent.name for path in seed_folder.glob("A?/DONE"))
    folds = len(list(seed_folder.glob("fold*/DONE")))
    stamps = [path for path in sorted(seed_folder.glob("*/DONE")) if path.parent.name != "analysis"]
    # results of other variants or other weights are other results
    inputs = {path.parent.name: read_json(path, "date")["date"] for path in stamps}
    settings = json.loads(json.dumps(in_record | {"arms": arms, "folds": folds, "inputs": inputs}, default=str))
    folder = seed_folder / "analysis"
    stamp = folder / "DONE"
    # variants that ran again with other flags make the old analysis void, not a conflict
    same = stamp.exists() and read_json(stamp, "").get("flags") == flags_hash(settings)
    with open_run(folder, settings, overwrite=config.overwrite or not same) as run:
        seen = run_data.look_at(settings)

        @functools.cache
        def load() -> images.Data:
            try:
                return images.load(flat)
            except DatasetError as error:  # of the data, not of the run
                raise UserError(error) from None

        def digests() -> dict[str, str]:
            for name in inputs:
                run_data.check_data(seed_folder / name, load().digests, "train.py --overwrite writes it anew")
            return load().digests

        began = time.monotonic()
        with together(seed_folder, "train.py --overwrite writes a variant anew"):
            if run_data.is_finished(run, seen, digests):
                return
            runtime.start(flat.seed, config.threads)
            device = runtime.pick_device(config.device)
            data = load()
            seed = measure.Seed(seed_folder, flat, config, arms, folds, data, device)
            results = measure.everything(seed, folder)
            write_json(folder / "analysis.json", results)
        view = view_of_run(seed_folder, config.compare, "", config.data_dir)

        def draw() -> None:
            write(view, folder / "view.html", config.thumbs)
            tables.write_all([results], f"Seed {flat.seed} alone; {shown(seed_folder)}", folder)
            plots.draw_seed(results, seed_folder, data, folder)

        record = make_record(
            paper="hierarchy",
            row=config.row,
            stage="analysis",
            seed=flat.seed,
            argv=sys.argv,
            config=in_record,
            metrics={name: {"last": value} for name, value in results["metrics"].items()},
            seconds=time.monotonic() - began,
            curve=None,
            data=data.digests,
            data_verified=data.verified,
            deviations=deviations.active(flat),
            deterministic=device.type == "cpu",
            versions=versions_of("torch", "numpy", "scipy"),
            gpu=runtime.device_name(device),
            artefacts=[
                {"kind": "html", "path": "view.html", "title": "viewer"},
                {"kind": "json", "path": "analysis.json", "title": "all measurements of this seed"},
                *plots.artefacts_of(results),
                *tables.artefacts_of(results),
            ],
        )
        run.finish(record, draw)
        seconds = time.monotonic() - began
        print(f"{shown(folder)}: analysed in {seconds:.0f} s; open {shown(folder / 'view.html')}")


def analyze(config: flags.AnalysisConfig) -> None:
    """Measures one seed, draws and tabulates the seeds of a row, or tabulates trainings at several rates."""
    if config.rates:
        from hierarchy_cnn_torch.report.rates import tabulate

        tabulate(config)
    elif config.summary:
        from hierarchy_cnn_torch.report.summary import summarise

        summarise(Path(config.summary))
    else:
        analyze_seed(config)


def main() -> None:
    """Command line."""
    run_main(lambda: analyze(finish_parsing(flags.analyze_parser(), flags.resolve_analyze)))


if __name__ == "__main__":
    main()
