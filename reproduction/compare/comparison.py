"""Our numbers next to the papers', with a verdict that a program reached: `python -m reproduction.compare`.

With n >= 3 runs of the `paper` profile, mean m and standard deviation s, the half-width is
h = max(t(0.975, n-1) * s * sqrt(1 + 1/n), 1.96 binomial standard errors of the test split): ours is `below paper` or
`above paper` if the published number lies outside m +- h, else `consistent`, or `inconclusive` if h exceeds one point;
fewer than three runs are `indicative`. Recalled numbers, other profiles, unverified data and uncommitted changes are
shown and never judged. Source: ours.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reproduction.compare.claims import Result, check_claims, unknown_metrics
from reproduction.compare.collect import Collection, RowRuns, collect
from reproduction.compare.effects import t_quantile
from reproduction.compare.pairs import scale_of
from reproduction.compare.tables import Column, Measured, Number, OurRow, Paper, load_tables, paper_of
from reproduction.compare.verdicts import Verdict, planned_seeds
from reproduction.runtime.run_folder import UserError

MIN_RUNS = 3
MAX_HALF_WIDTH = 1.0  # points
JUDGED = ("consistent", "below paper", "above paper", "inconclusive", "indicative")


@dataclass(frozen=True)
class Line:
    """One line of a table: a published number, a number of ours, or both.

    Numbers are in the unit of the line: percent 0-100, counts and ratios plain.
    """

    paper: str
    row: str
    quantity: str
    unit: str
    selection: str
    key: bool  # a main number of its row
    number: Number | None
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    last_mean: float | None  # mean of `last`, if the number is of another selection
    verdict: Verdict
    command: str
    source: str

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None without a run."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """The standard deviation over seeds; None with fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def published(self) -> float | None:
        """The published number if the verdict compares ours with it, else None."""
        return self.number.value if self.number is not None and self.verdict.word in JUDGED else None

    @property
    def h(self) -> float | None:
        """The half-width for one further run; None unless an accuracy is judged on two seeds or more."""
        if self.number is None or self.published is None or self.number.judge != "proportion":
            return None
        return half_width(self.values, self.published, self.number.samples)

    @property
    def gap(self) -> float | None:
        """Ours minus the published number; None unless it is judged."""
        return None if self.mean is None or self.published is None else self.mean - self.published


def half_width(values: Sequence[float], published: float, samples: int | None) -> float | None:
    """Half-width of the interval for one further run, in points.

    Args:
      values: accuracies of our runs, percent.
      published: the paper's number, percent.
      samples: images of the test split; None leaves the binomial error out.
    Returns:
      h >= 0, or None with fewer than two values.
    Source: ours (DESIGN; a prediction interval for the one run that a paper reports).
    """
    n = len(values)
    if n < 2:
        return None
    spread = t_quantile(0.975, n - 1) * statistics.stdev(values) * math.sqrt(1 + 1 / n)
    binomial = 0.0
    if samples:
        share = min(max(published / 100.0, 0.0), 1.0)
        binomial = 1.96 * 100.0 * math.sqrt(share * (1.0 - share) / samples)
    return max(spread, binomial)


def judge_proportion(values: Sequence[float], published: float, samples: int | None, short: str = "") -> Verdict:
    """Verdict on an accuracy in percent; see the module's head.

    Args:
      values: one number per run, at least one.
      published: the paper's number.
      samples: images of the test split.
      short: what of the paper's schedule was cut; then the verdict is never more than indicative.
    """
    gap = statistics.fmean(values) - published
    if short:
        return Verdict("indicative", f"indicative (short: {short}); {gap:+.2f}")
    if len(values) < MIN_RUNS:
        runs = "1 run" if len(values) == 1 else f"{len(values)} runs"
        return Verdict("indicative", f"indicative ({runs}); {gap:+.2f}")
    h = half_width(values, published, samples)
    assert h is not None
    if abs(gap) > h:
        word = "below paper" if gap < 0 else "above paper"
        return Verdict(word, f"{word} by {abs(gap):.2f}")
    if h > MAX_HALF_WIDTH:
        return Verdict("inconclusive", f"inconclusive (h over {MAX_HALF_WIDTH:g} point); {gap:+.2f}")
    return Verdict("consistent", f"consistent; {gap:+.2f}")


