"""Tables of a run: what has no value is named in words."""

import math
import shutil

import pytest

from hierarchy_cnn_torch.report import summary, tables
from reproduction.runtime.record import load_record

from .test_runs import ANALYZE, pictures, run, tree_file, words  # noqa: F401


def test_a_probe_that_does_not_rise_is_named_in_words():
    def seed(own, *random):
        return {"e90": {"conv2": {"2": own, "2/random0": random[0], "2/random1": random[1], "classes": 7.0}}}

    head, row = tables.t2([seed(3.0, None, 5.0), seed(math.nan, math.nan, 7.0)])
    assert dict(zip(head, row, strict=True)) == {
        "layer": "conv2",
        "2 groups": "3.00; no rise in 1 of 2",
        "classes": "7.00 ± 0.00",
        "2 random": "6.00 ± 1.41; no rise in 2 of 4",
    }
    assert tables.t2([seed(None, 1.0, None)])[1] == ["conv2", "no rise in 1 of 1", "7.00", "1.00; no rise in 1 of 2"]


def test_group_errors_of_all_variants_are_of_the_same_groups():
    """A0's record counts the groups of the tree that it derived, those of the others the tree that they were given."""

    def seed(*accuracies):
        arms = {"A0": 0.9, "A1": 0.7}
        curve = {
            arm: {"metrics": {"test_accuracy": 0.5, "group_accuracy/2": of_record}} for arm, of_record in arms.items()
        }
        levels = {arm: [{"groups": 2, "accuracy": value}] for arm, value in zip(arms, accuracies, strict=True)}
        return {"arms": list(arms), "curves": curve, "metrics": {}, "T1": {a: {"levels": v} for a, v in levels.items()}}

    head, *rows = tables.t3([seed(0.8, 0.75), seed(0.8, 0.75)])
    assert [row[head.index("2-group error %")] for row in rows] == ["20.00 ± 0.00", "25.00 ± 0.00"]
    head, *rows = tables.t3([{name: part for name, part in seed(0.8, 0.75).items() if name != "T1"}])
    assert not any("group error" in name for name in head) and len(rows[0]) == len(head)


def test_one_seed_alone_has_the_interval_over_its_images():
    level = {"groups": 2, "accuracy": 0.9, "within": 0.7, "expected": 0.5, "lift": 1.4, "p": 0.01}
    measured = {"levels": [level | {"within_95": [0.65, 0.75]}], "height": 1.5, "nested": [0.7], "conditional": [0.8]}
    seed = {"levels": [[0, 0, 1]], "T1": {"A0": measured}}
    head, row = tables.t1([seed])
    assert row[head.index("errors inside W %")] == "70.00 [65.00, 75.00]" and row[-2:] == ["70.00", "80.00"]
    assert tables.t1([seed, seed])[1][head.index("errors inside W %")] == "70.00 ± 0.00"
    nan = {name: math.nan for name in ("within", "expected", "lift", "p")}
    right = seed | {"T1": {"A0": measured | {"levels": [level | nan | {"within_95": [math.nan, math.nan]}]}}}
    for seeds, within, p in (([right], "-", "-"), ([right, seed], "70.00", "0.0100")):  # no image is misclassified
        row_of_both = tables.t1(seeds)[1]
        assert (row_of_both[head.index("errors inside W %")], row_of_both[head.index("largest p")]) == (within, p)
    older = {"levels": [[0, 0, 1]], "T1": {"A0": {"levels": [level], "height": 1.5}}}
    assert tables.t1([older])[1] == [*row[:2], "70.00", *row[3:-2], "-", "-"]
    purity = {"e90": {"conv2": {"2": 1.0, "classes": 2.0}}, "purity": {"conv2": 0.75}}
    assert tables.t2([purity])[1][-1] == "75.00"


def test_how_alike_the_trees_are_is_said_in_one_line():
    seed = {"seed": 3, "tree": "official", "agreement": {"cophenetic_spearman": None, "ari_2": 0.5}}
    said = "seed 3: agreement of the tree official with the derived one (1: equal): ari 2 0.50"
    assert summary.agreement_of(seed) == said


@pytest.mark.filterwarnings("error::RuntimeWarning:hierarchy_cnn_torch")
def test_a_folder_whose_test_part_lacks_a_group_is_analysed(pictures, tree_file, tmp_path):  # noqa: F811
    """What cannot be measured has no value in the record, "no rise" in the tables and a gap in the plots."""
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    for path in (folder / "test").glob("red_*"):
        shutil.rmtree(path)
    small = "--what confusion,responses,probes --groupings 3 --permutations 99 --bootstrap 10 --threads 1 --device cpu"
    for answer in (
        run(words(folder, tmp_path / "A0", "--stage", "flat", "--tree", tree_file, "--epochs", "1")),
        run(["", str(ANALYZE), "--run", str(tmp_path), *small.split()]),
    ):
        assert answer.returncode == 0, answer.stderr
    metrics = load_record(tmp_path / "analysis" / "record.json").metrics
    for name in ("probe_early_coarse_first", "probe_early_rise_p", "e90_early_coarse", "e90_early_as_random"):
        assert metrics[name].last is None, name
    assert metrics["probe_late_classes_last"].last is not None
    assert "no rise in 1 of 1" in (tmp_path / "analysis" / "T2.md").read_text()
    assert all((tmp_path / "analysis" / name).exists() for name in ("T1.md", "F3.png", "F4.png", "F6.png", "view.html"))
