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