def judge_exact(values: Sequence[float], number: Number) -> Verdict:
    """Verdict on a count, or on a number that follows from counts: equal to the digits that the paper prints?"""
    assert number.value is not None
    mean = statistics.fmean(values)
    if abs(mean - number.value) <= number.resolution * (1 + 1e-9):
        return Verdict("consistent", "consistent (to the printed digits)")
    word = "below paper" if mean < number.value else "above paper"
    if number.unit == "percent":
        return Verdict(word, f"{word} by {abs(mean - number.value):.2f}")
    relative = abs(mean - number.value) / abs(number.value) if number.value else math.inf
    by = f"{relative:.0%}" if relative < 10 else f"a factor of {mean / number.value:.0f}"
    return Verdict(word, f"{word} by {by}")


def _verdict(number: Number | None, group: RowRuns | None, row: OurRow, values: Sequence[float]) -> Verdict:
    if group is None:
        return Verdict("not run", f"not run: needs {row.needs}" if row.needs else "not run")
    if number is None or number.value is None:
        return Verdict("", f"not judged ({group.caveat})" if group.caveat else "no published number")
    if not values:
        what = f"{number.metric}, {number.selection}, not in the records" if number.metric else "no metric of ours"
        return Verdict("no number", f"no number ({what})")
    if group.caveat:
        return Verdict("not judged", f"not judged ({group.caveat})")
    if group.profile != "paper":
        dataset = group.row.split(f"-{group.profile}")[0]
        return Verdict("not comparable", f"not comparable ({group.profile} profile, {dataset})")
    if number.evidence == "recalled":
        return Verdict("not judged", "not judged (recalled number)")
    if number.judge == "none":
        return Verdict("shown only", "shown only")
    unlike = sum(not run.agrees(number.agree) for run in group.runs)
    if unlike:
        return Verdict("not judged", f"not judged ({number.unlike} in {unlike} of {len(group.runs)} seeds)")
    if number.judge == "exact":
        return judge_exact(values, number)
    short = row.short and row.short + _rising([run.still_rising for run in group.runs])
    return judge_proportion(values, number.value, number.samples, short)


def _rising(flags: Sequence[bool | None]) -> str:
    """What the runs say about their own learning curves, for a schedule that was cut."""
    known = [flag for flag in flags if flag is not None]
    if not known:
        return ""
    if all(known):
        return ", test accuracy still rising"
    return ", test accuracy no longer rising" if not any(known) else ", test accuracy still rising in some seeds"


def _numbers(group: RowRuns | None, metric: str, selection: str, unit: str) -> dict[int, float]:
    """Returns a metric by seed, in the unit; seeds that lack it are left out."""
    by_seed = {run.seed: run.number(metric, selection) for run in group.runs} if group is not None else {}
    return {seed: value * scale_of(unit) for seed, value in by_seed.items() if value is not None}


def _line(
    paper: Paper, row: OurRow, group: RowRuns | None, what: Measured, quantity: str, number: Number | None = None
) -> Line:
    numbers_by_seed = _numbers(group, what.metric, what.selection, what.unit)
    values = tuple(numbers_by_seed.values())
    last = _numbers(group, what.metric, "last", what.unit) if what.selection != "last" else {}
    return Line(
        paper=paper.paper.id,
        row=row.row,
        quantity=quantity,
        unit=what.unit,
        selection=what.selection,
        key=what.key,
        number=number,
        seeds=tuple(numbers_by_seed),
        values=values,
        last_mean=statistics.fmean(last.values()) if last else None,
        verdict=_verdict(number, group, row, values),
        command=row.command,
        source=group.source if group is not None else "",
    )


def _columns(paper: Paper) -> list[Column]:
    """What is printed for a row that no table names: the metrics of the headline columns.

    Where several columns share a metric (one for each network), their names do not fit such a row.
    """
    columns = [column for table in paper.table if table.headline for column in table.columns]
    metrics = [column.metric for column in columns]
    return [column for column in columns if metrics.count(column.metric) == 1]


def lines_of(paper: Paper, records: Collection) -> list[Line]:
    """All lines of one paper: the rows of its toml in their order, then rows that only the records know."""
    by_row = {group.row: group for group in records.of(paper.paper.id)}
    known = {row.row for row in paper.row}
    unknown = [OurRow(row=name, title="", command="") for name in by_row if name not in known]
    lines: list[Line] = []
    for row in (*paper.row, *unknown):
        group = by_row.get(row.row)
        numbers = [
            number
            for number in paper.compared_with(row)
            if number.unit != "text"
            and (
                (number.headline and (number.key or (group is not None and number.metric)))
                or _numbers(group, number.metric, number.selection, number.unit)
            )
        ]
        here = [_line(paper, row, group, number, row.quantity or number.column, number) for number in numbers]
        taken = {(number.metric, number.selection) for number in numbers}
        more: list[tuple[str, Measured]] = []
        if row.row not in known:
            more += [(column.name, column) for column in _columns(paper)]
        more += [(row.quantity if row.quantity and show.key else show.title, show) for show in paper.shown]
        for quantity, what in more:
            place = (what.metric, what.selection)
            if place not in taken and _numbers(group, *place, what.unit):
                here.append(_line(paper, row, group, what, quantity))
                taken.add(place)
        if not here:  # a row without a number still says why
            here = [_line(paper, row, group, Measured(unit="count", key=group is None), "")]
        lines += here
    return lines


