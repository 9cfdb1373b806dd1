"""The controls in a record of the analysis: all are there, and they are what the arrays of the run give."""

import json

import numpy as np
import pytest

from hierarchy_cnn_torch.method.responses import class_correlation
from hierarchy_cnn_torch.method.statistics import mantel

CONTROLS = (  # what each statistic of the analysis is compared with
    "gap_spread_equal", "gap_spread_p", "selectivity_best_untrained", "selectivity_null_95_untrained",
    "mantel_conv1_untrained", "mantel_fc7_untrained", "probe_early_random_untrained", "probe_early_rise_random",
    "probe_early_rise_p", "quality_confidence_auroc_far", "block_null_95_coarse", "block_null_95_fine",
    "probe_early_as_random", "mantel_as_untrained", "selectivity_as_untrained", "mantel_as_random", "mantel_rise_p",
    "e90_early_as_random", "e90_early_random_never", "e90_early_p",
)  # fmt: skip


COMPARED = (  # claimed, control, a, b, c, d: claimed - control is the effect a - b minus that of the control, c - d
    ("selectivity_best", "selectivity_as_untrained", "selectivity_best", "selectivity_null_95",
     "selectivity_best_untrained", "selectivity_null_95_untrained"),
    ("mantel_fc7", "mantel_as_untrained", "mantel_fc7", "mantel_conv1", "mantel_fc7_untrained",
     "mantel_conv1_untrained"),
    ("probe_early_coarse_first", "probe_early_as_random", "probe_early_coarse_first", "probe_early_coarse_untrained",
     "probe_early_random_first", "probe_early_random_untrained"),
)  # fmt: skip


def controls_agree(out):
    """Compares a record, of three groupings in all and two epochs, with the other files of its folder."""
    value = {name: metric["last"] for name, metric in json.loads((out / "record.json").read_text())["metrics"].items()}
    controls = {name: value[name] for name in CONTROLS}
    assert 0 < controls["gap_spread_p"] <= 1
    assert controls["probe_early_rise_p"] in (1 / 3, 2 / 3, 1)  # 3 groupings in all
    assert controls["e90_early_p"] in (1 / 3, 2 / 3, 1)
    assert 0 <= controls["e90_early_as_random"] <= 3 and controls["e90_early_random_never"] in (0, 1 / 3, 2 / 3, 1)
    assert 0 <= controls["selectivity_best_untrained"] <= 1
    for names in COMPARED:
        claimed, control, a, b, c, d = (value[name] for name in names)
        assert claimed - control == pytest.approx((a - b) - (c - d))
    measured = json.loads((out / "analysis.json").read_text())
    levels = [np.array(level) for level in measured["levels"]]
    with np.load(out / "profiles.npz") as saved:
        profiles = [saved[f"{name}__2"].astype(np.float64) for name in ("conv1", "fc7")]
    first, last = (mantel(class_correlation(profile), levels) for profile in profiles)
    rise = [b - a for a, b in zip(first["null"], last["null"], strict=True)]
    reached = sum(random >= last["rho"] - first["rho"] - 1e-12 for random in rise)
    assert controls["mantel_rise_p"] == pytest.approx((1 + reached) / 1000)
    assert controls["mantel_as_random"] == pytest.approx(first["rho"] + np.quantile(rise, 0.95))
    rows = [rows[0] for rows in measured["selectivity"].values()]
    untrained = [(row["untrained"], row["untrained_95"]) for row in rows]
    assert (controls["selectivity_best_untrained"], controls["selectivity_null_95_untrained"]) in untrained
