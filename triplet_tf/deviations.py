"""Ids of the deviations from the released code that are on in a configuration (docs/deviations/triplet.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ALWAYS = ("STL-D05", "STL-D09", "STL-D14", "STL-D15", "STL-D16", "STL-D19", "STL-D20")


def active(config: Mapping[str, Any]) -> list[str]:
    """Those that can change a figure of this run."""
    found = list(ALWAYS)
    mode = config["train_mode"]
    if mode == "cntr" and config["center_update"] == "on":
        found.append("STL-D01")
    if config["weight_decay"] == "on":
        found.append("STL-D02")
    if config["caffe_iter_size"] > 1:
        found.append("STL-D03")
    if mode == "hard_awtl" or config["db_name"] not in ("flowers", "aircrafts") or config["net"] == "inc3":
        found.append("STL-D04")
    if config["eval_split"] == "val":
        found.append("STL-D06")
    if config["tap"]:
        found.append("STL-D07")
    if config["aug_style"] == "batch":
        found += ["STL-D08", "STL-D13"]
    elif config["frame_size"] == config["resize_sides"][0]:
        found.append("STL-D17")
    if config["net"] == "densenet161" and config["aug_style"] == "img":
        found.append("STL-D12")
    return sorted(found)