@dataclass
class Comparison:
    """The whole answer for one paper."""

    paper: Paper
    lines: list[Line]
    claims: list[Result]

    def only_run(self) -> Comparison:
        """Returns the same without rows and claims that no run tests."""
        lines = [line for line in self.lines if line.source]
        return Comparison(self.paper, lines, [result for result in self.claims if result.row])


def compare(papers: Sequence[Paper], records: Collection) -> list[Comparison]:
    """Compares every paper with the records."""
    return [Comparison(paper, lines_of(paper, records), check_claims(paper, records)) for paper in papers]


def add_choice(parser: argparse.ArgumentParser, about_paper: str) -> None:
    """Adds --paper and --runs, whose values `load_comparisons` takes."""
    runs_help = "records or run folders of another machine; default: runs/ and the committed results"
    parser.add_argument("--paper", action="append", default=[], help=about_paper)
    parser.add_argument("--runs", nargs="+", type=Path, default=[], metavar="PATH", help=runs_help)


def load_comparisons(names: Sequence[str], runs: Sequence[Path]) -> tuple[list[Comparison], Collection]:
    """Compares papers with the records; for runs of another machine only what these runs contain.

    Args:
      names: ids of the papers; empty: all.
      runs: record files or folders of another machine; empty: local runs and committed records.
    Returns:
      (one comparison for each paper, the records behind them).
    Raises:
      UserError: no such paper, or `runs` hold no record of these papers.
    """
    papers = [paper_of(name) for name in names] or list(load_tables().values())
    records = collect(runs)
    here = [paper for paper in papers if not runs or records.of(paper.paper.id)]
    if not here:
        wanted = ", ".join(paper.paper.id for paper in papers)
        other = ", ".join(sorted({name for name, _ in records.rows}))
        why = f"papers there: {other}" if other else records.problems[0] if records.problems else "no record at all"
        raise UserError(f"--runs: no record of {wanted}; {why}")
    comparisons = compare(here, records)
    if not runs:
        records.problems += [line for paper in here for line in unknown_metrics(paper, records)]
    return ([comparison.only_run() for comparison in comparisons] if runs else comparisons), records


def recorded_minutes(paper: str, rows: Mapping[str, int], records: Collection) -> list[str]:
    """Returns a line on how long rows take on two cores, by the newest seed of each that has a record; [] without any.

    On a CPU every command of a pipeline has one thread, so its seconds are those of one core.

    Args:
      paper: its id.
      rows: row -> number of its seeds.
      records: of all papers.
    """
    newest = {
        row: max(group.runs, key=lambda run: run.last.record.date)
        for row in rows
        if (group := records.rows.get((paper, row))) is not None and group.runs[0].last.record.machine.gpu is None
    }
    if not newest:
        return []
    cores = math.fsum(rows[row] * entry.record.seconds for row, run in newest.items() for entry in run.entries)
    precisions = " and ".join(sorted({run.entries[0].record.precision for run in newest.values()}))
    return [f"about {cores / 120:.0f} min on two cores for {len(newest)} of {len(rows)} rows (recorded, {precisions})"]


def planned(paper: str, rows: Mapping[str, int]) -> list[str]:
    """Returns what the records tell about a plan: how long its rows took, and how many seeds each main claim needs.

    Args:
      paper: its id.
      rows: row -> number of its seeds, of the plan.
    """
    about, records = paper_of(paper), collect()
    lines, times = [], recorded_minutes(paper, rows, records)
    for result in check_claims(about, records):
        claim, effect = result.claim, result.effect
        if claim.group == "main" and result.profile == "matched" and effect is not None and effect.seeds >= 3:
            assert claim.margin is not None
            seeds = planned_seeds(effect, claim.margin, result.published)
            lines.append(
                f"{claim.id} on {result.row}: {seeds} (spread of {effect.seeds}, test images {effect.image_term:.2f})"
            )
    return times + (lines or ["seeds: 5, until three seeds of a matched row show the spread"])
