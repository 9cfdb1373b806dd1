"""Which classes the training neglects: the neglection degree, as two matrix products per batch.

For output i the gradient of the loss with respect to its weight vector is, up to a factor, the sum over the batch of
z_ni x_n with z = p - y. Its parts from the class's samples, g_i1, and from all others, g_i0, can cancel:

    r_i = (|g_i1| + |g_i0|) / |g_i1 + g_i0|  >= 1

is large when the class's weights hardly move although its samples are still in error.
Source: Gkalelis and Mezaris, MMM 2020; authors' trainutils.py (a loop over samples).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def watch(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the outputs of a module, detached, while the context is open: `with watch(net.penultim_layer) as seen`.

    Yields:
      A list that holds the output of the module's newest forward pass as its only item.
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen[:] = [output.detach()]  # DEVIATION SDN-D27: hook detached and removed again

    handle = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def gradient_parts(features: Tensor, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes both parts of each output's weight gradient on one batch.

    Args:
      features: float [B, F], penultimate activations of the same forward pass as the update, detached.
      probabilities: float [B, C], sigmoid outputs of that pass, in [0, 1].
      labels: int64 [B] classes, or an indicator [B, C] with any number of positives per sample.
    Returns:
      positive: [C, F], sum over the positives of class i.
      negative: [C, F], sum over its negatives.
      count: [C], number of positives.
    Raises:
      ValueError: the batch is empty or the batch sizes differ.
    Source: authors' trainutils.py; SDN-D09 (matrix products, not boolean gathers per sample).
    """
    if len(features) == 0 or not len(features) == len(probabilities) == len(labels):
        raise ValueError(f"batch sizes differ or are 0: {len(features)}, {len(probabilities)}, {len(labels)}")
    features, p = features.to(probabilities.dtype), probabilities
    if labels.ndim == 2:
        indicator = labels.to(p.dtype)
        residual = p - indicator
        positive = (residual * indicator).T @ features
        return positive, (residual * (1 - indicator)).T @ features, indicator.sum(0)
    # DEVIATION SDN-D09: one positive per sample, so `positive` needs no product
    residual = p.gather(1, labels[:, None]) - 1  # [B, 1]
    positive = torch.zeros(p.shape[1], features.shape[1], dtype=p.dtype, device=p.device)
    positive.index_add_(0, labels, residual * features)
    negative = p.scatter(1, labels[:, None], 0.0).T @ features
    count = p.new_zeros(p.shape[1]).index_add_(0, labels, torch.ones_like(residual[:, 0]))  # bincount waits for a GPU
    return positive, negative, count


def degree(positive: Tensor, negative: Tensor) -> Tensor:
    """Computes r_i = (|g_i1| + |g_i0|) / |g_i1 + g_i0|, [C], >= 1 up to rounding; inf or nan if the sum is zero."""
    return (positive.norm(dim=1) + negative.norm(dim=1)) / (positive + negative).norm(dim=1)


