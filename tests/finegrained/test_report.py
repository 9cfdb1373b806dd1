"""The report from run folders that were made without training: every number in it follows from the files."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from finegrained_torch import gather, report, tables
from reproduction.runtime.run_folder import UserError

from . import toy_runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three seeds, and the report of the first."""
    folder = toy_runs.make(tmp_path_factory.mktemp("runs"))
    path = report.write_report(folder)
    return folder, path.read_text(), json.loads((folder / "metrics.json").read_text())


def accuracy(folder, variant):
    held = np.load(folder / toy_runs.FOLDERS[variant][1] / "predictions.npz")
    return 100 * float((held["labels"] == held["predicted"]).mean())


def row(text, title):
    (line,) = [line for line in text.split("\n## Row against row")[0].splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_main_table_holds_mean_spread_and_paired_difference(made):
    folder, text, _ = made
    seeds = [folder.parent / f"seed{seed}" for seed in (42, 43, 44)]
    base = [accuracy(seed, "") for seed in seeds]
    for variant in toy_runs.FOLDERS:
        cells = row(text, tables.title(variant))
        ours = [accuracy(seed, variant) for seed in seeds]
        assert cells[6] == f"{np.mean(ours):.2f} ± {np.std(ours, ddof=1):.2f}"
        if variant:
            gaps = np.subtract(ours, base)
            assert cells[7].startswith(f"{gaps.mean():+.2f} [")
            low, high = map(float, re.findall(r"[+-]\d+\.\d+", cells[7])[1:])
            assert low <= gaps.mean() <= high
    assert row(text, "base")[1] == "-" and row(text, "FT pseudo (plain)")[1] == "10"
    order = [text.index(f"| {tables.title(name)} |") for name in tables.ordered(list(toy_runs.FOLDERS))]
    assert order == sorted(order)


def test_mcnemar_lines_follow_from_the_predictions(made):
    folder, text, facts = made
    (pair,) = [test for test in facts["mcnemar"] if (test["a"], test["b"]) == ("ft", "")]
    assert set(pair["seeds"]) == {"42", "43", "44"}
    for seed, (only_a, only_b, p) in pair["seeds"].items():
        held = [
            np.load(folder.parent / f"seed{seed}" / toy_runs.FOLDERS[name][1] / "predictions.npz")
            for name in ("ft", "")
        ]
        a, b = [one["labels"] == one["predicted"] for one in held]
        assert (only_a, only_b) == (np.sum(a & ~b), np.sum(b & ~a)) and 0 <= p <= 1
        assert only_b == 0 and f"{only_a:.0f} : 0, p" in text  # the toy's gains only add
    assert {(test["a"], test["b"]) for test in facts["mcnemar"]} >= {
        ("mh09", "ft"),
        ("ft", "ft-random"),
        ("ft-true", "ft"),
    }


def test_claims_are_answered_with_numbers(made):
    _, text, facts = made
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("* FGL-")}
    answers = {claim["id"]: claim["answer"] for claim in facts["claims"]}
    assert set(lines) == set(answers)
    assert answers["FGL-C1"] == "yes" and "**yes**" in lines["FGL-C1"] and "points" in lines["FGL-C1"]
    assert answers["FGL-C4-noise"] == "yes" and answers["FGL-C5-random"] == "yes"
    assert answers["FGL-C5-pixels"] == "no"  # the toy's pixel labels are the truth
    assert answers["FGL-B1"] == "yes" and answers["FGL-B2"] == "yes" and answers["FGL-B3"] == "yes"
    assert answers["FGL-C6-base"] == "not run" and "**not run**" in lines["FGL-C6-base"]
    assert len(re.findall(r"\(seeds: ([^)]*)\)", lines["FGL-C1"])[0].split(",")) == 3


def test_the_report_says_where_controls_are_as_good(made):
    _, text, _ = made
    for name in ("digits 0-4", "digits 5-9"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"* {name}: the method's ARI is")]
        assert "better: k-means on pixels" in line
        assert "about as good: k-means in the same 4-d space" in line and "worse: random" in line
    assert "inflated" in text and "of the uncertain" in text


def test_every_picture_that_is_named_exists_and_can_be_read(made):
    folder, text, facts = made
    named = re.findall(r"!\[[^\]]*\]\(figures/([^)]+)\)", text)
    assert named == facts["figures"]
    wanted = {
        "map_class0.png", "map_class1.png", "map_joint.png", "clusters_class0.png", "clusters_class1.png",
        "contingency.png", "certainty.png", "uncertainty.png", "confusion.png", "lr_find.png", "training.png",
    }  # fmt: skip
    assert wanted == set(named)
    for name in named:
        with Image.open(folder / "figures" / name) as image:
            assert image.width > 300 and np.asarray(image.convert("L")).std() > 5


def test_a_lone_stage_is_reported_and_nothing_is_claimed(made, tmp_path):
    alone = tmp_path / "mine"
    shutil.copytree(made[0] / "classifier", alone / "classifier")
    text = report.write_report(alone).read_text()
    assert "| base |" in text and "FT pseudo" not in text.split("## Claims")[0].split("\n* ")[0]
    assert "1 seed: read no difference as settled" in text
    assert re.findall(r"(FGL-\S+) \*\*yes", text) == ["FGL-B1"]  # a bar on each seed is no claim over seeds
    (alone / "classifier" / "mnist5k" / "predictions.npz").unlink()
    with pytest.raises(UserError, match="predictions.npz.*--overwrite"):
        report.write_report(alone)


def test_unfinished_rows_are_left_out(made, tmp_path):
    for name in ("seed42", "seed43"):
        for below in ("classifier", "fine-tuning"):
            shutil.copytree(made[0].parent / name / below, tmp_path / name / below)
    (tmp_path / "seed43" / toy_runs.FOLDERS["ft"][1] / "DONE").unlink()
    (tmp_path / "seed44").mkdir()  # just begun
    runs = gather.read_seeds(tmp_path / "seed42")
    assert [run.seed for run in runs] == [42, 43] and "ft" in runs[0].rows and "ft" not in runs[1].rows
    table = report.main_table(runs, tables.ordered(list(runs[0].rows)), {})
    assert "FT pseudo (plain) (1 of 2 seeds)" in table


def test_nothing_to_report_on_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no finished stage to report on; --stage coarse is the first"):
        report.write_report(tmp_path)
    for name in ("cifar10", "mnist5k"):
        toy_runs.finish(tmp_path / "classifier" / name, "coarse", "", 0, {}, {})
    with pytest.raises(UserError, match="several data sets"):
        report.write_report(tmp_path)


def test_published_figures_stand_beside_pathmnist_and_nothing_beside_cifar():
    paper = report.paper_of("finegrained")
    assert report._published(paper, "pathmnist") == {"": "90.836", "ft": "90.515", "ft-deep": "91.657"}
    assert report._published(paper, "cifar10") == {}
