"""U and its formula, the views and their weights, batches against the one-image loop, the filter."""

import numpy as np
import pytest
import torch

from finegrained_torch.method import uncertainty as augment
from finegrained_torch.method.uncertainty import certain_mask, draw_views, formula, uncertainty
from finegrained_torch.networks import resnet as networks


def network(dtype=torch.float32, classes=3):
    """A small network whose batch norms have statistics of their own."""
    torch.manual_seed(3)
    net = networks.build("small", classes).to(dtype)
    with torch.no_grad():
        net.train()
        for _ in range(3):
            net(torch.rand(16, 3, 16, 16, dtype=dtype))
        net.fc.weight.mul_(8)
    return net.eval()


def one_image_loop(net, images, labels, n_aug, seed, aug_set):
    """The released formulation: one image, one view at a time."""
    views = draw_views(len(images), n_aug, seed, aug_set)
    means, found = [], []
    with torch.no_grad():
        for at in range(len(images)):
            total = 0
            for a in range(n_aug):
                view = augment.VIEWS[aug_set][views[at, a]](images[at : at + 1])
                total = total + torch.softmax(net(view), 1)[0]
            mean = total / n_aug
            k = int(mean.argmax())
            found.append(1 - mean[k] if k == labels[at] else 1 + mean[k])
            means.append(mean)
    return torch.stack(found).numpy(), torch.stack(means).numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("aug_set", augment.AUG_SETS)
