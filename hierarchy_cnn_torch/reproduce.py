"""`make reproduce-hierarchy`: all arms of every seed, the label study, the analysis and the viewer."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hierarchy_cnn_torch.flags import ARMS
from reproduction.launch.pipeline import Command, Request, run
from reproduction.runtime.run_folder import RUNS_ROOT, shown

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
# The paper's level in minutes; `fast` with batch norm, all training images, the same for every variant.
MATCHED = (
    "--preset fast --bn --dropout 0 --batch 256 --lr-schedule onecycle --label-smoothing 0.1 --amp auto "
    "--channels-last --eval-batch 1000 --train-held-out"
)
# after 6 epochs the small network is right on a third of CIFAR-10's images: too early to compare arms
COLOUR = {"cpu": ["--epochs", "20"]}
ANALYZE = {
    "paper": "",
    "cpu": "--probe-images 2500 --probe-test-images 2000 --response-images 2000",
    "smoke": "--threads 1 --probe-images 200 --probe-test-images 100 --response-images 100 --permutations 99 "
    "--bootstrap 50",
}
FOLDS = {"paper": 5, "cpu": 2, "smoke": 2}
# seeds whose training labels are studied with planted noise; each costs about one more arm
NOISE_SEEDS = {"paper": 3, "cpu": 1, "smoke": 1}
STAGE_2 = ["--stage", "aware", "--keep-epochs", "none"]
LABEL_STUDY = ["--stage", "flat", "--keep-epochs", "none", "--label-noise", "0.02", "--split-class", "4"]
OFFICIAL = ("cifar10", "cifar100", "fashion_mnist")
HOURS = {"paper": 0.5}  # one arm of CIFAR-100 on a current GPU, an estimate
TRAIN_SCRIPT, ANALYZE_SCRIPT = "hierarchy_cnn_torch/train.py", "hierarchy_cnn_torch/analyze.py"


def commands_of(request: Request) -> list[Command]:
    """For each seed stage 1, stage 2, the label study and the analysis; then the summary."""
    row, labels_row = request.row(), request.row("labels")
    top = RUNS_ROOT / "hierarchy" / row
    hours, folds = HOURS.get(request.profile, 0.0), FOLDS[request.profile]
    minutes = {"cpu": 0.6, "smoke": 0.1}.get(request.profile, 60.0)
    # flags of ARGS go to all arms: they must differ in nothing but the hierarchy
    colour = COLOUR.get(request.profile, []) if request.dataset.startswith("cifar") else []
    minutes *= 2.2 if colour else 1  # 20 epochs for 6
    common = ["--dataset", request.dataset, *TRAIN[request.profile].split(), *colour, *request.extra]
    commands = []

    def add(title: str, seed: int, row: str, name: str, flags: list[str]) -> None:
        where = ["--seed", str(seed), "--runs-dir", shown(top / f"seed{seed}"), "--name", name]
        words, folder = (*common, *where, *flags, *request.shared_flags(row)), top / f"seed{seed}" / name
        commands.append(
            Command(row, f"{title}, seed {seed}", TRAIN_SCRIPT, words, folder, hours, minutes, f"seed{seed}")
        )

    for number, seed in enumerate(request.seeds):
        for arm in ARMS:
            stage = ["--stage", "flat", "--keep-epochs", "auto"] if arm == "A0" else STAGE_2
            add(f"arm {arm} ({'stage 1' if arm == 'A0' else 'stage 2'})", seed, row, arm, ["--arm", arm, *stage])
        folder = top / f"seed{seed}"
        # near and far flips need groups: the official tree's, or those stage 1 has just derived
        tree = "official" if request.dataset in OFFICIAL else shown(folder / "A0" / "tree.json")
        for fold in range(folds if number < NOISE_SEEDS[request.profile] else 0):
            study = ["--fold", str(fold), "--folds", str(folds), "--tree", tree, *LABEL_STUDY]
            add(f"label study, part {fold + 1} of {folds}", seed, labels_row, f"fold{fold}", study)
        words = ("--run", shown(folder), *ANALYZE[request.profile].split(), *request.shared_flags(row))
        title, out = f"analysis and viewer, seed {seed}", folder / "analysis"
        commands.append(Command(row, title, ANALYZE_SCRIPT, words, out, hours / 2, minutes, lane=f"seed{seed}"))
    title = "plots and tables over the seeds"
    commands.append(Command(row, title, ANALYZE_SCRIPT, ("--summary", shown(top)), top / "summary"))
    return commands


def pages(request: Request) -> str:
    """What to open after a run: the viewer of each seed."""
    top = RUNS_ROOT / "hierarchy" / request.row()
    views = [shown(top / f"seed{seed}" / "analysis" / "view.html") for seed in request.seeds]
    return "open in a browser: " + "  ".join(views)


if __name__ == "__main__":
    run("hierarchy", "hierarchy_cnn_torch", "torch", commands_of, DATASETS, PAPER_GIGABYTES, closing=pages)
