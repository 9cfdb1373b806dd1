"""Which classes the training neglects: the neglection degree, as two matrix products per batch.

For output i the gradient of the loss with respect to its weight vector is, up to a factor, the sum over the batch of
z_ni x_n with z = p - y. Its parts from the class's own samples, g_i1, and from all others, g_i0, can cancel:

    r_i = (|g_i1| + |g_i0|) / |g_i1 + g_i0|  >= 1

is large when the class's weights hardly move although its samples are still in error.
Source: MMM 2020; authors' trainutils.py (a loop over samples); sections 1.1 and 6.2 of the specification.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from reproduction.runtime.torch_runtime import World, reduce_sum


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
    """Both parts of each output's weight gradient on one batch.

    Args:
      features: [B, F] penultimate activations of the very forward pass of the update, detached.
      probabilities: [B, C] sigmoid outputs of that pass, in [0, 1].
      labels: int64 [B] classes, or an indicator [B, C] with any number of positives per sample.
    Returns:
      own: [C, F], sum over the positives of class i. others: [C, F], sum over its negatives. count: [C] positives.
    Raises:
      ValueError: if the batch is empty or the batch sizes differ.
    Source: authors' trainutils.py; SDN-D09 (matrix products, not boolean gathers per sample).
    """
    if len(features) == 0 or not len(features) == len(probabilities) == len(labels):
        raise ValueError(f"batch sizes differ or are 0: {len(features)}, {len(probabilities)}, {len(labels)}")
    features, p = features.to(probabilities.dtype), probabilities
    if labels.ndim == 2:
        indicator = labels.to(p.dtype)
        residual = p - indicator
        own = (residual * indicator).T @ features
        return own, (residual * (1 - indicator)).T @ features, indicator.sum(0)
    # DEVIATION SDN-D09: one positive per sample, so `own` needs no product
    z_own = p.gather(1, labels[:, None]) - 1  # [B, 1]
    own = torch.zeros(p.shape[1], features.shape[1], dtype=p.dtype, device=p.device)
    own.index_add_(0, labels, z_own * features)
    others = p.scatter(1, labels[:, None], 0.0).T @ features
    return own, others, torch.bincount(labels, minlength=p.shape[1]).to(p.dtype)


def degree(own: Tensor, others: Tensor) -> Tensor:
    """r_i = (|own_i| + |others_i|) / |own_i + others_i|, [C], >= 1 up to rounding; inf or nan where the sum is zero."""
    return (own.norm(dim=1) + others.norm(dim=1)) / (own + others).norm(dim=1)


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
    features: Tensor, logits: Tensor, labels: Tensor, world: World | None = None, chunk: int = 0
) -> tuple[Tensor, Tensor]:
    """Neglection degree of every class on one batch, over all processes.

    Args:
      features: [B, F]. logits: [B, C]. labels: int64 [B] or indicator [B, C]; this process's share of the batch.
      world: with several processes, counts and both gradient sums are added up before the norms.
      chunk: classes handled at a time for an indicator (0: all); 3862 classes of YouTube-8M need 570 MB a matrix.
    Returns:
      r: float32 [C]. count: float32 [C], positives in the whole batch.
    """
    with exact_matmul(logits.device):
        p, x = torch.sigmoid(logits.detach().float()), features.detach().float()
        if labels.ndim == 1 or not chunk:
            parts = [gradient_parts(x, p, labels)]
        else:
            parts = (
                gradient_parts(x, p[:, at : at + chunk], labels[:, at : at + chunk])
                for at in range(0, p.shape[1], chunk)
            )
        degrees, counts = [], []
        for own, others, count in parts:
            if world is not None:
                reduce_sum(world, own, others, count)
            degrees.append(degree(own, others))
            counts.append(count)
        return torch.cat(degrees), torch.cat(counts)


def new_totals(classes: int, device: torch.device) -> dict[str, Tensor]:
    """Running totals of one epoch on the device: mean form (float64), compound form (float32), batches, skipped."""
    wide = {"dtype": torch.float64, "device": device}
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
      totals: from `new_totals`. r, count: from `batch_degree`. batch: samples in this batch.
      per_sample: weigh r_i by the number of samples of class i, as the authors' loop over labels does.
    Source: section 6.2. Deviations: SDN-D05 (weight), SDN-D06 (total), SDN-D08 (non-finite r skipped and counted).
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
      totals: all batches of the epoch. compound: the released code's growing total, over the last batch index.
    Returns:
      t: one float per class (0 for a class that no batch held). skipped: number of non-finite degrees left out.
    """
    if compound:
        values = totals["compound"] / (totals["batches"] - 1).clamp(min=1).float()
    else:
        values = totals["sum"] / totals["weight"].clamp(min=1)  # DEVIATION SDN-D07: the count, not the last index
    packed = torch.cat([values.double(), totals["skipped"][None]]).tolist()
    return packed[:-1], int(packed[-1])


def warn_of_unmeasured(theta: Sequence[float], chosen: Sequence[int]) -> None:
    """Warns if classes were chosen whose degree was never measured: their theta is 0, a measured one is 1 or more."""
    unmeasured = [label for label in chosen if not theta[label]]
    if unmeasured:
        print(
            f"warning: stage1: no neglection degree could be measured for {len(unmeasured)} of the {len(chosen)} "
            f"classes chosen, the first is {unmeasured[0]}: they are chosen by their number alone",
            file=sys.stderr,
            flush=True,
        )


def ranking(epochs: list[list[float]], compound: bool = False) -> tuple[list[float], list[int]]:
    """theta and the classes in descending theta (ties: smaller class first).

    Args:
      epochs: t_i(e), [E][C]. compound: only the last epoch counts, as in the released code.
    """
    rows = epochs[-1:] if compound else epochs  # DEVIATION SDN-D06: mean over epochs, not the last
    theta = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return theta, sorted(range(len(theta)), key=lambda i: (-theta[i], i))
