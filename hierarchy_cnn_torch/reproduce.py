"""`make reproduce-hierarchy`: all arms of every seed, the label study, the analysis and the viewer."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hierarchy_cnn_torch.flags import ARMS
from reproduction.pipeline import Command, Request, run
from reproduction.runs import RUNS_ROOT, shown

DATASETS = {"paper": "cifar100", "cpu": "fashion_mnist", "smoke": "mnist5k"}
PAPER_GIGABYTES = 0.17  # CIFAR-100

# What each profile fills in for train.py and analyze.py
TRAIN = {
    "paper": "--preset paper32 --epochs 60 --lr 0.01",
    "cpu": "--preset mini --channels-last --epochs 6 --lr 0.005 --batch 32 --subset 10000 --held-out 5000 "
    "--curve-images 1000 --image-size 28 --threads 1",
    "smoke": "--preset mini --channels-last --epochs 2 --lr 0.003 --batch 16 --subset 500 --held-out 150 "
    "--curve-images 100 --image-size 28 --threads 1",
}
ANALYZE = {
    "paper": "",
    "cpu": "--probe-images 2500 --probe-test-images 2000 --response-images 2000",
    "smoke": "--threads 1 --probe-images 200 --probe-test-images 100 --response-images 100 --permutations 99 "
    "--bootstrap 50",
}
FOLDS = {"paper": 5, "cpu": 2, "smoke": 2}
# seeds whose training labels are studied with planted noise; each costs about one more arm
NOISE_SEEDS = {"paper": 3, "cpu": 1, "smoke": 1}
SPLIT_CLASS = "4"
OFFICIAL = ("cifar10", "cifar100", "fashion_mnist")
HOURS = {"paper": 0.5}  # one arm of CIFAR-100 on a current GPU, an estimate
ARMS_SCRIPT, ANALYZE_SCRIPT = "hierarchy_cnn_torch/arms.py", "hierarchy_cnn_torch/analyze.py"


def commands_of(request: Request) -> list[Command]:
    """Stage 1 of all seeds, stage 2, the label study, the analysis of each seed, then the summary."""
    row, labels_row = request.row(), request.row("labels")
    top = RUNS_ROOT / "hierarchy" / row
    hours = HOURS.get(request.profile, 0.0)
    minutes = {"cpu": 0.4, "smoke": 0.1}.get(request.profile, 60.0)
    # flags of ARGS go to all arms: they must differ in nothing but the hierarchy
    common = ["--dataset", request.dataset, *TRAIN[request.profile].split(), *request.extra]
    commands = []

    def add(title: str, arms: list[str], seeds: tuple[int, ...], row: str, flags: list[str]) -> None:
        first = ["--arms", ",".join(arms), "--seeds", ",".join(map(str, seeds)), "--runs-dir", shown(top)]
        words, runs = [*first, *flags, *common, *request.shared_flags(row)], len(arms) * len(seeds)
        commands.append(Command(row, title, ARMS_SCRIPT, tuple(words), top, hours * runs, minutes * runs))

    seeds = request.seeds
    add("stage 1, flat network", ["A0"], seeds, row, ["--stage", "flat", "--keep-epochs", "auto"])
    add("stage 2, arms", list(ARMS[1:]), seeds, row, ["--stage", "aware", "--keep-epochs", "none"])
    # near and far flips need groups: the official tree's, or those stage 1 has just derived
    tree = "official" if request.dataset in OFFICIAL else "{seed}/A0/tree.json"
    folds = FOLDS[request.profile]
    flags = ["--stage", "flat", "--keep-epochs", "none", "--tree", tree, "--label-noise", "0.02"]
    flags += ["--split-class", SPLIT_CLASS, "--folds", str(folds)]
    names = [f"fold{fold}" for fold in range(folds)]
    add("label study", names, seeds[: NOISE_SEEDS[request.profile]], labels_row, flags)
    for seed in seeds:
        folder = top / f"seed{seed}"
        flags = ["--run", shown(folder), *ANALYZE[request.profile].split(), *request.shared_flags(row)]
        title, out = f"analysis and viewer, seed {seed}", folder / "analysis"
        commands.append(Command(row, title, ANALYZE_SCRIPT, tuple(flags), out, hours / 2, minutes))
    title, flags = "figures and tables over the seeds", ["--summary", shown(top)]
    commands.append(Command(row, title, ANALYZE_SCRIPT, tuple(flags), top / "summary"))
    return commands


if __name__ == "__main__":
    run("hierarchy", "hierarchy_cnn_torch", "torch", commands_of, DATASETS, PAPER_GIGABYTES)
