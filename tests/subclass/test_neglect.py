import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subclass_torch.method import neglect
from subclass_torch.networks import build as models

CPU = torch.device("cpu")


def slow_degree(features, p, y):
    """Sections 1.1: one sample at a time, for any number of labels per sample."""
    classes = p.shape[1]
    own, others = np.zeros((classes, features.shape[1])), np.zeros((classes, features.shape[1]))
    for n in range(len(features)):
        for i in range(classes):
            part = (p[n, i] - y[n, i]) * features[n]
            if y[n, i] == 1:
                own[i] += part
            else:
                others[i] += part
    with np.errstate(all="ignore"):
        r = (np.linalg.norm(own, axis=1) + np.linalg.norm(others, axis=1)) / np.linalg.norm(own + others, axis=1)
    return r, y.sum(0)


def slow_official(batches):
    """The accumulation of the authors' trainutils.py (SDN-D05, SDN-D06): per label, total scaled after each batch."""
    total = None
    for r, labels in batches:
        total = np.zeros(len(r), np.float32) if total is None else total
        for label in labels:
            total[label] = np.float32(total[label] + np.float32(r[label]))
        total = (total + total / np.float32(len(labels))).astype(np.float32)
    return total / (len(batches) - 1)


def test_vector_1():
    x = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, 1]])
    p = torch.tensor([[0.5, 0.25], [0.75, 0.5], [0.25, 0.5], [0.5, 0.75]])
    labels = torch.tensor([0, 0, 1, 1])
    for truth in (labels, torch.nn.functional.one_hot(labels)):
        own, others, count = neglect.gradient_parts(x, p, truth)
        assert own.tolist() == [[-0.5, -0.25], [-1, -0.75]]
        assert others.tolist() == [[1.25, 0.75], [0.25, 0.5]]
        r = neglect.degree(own, others)
        assert r.tolist() == pytest.approx([2.2374, 2.2882], abs=1e-4)
    totals = neglect.new_totals(2, CPU)
    neglect.add_batch(totals, r, count, batch=4, per_sample=True)
    assert totals["compound"].tolist() == pytest.approx([5.5935, 5.7206], abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 6), st.integers(1, 7), st.booleans(), st.booleans())
def test_agrees_with_the_loop(seed, batch, classes, width, many, double):
    rng = np.random.default_rng(seed)
    kind = np.float64 if double else np.float32
    x, logits = rng.normal(size=(batch, width)).astype(kind), rng.normal(size=(batch, classes)).astype(kind)
    p = 1 / (1 + np.exp(-logits))
    if many:
        truth = (rng.random((batch, classes)) < 0.3).astype(np.int64)
        y = truth
    else:
        truth = rng.integers(classes, size=batch)  # some classes are absent
        y = np.eye(classes, dtype=np.int64)[truth]
    own, others, count = neglect.gradient_parts(torch.tensor(x), torch.tensor(p), torch.tensor(truth))
    r = neglect.degree(own, others).numpy()
    slow, present = slow_degree(x.astype(np.float64), p.astype(np.float64), y)
    assert count.tolist() == present.tolist()
    good = (present > 0) & np.isfinite(slow) & (slow < 1e3)
    np.testing.assert_allclose(r[good], slow[good], rtol=1e-9 if double else 2e-3)
    assert (r[good] >= 1 - 1e-6).all()


def test_relative_error_in_float32_is_3e_7_of_the_sums():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(128, 4096, generator=generator)
    p = torch.rand(128, 10, generator=generator)
    labels = torch.randint(10, (128,), generator=generator)
    own, others, _ = neglect.gradient_parts(x, p, labels)
    own64, others64, _ = neglect.gradient_parts(x.double(), p.double(), labels)
    fast, exact = neglect.degree(own, others).double(), neglect.degree(own64, others64)
    assert ((fast - exact).abs() / exact).max() < 2e-6
    dense = neglect.gradient_parts(x, p, torch.nn.functional.one_hot(labels, 10))
    torch.testing.assert_close(neglect.degree(*dense[:2]).double(), exact, rtol=2e-6, atol=0)


