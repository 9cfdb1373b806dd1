"""All accuracies of a finished stage 2, on strings that two of three classes share."""

from __future__ import annotations

import numpy as np
import pytest

from class2str_tf.method.codes import from_strings
from class2str_tf.training import evaluate
from tests.class2str.test_codes import soft


def test_classes_that_share_a_string_get_half_the_credit_and_no_outcomes():
    labels = np.array([0, 1, 2, 2])
    results = {
        "p": soft(from_strings(["00", "01", "01", "10"])),  # the last is a string of no class
        "q": soft(from_strings(["00", "01", "01"])),
        "inverse_of": np.array([0, 1, 1, 0]),
        "inverse_of_q": np.array([0, 1, 1]),
    }
    values, outcomes = evaluate.accuracies(results, np.eye(3)[[0, 1, 2, 0]], labels)
    assert values == pytest.approx(
        {
            "fc_accuracy": 3 / 4,
            "lh_accuracy": 3 / 4,
            "prefix_accuracy/1": 3 / 4,
            "prefix_accuracy/2": 3 / 4,
            "class_accuracy_exact": (1 + 0.5 + 0.5) / 4,
            "class_accuracy_exact_pessimistic": 1 / 4,
            "class_accuracy_hamming": 2 / 4,  # a tie goes to class 1
            "class_accuracy_ml": 2 / 4,
            "class_accuracy_str2class": 2 / 4,
            "unowned_strings": 1 / 4,
            "inverse_accuracy": 2 / 3,
            "distinct_codes": 2,
            "classes": 3,
            "min_confidence": 0.9,
        }
    )
    assert set(outcomes) == {name for name in values if "accuracy" in name} - {
        "class_accuracy_exact",
        "inverse_accuracy",
    }
    assert outcomes["class_accuracy_exact_pessimistic"].bits().tolist() == [1, 0, 0, 0]
