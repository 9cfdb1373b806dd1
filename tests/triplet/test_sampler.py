"""Which images a batch holds: groups, coverage, small classes, and that a batch depends on its number alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplet_tf.data_sampling.sampler import grouped, shuffled


def labels_of(counts: list[int], seed: int = 0) -> np.ndarray:
    """Labels with that many images of each class, in a random order."""
    return np.random.RandomState(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.integers(1, 4), st.integers(2, 5), st.integers(0, 9))
def test_groups(counts, per_batch, per_class, seed):
    labels = labels_of(counts)
    plan = grouped(labels, per_batch * per_class, per_class, seed)
    for number in range(6):
        batch = plan(number).reshape(per_batch, per_class)
        found = labels[batch]
        assert (found == found[:, :1]).all()  # the K of a class side by side
        if len(counts) >= per_batch:
            assert len(set(found[:, 0])) == per_batch  # P distinct classes
        for group in batch:
            size = counts[labels[group[0]]]
            repeats = np.bincount(np.unique(group, return_inverse=True)[1]).max()
            assert repeats <= -(-per_class // size)  # without replacement where the class has K, else tiled
            if size >= per_class:
                assert len(set(group)) == per_class


def test_every_class_is_equally_likely_whatever_its_size_and_a_pass_leaves_out_the_remainder():
    labels = labels_of([400, *[5] * 9])  # ten classes, P = 4: two batches a pass, two classes left out
    plan = grouped(labels, 16, 4, seed=3)
    left_out = []
    times = np.zeros(10)
    for epoch in range(300):
        seen = np.concatenate([labels[plan(2 * epoch + i)][::4] for i in range(2)])
        assert len(set(seen)) == 8
        left_out.append(tuple(sorted(set(range(10)) - set(seen))))
        times[seen] += 1
    assert len(set(left_out)) > 20  # others each time
    assert abs(times / 300 - 0.8).max() < 0.1  # 4 standard errors


def test_aircraft_numbers_of_the_paper():
    labels = labels_of([67] * 67 + [66] * 33)
    plan = grouped(labels, 32, 4, seed=0)
    for first in (0, 12):  # a pass is 12 batches: 12 x 8 classes, all different
        assert len({int(c) for i in range(first, first + 12) for c in labels[plan(i)]}) == 96


def test_fewer_classes_than_groups_are_tiled():
    labels = labels_of([6, 6, 6])
    plan = grouped(labels, 32, 4, seed=0)
    batch = labels[plan(0)]
    assert len(batch) == 32 and set(batch) == {0, 1, 2}


@pytest.mark.parametrize("make", [lambda s: grouped(labels_of([9] * 5), 8, 4, s), lambda s: shuffled(45, 8, s)])
def test_a_batch_depends_on_seed_and_number_alone(make):
    forward, single = make(1), make(1)
    batches = [forward(i) for i in range(30)]
    for number in (29, 0, 17, 17, 3):
        np.testing.assert_array_equal(single(number), batches[number])
    assert any(not np.array_equal(make(2)(i), batches[i]) for i in range(5))
    assert all(b.dtype == np.int64 and len(b) == 8 for b in batches)


@pytest.mark.parametrize(("num_images", "size"), [(45, 8), (8, 8), (5, 8), (7, 16)])
def test_vanilla_shows_every_image_once_an_epoch_and_batches_straddle(num_images, size):
    plan = shuffled(num_images, size, seed=4)
    stream = np.concatenate([plan(i) for i in range(3 * num_images)])
    for epoch in range(3):
        part = stream[epoch * num_images : (epoch + 1) * num_images]
        assert sorted(part) == list(range(num_images))
    if num_images > 8:
        assert not np.array_equal(stream[:num_images], stream[num_images : 2 * num_images])
