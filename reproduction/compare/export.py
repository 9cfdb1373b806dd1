"""The comparison as Markdown, CSV and LaTeX; the page and the terminal write numbers by the same functions."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from reproduction.compare.claims import Result, without_run
from reproduction.compare.collect import PROFILES
from reproduction.compare.comparison import Comparison, Line
from reproduction.compare.effects import Effect
from reproduction.compare.tables import RECALLED_MARK, PublishedRow
from reproduction.compare.tabular import escape_latex, latex_table, markdown_table
from reproduction.runtime.run_folder import UserError, shown, write_bytes

RECALLED_NOTE = f"{RECALLED_MARK} recalled: quoted from memory, nobody here could open the source; no verdict uses it"
OURS_NOTE = (
    "Ours: mean ± standard deviation (seeds), of the row that was run and is nearest the paper's. The profiles "
    "`matched` and `cpu` have another network and schedule than the paper: no number of theirs is judged against it."
)
NONE_OF_OURS = (
    "No run of ours is compared with this table yet. [All rows](#rows) lists what was run, and what the others need."
)
LINE_HEAD = ("row", "quantity", "paper's number", "ours", "h", "verdict", "command")
CLAIM_HEAD = ("claim", "tested on", "baseline", "effect [95 %]", "against the control", "seeds", "verdict")
FIRST_HEAD = ("paper", "claim", "row", "baseline %, paper / ours", "effect, paper / ours [95 %]", "seeds", "verdict")
GROUPS = {"main": "Claims", "finding": "Findings", "check": "Checks", "fact": "Facts"}


def number_text(value: float, unit: str) -> str:
    """Returns a number of ours in the form of its unit: percent with two decimals, parameters in K or M."""
    if unit == "parameters":
        if abs(value) >= 1e6:
            return f"{value / 1e6:.2f} M"
        return f"{value / 1e3:.1f} K" if abs(value) >= 1e4 else f"{value:.0f}"
    if unit == "count":
        return f"{value:.0f}" if value == round(value) else f"{value:z.1f}"
    if unit in ("ratio", "correlation", "degree", "seconds"):
        return f"{value:z.3f}"
    return f"{value:z.2f}"


def paper_text(line: Line) -> str:
    """Returns the number as the paper prints it, with a mark if it is recalled."""
    return "" if line.number is None else line.number.marked


def ours_text(line: Line) -> str:
    """Returns `mean ± sd (n)`, and the last epoch behind a best one; "-" if nothing was run."""
    if line.mean is None:
        return "-"
    unit = line.unit
    spread = ""
    exact = unit in ("parameters", "count", "ratio") or (line.number is not None and line.number.judge == "exact")
    if line.sd is not None and not (exact and line.sd < 1e-9):
        spread = f" ± {number_text(line.sd, unit if unit != 'parameters' else 'count')}"
    text = f"{number_text(line.mean, unit)}{spread} ({len(line.values)})"
    if line.last_mean is not None:
        text += f", last {number_text(line.last_mean, unit)}"
    return text


def quantity_text(line: Line) -> str:
    """Returns what the line is about, with its unit, and the selection if it is not the last epoch."""
    words = {"percent": " %", "seconds": " s"}.get(line.unit, "")
    chosen = {"best_on_test": ", best test epoch", "best_on_val": ", best validation epoch"}.get(line.selection, "")
    if chosen and "best" in line.quantity:
        chosen = ""
    return f"{line.quantity}{words}{chosen}" if line.quantity else ""


def interval_text(effect: Effect | None, unit: str) -> str:
    """Returns an effect with its 95 % interval; the sign is always there."""
    if effect is None:
        return "-"
    words = {"points": " points", "percent": " %"}.get(unit, "")

    def signed(value: float) -> str:
        text = number_text(value, unit)
        return text if text.startswith("-") else f"+{text}"

    if effect.seeds < 2:
        return signed(effect.mean) + words
    low, high = effect.interval()
    return f"{signed(effect.mean)} [{signed(low)}, {signed(high)}]{words}"


def effect_text(result: Result) -> str:
    """Returns the effect with its interval and what the interval lacks; a fact as mean and values."""
    if result.claim.group == "fact":
        if result.effect is None:
            return result.verdict.text or "-"
        values = [number_text(value, result.claim.unit) for value in result.effect.by_seed]
        mean = number_text(result.effect.mean, result.claim.unit)
        return mean + (f" ({', '.join(values)})" if len(set(values)) > 1 else "")
    missing = " (seeds only)" if result.missing and result.effect is not None else ""
    return interval_text(result.effect, result.claim.unit) + missing


def baseline_text(result: Result) -> str:
    """Returns the mean of the baseline, in the unit of the claim; nothing for a fixed value."""
    if result.baseline is None or result.claim.baseline is None or not result.claim.baseline.metric:
        return ""
    return number_text(result.baseline, result.claim.unit)


def line_cells(line: Line) -> tuple[str, ...]:
    """Returns the cells of a line under LINE_HEAD."""
    return (
        line.row,
        quantity_text(line),
        paper_text(line),
        ours_text(line),
        "" if line.h is None else f"{line.h:.2f}",
        line.verdict.text,
        line.command,
    )


def claim_cells(result: Result) -> tuple[str, ...]:
    """Returns the cells of a claim under CLAIM_HEAD."""
    return (
        f"{result.claim.id}: {result.claim.text}",
        result.on,
        baseline_text(result),
        effect_text(result),
        interval_text(result.control, result.claim.unit) if result.claim.control else "",
        str(len(result.seeds) or "-"),
        "" if result.claim.group == "fact" and result.verdict.word == "fact" else result.verdict.text,
    )


def claim_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Returns the cells of claims in order; a claim tested on several rows is named on the first of its lines only."""
    rows: list[tuple[str, ...]] = []
    named = None
    for result in results:
        first, *others = claim_cells(result)
        rows.append(("" if result.claim.id == named else first, *others))
        named = result.claim.id
    return rows


