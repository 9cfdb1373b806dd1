"""Which deviations from the released code a configuration activates; docs/deviations/class2str.md explains each."""

from __future__ import annotations

from collections.abc import Callable

from class2str_tf.flags import RELEASED_DIGITS, SETTINGS, Config, Stage2Config, released_pixels, settings_of
from reproduction.runtime import deviations

BOTH_STAGES: dict[str, Callable[[Config], bool] | None] = {
    "C2S-D08": None,
    "C2S-D10": lambda c: c.dataset != "imagenet" or isinstance(c, Stage2Config),  # stage 1 there: one checkpoint
    "C2S-D16": None,
    "C2S-D17": None,
    "C2S-D22": None,
    "C2S-D25": lambda c: c.dataset == "imagenet",
    "C2S-D29": lambda c: c.dataset == "imagenet",
    "C2S-D03": lambda c: c.dataset != "imagenet" and c.model == "vgg16" and c.features == "paper512",
    "C2S-D11": lambda c: c.model == "lenet" and (c.lenet == "poster" or c.lenet_relu),
    "C2S-D14": lambda c: c.dataset == "mnist",
    "C2S-D15": lambda c: not c.legacy_batches and c.dataset != "imagenet",
    "C2S-D30": lambda c: c.dataset == "mnist" and c.train_images != RELEASED_DIGITS,
    "C2S-D26": lambda c: c.dataset != "imagenet" and c.pixels != released_pixels(c.dataset),
    "C2S-D32": lambda c: bool(c.amp or c.xla),
}
STAGE2: dict[str, Callable[[Stage2Config], bool] | None] = {
    "C2S-D04": lambda c: settings_of(c.dataset)["mu"] < 1 or c.mu != 1,  # elsewhere released: the plain sum
    "C2S-D09": None,
    "C2S-D12": None,
    "C2S-D13": lambda c: settings_of(c.dataset) is SETTINGS["mnist"],
    "C2S-D18": None,
    "C2S-D24": None,
    "C2S-D01": lambda c: c.label_grad == "flow",
    "C2S-D02": lambda c: c.finetune == "all",
    "C2S-D31": lambda c: c.finetune != "all" and (c.finetune == "bn") != (settings_of(c.dataset) is SETTINGS["mnist"]),
    "C2S-D28": lambda c: c.lh_preset != "released" or c.lstm_units != list(settings_of(c.dataset)["released"]),
    "C2S-D23": lambda c: bool(c.retry_collisions),
}


def active(config: Config) -> list[str]:
    """Sorted ids of the deviations that are on in a configuration of stage 1 or stage 2."""
    ids = deviations.active(config, BOTH_STAGES)
    return sorted(ids + deviations.active(config, STAGE2)) if isinstance(config, Stage2Config) else ids
