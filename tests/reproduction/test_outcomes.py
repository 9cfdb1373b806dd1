"""Outcomes per test image: what goes into a record comes out again, and damaged ones are refused."""

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduction.runtime.outcomes import Outcomes, outcomes_of


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_what_is_packed_comes_out_again(right):
    stored = Outcomes.model_validate_json(outcomes_of(np.array(right), np.arange(len(right))).model_dump_json())
    assert stored.bits().tolist() == right


def test_the_order_follows_the_labels():
    right = np.ones(4, bool)
    one, same, other = (
        outcomes_of(right, np.array(labels, kind))
        for labels, kind in (([0, 1, 2, 3], np.int64), ([0, 1, 2, 3], np.uint8), ([0, 2, 1, 3], np.int64))
    )
    assert one.order == same.order != other.order


def test_ten_thousand_images_take_less_than_two_kilobytes():
    assert len(outcomes_of(np.ones(10_000, bool), np.zeros(10_000, int)).model_dump_json()) < 2000


@pytest.mark.parametrize(
    ("count", "right", "message"),
    [(9, "/w==", "1 bytes, 9 images take 2"), (8, "/w=", "not base64"), (0, "", "greater than 0")],
)
def test_damaged_outcomes_are_refused(count, right, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        Outcomes(count=count, order="0" * 16, right=right)


def test_outcomes_and_labels_must_be_as_many():
    with pytest.raises(ValueError, match=r"\(3,\) outcomes for \(4,\) labels"):
        outcomes_of(np.ones(3, bool), np.zeros(4, int))
