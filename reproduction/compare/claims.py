"""Tests what the papers claim on the records, by the table of verdicts.py.

An effect is a metric of the method minus that of the baseline, seed by seed (pairs.py). Claims of a paper on one data
set are a family, adjusted by Holm's method.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reproduction.compare.claim_language import Claim, Side, matches
from reproduction.compare.collect import PROFILES, Collection, different_flags, row_of
from reproduction.compare.effects import Effect
from reproduction.compare.pairs import pair
from reproduction.compare.tables import RATE, Paper
from reproduction.compare.verdicts import Control, Verdict, holm, judge
from reproduction.runtime.run_folder import REPO_ROOT, read_json

BENCHMARKS = REPO_ROOT / "docs" / "benchmarks.json"
UNADJUSTED = " (unadjusted)"  # behind a verdict that Holm's adjustment does not leave


@dataclass(frozen=True)
class Result:
    """A claim on one row; numbers are in the claim's unit, None if there is nothing to compute.

    Attributes:
      row: the base row, "" if none was run.
      on: the row that it was tested on, with a remark such as "unverified data".
      profile: of the row, "" if none was run.
      published: the paper's effect, if its numbers are verified.
      published_baseline: as the paper prints it, with a mark if it is recalled; "" if unknown.
      seeds: the seeds that method and baseline both have.
      effect: method minus baseline; for a fact the metric itself.
      baseline: mean of the baseline's metric.
      control: method minus control.
      missing: which term of the interval is missing and why; "" if none.
    """

    paper: str
    claim: Claim
    row: str
    on: str
    profile: str
    published: float | None
    published_baseline: str
    verdict: Verdict
    seeds: tuple[int, ...] = ()
    effect: Effect | None = None
    baseline: float | None = None
    control: Effect | None = None
    missing: str = ""


def _gate(paper: Paper, records: Collection, base: str) -> str:
    """Why the baseline's accuracy does not allow a verdict on this row; "" if it does."""
    gate = next((gate for gate in paper.gate if matches(gate.rows, base)), None)
    if gate is None:
        return "no minimum accuracy is set for this data set"
    numbers = [run.number(gate.metric, "last") for run in records.runs(paper.paper.id, base, gate.variant)]
    known = [100 * number for number in numbers if number is not None]
    if not known:
        return f"{gate.metric} of the baseline was not run, needs {gate.least:g}"
    mean = statistics.fmean(known)
    return "" if mean >= gate.least else f"baseline {mean:.2f}, needs {gate.least:g}"


def _no_value(records: Collection, paper: str, base: str, sides: Sequence[Side]) -> str:
    """Which metric of a claim has no value in some seeds; "" if none. The others alone would be chosen by outcome.

    Such a seed has null for the metric or, if it `may_lack` it, leaves it out of records that have the claim's others.
    """
    for side in sides:
        runs = records.runs(paper, base, side.variant)
        others = [other for other in sides if other is not side and other.variant == side.variant]
        count = 0
        for run in runs:
            named = any(side.metric in entry.record.metrics for entry in run.entries)
            measured = any(run.number(other.metric, "last") is not None for other in others)
            left_out = bool(side.may_lack) and measured
            count += (named or left_out) and run.number(side.metric, "last") is None
        if count:
            lacking = f"{side.metric} has no value in {count} of {len(runs)} seed{'s' * (len(runs) > 1)}"
            return f"{lacking}: {side.may_lack}" if side.may_lack else lacking
    return ""


def _degenerate(paper: Paper, records: Collection, base: str, sides: Sequence[Side]) -> str:
    """Which run of a row is degenerate and why; "" if none is."""
    name = paper.paper.id
    read = {side.metric for side in sides}
    rules = [(rule, *words) for rule in paper.health if matches(rule.rows, base) for words in rule.for_claim(read)]
    for rule, metric, text in rules:
        runs = [run for side in sides if side.variant not in rule.but for run in records.runs(name, base, side.variant)]
        if rule.of_base and runs:
            runs = records.runs(name, base) or runs
        for run in runs:
            ratio = _ratio(run.number(metric, "last"), run.number(rule.over, "last") if rule.over else 1.0)
            if ratio is not None and ratio < rule.least:
                return f"degenerate: {text} ({ratio:.2f}, needs {rule.least:g})"
    return ""


