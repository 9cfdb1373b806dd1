from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subclass_torch import flags
from subclass_torch.method import partition
from subclass_torch.training import stage2


def plain_view(_label, images, _place):
    return images.astype(np.float32)


def toy(seed=0, count=40, classes=4):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(0, 60, size=(count, 4, 4, 3)).astype(np.uint8)
    images[(np.arange(count) // classes) % 2 == 1] += 150  # two groups in every class
    return images, labels.astype(np.int64)


def partners(count):
    def draw(label, wanted):
        return np.random.default_rng([7, label]).integers(count, size=wanted)

    return draw


def make(classes, k=2, **options):
    images, labels = toy()
    return images, labels, partition.make_partition(images, labels, classes, k, 4, plain_view, partners(40), **options)


def test_mixing_vector_3():
    first, second = np.array([200, 10, 255], np.uint8), np.array([100, 20, 255], np.uint8)
    assert partition.mix(first, second).tolist() == [150, 15, 255]
    assert partition.mix(first, second, wrap=True).tolist() == [22, 15, 127]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 255), st.integers(0, 255))
def test_mixing_every_pair(a, b):
    pair = np.array([a], np.uint8), np.array([b], np.uint8)
    assert partition.mix(*pair).tolist() == [(a + b) // 2]
    assert partition.mix(*pair, wrap=True).tolist() == [((a + b) % 256) // 2]
    assert partition.mix(*pair).dtype == np.uint8


@pytest.mark.parametrize("k", [2, 3])
def test_toy_partition(k):
    images, labels, made = make([2, 0], k)
    both, new = partition.training_set(images, made)
    assert made.subclass2class.tolist() == [0, 1, 2, 3] + [2] * (k - 1) + [0] * (k - 1)
    assert sorted(set(new.tolist())) == list(range(len(made.subclass2class)))  # contiguous, none empty
    counts = np.bincount(made.subclass2class[new], minlength=4)
    assert counts.tolist() == [20, 10, 20, 10]  # the neglected ones double
    assert (made.subclass2class[made.labels] == labels).all()
    assert (both[: len(images)] == images).all()
    for row, (source, partner) in enumerate(zip(made.source, made.partner, strict=True)):
        expected = (images[source].astype(int) + images[partner]) // 2
        assert (both[len(images) + row] == expected).all()
        assert made.subclass2class[made.mixed_labels[row]] == labels[source]
    assert made.partner.max() < len(images)  # partners are originals


def test_clusters_follow_the_pixels():
    images, labels, made = make([1])
    bright = images.reshape(len(images), -1).mean(1) > 100
    own = made.labels[labels == 1]
    # Both groups stay together: bright images of the class share one subclass, dark ones the other.
    assert len(set(own[bright[labels == 1]])) == 1 and len(set(own[~bright[labels == 1]])) == 1


def test_same_seed_same_partition():
    _, _, first = make([3, 1])
    _, _, again = make([3, 1])
    for name in ("labels", "source", "partner", "mixed_labels", "subclass2class"):
        assert (getattr(first, name) == getattr(again, name)).all()


def test_one_subclass_and_no_classes():
    images, labels, made = make([2], k=1)
    assert made.subclass2class.tolist() == [0, 1, 2, 3]
    assert (made.labels == labels).all() and set(made.mixed_labels) == {2}
    assert np.bincount(partition.training_set(images, made)[1]).tolist() == [10, 10, 20, 10]
    images, labels, made = make([])
    both, new = partition.training_set(images, made)
    assert both is images and (new == labels).all() and len(made.subclass2class) == 4


def test_wrapping_reaches_the_training_set():
    images, _, made = make([0], wrap=True)
    both, _ = partition.training_set(images, made, wrap=True)
    source, partner = made.source[0], made.partner[0]
    assert (both[len(images)] == (images[source].astype(int) + images[partner]) % 256 // 2).all()


@pytest.mark.parametrize("compat", ["paper", "official"])
@pytest.mark.parametrize("copies", ["plain", "none"])
def test_copies_are_the_images_themselves_however_sums_are_formed(copies, compat):
    config = flags.resolve(flags.make_parser().parse_args(["--copies", copies, "--compat", compat, "--threads", "1"]))
    images, labels = toy()
    images = np.concatenate([images, 255 - images[:4]])  # bright ones too: their doubles are above 255
    labels = np.concatenate([labels, labels[:4]])
    data = SimpleNamespace(train_images=images, train_labels=labels, class_names=tuple("abcd"))
    setting = SimpleNamespace(config=config, data=data, constants=(torch.zeros(3), torch.ones(3)))
    parts = stage2.split_classes(setting, [1, 3])
    both, _ = partition.training_set(images, parts, wrap=stage2.wraps(config))
    expected = np.concatenate([images[labels == 1], images[labels == 3]])[: None if copies == "plain" else 0]
    assert (both[len(images) :] == expected).all() and len(both) == len(images) + len(expected)


@pytest.mark.parametrize("classes", [[4], [1, 1], [-1]])
def test_classes_that_do_not_exist(classes):
    with pytest.raises(ValueError, match=r"classes in 0\.\.3"):
        make(classes)


def test_too_few_images():
    with pytest.raises(ValueError, match="class 1 holds 10 images, too few for 21"):
        make([1], k=21)
    images, labels = toy()
    with pytest.raises(ValueError, match="class 4 holds 0 images"):
        partition.make_partition(images, labels, [4], 2, 5, plain_view, partners(40))


def test_fewer_different_images_than_subclasses_are_refused(recwarn):
    """Else one output would be of a subclass without images, unnoticed."""
    images, labels = toy()
    images[labels == 2] = 7
    with pytest.raises(ValueError, match="class 2 holds 1 different images, too few for 2"):
        partition.make_partition(
            images, labels, [2], 2, 4, plain_view, lambda label, count: np.flatnonzero(labels == label)
        )
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["augmented", "plain"])
def test_the_view_of_kmeans_depends_on_seed_class_and_position_alone(kind, monkeypatch):
    def view_of(seed):
        monkeypatch.setattr(partition, "make_partition", lambda *a, **_: a[5])
        words = f"--seed {seed} --kmeans-view {kind} --data_augmentation --cutout --length 8 --threads 1"
        config = flags.resolve(flags.make_parser().parse_args(words.split()))
        data = SimpleNamespace(
            train_images=np.zeros((20, 32, 32, 3), np.uint8), class_names=("a", "b"), train_labels=np.repeat([0, 1], 10)
        )
        constants = (torch.zeros(3), torch.ones(3))
        return stage2.split_classes(SimpleNamespace(config=config, data=data, constants=constants), [0, 1])

    images, place = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20)
    view = view_of(3)
    whole = view(0, images, place)
    assert (view_of(3)(0, images, place) == whole).all()
    parts = [view(0, images[at : at + 7], place[at : at + 7]) for at in (0, 7, 14)]
    assert (np.concatenate(parts) == whole).all()
    for other in (view(1, images, place), view_of(4)(0, images, place)):
        assert (other == whole).all() == (kind == "plain")
