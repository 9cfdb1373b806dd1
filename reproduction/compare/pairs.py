"""Pairs the runs of two sides of a claim seed by seed.

Where both records hold the outcomes of their test images, the noise of the test set enters the interval; records with
other orders of the test images are never paired.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np

from reproduction.compare.claim_language import Side
from reproduction.compare.collect import Collection, SeedRun
from reproduction.compare.effects import Effect, effect_of
from reproduction.runtime.run_folder import shown


def scale_of(unit: str) -> float:
    """Returns the factor from a record's fraction to the unit: 100 for percent and points."""
    return 100.0 if unit in ("percent", "points") else 1.0


def _value(run: SeedRun, side: Side, scale: float) -> float | None:
    if side.value is not None:
        return side.value
    number = run.number(side.metric, "last")
    return None if number is None else scale * number


def _why_not_paired(orders: set[str], computed: set[str]) -> str:
    """Why two runs are not compared: other test images than the seeds before, or another precision; "" if they are."""
    if len(orders) > 1:
        return f"the order digests of the test images differ ({', '.join(sorted(orders))})"
    return f"one computed in {' and the other in '.join(sorted(computed))}" if len(computed) > 1 else ""


@dataclass(frozen=True)
class Pairs:
    """The paired seeds of two sides.

    Attributes:
      seeds: paired ones, in order.
      effect: None without a pair.
      baseline: mean of the other side.
      missing: what the interval lacks.
      refused: why no seed could be paired although both sides ran; "" otherwise.
    """

    seeds: tuple[int, ...]
    effect: Effect | None
    baseline: float | None
    missing: str
    refused: str = ""


def pair(records: Collection, unit: str, claim: str, paper: str, base: str, method: Side, other: Side | None) -> Pairs:
    """Pairs method and baseline (or control) seed by seed.

    Args:
      records: of all papers; a refused pair adds one line to `records.problems`.
      unit: of the effect.
      claim: id of the claim, for that line.
      paper: its id.
      base: the base row.
      method: the side that is claimed to be better.
      other: the side it is compared with; None for a fact.
    """
    scale, other = scale_of(unit), other or Side(value=0.0)
    left, right = ({run.seed: run for run in records.runs(paper, base, side.variant)} for side in (method, other))
    right = right if other.metric else left  # a fixed value needs no run
    seeds: list[int] = []
    effects: list[float] = []
    baselines: list[float] = []
    by_image: list[np.ndarray] = []
    lacking: list[str] = []
    orders: set[str] = set()
    refused = ""
    for seed in sorted(left.keys() & right.keys()):
        both = ((left[seed], method), (right[seed], other))
        value, baseline = (_value(run, side, scale) for run, side in both)
        if value is None or baseline is None:
            continue
        bits = [run.outcomes(side.metric) for run, side in both]  # of the last epoch's network
        orders_with_seed = orders | {f"{one.order} of {one.count:,}" for one in bits if one is not None}
        place = f"{paper} {base}, {claim}, seed {seed}"
        refused = _why_not_paired(orders_with_seed, {run.numerics(side.metric) for run, side in both} - {""})
        if refused:
            records.problems.append(f"{place}: not paired, {refused}; see {shown(left[seed].last.path)}")
            continue
        orders = orders_with_seed
        seeds.append(seed)
        effects.append(value - baseline)
        baselines.append(baseline)
        if bits[0] is not None and bits[1] is not None:
            by_image.append(bits[0].bits().astype(np.int8) - bits[1].bits())
        elif other.metric:
            run, side = next(one for one, known in zip(both, bits, strict=True) if known is None)
            lacking.append(f"{place}: no outcomes.{side.metric} of test images; see {shown(run.last.path)}")
    if not seeds:
        return Pairs((), None, None, "", refused)
    records.problems += lacking if by_image else []  # some seeds have them
    effect = effect_of(effects, np.stack(by_image) if len(by_image) == len(seeds) else None, scale)
    missing = ""
    if effect.image_variance is None:
        why = "no outcomes of test images in the records" if other.metric else "compared with a fixed value"
        missing = f"seeds only: {why}"
    return Pairs(tuple(seeds), effect, statistics.fmean(baselines), missing)
