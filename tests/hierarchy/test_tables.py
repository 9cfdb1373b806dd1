"""Tables of a run: what has no value is named in words."""

import math

from hierarchy_cnn_torch.report import tables


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
