"""The tables of the page: sortable, and one card per line on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from reproduction.compare import export
from reproduction.compare.claims import Result
from reproduction.compare.comparison import Comparison, Line
from reproduction.page.templates import part

MAX_SEEDS_LISTED = 20


def lines_table(lines: Sequence[Line]) -> Markup:
    """Renders comparison lines."""
    words = [line.verdict.word for line in lines]
    note = part("note", export.RECALLED_NOTE) if export.has_recalled(lines) else Markup()
    return part("table", export.LINE_HEAD, [export.line_cells(line) for line in lines], words) + note


def claims_table(results: Sequence[Result]) -> Markup:
    """Renders claims, findings, checks and facts; a group of lines per claim, below the claim its source."""
    tables = Markup()
    for title, here in export.by_group(results).items():
        groups = [list(group) for _, group in groupby(here, key=lambda result: result.claim.id)]
        tables += Markup("<h4>{}</h4>").format(title) + part("claims", export.CLAIM_HEAD, groups, export.claim_cells)
    return tables


def first_table(comparisons: Sequence[Comparison]) -> Markup:
    """Renders one line for each main claim of every paper."""
    words = [result.verdict.word for one in comparisons for result in export.main_results(one)]
    return part("table", export.FIRST_HEAD, export.first_table(comparisons), words)


def seeds_table(lines: Sequence[Line]) -> Markup:
    """Renders every seed in its own line, because a mean hides single seeds; empty if there is none."""
    rows = []
    for line in lines:
        values = [export.number_text(value, line.unit) for value in line.values[:MAX_SEEDS_LISTED]]
        each = ", ".join(f"{seed}: {value}" for seed, value in zip(line.seeds, values, strict=False))
        more = len(line.values) - len(values)
        if each:
            rows.append((line.row, export.quantity_text(line), each + (f" and {more} more (CSV)" if more else "")))
    return part("table", ("row", "quantity", "seed: value"), rows) if rows else Markup()


def published(comparison: Comparison) -> Markup:
    """Renders every published number we have of a paper, table by table."""
    tables = Markup()
    head = ("of", "quantity", "value", "unit", "split", "epoch chosen", "evidence", "note")
    for item in comparison.paper.table:
        rows = [
            (n.row, n.column, n.marked, n.unit, n.split, n.selected, n.evidence, n.note)
            for n in comparison.paper.numbers
            if n.table == item.id
        ]
        tables += Markup("<h4>{}</h4>").format(item.title) + part("note", item.where) + part("table", head, rows)
    return tables


def not_run(comparison: Comparison, have: set[str]) -> Markup:
    """Renders the rows that were not run, with the reason; rows of the same command are next to each other."""
    missing = [row for row in comparison.paper.row if row.row not in have]
    titles = comparison.paper.full_titles()
    rows = []
    for (needs, command), group in groupby(missing, key=lambda row: (row.needs, row.command)):
        together = [row.row for row in group]
        whats = "; ".join(titles[row] for row in together)
        rows.append((", ".join(together), whats, f"needs {needs}" if needs else "not started here", command))
    return part("table", ("row", "what", "why", "command"), rows) if rows else Markup()
