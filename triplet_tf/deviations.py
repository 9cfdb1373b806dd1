"""Deviations from the released code that a configuration activates (docs/deviations/triplet.md explains each)."""

from __future__ import annotations

from collections.abc import Callable

from reproduction.runtime import deviations
from triplet_tf.config.base_config import Config

# id -> whether it can change a number of this run; None: always
TABLE: dict[str, Callable[[Config], bool] | None] = {
    "STL-D01": lambda c: c.train_mode == "cntr" and c.center_update == "on",
    "STL-D02": lambda c: c.weight_decay == "on",
    "STL-D03": lambda c: c.caffe_iter_size > 1,
    "STL-D04": lambda c: c.train_mode == "hard_awtl" or c.db_name not in ("flowers", "aircrafts") or c.net == "inc3",
    "STL-D05": None,
    "STL-D06": lambda c: c.eval_split == "val",
    "STL-D07": lambda c: bool(c.tap),
    "STL-D08": lambda c: c.aug_style == "batch",
    "STL-D09": None,
    "STL-D12": lambda c: c.net == "densenet161" and c.aug_style == "img",
    "STL-D13": lambda c: c.aug_style == "batch",
    "STL-D14": None,
    "STL-D15": None,
    "STL-D16": None,
    "STL-D17": lambda c: c.aug_style == "img" and c.frame_size == c.resize_sides[0],
    "STL-D19": None,
    "STL-D20": None,
    "STL-D21": lambda c: c.first_third != "same",
    "STL-D22": lambda c: c.train_mode == "vanilla" and c.grouped,
    "STL-D23": lambda c: c.distance == "euclidean",
    "STL-D24": lambda c: c.image_cache,
    "STL-D25": lambda c: bool(c.amp or c.xla),
}


def active(config: Config) -> list[str]:
    """Returns the sorted ids of the deviations that can change a number of this run."""
    return deviations.active(config, TABLE)