def test_gradient_parts_are_the_gradient():
    """own + others is B times the gradient of the mean class loss, up to the loss's eps."""
    from subclass_torch.method import losses

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=generator, dtype=torch.float64)
    layer = torch.nn.Linear(6, 4).double()
    labels = torch.randint(4, (32,), generator=generator)
    logits = layer(x)
    own, others, _ = neglect.gradient_parts(x, torch.sigmoid(logits).detach(), labels)
    losses.class_loss(logits, labels).sum().backward()
    torch.testing.assert_close(own + others, layer.weight.grad, rtol=1e-3, atol=1e-3)


def test_chunks_equal_whole():
    generator = torch.Generator().manual_seed(1)
    x, logits = torch.randn(16, 8, generator=generator), torch.randn(16, 11, generator=generator)
    truth = (torch.rand(16, 11, generator=generator) < 0.2).float()
    whole = neglect.batch_degree(x, logits, truth)
    parts = neglect.batch_degree(x, logits, truth, chunk=4)
    torch.testing.assert_close(parts[0], whole[0], equal_nan=True)
    assert torch.equal(parts[1], whole[1])


def test_mean_accumulator_and_skips():
    totals = neglect.new_totals(3, CPU)
    neglect.add_batch(totals, torch.tensor([2.0, 5.0, 7.0]), torch.tensor([1.0, 3.0, 0.0]), 4)
    neglect.add_batch(totals, torch.tensor([4.0, torch.inf, 1.0]), torch.tensor([2.0, 1.0, 0.0]), 3)
    values, skipped = neglect.close_epoch(totals)
    assert values == [3.0, 5.0, 0.0]
    assert skipped == 1
    per_sample = neglect.new_totals(3, CPU)
    neglect.add_batch(per_sample, torch.tensor([2.0, 5.0, 7.0]), torch.tensor([1.0, 3.0, 0.0]), 4, per_sample=True)
    neglect.add_batch(per_sample, torch.tensor([4.0, 1.0, 1.0]), torch.tensor([2.0, 1.0, 0.0]), 3, per_sample=True)
    assert neglect.close_epoch(per_sample)[0] == pytest.approx([(2 + 8) / 3, (15 + 1) / 4, 0.0])


def test_official_accumulator_equals_the_released_loop():
    rng = np.random.default_rng(0)
    batches = []
    totals = neglect.new_totals(4, CPU)
    for size in (8, 8, 5):
        labels = rng.integers(4, size=size)
        r = (1 + rng.random(4)).astype(np.float32)
        batches.append((r, labels))
        neglect.add_batch(
            totals, torch.tensor(r), torch.tensor(np.bincount(labels, minlength=4)).float(), size, per_sample=True
        )
    np.testing.assert_allclose(neglect.close_epoch(totals, compound=True)[0], slow_official(batches), rtol=1e-6)


def test_ranking():
    rows = [[1.0, 3.0, 2.0], [5.0, 1.0, 2.0]]
    assert neglect.ranking(rows) == ([3.0, 2.0, 2.0], [0, 1, 2])
    assert neglect.ranking(rows, compound=True) == ([5.0, 1.0, 2.0], [0, 2, 1])
    # an epoch in which a class was not measured is no epoch of degree 0
    assert neglect.ranking([[1.5, 3.0, 0.0], [1.5, 0.0, 0.0]]) == ([1.5, 3.0, 0.0], [1, 0, 2])


def test_watch_keeps_the_last_output_and_removes_itself():
    net = models.VGG(4, (4, "M"), width=8, channels=1, size=4).eval()
    images = torch.randn(3, 1, 4, 4)
    with neglect.watch(net.penultim_layer) as seen:
        logits = net(images)
        assert len(seen) == 1 and not seen[0].requires_grad
        torch.testing.assert_close(net.classifier(seen[0]), logits)
    assert not net.penultim_layer._forward_hooks
    net(images + 1)
    torch.testing.assert_close(net.classifier(seen[0]), logits)


def test_bad_batches():
    with pytest.raises(ValueError, match="batch sizes"):
        neglect.gradient_parts(torch.zeros(0, 3), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="batch sizes"):
        neglect.gradient_parts(torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