def main_results(comparison: Comparison) -> list[Result]:
    """Chooses one result for each main claim: a judged row, of the paper profile before `matched`, else any.

    Rows of the cpu profile represent a claim only if they were judged.
    """

    def rank(result: Result) -> tuple[bool, int]:
        return result.verdict.line < 2, ("paper", "matched", "", "cpu").index(result.profile)

    chosen: dict[str, Result] = {}
    for result in comparison.claims:
        if result.claim.group != "main":
            continue
        if result.profile == "cpu" and result.verdict.line < 2:
            result = without_run(comparison.paper, result.claim)
        before = chosen.get(result.claim.id)
        if before is None or rank(result) < rank(before):
            chosen[result.claim.id] = result
    return list(chosen.values())


def first_cells(comparison: Comparison, result: Result) -> tuple[str, ...]:
    """Returns the cells of a main claim under FIRST_HEAD."""
    unit = result.claim.unit
    paper = "?" if result.published is None else f"{result.published:+.2f}"
    accuracy = baseline_text(result) if unit == "points" else ""
    baseline = f"{result.published_baseline or '?'} / {accuracy or '-'}" if unit == "points" else ""
    return (
        comparison.paper.paper.short,
        result.claim.text,
        result.on,
        baseline,
        f"{paper} / {effect_text(result)}",
        str(len(result.seeds) or "-"),
        result.verdict.text,
    )