def why_not_judged(
    paper: Paper, records: Collection, base: str, sides: Sequence[Side], seeds: Sequence[int], gated: bool = True
) -> str:
    """Returns why a row decides nothing about the difference of two sides; "" if it does.

    Args:
      paper: with its gates and rules of health.
      records: of all papers.
      base: the base row.
      sides: method, baseline and control, as far as they are metrics.
      seeds: the paired ones.
      gated: whether the baseline must reach the paper's gate.
    """
    name = paper.paper.id
    paired = ([run for run in records.runs(name, base, side.variant) if run.seed in seeds] for side in sides)
    return (
        next(filter(None, map(different_flags, paired)), "")
        or _no_value(records, name, base, sides)
        or _degenerate(paper, records, base, sides)
        or (_gate(paper, records, base) if gated else "")
    )


def _ratio(number: float | None, divisor: float | None) -> float | None:
    """number / divisor; 0 if both are 0, as in an embedding of one point; None if one is absent."""
    if number is None or divisor is None:
        return None
    return number / divisor if divisor else math.inf if number else 0.0


def _published(claim: Claim, paper: Paper, base: str) -> tuple[float | None, str]:
    """The paper's effect if verified, and the baseline's number as the paper prints it."""
    cells = next((cells for pattern, cells in claim.published.items() if matches((pattern,), base)), None)
    if cells is None:
        return None, ""
    by_cell = {number.cell: number for number in reversed(paper.numbers)}
    method, baseline = (by_cell[cell] for cell in cells)
    if "recalled" in (method.evidence, baseline.evidence) or method.value is None or baseline.value is None:
        return None, baseline.marked
    return method.value - baseline.value, baseline.marked


def unknown_metrics(paper: Paper, records: Collection) -> list[str]:
    """One line for each metric of a claim or gate that rows it is about should have and no committed record knows.

    And one for each variant of theirs that is in no row of the table and in no record. Rows of fewer than three seeds
    may be in progress and lack a metric; so may rows without any of the claim's other metrics.
    """
    groups = records.of(paper.paper.id)
    known_in = {
        group.row: {
            name
            for run in group.runs
            for entry in run.entries
            for name in (*entry.record.metrics, *entry.record.details)
        }
        for group in groups
    }
    known = set().union(*known_in.values())
    whole = {group.row for group in groups if len(group.runs) >= 3}
    file = f"tables/{paper.paper.id}.toml"
    lines = []
    for claim in paper.claim:
        measured = {key: side for key, side in claim.sides.items() if side.metric}
        bases = [
            base
            for base in _bases(claim, paper, records)
            if any(
                (row := row_of(base, side.variant)) in whole and side.names <= known_in[row]
                for side in measured.values()
            )
        ]
        for key, side in measured.items():
            here = any(row_of(base, side.variant) in whole for base in bases)
            if here and not side.may_lack and not side.names <= known:
                lines.append(f"{file}: {claim.id}: {key}: no record has {side.metric!r}")
    names = {row.row for row in paper.row} | known_in.keys()
    sides = [(claim.id, key, side) for claim in paper.claim for key, side in claim.sides.items()]
    variants = [(f"gate {gate.rows[0]}", "variant", gate.variant) for gate in paper.gate]
    for owner, key, variant in [*variants, *((claim_id, key, side.variant) for claim_id, key, side in sides)]:
        if variant and not any(name.endswith(f"-{variant}") for name in names):
            lines.append(f"{file}: {owner}: {key}: no row ends with '-{variant}'")
    named = {side.metric for _, _, side in sides}
    rows = {row for row in known_in if named & known_in[row]}  # a record of chosen settings is about no claim
    for gate in paper.gate:
        if gate.metric not in known and any(matches(gate.rows, row) for row in rows):
            lines.append(f"{file}: gate {gate.rows[0]}: no record has {gate.metric!r}")
    return lines


