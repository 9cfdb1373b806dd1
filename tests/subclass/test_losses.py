import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subclass_torch.method import losses
from subclass_torch.training.optimizer import learning_rate

EPS = 1e-5


def slow_subclass_loss(logits, labels, mapping, w):
    """The loss of the authors' mylosses.py written out, one output at a time."""
    out = []
    for z, own in zip(logits, labels, strict=True):
        total = 0.0
        for s, value in enumerate(z):
            p = 1 / (1 + math.exp(-value))
            y = float(s == own)
            m = 1.0 if s == own else w if mapping[s] == mapping[own] else 0.0
            total -= y * math.log(p + EPS) + (1 - m) * math.log(1 - p + EPS)
        out.append(total)
    return out


@pytest.mark.parametrize(("w", "expected"), [(0.9, 0.725898), (1.0, 0.677195), (0.0, 1.164220)])
def test_vector_2(w, expected):
    logits = torch.tensor([[2, -1, 0.5], [-0.5, 1, -2]])
    value = losses.subclass_loss(logits, torch.tensor([0, 1]), losses.label_weights(torch.tensor([0, 1, 0]), w))
    assert value.mean().item() == pytest.approx(expected, abs=1e-6)
    if w == 0.9:
        assert value.tolist() == pytest.approx([0.5376, 0.9142], abs=1e-4)


def test_eps_is_not_the_log_sigmoid_form():
    logits, labels = torch.tensor([[2, -1, 0.5], [-0.5, 1, -2]]), torch.tensor([0, 1])
    table = losses.label_weights(torch.tensor([0, 1, 0]), 0.9)
    stable = torch.nn.functional.softplus(-logits.gather(1, labels[:, None]))[:, 0]
    stable = stable + ((1 - table[labels]) * torch.nn.functional.softplus(logits)).sum(1)
    assert stable.mean().item() == pytest.approx(0.725932, abs=1e-6)
    assert abs(losses.subclass_loss(logits, labels, table).mean().item() - stable.mean().item()) > 1e-5


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5), st.integers(0, 4), st.floats(0, 1))
def test_losses_agree_with_the_definition(seed, batch, classes, added, w):
    rng = np.random.default_rng(seed)
    mapping = np.concatenate([np.arange(classes), rng.integers(classes, size=added)])
    logits = rng.normal(scale=3, size=(batch, len(mapping)))
    labels = rng.integers(len(mapping), size=batch)
    table = losses.label_weights(torch.tensor(mapping), w)
    slow = slow_subclass_loss(logits, labels, mapping, w)
    fast = losses.subclass_loss(torch.tensor(logits), torch.tensor(labels), table)
    assert fast.dtype == torch.float32
    np.testing.assert_allclose(fast.numpy(), slow, rtol=2e-4, atol=1e-5)
    plain = losses.class_loss(torch.tensor(logits), torch.tensor(labels)).numpy()
    np.testing.assert_allclose(
        plain, slow_subclass_loss(logits, labels, np.arange(len(mapping)), w), rtol=2e-4, atol=1e-5
    )
    hot = torch.nn.functional.one_hot(torch.tensor(labels), len(mapping))
    many = losses.multilabel_loss(torch.tensor(logits), hot, torch.tensor(mapping), w)
    np.testing.assert_allclose(many.numpy(), slow, rtol=2e-4, atol=1e-5)


def test_multilabel_siblings():
    mapping, w = torch.tensor([0, 1, 2, 0, 1]), 0.9
    truth = torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]])
    logits = torch.tensor([[0.3, -1, 2, 0.7, 0.1]] * 3)
    p = torch.sigmoid(logits)
    negative = torch.tensor([[0, 1, 1, 0, 1.0], [1, 1, 0, 1, 1], [1, 1 - w, 1, 1, 0]])
    slow = -(truth * torch.log(p + EPS) + negative * torch.log(1 - p + EPS)).sum(1)
    torch.testing.assert_close(losses.multilabel_loss(logits, truth, mapping, w), slow)


def test_gradient_by_differences():
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table, labels = losses.label_weights(torch.tensor([0, 1, 2, 0, 1]), 0.9), torch.tensor([0, 4, 2])
    x = logits.float().requires_grad_()
    losses.subclass_loss(x, labels, table).sum().backward()
    mapping = [0, 1, 2, 0, 1]
    for i, j in np.ndindex(3, 5):
        up, down = logits.clone(), logits.clone()
        up[i, j] += 1e-5
        down[i, j] -= 1e-5
        slope = (
            sum(slow_subclass_loss(up.numpy(), labels, mapping, 0.9))
            - sum(slow_subclass_loss(down.numpy(), labels, mapping, 0.9))
        ) / 2e-5
        assert x.grad[i, j].item() == pytest.approx(slope, abs=1e-3)


def test_float32_under_autocast():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    labels, table = torch.tensor([0, 1, 2, 3]), losses.label_weights(torch.arange(6), 0.9)
    with torch.autocast("cpu", torch.bfloat16):
        inside = losses.subclass_loss(logits.bfloat16(), labels, table)
    assert torch.equal(inside, losses.subclass_loss(logits.bfloat16().float(), labels, table))


def test_learning_rate_vector_4():
    rates = [learning_rate(epoch, 0.1, [3, 6], 0.2) for epoch in range(8)]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.02, 0.02, 0.02, 0.004, 0.004])
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6], 0.2)
    for rate in rates:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        optimizer.step()
        schedule.step()
