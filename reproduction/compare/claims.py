"""What the papers claim, tested on the records: supported, not supported, inconclusive, or not testable here.

A claim is an effect (a metric, or the difference or ratio of two) and a margin. Its 95 percent interval over seeds
wholly inside the margin is `supported`, wholly outside `not supported`, else `inconclusive`; fewer than five seeds
add `indicative`. Several effects of one seed (one for each neglected class) are averaged first: they share a network
and are no independent draws. Two other tests exist: `every seed` for exact counts, which have no spread, and
`permutation` for an effect whose chance level was found by shuffling. Source: ours.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reproduction.compare.collect import Collection, RowRuns, SeedRun
from reproduction.compare.tables import Claim, Paper, Side
from reproduction.runtime.run_folder import REPO_ROOT, read_json

MIN_SEEDS = 5
MIN_FOR_INTERVAL = 3  # two equal values would make an interval of no width
SIGNIFICANCE = 0.05
BENCHMARKS = REPO_ROOT / "docs" / "benchmarks.json"


@dataclass(frozen=True)
class Result:
    """A claim on one row. Effect, low and high are in the claim's unit; None where there is nothing to compute.

    Attributes:
      values: one effect per unit: per seed, or per seed and class.
      labels: what each value belongs to ("seed 0", "seed 0, class 8").
      on: what it was tested on: row, and "unverified data" or the like where it applies.
    """

    paper: str
    claim: Claim
    row: str
    on: str
    seeds: tuple[int, ...]
    labels: tuple[str, ...]
    values: tuple[float, ...]
    effect: float | None
    low: float | None
    high: float | None
    p_value: float | None
    word: str
    verdict: str


def t_quantile(n: int) -> float:
    """Returns t(0.975, n-1), the factor of a two-sided 95 percent interval from n values; n >= 2."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975))


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Returns the 95 percent t interval of the mean of paired effects; None with fewer than two."""
    n = len(values)
    if n < 2:
        return None
    half = t_quantile(n) * statistics.stdev(values) / math.sqrt(n)
    mean = statistics.fmean(values)
    return mean - half, mean + half


def inside(claim: Claim, value: float) -> bool:
    """Whether an effect of this size satisfies the claim."""
    return (
        (claim.above is None or value > claim.above)
        and (claim.least is None or value >= claim.least)
        and (claim.below is None or value < claim.below)
        and (claim.most is None or value <= claim.most)
    )


def decide(claim: Claim, low: float, high: float) -> str:
    """Verdict of an interval [low, high] against the margin, itself an interval."""
    if inside(claim, low) and inside(claim, high):
        return "supported"
    under = (claim.above is not None and high <= claim.above) or (claim.least is not None and high < claim.least)
    over = (claim.below is not None and low >= claim.below) or (claim.most is not None and low > claim.most)
    return "not supported" if under or over else "inconclusive"


def scale_of(unit: str) -> float:
    """Returns the factor from a record's fraction to the unit: 100 for percent and points."""
    return 100.0 if unit in ("percent", "points") else 1.0


def _effect(claim: Claim, a: float | None, b: float | None) -> float | None:
    if a is None or (claim.combine != "value" and b is None):
        return None
    if claim.combine == "value":
        return a * scale_of(claim.unit)
    assert b is not None
    if claim.combine == "difference":
        return (a - b) * scale_of(claim.unit)
    return a / b if b else None


def _group(found: Collection, paper: str, base: str, side: Side) -> RowRuns | None:
    """The row a side of a claim is read from: the base row itself, or its variant."""
    return found.rows.get((paper, f"{base}-{side.variant}" if side.variant else base))


def _by_seed(group: RowRuns | None) -> dict[int, SeedRun]:
    return {run.seed: run for run in group.runs} if group is not None else {}


def _units(claim: Claim, run: SeedRun) -> list[tuple[str, str]]:
    """(suffix of the metric, label) of what is paired within one seed."""
    if claim.per is None:
        return [("", f"seed {run.seed}")]
    listed = run.detail(claim.per)
    names = listed if isinstance(listed, list) else []
    return [
        (f"/{name}", f"seed {run.seed}, class {name}")
        for name in names
        if isinstance(name, (int, str)) and not isinstance(name, bool)
    ]


def effects(claim: Claim, left: RowRuns, right: RowRuns | None) -> tuple[list[int], list[str], list[float]]:
    """The paired effects of a claim.

    Args:
      left: row of the claim's side a.
      right: row of side b; None for a claim about one value.
    Returns:
      (seed, label, effect in the claim's unit) of each, as three lists; seeds whose runs break `agree` are left out.
    """
    assert claim.a is not None
    ours, theirs = _by_seed(left), _by_seed(right)
    paired = ours.keys() & theirs.keys() if claim.b is not None else ours.keys()
    seeds, labels, values = [], [], []
    for seed in sorted(paired):
        if not ours[seed].agrees(claim.agree) or (seed in theirs and not theirs[seed].agrees(claim.agree)):
            continue
        for suffix, label in _units(claim, ours[seed]):
            a = ours[seed].figure(claim.a.metric + suffix, claim.a.selection)
            b = theirs[seed].figure(claim.b.metric + suffix, claim.b.selection) if claim.b is not None else None
            value = _effect(claim, a, b)
            if value is not None:
                labels.append(label)
                values.append(value)
                seeds.append(seed)
    return seeds, labels, values


