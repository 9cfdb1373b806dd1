"""Which deviations a run writes into its record, by its flags."""

from __future__ import annotations

import pytest

from tests.test_deviation_pages import rows
from triplet_tf import deviations
from triplet_tf.config.base_config import parse, training_parser


@pytest.mark.parametrize(
    ("flags", "on", "off"),
    [
        ("--train_mode vanilla", {"STL-D08", "STL-D13"}, {"STL-D01", "STL-D02", "STL-D03", "STL-D06", "STL-D17"}),
        ("--train_mode cntr --aug_style img", {"STL-D01"}, {"STL-D08", "STL-D13", "STL-D17"}),
        ("--aug_style img --frame_size 350", {"STL-D17"}, {"STL-D08", "STL-D13"}),
        ("--train_mode cntr --center_update off", set(), {"STL-D01"}),
        ("--weight_decay on --caffe_iter_size 2", {"STL-D02", "STL-D03"}, set()),
        ("--train_mode hard_awtl", {"STL-D04"}, set()),
        ("--db_name cars --eval_split val", {"STL-D04", "STL-D06"}, set()),
        ("--train_mode vanilla --vanilla-batches grouped", {"STL-D22"}, {"STL-D21"}),
        ("--train_mode hard --first-third lambda", {"STL-D21"}, {"STL-D22"}),
        ("--train_mode hard", set(), {"STL-D21", "STL-D22", "STL-D23", "STL-D24", "STL-D25"}),
        ("--amp tf32", {"STL-D25"}, set()),
        ("--xla", {"STL-D25"}, set()),
        ("--train_mode hard --distance euclidean --aug_style img --image-cache", {"STL-D23", "STL-D24"}, {"STL-D21"}),
        ("--net inc4 --tap Mixed_7d", {"STL-D07"}, set()),
        ("--net densenet161 --aug_style img", {"STL-D12"}, set()),
    ],
)
def test_what_a_run_writes_into_its_record(flags, on, off):
    active = deviations.active(parse(training_parser(), flags.split()))
    assert on <= set(active) <= set(rows("triplet")) and not off & set(active)
    assert len(active) == len(set(active))
