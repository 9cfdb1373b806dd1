"""Which deviations a run writes into its record, by its flags; the page names every flag of ours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from class2str_tf import deviations
from class2str_tf.flags import parse_rnn, rnn_parser
from tests.test_deviation_pages import FLAG, flags, page, rows

DIGITS = {"dataset": "mnist", "lstm_units": [10], "mu": 1.0, "pixels": "unit"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"C2S-D01", "C2S-D03", "C2S-D15"}),
        ({"label_grad": "stop"}, {"C2S-D03", "C2S-D15"}),
        ({"finetune": "all"}, {"C2S-D01", "C2S-D02", "C2S-D03", "C2S-D15"}),
        ({"features": "released8192", "legacy_batches": True}, {"C2S-D01"}),
        ({"finetune": "bn"}, {"C2S-D01", "C2S-D03", "C2S-D15", "C2S-D31"}),
        ({"model": "lenet"}, {"C2S-D01", "C2S-D15"}),
        ({"model": "lenet", "lenet": "poster"}, {"C2S-D01", "C2S-D11", "C2S-D15"}),
        ({"model": "lenet", "lenet_relu": True}, {"C2S-D01", "C2S-D11", "C2S-D15"}),
        ({"pixels": "centred"}, {"C2S-D01", "C2S-D03", "C2S-D15", "C2S-D26"}),
        (DIGITS, {"C2S-D01", "C2S-D03", "C2S-D13", "C2S-D14", "C2S-D15", "C2S-D30", "C2S-D31"}),
        (
            DIGITS | {"train_images": "first:50000", "finetune": "bn"},
            {"C2S-D01", "C2S-D03", "C2S-D13", "C2S-D14", "C2S-D15"},
        ),
        (
            DIGITS | {"dataset": "mnist5k", "finetune": "bn", "pixels": "raw"},
            {"C2S-D01", "C2S-D03", "C2S-D13", "C2S-D15", "C2S-D26"},
        ),
        ({"dataset": "imagenet", "lstm_units": [2000, 2000], "mu": 1.0}, {"C2S-D01"}),
        ({"dataset": "imagenet", "lstm_units": [2000, 2000], "mu": 0.9}, {"C2S-D01", "C2S-D04"}),
        ({"amp": "auto"}, {"C2S-D01", "C2S-D03", "C2S-D15", "C2S-D32"}),
        ({"xla": True}, {"C2S-D01", "C2S-D03", "C2S-D15", "C2S-D32"}),
        ({"lstm_units": [32, 32], "retry_collisions": 3}, {"C2S-D01", "C2S-D03", "C2S-D15", "C2S-D23", "C2S-D28"}),
    ],
)
def test_what_a_run_writes_into_its_record(change, expected):
    """The ids that depend on flags; each that a run can write stands in the table."""
    frozen = ["--name", "nobody", "--finetune", "none"]
    config = replace(parse_rnn(rnn_parser("s", "cifar10", "vgg16"), frozen), **change)
    active = deviations.active(config)
    assert len(active) == len(set(active)) and set(active) <= set(rows("class2str"))
    switched = {name for table in (deviations.BOTH_STAGES, deviations.STAGE2) for name, when in table.items() if when}
    undefined = {"C2S-D04"} if config.dataset == "cifar10" else set()  # whatever mu is
    of_imagenet = {"C2S-D25", "C2S-D29"} if config.dataset == "imagenet" else set()
    assert set(active) & switched == expected | undefined | of_imagenet | {"C2S-D10"}


def test_every_flag_of_ours_is_on_the_page():
    common = {"--data-dir", "--runs-dir", "--device", "--eval", "--row", "--overwrite", "--accept-unverified",
              "--print-config", "--help", "--gpu", "--w_inv_loss", "--restore"}  # fmt: skip
    assert flags("class2str") - common - set(FLAG.findall(page("class2str", "papers"))) == set()
