"""Judges an effect: the first line that holds is the verdict.

    1  gate missed, degenerate run, data or hardware missing        not testable: ...
    2  90 % interval inside (-m, m)                                 no effect larger than m
       a claim of no loss: 90 % lower bound above -m                supported
    3  interval wholly on the other side of zero                    contradicted
    4  interval wholly on the claimed side                          first the control, then the size
    5  the paper's effect beyond the interval                       smaller than the paper's, possibly none
    6  none of these                                                inconclusive, with the seeds that would decide

Intervals are of 95 % unless stated; m is the margin of the claim. Source: ours (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from reproduction.compare.effects import Effect

Name = TypeVar("Name")
FEW_SEEDS, FEW = 5, " (few seeds)"  # fewer seeds add this to a verdict
MOST_PLANNED = 10
MOST_SEARCHED = 100  # seeds up to which the number that would decide is looked for
COLOURS = {  # word of a verdict -> class in the page's style.css
    "consistent": "good", "supported": "good", "above paper": "cyan", "below paper": "bad", "contradicted": "bad",
    "agrees with the paper": "good", "explained by control": "bad", "no effect": "open", "control undecided": "open",
    "inconclusive": "open", "indicative": "open",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What a program says about a claim or a number.

    Attributes:
      word: the verdict without numbers: for counting and colours.
      text: what is printed.
      line: of a claim, 1 to 6, the line of the table that applies; 0 if nothing was run.
    """

    word: str
    text: str
    line: int = 0


@dataclass(frozen=True)
class Control:
    """The experiment that could explain an effect instead of the method.

    Attributes:
      name: in words, for `explained by ...`.
      effect: method minus control; None if it was not run.
    """

    name: str
    effect: Effect | None


def side_of(effect: Effect) -> int:
    """Returns 1 if the interval lies wholly above zero, -1 if wholly below, else 0."""
    low, high = effect.interval()
    return 1 if low > 0 else -1 if high < 0 else 0


def is_negligible(effect: Effect, margin: float) -> bool:
    """Whether the 90 % interval lies inside (-margin, margin)."""
    low, high = effect.interval(0.1)
    return -margin < low and high < margin


def judge(
    effect: Effect, margin: float, no_loss: bool = False, control: Control | None = None, published: float | None = None
) -> Verdict:
    """Reaches the verdict on an effect that may be judged; lines 2 to 6 of the table.

    Args:
      effect: method minus baseline, or minus the null value; the claim says that it is positive.
      margin: m > 0, in the unit of the effect.
      no_loss: the claim says "at least as good as", not "better than".
      control: the claim's control, if it has one.
      published: E, the paper's effect if it is known and verified.
    """
    verdict = _judge(effect, margin, no_loss, control, published)
    seeds = effect.seeds
    if verdict.line == 4 and control is not None and control.effect is not None:  # the control had its say
        seeds = min(seeds, control.effect.seeds)
    return replace(verdict, text=verdict.text + FEW) if seeds < FEW_SEEDS else verdict


def _judge(effect: Effect, margin: float, no_loss: bool, control: Control | None, published: float | None) -> Verdict:
    if no_loss and effect.interval(0.1)[0] > -margin:
        return Verdict("supported", "supported", 2)
    if not no_loss and is_negligible(effect, margin):
        return Verdict("no effect", f"no effect larger than {margin:g}", 2)
    side = side_of(effect)
    if side < 0:
        return Verdict("contradicted", "contradicted", 3)
    low, high = effect.interval()
    if side > 0:
        if control is not None:
            if control.effect is None:
                return Verdict("control undecided", "supported, control undecided (not run)", 4)
            against_control = side_of(control.effect)
            if against_control < 0 or (against_control == 0 and is_negligible(control.effect, margin)):
                return Verdict("explained by control", f"explained by {control.name}", 4)
            if against_control == 0:
                return Verdict("control undecided", "supported, control undecided", 4)
        if published is None:
            return Verdict("supported", "supported", 4)
        if published < low or published > high:
            size = "larger" if effect.mean > published else "smaller"
            return Verdict(f"{size} than the paper's", f"{size} than the paper's", 4)
        if high - low <= max(2 * margin, abs(published)):
            return Verdict("agrees with the paper", "agrees with the paper", 4)
        return Verdict("supported", "supported, size open", 4)
    if published is not None and published > high:
        return Verdict("smaller than the paper's, possibly none", "smaller than the paper's, possibly none", 5)
    return Verdict("inconclusive", f"inconclusive: {seeds_to_decide(effect, margin, no_loss)}", 6)


def seeds_to_decide(effect: Effect, margin: float, no_loss: bool = False) -> str:
    """Says how many seeds would end an inconclusive comparison if mean and spread stay as they are."""
    if effect.seeds < 2:
        return "one seed has no spread; 3 at least"

    def decided(seeds: int) -> bool:
        half, half90 = effect.half_width(0.05, seeds), effect.half_width(0.1, seeds)
        if abs(effect.mean) > half:
            return True
        return effect.mean - half90 > -margin if no_loss else abs(effect.mean) + half90 < margin

    for seeds in range(effect.seeds + 1, MOST_SEARCHED + 1):
        if decided(seeds):
            return f"{seeds} seeds would decide"
    if decided(10**9):
        return f"more than {MOST_SEARCHED} seeds would decide"
    return "test set too small; no number of seeds decides" if effect.images else "no number of seeds decides"


def planned_seeds(pilot: Effect, margin: float, published: float | None = None) -> str:
    """Plans the seeds of a claim from a pilot: the half-width shall be at most max(|E| / 2, m).

    Args:
      pilot: the effect over at least two seeds.
      margin: m.
      published: E, if known and verified.
    Returns:
      "5 seeds" to "10 seeds", or that no number of seeds makes the interval so short.
    """
    aim = max(abs(published or 0.0) / 2, margin)
    if pilot.half_width(0.05, 10**9) > aim:
        return f"test set too small: no number of seeds gives ±{aim:g}; larger effects can be decided"
    enough = (n for n in range(FEW_SEEDS, MOST_PLANNED + 1) if pilot.half_width(0.05, n) <= aim)
    return f"{next(enough, MOST_PLANNED)} seeds"


def holm(p_values: Mapping[Name, float]) -> set[Name]:
    """Returns the names whose effect survives Holm's step-down adjustment over a family, at level 0.05.

    Args:
      p_values: name -> p.
    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    significant: set[Name] = set()
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > 0.05 / (len(p_values) - place):
            break
        significant.add(name)
    return significant