def check_claim(claim: Claim, paper: Paper, base: str, records: Collection) -> Result | None:
    """Tests one claim on one base row; returns None if the records lack a number that it needs."""
    assert claim.method is not None
    name = paper.paper.id
    method = records.rows.get((name, row_of(base, claim.method.variant)))
    if method is None or method.profile not in PROFILES:
        return None
    unit = claim.unit
    pairs = pair(records, unit, claim.id, name, base, claim.method, claim.baseline)
    sides = [side for side in claim.sides.values() if side.metric]
    refused = f"no seed could be paired, {pairs.refused}" if pairs.refused else ""
    if pairs.effect is None and (claim.group == "fact" or not (refused or _no_value(records, name, base, sides))):
        return None
    control = pair(records, unit, claim.id, name, base, claim.method, claim.control).effect if claim.control else None
    published, published_baseline = _published(claim, paper, base)
    if claim.group == "fact":
        verdict = Verdict("fact", "")
    elif reason := refused or why_not_judged(
        paper, records, base, sides, pairs.seeds, claim.group in ("main", "finding")
    ):
        verdict = Verdict("not testable", f"not testable: {reason}", 1)
    else:
        assert claim.margin is not None and pairs.effect is not None
        against = Control(claim.control.name, control) if claim.control else None
        verdict = judge(pairs.effect, claim.margin, claim.no_loss, against, published)
    rows = [row_of(base, side.variant) for side in sides]
    groups = [records.rows[name, row] for row in rows if (name, row) in records.rows]
    notes = [note for group in groups for note in group.caveat.split(", ") if note]
    computed = [{run.precisions() for run in group.runs if run.seed in pairs.seeds} for group in groups]
    notes += ["two precisions"] if any(len(precisions) > 1 for precisions in computed) else []
    remark = f" ({', '.join(dict.fromkeys(notes))})" if notes else ""
    return Result(
        paper=name,
        claim=claim,
        row=base,
        on=base + remark,
        profile=method.profile,
        seeds=pairs.seeds,
        effect=pairs.effect,
        baseline=pairs.baseline,
        missing=pairs.missing,
        control=control,
        published=published,
        published_baseline=published_baseline,
        verdict=verdict,
    )


def _adjusted(results: Sequence[Result]) -> list[Result]:
    """Marks main claims whose effect does not survive Holm's adjustment over those on the same data set."""
    families: dict[str, dict[int, float]] = {}  # data set -> place among the results -> p
    for place, result in enumerate(results):
        if result.claim.group == "main" and result.effect is not None and result.verdict.line >= 2:
            families.setdefault(result.row.partition("-")[0], {})[place] = result.effect.p_value()
    lost = {place for family in families.values() for place in family.keys() - holm(family)}
    return [
        replace(result, verdict=replace(result.verdict, text=result.verdict.text + UNADJUSTED))
        if result.verdict.line in (3, 4) and place in lost
        else result
        for place, result in enumerate(results)
    ]


def benchmark_fact(paper: Paper, claim: Claim, path: Path | None = None) -> Result:
    """Reads a fact about time from what `make bench` measured last: overheads in percent, 100 (1 / ratio - 1)."""
    path = path or BENCHMARKS
    entries = read_json(path) if path.is_file() else []
    texts = []
    for name in claim.bench:
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and entry.get("name") == name:
                ratios = [entry.get(key) for key in ("ratio", "ratio_high", "ratio_low")]
                known = [100 * (1 / value - 1) for value in ratios if isinstance(value, (int, float)) and value > 0]
                if len(known) == 3:
                    label = name.rpartition(": ")[2].partition(" against")[0]
                    texts.append("{} {:+.1f} % [{:+.1f}, {:+.1f}]".format(label, *known))
    if not texts:
        return without_run(paper, claim)
    return replace(without_run(paper, claim), on="make bench", verdict=Verdict("fact", "; ".join(texts)))


def _bases(claim: Claim, paper: Paper, records: Collection) -> list[str]:
    """Base rows a claim may be tested on, in the order of the paper's rows: those whose method was run."""
    variant = f"-{claim.method.variant}" if claim.method is not None and claim.method.variant else ""
    rows = [group.row for group in records.of(paper.paper.id)]
    bases = {row.removesuffix(variant) for row in rows if row.endswith(variant) and RATE not in row}
    order = {row.row: place for place, row in enumerate(paper.row)}
    wanted = [base for base in bases if claim.is_about(base)]
    return sorted(wanted, key=lambda base: (order.get(base, order.get(base + variant, len(order))), base))


def check_claims(paper: Paper, records: Collection) -> list[Result]:
    """Tests every claim of a paper on every row that can; a claim with no such row is there once, saying so."""
    results: list[Result] = []
    for claim in paper.claim:
        if claim.bench:
            results.append(benchmark_fact(paper, claim))
            continue
        bases = [] if claim.not_testable else _bases(claim, paper, records)
        here = [check_claim(claim, paper, base, records) for base in bases]
        results += [result for result in here if result is not None] or [without_run(paper, claim)]
    return _adjusted(results)


def without_run(paper: Paper, claim: Claim) -> Result:
    """Returns the result of a claim that no run tests: what is missing, and the paper's first number."""
    if claim.not_testable:
        verdict = Verdict("not testable", f"not testable: {claim.not_testable}", 1)
    else:
        verdict = Verdict("not run", f"not run: needs {claim.needs}" if claim.needs else "not run")
    first = next(iter(claim.published), "")
    published, baseline = _published(claim, paper, first)
    on = first.partition("-")[0] or "-"
    return Result(paper.paper.id, claim, "", on, "", published, baseline, verdict)