def _largest_p(claim: Claim, group: RowRuns, seeds: Sequence[int]) -> float | None:
    """The largest permutation p of these seeds: chance has to be ruled out in every one. None where one has none."""
    assert claim.a is not None and claim.p_value is not None
    runs = _by_seed(group)
    found = [runs[seed].figure(claim.p_value, claim.a.selection) for seed in seeds]
    known = [p for p in found if p is not None and 0.0 <= p <= 1.0]
    return max(known) if len(known) == len(found) else None


def check_claim(claim: Claim, paper: str, base: str, found: Collection) -> Result | None:
    """Tests one claim on one base row; None where the records do not hold what it needs."""
    assert claim.a is not None
    left = _group(found, paper, base, claim.a)
    right = _group(found, paper, base, claim.b) if claim.b is not None else None
    if left is None or left.profile not in claim.profiles:
        return None
    of, labels, values = effects(claim, left, right)
    if not values:
        return None
    seeds = sorted(set(of))
    means = [statistics.fmean(v for seed, v in zip(of, values, strict=True) if seed == one) for one in seeds]
    bounds = interval(means)
    by_interval = decide(claim, *bounds) if bounds and len(means) >= MIN_FOR_INTERVAL else "inconclusive"
    few = len(seeds) < MIN_SEEDS
    p: float | None = None
    if claim.test == "every seed":
        word = "supported" if all(inside(claim, value) for value in values) else "not supported"
        # one seed refutes it for good; an exact count comes out the same in every seed and needs no more of them
        few = few and word == "supported" and (len(values) < 2 or len(set(values)) > 1)
    elif claim.test == "permutation":
        p = _largest_p(claim, left, seeds)  # seeds share test images, so their p are not pooled
        enough = len(means) >= MIN_FOR_INTERVAL
        significant = enough and p is not None and p < SIGNIFICANCE and inside(claim, statistics.fmean(means))
        # a large p is no evidence against an effect: only an interval outside the margin is
        word = "supported" if significant else "not supported" if by_interval == "not supported" else "inconclusive"
    else:
        word = by_interval
    reasons = [group.blemish for group in (left, right) if group is not None and group.blemish]
    blemish = ", ".join(dict.fromkeys(reasons))
    return Result(
        paper=paper,
        claim=claim,
        row=base,
        on=base + (f" ({blemish})" if blemish else ""),
        seeds=tuple(seeds),
        labels=tuple(labels),
        values=tuple(values),
        effect=statistics.fmean(means),
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        p_value=p,
        word=word,
        verdict=word + (", indicative" if few else ""),
    )


def check_benchmark(paper: str, claim: Claim, path: Path | None = None) -> Result:
    """Tests a claim about time on what `make bench` measured last.

    The effect is the overhead in percent, 100 (1 / ratio - 1): its median and the 95 percent interval of the median.
    """
    path = path or BENCHMARKS
    entries = read_json(path) if path.is_file() else []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("name") == claim.bench:
            found = [entry.get(key) for key in ("ratio", "ratio_high", "ratio_low")]
            figures = [100 * (1 / value - 1) for value in found if isinstance(value, (int, float)) and value > 0]
            if len(figures) == 3:
                effect, low, high = figures
                word = decide(claim, low, high)
                return Result(paper, claim, "", "make bench", (), (), (effect,), effect, low, high, None, word, word)
    return _empty(paper, claim)


def _bases(claim: Claim, paper: Paper, found: Collection) -> list[str]:
    """Base rows a claim may be tested on, in the order of the paper's rows: those whose side a was run."""
    variant = f"-{claim.a.variant}" if claim.a is not None and claim.a.variant else ""
    rows = [group.row for group in found.of(paper.paper.id)]
    bases = {row.removesuffix(variant) for row in rows if row.endswith(variant)}
    order = {row.row: place for place, row in enumerate(paper.row)}
    wanted = [base for base in bases if claim.is_about(base)]
    return sorted(wanted, key=lambda base: (order.get(base, order.get(base + variant, len(order))), base))


def check_claims(paper: Paper, found: Collection) -> list[Result]:
    """Tests every claim of a paper on every row that can; a claim with no such row is there once, saying so."""
    results: list[Result] = []
    for claim in paper.claim:
        if claim.bench:
            results.append(check_benchmark(paper.paper.id, claim))
            continue
        bases = [] if claim.not_testable else _bases(claim, paper, found)
        here = [check_claim(claim, paper.paper.id, base, found) for base in bases]
        results += [result for result in here if result is not None] or [_empty(paper.paper.id, claim)]
    return results


def _empty(paper: str, claim: Claim) -> Result:
    word = "not testable here" if claim.not_testable else "not run"
    reason = claim.not_testable or claim.needs
    verdict = f"{word}: {reason}" if reason else word
    return Result(paper, claim, "", "-", (), (), (), None, None, None, None, word, verdict)