@pytest.mark.parametrize("batch_size", [7, 64])
def test_batches_of_views_equal_the_one_image_loop(dtype, tolerance, aug_set, batch_size, generator):
    images = torch.rand(23, 3, 16, 16, dtype=dtype, generator=generator)
    labels = torch.randint(3, (23,), generator=generator).numpy()
    net = network(dtype)
    got = uncertainty(net, images, labels, 5, 11, batch_size, aug_set)
    expected, means = one_image_loop(net, images, labels, 5, 11, aug_set)
    np.testing.assert_allclose(got.U, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(got.mean_prediction, means, rtol=0, atol=tolerance)
    assert len({round(float(u), 6) for u in got.U}) > 15  # not a constant


def test_each_view_of_an_image_is_computed_once_at_most(generator):
    images = torch.rand(40, 3, 8, 8, generator=generator)
    seen = []

    def prepare(batch):
        assert len(batch) <= 16
        seen.extend(batch.flatten(1).sum(1).tolist())
        return batch

    uncertainty(network(), images, np.zeros(40, int), 5, 0, 16, "flips", prepare=prepare)
    views = draw_views(40, 5, 0, "flips")
    assert len(seen) == sum(len(row.unique()) for row in views) < 40 * 4


class Elsewhere(torch.nn.Module):
    """A network on the device "meta", which stands for a GPU; all its logits are zero, and on the CPU."""

    def __init__(self):
        super().__init__()
        self.network = network().to("meta")

    def forward(self, images):
        return torch.zeros(self.network(images).shape)


@pytest.mark.parametrize(("make", "device", "largest"), [(network, "cpu", 32), (Elsewhere, "meta", 200)])
def test_batches_fit_the_networks_device_wherever_the_images_are(make, device, largest, generator):
    """The stage gives images on the CPU and moves each batch to the network."""
    sizes = []

    def prepare(batch):
        sizes.append(len(batch))
        return batch.to(device)

    images = torch.rand(300, 3, 8, 8, generator=generator)
    uncertainty(make(), images, np.zeros(300, int), batch_size=200, prepare=prepare)
    assert max(sizes) == largest


def test_it_is_a_function_of_seed_and_image_and_leaves_the_mode(generator):
    images = torch.rand(12, 3, 8, 8, generator=generator)
    labels = np.zeros(12, int)
    net = network().train()
    running = net.layers[1].running_mean.clone()
    first = uncertainty(net, images, labels, seed=1, batch_size=4)
    assert net.training and torch.equal(running, net.layers[1].running_mean)
    np.testing.assert_allclose(first.U, uncertainty(net, images, labels, seed=1, batch_size=100).U, atol=1e-6)
    assert not np.allclose(first.U, uncertainty(net, images, labels, seed=2).U)
    assert len(uncertainty(net, images[:0], labels[:0]).U) == 0
    with pytest.raises(ValueError, match="12 images, 11 labels"):
        uncertainty(net, images, labels[:11])


def test_formula_on_the_vector_of_the_picture():
    mean = torch.tensor([[0.13, 0.22, 0.51, 0.15]])
    assert formula(mean, torch.tensor([2])).item() == pytest.approx(0.49)
    assert formula(mean, torch.tensor([0])).item() == pytest.approx(1.51)


@pytest.mark.parametrize("classes", [2, 4, 20])
def test_above_one_exactly_where_wrong_and_in_its_ranges(classes, generator):
    mean = torch.softmax(3 * torch.randn(500, classes, generator=generator), 1)
    labels = torch.randint(classes, (500,), generator=generator)
    found, right = formula(mean, labels), mean.argmax(1) == labels
    assert torch.equal(found > 1, ~right)
    assert (found[right] <= 1 - 1 / classes + 1e-6).all() and (found[right] >= 0).all()
    assert (found[~right] >= 1 + 1 / classes - 1e-6).all() and (found[~right] <= 2).all()


def test_shares_of_the_four_flips():
    views = draw_views(20000, 5, 0, "flips")
    shares = torch.bincount(views.flatten(), minlength=4) / views.numel()
    np.testing.assert_allclose(shares, [0.14, 0.56, 0.06, 0.24], atol=0.005)
    counts = augment.count_views(views, 4)
    assert (counts.sum(1) == 5).all() and torch.equal(counts.sum(0), torch.bincount(views.flatten()))


@pytest.mark.parametrize("aug_set", ["shifts", "picture"])
def test_the_other_sets_are_uniform(aug_set):
    views = draw_views(10000, 5, 0, aug_set)
    np.testing.assert_allclose(torch.bincount(views.flatten()) / views.numel(), [0.2] * 5, atol=0.01)


def test_flips_and_shifts_move_pixels():
    image = torch.arange(2 * 3 * 4).reshape(1, 2, 3, 4)
    horizontal, vertical, both = (augment.FLIPS[k](image) for k in (1, 2, 3))
    assert torch.equal(horizontal[0, 0, 0], torch.tensor([3, 2, 1, 0]))
    assert torch.equal(vertical[0, 0, :, 0], torch.tensor([8, 4, 0]))
    assert torch.equal(both, horizontal.flip(-2)) and torch.equal(augment.FLIPS[0](image), image)
    down = augment.SHIFTS[1](image)
    assert torch.equal(down[0, 0, 1:], image[0, 0, :-1]) and torch.equal(down[0, 0, 0], image[0, 0, 0])
    right = augment.SHIFTS[3](image)
    assert torch.equal(right[..., 1:], image[..., :-1]) and torch.equal(right[..., 0], image[..., 0])


def test_views_of_the_picture_keep_shape_and_type(generator):
    floats = torch.rand(2, 3, 16, 16, generator=generator)
    for view in augment.PICTURE:
        assert view(floats).shape == floats.shape
        bytes_ = (floats * 255).byte()
        assert view(bytes_).dtype == torch.uint8
        np.testing.assert_allclose(view(bytes_).float() / 255, view(bytes_.float() / 255).clamp(0, 1), atol=0.003)
    grey = torch.full((1, 3, 4, 4), 0.3)
    for view in (augment.grey_scale, augment.hue, augment.zoom):
        np.testing.assert_allclose(view(grey), grey, atol=1e-6)
    assert not torch.allclose(augment.hue(floats), floats, atol=0.05)


def slow_filter(values, labels, threshold):
    kept = set()
    for label in set(labels.tolist()):
        members = sorted((u, at) for at, (u, y) in enumerate(zip(values, labels, strict=True)) if y == label)
        kept |= {at for _, at in members[: int(len(members) * threshold / 100)]}
    return np.array([at in kept for at in range(len(labels))])


def test_filter_counts_of_cifar():
    rng = np.random.default_rng(0)
    fine = np.repeat(np.arange(10), 5000)
    animals = np.isin(fine, [2, 3, 4, 5, 6, 7]).astype(int)
    certain = certain_mask(rng.random(50000), animals, 90)
    assert [(certain & (animals == c)).sum() for c in (1, 0)] == [27000, 18000]
    superclasses = np.repeat(np.arange(20), 2500)
    certain = certain_mask(rng.random(50000), superclasses, 90)
    assert np.bincount(superclasses[certain]).tolist() == [2250] * 20 and certain.sum() == 45000


@pytest.mark.parametrize("threshold", [0.5, 29, 33.3, 50, 90, 100])
def test_filter_against_a_slow_oracle_with_ties(threshold):
    rng = np.random.default_rng(1)
    values, labels = rng.integers(0, 4, 101) / 4, rng.integers(0, 3, 101)
    np.testing.assert_array_equal(certain_mask(values, labels, threshold), slow_filter(values, labels, threshold))


def test_filter_keeps_the_exact_percentage_rounded_down():
    """100 * (29 / 100) is 28.999999999999996 in floating point; 2,250 and 5,000 are sizes of classes."""
    for count in (1, 7, 100, 2250, 5000):
        for threshold in range(1, 101):
            kept = certain_mask(np.zeros(count), np.zeros(count, int), threshold).sum()
            assert kept == count * threshold // 100, (count, threshold)


def test_filter_keeps_the_first_of_equals_and_refuses_nonsense():
    assert certain_mask(np.zeros(10), np.zeros(10, int), 30).tolist() == [True] * 3 + [False] * 7
    assert certain_mask(np.random.default_rng(0).random(9), np.zeros(9, int), 100).all()
    nonsense = [
        (np.zeros(3), 90, "3 uncertainties for 4"),
        (np.zeros(4), 0, "threshold 0"),
        (np.zeros(4), 101, "threshold 101"),
        (np.full(4, np.nan), 90, "not finite"),
    ]
    for values, threshold, said in nonsense:
        with pytest.raises(ValueError, match=said):
            certain_mask(values, np.zeros(4, int), threshold)
