"""Everything measured on the arms of one seed, or, with --summary, the figures and tables over all seeds of a row.

python hierarchy_cnn_torch/analyze.py --run runs/hierarchy/fashion_mnist-cpu/seed0
python hierarchy_cnn_torch/analyze.py --summary runs/hierarchy/fashion_mnist-cpu
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import functools
import json
import time
from typing import Any

from datasets import DatasetError
from reproduction.runtime import run_data
from reproduction.runtime.flags import Parser, add_common, finish_parsing, flag, run_main, whole
from reproduction.runtime.run_folder import UserError, flags_hash, open_run, read_json, shown, together

PARTS = ("confusion", "arms", "responses", "probes", "quality")


def parser() -> Parser:
    """The command line."""
    p = Parser("analyze.py", __doc__.splitlines()[0])
    g = p.additions
    flag(g, "--run", metavar="DIR", default="", help="folder that holds A0, A1, ... of one seed")
    flag(g, "--compare", metavar="ARM", default="A1", help="arm shown beside A0 in gaps and in the viewer")
    flag(g, "--summary", metavar="DIR", default="", help="folder of a row: figures and tables over its seeds")
    flag(g, "--what", default=",".join(PARTS), metavar="A,B", help=f"parts: {', '.join(PARTS)}")
    flag(g, "--response", choices=("mean", "max", "q95"), default="mean", help="how a map becomes one number")
    flag(g, "--response-images", type=whole(0), default=2000, help="test images for responses (0: all)")
    flag(g, "--probe-images", type=whole(100), default=10000, help="training images for probes")
    flag(g, "--probe-test-images", type=whole(0), default=0, help="test images for probes (0: all)")
    flag(g, "--permutations", type=whole(99), default=9999)
    flag(g, "--bootstrap", type=whole(10), default=2000)
    flag(g, "--threads", type=whole(0), default=0)
    flag(g, "--thumbs", choices=("embed", "folder", "none"), help="thumbnails of the viewer")
    add_common(p, "hierarchy")
    return p


def resolve(args: argparse.Namespace) -> dict[str, Any]:
    """Checks the flags."""
    config = {key: value for key, value in vars(args).items() if key != "print_config"}
    if bool(args.run) == bool(args.summary):
        raise UserError("give --run (one seed) or --summary (a row), not both")
    unknown = [part for part in args.what.split(",") if part not in PARTS]
    if unknown:
        raise UserError(f"--what {unknown[0]}: not one of {', '.join(PARTS)}")
    return config


def analyze_seed(config: dict[str, Any]) -> None:
    """One seed: analysis.json, arrays, view.html and the record that the claims are tested on.

    Raises:
      UserError: stage 1 or the data set is missing, or files of the run are damaged.
    """
    import sys as system

    from hierarchy_cnn_torch import deviations, plots
    from hierarchy_cnn_torch.data import images
    from hierarchy_cnn_torch.report import measure, tables
    from hierarchy_cnn_torch.viewer.from_run import view_of_run
    from hierarchy_cnn_torch.viewer.view import write
    from reproduction.runtime import torch_runtime as runtime
    from reproduction.runtime.record import make_record, versions_of
    from reproduction.runtime.run_folder import write_json

    seed_folder = Path(config["run"])
    flat = measure.flat_config(seed_folder)
    # data that stage 1 was allowed to take unverified are the data to analyse
    accepted = config["accept_unverified"] or flat.get("accept_unverified", False)
    flat |= {"data_dir": config["data_dir"], "accept_unverified": accepted}
    config = {**config, "dataset": flat["dataset"], "seed": flat["seed"]}
    asked = dict(config)  # what the record holds: the same for every seed of a row
    config["arms"] = sorted(path.parent.name for path in seed_folder.glob("A?/DONE"))
    config["folds"] = len(list(seed_folder.glob("fold*/DONE")))
    # results of other arms or other weights are other results
    config["inputs"] = {
        path.parent.name: read_json(path, "date")["date"]
        for path in sorted(seed_folder.glob("*/DONE"))
        if path.parent.name != "analysis"
    }
    folder = seed_folder / "analysis"
    stamp = folder / "DONE"
    # arms that ran again with other flags make the old analysis void, not a conflict
    same = stamp.exists() and read_json(stamp, "").get("flags") == flags_hash(
        json.loads(json.dumps(config, default=str))
    )
    with open_run(folder, config, overwrite=config["overwrite"] or not same) as run:
        seen = run_data.look_at(config)

        @functools.cache
        def load() -> images.Data:
            try:
                return images.load(flat)
            except DatasetError as error:  # of the data, not of the run
                raise UserError(error) from None

        def digests() -> dict[str, str]:
            for arm in config["inputs"]:
                run_data.check_data(seed_folder / arm, load().digests, "train.py --overwrite writes it anew")
            return load().digests

        began = time.monotonic()
        with together(seed_folder, "train.py --overwrite writes an arm anew"):
            if run_data.is_finished(run, seen, digests):
                return
            runtime.start(flat["seed"], config["threads"])
            device = runtime.pick_device(config["device"])
            data = load()
            found = measure.everything(seed_folder, flat, config, data, device, run.folder)
            write_json(run.folder / "analysis.json", found)
        view = view_of_run(seed_folder, config["compare"], "", config["data_dir"])

        def draw() -> None:
            write(view, run.folder / "view.html", config["thumbs"])
            tables.write_all([found], f"Seed {flat['seed']} alone; {shown(seed_folder)}", run.folder)
            plots.draw_seed(found, seed_folder, data, run.folder)

        record = make_record(
            paper="hierarchy", row=config["row"], stage="analysis", seed=flat["seed"], argv=system.argv, config=asked,
            metrics={name: {"last": value} for name, value in found["metrics"].items()},
            seconds=time.monotonic() - began, curve=None, data=data.digests, data_verified=data.verified,
            deviations=deviations.active(flat), deterministic=device.type == "cpu",
            versions=versions_of("torch", "numpy", "scipy"), gpu=runtime.device_name(device),
            artefacts=[{"kind": "html", "path": "view.html", "title": "viewer"},
                       {"kind": "json", "path": "analysis.json", "title": "all measurements of this seed"},
                       *plots.artefacts_of(found), *tables.artefacts_of(found)],
        )  # fmt: skip
        run.finish(record, draw)
        print(
            f"{shown(run.folder)}: analysed in {time.monotonic() - began:.0f} s; open {shown(run.folder / 'view.html')}"
        )


def main() -> None:
    """Command line."""

    def go() -> None:
        config = finish_parsing(parser(), resolve)
        if config["summary"]:
            from hierarchy_cnn_torch.report.summary import summarise

            summarise(Path(config["summary"]), config)
        else:
            analyze_seed(config)

    run_main(go)


if __name__ == "__main__":
    main()
