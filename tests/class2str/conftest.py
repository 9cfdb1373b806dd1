"""Every test of this folder that builds a graph gets one of its own, with a seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from class2str_tf.flags import Config, fc_parser, parse_fc


@pytest.fixture
def graph() -> Iterator[None]:
    """A fresh TensorFlow graph with a global step."""
    from reproduction.runtime.tf import tf1

    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        tf1.train.get_or_create_global_step()
        yield


@pytest.fixture
def config() -> Config:
    """Flags of stage 1 as the scripts resolve them."""
    return parse_fc(fc_parser("train_fc_classifier.py"), ["--data-dir", "data", "--runs-dir", "runs"])
