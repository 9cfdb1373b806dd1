from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets
from reproduction.runtime.run_folder import UserError
from subclass_torch import flags
from subclass_torch.data import augment, images

MEAN, STD = torch.tensor([125.3, 123.0, 113.9]), torch.tensor([63.0, 62.1, 66.7])


def one_by_one(images, draws, length, crop=True, cutout=True):
    """The authors' transforms on one image at a time, for given draws."""
    out = []
    for n, image in enumerate(images.numpy()):
        if crop:
            padded = np.zeros((40, 40, 3), np.uint8)
            padded[4:36, 4:36] = image
            top, left = int(draws.top[n]), int(draws.left[n])
            image = padded[top : top + 32, left : left + 32]
            image = image[:, ::-1] if draws.flip[n] else image
        x = ((image.astype(np.float64) - MEAN.numpy()) / STD.numpy()).transpose(2, 0, 1)
        if cutout:
            mask = np.ones((32, 32))
            for y, c in zip(draws.hole_y[n].tolist(), draws.hole_x[n].tolist(), strict=True):
                y1, y2, x1, x2 = (
                    int(np.clip(v, 0, 32)) for v in (y - length // 2, y + length // 2, c - length // 2, c + length // 2)
                )
                mask[y1:y2, x1:x2] = 0
            x = x * mask
        out.append(x)
    return np.stack(out)


def batch(count=64, holes=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return images, augment.draw(count, 32, holes, generator)


def test_equal_for_given_draws():
    for holes, length in ((1, 16), (2, 8), (1, 20), (3, 7), (0, 16)):
        images, draws = batch(holes=holes)
        for crop in (True, False):
            for cutout in (True, False):
                fast = augment.training_batch(images, draws, MEAN, STD, crop, cutout, length)
                slow = one_by_one(images, draws, length, crop, cutout)
                np.testing.assert_allclose(fast.numpy(), slow, atol=1e-5)


def test_crop_is_exact_and_leaves_its_input():
    images, draws = batch()
    before = images.clone()
    out = augment.crop_flip(images, draws)
    assert torch.equal(images, before) and out.dtype == torch.uint8
    still = draws._replace(top=torch.full((64,), 4), left=torch.full((64,), 4), flip=torch.zeros(64, dtype=torch.bool))
    assert torch.equal(augment.crop_flip(images, still), images)


def test_grey_images():
    images = torch.randint(0, 256, (5, 32, 32, 1), dtype=torch.uint8)
    draws = augment.draw(5, 32, 1, torch.Generator().manual_seed(0))
    out = augment.training_batch(images, draws, torch.tensor([33.3]), torch.tensor([78.6]), True, True, 16)
    assert out.shape == (5, 1, 32, 32)


def test_an_image_gets_the_same_draws_in_any_batch():
    images, draws = batch(32)
    whole = augment.training_batch(images, draws, MEAN, STD, True, True, 16)
    items = torch.tensor([7, 3, 30])
    part = augment.training_batch(images[items], draws.of(items), MEAN, STD, True, True, 16)
    assert torch.equal(part, whole[items])


def chi2(observed, expected):
    return float(((observed - expected) ** 2 / expected).sum())


def test_draws_have_the_distribution_of_the_transforms():
    count = 90_000
    draws = augment.draw(count, 32, 1, torch.Generator().manual_seed(3))
    for offsets in (draws.top, draws.left):
        assert chi2(torch.bincount(offsets, minlength=9).double(), count / 9) < 30  # 8 degrees of freedom, p = 2e-4
    for centres in (draws.hole_y, draws.hole_x):
        assert chi2(torch.bincount(centres[:, 0], minlength=32).double(), count / 32) < 68  # 31 degrees, p = 1e-4
    assert abs(draws.flip.double().mean() - 0.5) < 0.007
    joint = torch.bincount(draws.top * 9 + draws.left, minlength=81).double()
    assert chi2(joint, count / 81) < 135  # independent: 80 degrees of freedom


def test_same_pixel_means_as_pil_style_transforms():
    """Mean picture under our draws and under draws made one image at a time with another generator."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, size=(1, 32, 32, 3)).astype(np.uint8))
    count = 4000
    many = image.expand(count, -1, -1, -1)
    ours = augment.training_batch(
        many, augment.draw(count, 32, 1, torch.Generator().manual_seed(1)), MEAN, STD, True, True, 16
    )
    other = augment.Draws(
        torch.from_numpy(rng.integers(0, 9, count)),
        torch.from_numpy(rng.integers(0, 9, count)),
        torch.from_numpy(rng.random(count) < 0.5),
        torch.from_numpy(rng.integers(32, size=(count, 1))),
        torch.from_numpy(rng.integers(32, size=(count, 1))),
    )
    theirs = one_by_one(many, other, 16)
    spread = theirs.std(0) / count**0.5
    assert np.abs(ours.numpy().mean(0) - theirs.mean(0)).max() < (6 * 2**0.5) * spread.max()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 45_000), st.integers(1, 9))
def test_the_constants_of_an_unknown_set_do_not_depend_on_the_order_of_its_classes(count, classes):
    levels = np.sort(np.arange(count) % classes).astype(np.uint8).reshape(-1, 1, 1, 1) * 25
    mean, std = images.constants_of("folder:x", levels)
    assert abs(mean[0] - levels.mean()) < 0.2 and abs(std[0] - max(levels.std(), 1)) < 0.2


@pytest.mark.parametrize(("kind", "most"), [("neglected", 3), ("random", 1)])
@pytest.mark.parametrize("wanted", range(5))
def test_a_folder_has_as_many_classes_as_are_split_and_drawn(monkeypatch, kind, most, wanted):
    pixels, labels = np.zeros((6, 32, 32, 3), np.uint8), np.arange(6) % 3
    data = {"train_images": pixels, "train_labels": labels, "test_images": pixels, "test_labels": labels}
    loaded = SimpleNamespace(name="folder:x", class_names=("a", "b", "c"), digests={}, verified=False, **data)
    monkeypatch.setattr(datasets, "load", lambda *_, **__: loaded)
    words = f"--dataset folder:x --subclass --stage train --neglected x.json --repartition {kind}"
    config = flags.parse([*words.split(), "--numClasses2Repartition", str(wanted)])
    if wanted <= most:
        assert images.load(config).class_names == loaded.class_names
    else:
        with pytest.raises(UserError, match=f"has 3 classes; expected at most {most}"):
            images.load(config)