@contextlib.contextmanager
def exact_matmul(device: torch.device) -> Iterator[None]:
    """No autocast and no TF32: the norm of the sum is a difference of nearly equal vectors for the classes sought."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def batch_degree(
    features: Tensor, logits: Tensor, labels: Tensor, reduce: Callable[..., None] | None = None, chunk: int = 0
) -> tuple[Tensor, Tensor]:
    """Neglection degree of every class on one batch.

    Args:
      features: float [B, F], this process's share of the batch.
      logits: float [B, C].
      labels: int64 [B] or indicator [B, C].
      reduce: sums tensors over the processes, in place: counts and both gradient sums, before the norms.
      chunk: classes handled at a time for an indicator (0: all); 3862 classes of YouTube-8M need 570 MB a matrix.
    Returns:
      r: float32 [C].
      count: float32 [C], positives in the whole batch.
    """
    with exact_matmul(logits.device):
        p, x = torch.sigmoid(logits.detach().float()), features.detach().float()
        if labels.ndim == 1 or not chunk:
            chunk = p.shape[1]
        degrees, counts = [], []
        for at in range(0, p.shape[1], chunk):
            here = labels if labels.ndim == 1 else labels[:, at : at + chunk]
            parts = gradient_parts(x, p[:, at : at + chunk], here)
            if reduce is not None:
                reduce(*parts)
            degrees.append(degree(*parts[:2]))
            counts.append(parts[2])
        return torch.cat(degrees), torch.cat(counts)


def new_totals(classes: int, device: torch.device) -> dict[str, Tensor]:
    """Running totals of one epoch on the device: mean form (float64), compound form (float32), batches, skipped."""
    wide: dict[str, Any] = {"dtype": torch.float64, "device": device}
    return {
        "sum": torch.zeros(classes, **wide),
        "weight": torch.zeros(classes, **wide),
        "compound": torch.zeros(classes, dtype=torch.float32, device=device),
        "batches": torch.zeros((), **wide),
        "skipped": torch.zeros((), **wide),
    }


def add_batch(totals: dict[str, Tensor], r: Tensor, count: Tensor, batch: int, per_sample: bool = False) -> None:
    """Adds one batch to the totals, in place, without a transfer to the host.

    Args:
      totals: from `new_totals`.
      r: float32 [C], from `batch_degree`.
      count: float32 [C], from `batch_degree`.
      batch: samples in this batch.
      per_sample: weigh r_i by the number of samples of class i, as the authors' loop over labels does.
    Deviations: SDN-D05 (weight), SDN-D06 (total), SDN-D08 (non-finite r skipped and counted).
    """
    present = count > 0
    good = present & torch.isfinite(r)  # DEVIATION SDN-D08: non-finite degrees skipped and counted
    weight = count if per_sample else torch.ones_like(count)  # DEVIATION SDN-D05: mean over batches, not samples
    value = torch.where(good, weight * r, 0)
    totals["sum"] += value
    totals["weight"] += torch.where(good, weight, 0)
    totals["compound"] += value
    totals["compound"] *= 1 + 1 / batch
    totals["batches"] += 1
    totals["skipped"] += (present & ~good).sum()


def close_epoch(totals: dict[str, Tensor], compound: bool = False) -> tuple[list[float], int]:
    """The epoch's neglection degree per class; the only transfer to the host.

    Args:
      totals: all batches of the epoch.
      compound: the released code's growing total, over the last batch index.
    Returns:
      t: one float per class (0 for a class that no batch contained).
      skipped: number of non-finite degrees left out.
    """
    if compound:
        values = totals["compound"] / (totals["batches"] - 1).clamp(min=1).float()
    else:
        values = totals["sum"] / totals["weight"].clamp(min=1)  # DEVIATION SDN-D07: the count, not the last index
    packed = torch.cat([values.double(), totals["skipped"][None]]).tolist()
    return packed[:-1], int(packed[-1])


def end_epoch(state: dict[str, Any], compound: bool = False) -> None:
    """Ends an epoch in the state of a training: adds its degrees and skipped degrees, and begins new totals.

    Args:
      state: `totals`, `degrees` and `skipped` are changed.
      compound: as in `close_epoch`.
    """
    degrees, skipped = close_epoch(state["totals"], compound)
    state["degrees"].append(degrees)
    state["skipped"] += skipped
    state["totals"] = new_totals(len(degrees), state["totals"]["sum"].device)


def ranking(epochs: list[list[float]], compound: bool = False) -> tuple[list[float], list[int]]:
    """Computes theta, and the classes in descending theta (ties: smaller class first).

    Args:
      epochs: t_i(e), [E][C]; 0 where class i was not measured in epoch e.
      compound: only the last epoch counts, as in the released code.
    """
    rows = epochs[-1:] if compound else epochs  # DEVIATION SDN-D06: mean over epochs, not the last
    # 0 is no degree, which is 1 or more: an epoch in which a class was not measured does not count for it
    measured = [[degree for degree in column if degree > 0] for column in zip(*rows, strict=True)]
    theta = [sum(column) / len(column) if column else 0.0 for column in measured]
    return theta, sorted(range(len(theta)), key=lambda i: (-theta[i], i))
