"""The keys of a claim in `tables/<paper>.toml`; `docs/results.md` explains them with examples."""

from __future__ import annotations

import fnmatch
from typing import Literal

import pydantic

Unit = Literal["percent", "points", "parameters", "seconds", "count", "ratio", "degree", "correlation", "text"]
Group = Literal["main", "finding", "check", "fact"]


class Strict(pydantic.BaseModel):
    """Refuses keys it does not know, so that a misspelt one is an error and not silence."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)  # as class arguments mypy wants them repeated


class Side(Strict):
    """One side of a comparison: a metric in the row itself or in a variant of it, or a fixed null value."""

    metric: str = ""
    variant: str = ""
    value: float | None = None  # in the claim's unit, instead of a metric
    may_lack: str = ""  # why a record may have no value, in words; older records then leave it out, not write null

    @pydantic.model_validator(mode="after")
    def _one_of_two(self) -> Side:
        if bool(self.metric) == (self.value is not None):
            raise ValueError("a side needs `metric` or `value`, and not both")
        return self

    @property
    def names(self) -> set[str]:
        """Returns the metrics and details of a record that `metric` reads."""
        return {part.partition("[")[0] for part in self.metric.split(" - ") if part}


class ControlSide(Side):
    """The side that could explain the effect instead of the method."""

    name: str  # in words: "the same classes doubled, not split"


class Gate(Strict):
    """The least accuracy of the baseline, in percent, at which claims are judged on a row."""

    rows: tuple[str, ...]
    metric: str
    variant: str = ""
    least: float


class Health(Strict):
    """A metric, or the ratio of two, below which a run is degenerate: shown, never judged."""

    rows: tuple[str, ...] = ("*",)
    but: tuple[str, ...] = ()  # variants that it is not about
    metric: str
    over: str = ""  # divides `metric`
    of_base: bool = False  # the base row's records have it, for all variants
    of: str = ""  # only claims that read this metric; empty: all
    each: tuple[str, ...] = ()  # parts of metrics' names: a rule for each that the claim reads, {} in metric and text
    least: float
    text: str  # what happened and which setting avoids it

    def for_claim(self, read: set[str]) -> list[tuple[str, str]]:
        """Returns the metrics to check for a claim that reads the metrics `read`, each with the words for a low one."""
        if self.each:
            names = (name for name in self.each if any(name in metric for metric in read))
            return [(self.metric.format(name), self.text.format(name)) for name in names]
        return [(self.metric, self.text)] if not self.of or self.of in read else []


class Claim(Strict):
    """One sentence about an effect, or a fact.

    Attributes:
      group: `main` claims of the paper are in the first table; `finding` and `check` on the paper's page; a `fact` is
        a number without a verdict.
      no_loss: the claim says "at least as good as", not "better than".
      margin: m, below which an effect does not matter, in the unit.
      published: pattern of rows -> published cells ("row/column") of method and baseline.
      bench: names in docs/benchmarks.json whose overhead in percent is the fact.
      not_testable: why nothing here can test it.
      needs: what a run that tests it takes, printed until there is one.
    """

    id: str
    text: str
    source: str
    group: Group
    method: Side | None = None
    baseline: Side | None = None
    control: ControlSide | None = None
    no_loss: bool = False
    unit: Unit = "points"
    margin: float | None = pydantic.Field(default=None, gt=0)
    published: dict[str, tuple[str, str]] = {}
    rows: tuple[str, ...] = ("*",)  # patterns; with "!" in front: not these
    bench: tuple[str, ...] = ()
    not_testable: str = ""
    needs: str = ""
    note: str = ""

    @property
    def ours(self) -> bool:
        """Returns whether the claim is ours and not the paper's."""
        return self.source.startswith("ours")

    @property
    def sides(self) -> dict[str, Side]:
        """Returns method, baseline and control by these names, as far as the claim has them."""
        sides = {"method": self.method, "baseline": self.baseline, "control": self.control}
        return {name: side for name, side in sides.items() if side is not None}

    def is_about(self, row: str) -> bool:
        """Whether a base row matches one of `rows` and none that is excluded."""
        return matches(self.rows, row)

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Claim:
        if self.not_testable:
            return self
        if (self.method is None) == (not self.bench):
            raise ValueError(f"{self.id}: needs `method`, or `bench`, or `not_testable` with the reason")
        if self.group == "fact":
            if self.control or self.margin is not None:
                raise ValueError(f"{self.id}: a fact has no margin and no control")
        elif self.method is None or self.baseline is None or self.margin is None:
            raise ValueError(f"{self.id}: a {self.group} needs `method`, `baseline` and `margin`")
        return self


def matches(patterns: tuple[str, ...], row: str) -> bool:
    """Whether a row matches a pattern and none of those with "!" in front."""

    wanted = [pattern for pattern in patterns if pattern[0] != "!"]
    excluded = [pattern[1:] for pattern in patterns if pattern[0] == "!"]
    matching = [any(fnmatch.fnmatchcase(row, pattern) for pattern in group) for group in (wanted, excluded)]
    return matching == [True, False]