def first_table(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Returns the rows of the first table of README, report and `make compare`: one for each main claim."""
    return [first_cells(one, result) for one in comparisons for result in main_results(one)]


def verdict_counts(results: Sequence[Result]) -> str:
    """Counts the verdicts by group: `10 claims (2 without a run) on 12 claim-row pairs: 3 supported, ...`."""
    parts = []
    for title, here in by_group(results).items():
        if title != GROUPS["fact"]:
            tested = [result.verdict.word for result in here if result.row]
            number = len({(result.paper, result.claim.id) for result in here})
            name = title.lower().removesuffix("s") if number == 1 else title.lower()
            waiting = f" ({len(here) - len(tested)} without a run)" if len(tested) < len(here) else ""
            words = ", ".join(f"{count} {word}" for word, count in Counter(tested).most_common()) or "none"
            parts.append(f"{number} {name}{waiting} on {len(tested)} claim-row pair{'s' * (len(tested) != 1)}: {words}")
    return "; ".join(parts)


def has_recalled(lines: Sequence[Line]) -> bool:
    """Whether a published number among these lines was typed from memory, so that the table needs a note."""
    return any(line.number is not None and line.number.evidence == "recalled" for line in lines)


def markdown_lines(lines: Sequence[Line], anchors: bool = False) -> str:
    """Returns a Markdown table of what was run, and one of what was not, grouped by the reason.

    A row's name, verdict and command are in the first of its lines only; `anchors` makes the name a target of links.
    """
    rows: list[list[str]] = []
    before: tuple[str, ...] = ("",) * len(LINE_HEAD)
    for line in (line for line in lines if line.source):
        cells = line_cells(line)
        same = line.row == before[0]
        verdict = "" if same and line.verdict.text == before[5] else line.verdict.text
        command = "" if same or not line.command else f"`{line.command}`"
        anchor = f'<a id="row-{line.row}"></a>' if anchors else ""
        name = "" if same else f"{anchor}{line.row}"
        rows.append([name, *cells[1:5], verdict, command])
        before = cells
    parts = ['<a id="rows"></a>', markdown_table(LINE_HEAD, rows)] if rows else []
    waiting: dict[tuple[str, str], list[Line]] = {}
    for line in (line for line in lines if not line.source):
        waiting.setdefault((line.verdict.text, line.command), []).append(line)
    if waiting:
        head = ("not run", "papers' numbers", "needs", "command")
        groups = []
        for (verdict, command), group in waiting.items():
            names = list(dict.fromkeys(line.row for line in group))
            numbers = [f"{line.quantity} {paper_text(line)}" for line in group if line.number is not None]
            needs = verdict.removeprefix("not run").removeprefix(": needs ") or "nothing but time"
            groups.append([", ".join(names), ", ".join(dict.fromkeys(numbers)), needs, f"`{command}`"])
        parts.append(markdown_table(head, groups))
    parts += [RECALLED_NOTE] if has_recalled(lines) else []
    return "\n\n".join(parts)


def nearest_lines(comparison: Comparison, table: str, row: PublishedRow) -> dict[str, Line]:
    """Chooses our numbers that stand below a published row: column -> line.

    They are of the first of `row.ours` that was run and of its variants; without one, of the profile nearest the
    paper's that was run. The first of these rows counts in each column.
    """
    lines = [
        line
        for line in comparison.lines
        if line.number is not None and (line.number.table, line.number.row) == (table, row.name)
        if line.mean is not None
    ]
    for part in [*(f"{name}-" for name in row.ours), *(f"-{profile}-" for profile in PROFILES)]:
        if here := [line for line in lines if part in f"{line.row}-"]:
            return {line.number.column: line for line in reversed(here) if line.number is not None}
    return {}


def markdown_published(comparison: Comparison) -> str:
    """Returns a paper's main tables as they were published, ours below each row; recalled numbers carry their mark."""
    paper = comparison.paper
    main = [number for number in paper.numbers if number.headline]
    printed = {(n.table, n.row, n.column): n.marked for n in main}
    parts, any_of_ours = [], False
    for table in (table for table in paper.table if table.headline):
        head = ["", *(f"{column.name}, %" if column.unit == "percent" else column.name for column in table.columns)]
        rows = []
        for row in table.rows:
            rows.append([row.name, *(printed.get((table.id, row.name, c.name), "-") for c in table.columns)])
            if ours := nearest_lines(comparison, table.id, row):
                name = min((line.row for line in ours.values()), key=len)
                cells = [ours_text(ours[c.name]) if c.name in ours else "-" for c in table.columns]
                rows.append([f"ours: [{name}](#row-{name})", *cells])
                any_of_ours = True
        parts += [f"**{table.title}**. Source: {table.where}.", markdown_table(head, rows)]
    parts.append(OURS_NOTE if any_of_ours else NONE_OF_OURS)
    parts += [RECALLED_NOTE] if any(number.evidence == "recalled" for number in main) else []
    return "\n\n".join(parts)


def by_group(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Splits results into claims, findings, checks and facts, by title; empty ones are left out."""
    split = {title: [r for r in results if r.claim.group == group] for group, title in GROUPS.items()}
    return {title: here for title, here in split.items() if here}


def decides_nothing(result: Result) -> bool:
    """Whether a claim was tested on a run that cannot decide it, or a fact is of a small run."""
    small_fact = result.claim.group == "fact" and result.profile == "cpu"
    return bool(result.row) and (result.verdict.word == "not testable" or small_fact)


def markdown_claims(results: Sequence[Result]) -> str:
    """Returns a Markdown table for claims, findings, checks and facts each; lines that decide nothing are folded."""

    def tables(some: Sequence[Result]) -> list[str]:
        return [
            text
            for title, here in by_group(some).items()
            for text in (f"**{title}**", markdown_table(CLAIM_HEAD, claim_rows(here)))
        ]

    parts = tables([result for result in results if not decides_nothing(result)])
    if small := [result for result in results if decides_nothing(result)]:
        summary = f"{len(small)} more lines decide nothing: small runs, or baselines below the minimum accuracy"
        parts += [f"<details><summary>{summary}</summary>", *tables(small), "</details>"]
    return "\n\n".join(parts)


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Returns everything as Markdown."""
    parts = []
    for comparison in comparisons:
        about = comparison.paper.paper
        parts += [f"## {about.short} ({about.venue} {about.year})", markdown_lines(comparison.lines)]
        if comparison.claims:
            parts += ["### Claims", markdown_claims(comparison.claims)]
    return "\n\n".join(parts) + "\n"


def csv_text(comparisons: Sequence[Comparison]) -> str:
    """Returns everything as CSV, one line per table line and claim; twelve digits, values joined by spaces."""
    head = ("kind", "paper", "row", "quantity", "unit", "selection", "published", "evidence", "seeds", "values", "mean",
            "sd", "h", "gap", "low", "high", "p", "verdict", "command")  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, head, restval="", lineterminator="\n")
    writer.writeheader()

    def plain(value: float | None) -> str:
        return "" if value is None else f"{value:.12g}"  # 94.2, not the 94.19999999999999 that 100 * 0.942 is

    def columns(line: Line | Result, values: Iterable[float]) -> dict[str, str]:
        words = {"seeds": " ".join(map(str, line.seeds)), "values": " ".join(map(plain, values))}
        return {**words, "verdict": line.verdict.text}

    for comparison in comparisons:
        for line in comparison.lines:
            number = line.number
            of_paper = {} if number is None else {"published": plain(number.value), "evidence": number.evidence}
            spread = {name: plain(getattr(line, name)) for name in ("mean", "sd", "h", "gap")}
            same = {name: getattr(line, name) for name in ("paper", "row", "quantity", "unit", "selection", "command")}
            writer.writerow({"kind": "number", **same, **of_paper, **spread, **columns(line, line.values)})
        for result in comparison.claims:
            claim, effect = result.claim, result.effect
            low = high = p = None
            if effect is not None and effect.seeds > 1:
                (low, high), p = effect.interval(), effect.p_value()
            tested = {
                "kind": claim.group,
                "paper": result.paper,
                "row": result.row,
                "quantity": claim.id,
                "unit": claim.unit,
                "selection": "last" if claim.method else "",
                "mean": plain(effect.mean if effect else None),
                "low": plain(low),
                "high": plain(high),
                "p": plain(p),
            }
            writer.writerow({**tested, **columns(result, effect.by_seed if effect else ())})
    return out.getvalue()


def latex(comparisons: Sequence[Comparison]) -> str:
    """Returns tabular environments, one per paper and one for its claims; they need no package."""
    parts = []
    for comparison in comparisons:
        about = comparison.paper.paper
        rows = [line_cells(line)[:-1] for line in comparison.lines]
        title = f"{about.short} ({about.venue} {about.year})"
        parts.append(latex_table(title, LINE_HEAD[:-1], "llrrrl", rows))
        if comparison.claims:
            cells = claim_rows(comparison.claims)
            columns = r"p{0.3\linewidth}lllllp{0.2\linewidth}"
            parts.append(latex_table(f"{about.short}: claims", CLAIM_HEAD, columns, cells))
        if has_recalled(comparison.lines):
            parts.append(escape_latex(RECALLED_NOTE))
    return "\n\n".join(parts) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically, making its folder.

    Raises:
      UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written ({error.strerror or error})") from None
