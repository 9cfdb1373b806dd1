"""The page of findings answers whether the hierarchy is learned and whether it helps: synthetic records of matched."""

import re

import numpy as np
import pytest

from reproduction.compare.collect import collect
from reproduction.compare.comparison import compare
from reproduction.compare.findings import TEMPLATE, findings
from reproduction.compare.tables import paper_of
from reproduction.runtime.record import Record, make_record

CORE = "cifar100-q90-matched"
USUAL = {  # of one seed, with a network that follows the hierarchy
    "A0/test_accuracy": 0.53, "A1/test_accuracy": 0.55, "A2/test_accuracy": 0.53, "A3/test_accuracy": 0.53,
    "block_lift_coarse": 1.6, "block_lift_fine": 9.0, "block_null_95_coarse": 1.05, "block_null_95_fine": 1.3,
    "probe_early_coarse_first": 0.6, "probe_early_coarse_untrained": 0.4, "probe_early_as_random": 0.45,
    "probe_early_rise_random": 0.05, "e90_late_classes": 9.0, "e90_early_coarse": 3.0, "gap/A0": 0.2, "gap/A1": 0.15,
    "A0_epochs_to_lower_end/A1": 12.0, "epochs_to_lower_end/A1": 10.0,
}  # fmt: skip
TRAINED = {"A1/train_accuracy": 0.70, "A2/train_accuracy": 0.71}
LABELS = {"quality_auroc_far": 0.93, "quality_confidence_auroc_far": 0.85}


@pytest.fixture(scope="module")
def template():
    return make_record(
        paper="hierarchy",
        row=CORE,
        stage="analysis",
        seed=0,
        argv=["analyze.py"],
        config={},
        metrics={},
        seconds=1.0,
        data={},
        data_verified=True,
        deviations=[],
        versions={},
        deterministic=True,
    ).model_dump() | {"dirty": False, "commit": "0" * 40}


def section(template, root, *rows):
    """The section about hierarchy, made from five seeds of each (row, metrics)."""
    rng = np.random.default_rng(0)
    for row, metrics in rows:
        for seed in range(5):
            noisy = {name: value + 1e-3 * rng.normal() for name, value in metrics.items()}
            values = {name: {"last": value} for name, value in noisy.items()}
            path = root / "hierarchy" / row / f"seed{seed}" / "record.json"
            path.parent.mkdir(parents=True)
            record = Record.model_validate(template | {"row": row, "seed": seed, "metrics": values})
            path.write_text(record.model_dump_json())
    found = collect(runs=root, results=root / "none")
    part = root / "section.md.j2"
    part.write_text(TEMPLATE.read_text(encoding="utf-8").partition("## Class hierarchy")[2])
    text = findings(compare([paper_of("hierarchy")], found), found, part)
    return re.sub(r"\s+", " ", text), len(re.findall(r"^\* ", text, re.M))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "**Knowing the hierarchy** helps: the aware network differs from the flat one by +"),
        ({"A2/test_accuracy": 0.55}, "**Knowing the hierarchy** does not help"),  # any grouping does as well
        (
            {"A3/test_accuracy": 0.55},
            "goes with a higher accuracy, which need not come from the hierarchy",
        ),  # supervision
        ({"A1/test_accuracy": 0.53}, "**Knowing the hierarchy** does not help"),
        ({"A1/test_accuracy": 0.51}, "**Knowing the hierarchy** does not help"),
        ({"A0/test_accuracy": 0.45}, "these runs do not tell: the aware network differs"),  # below the gate
        ({}, "its confusions follow the hierarchy."),
        ({"block_lift_coarse": 1.0}, "its confusions do not follow the hierarchy."),
        ({}, "early layers begin to separate the coarsest groups within an epoch"),
        ({"probe_early_as_random": 0.6}, "an epoch teaches early layers nothing about these groups in particular"),
        ({}, "the last hidden layer needs +6.0 ["),
        ({}, "the flat network's train-test gap exceeds the aware one's by +"),
    ],
)
def test_the_question_of_the_title_is_answered_in_plain_words(template, tmp_path, changed, said):
    text, items = section(template, tmp_path, (CORE, USUAL | changed))
    assert said in text and items == 4 and "Wrong labels" not in text
    assert text.count(f"[`{CORE}`](papers/hierarchy.md#row-{CORE})") == 4


def test_a_random_tree_is_the_control_of_over_fitting(template, tmp_path):
    text, _ = section(template, tmp_path, (CORE, USUAL | TRAINED))  # gaps of 18 and 15 points
    found = re.search(
        r"with a random tree differs from the aware one's by \+(\d\.\d)\d \[.{10,20}\] points \(supported\)", text
    )
    assert found and float(found[1]) == pytest.approx(3.0, abs=0.2)


def test_what_further_rows_add(template, tmp_path):
    longer = USUAL | {"gap/A0": 0.4, "gap/A1": 0.4}
    text, items = section(template, tmp_path, (CORE, USUAL | LABELS), (f"{CORE}-long", longer))
    assert items == 5 and "AUROC of 0.9" in text and "by confidence alone (supported)" in text
    assert re.search(r"long enough for a gap of (39|40)\.\d\d points", text) and "no effect larger than 0.5" in text


def test_without_deep_supervision_as_control_nothing_is_said_to_help(template, tmp_path):
    rows = [(row, {k: v for k, v in USUAL.items() if not k.startswith("A3")}) for row in (CORE, f"{CORE}-derived")]
    text, _ = section(template, tmp_path, *rows)
    assert text.count("goes with a higher accuracy, which need not come from the hierarchy") == 2


def test_confidence_alone_explains_labels_found_without_the_tree(template, tmp_path):
    text, _ = section(template, tmp_path, (CORE, USUAL | {name: 0.93 for name in LABELS}))
    assert "by confidence alone (explained by confidence alone)" in text


def test_an_early_layer_that_never_rises_leaves_out_its_epochs(template, tmp_path):
    text, items = section(template, tmp_path, (CORE, {k: v for k, v in USUAL.items() if not k.startswith("e90")}))
    assert items == 4 and "last hidden layer" not in text
