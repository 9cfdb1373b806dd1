"""The tables of the page: sortable, and one card per line on a phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby

from reproduction.compare import export
from reproduction.compare.claims import Result
from reproduction.compare.comparison import Comparison, Line
from reproduction.compare.extras import Extra

CLASSES = {
    "consistent": "good", "supported": "good", "above paper": "cyan", "below paper": "bad", "not supported": "bad",
    "inconclusive": "open", "indicative": "open",
}  # fmt: skip
NUMERIC = ("paper's number", "ours", "h", "value", "seeds")
CODE = ("command", "sha256", "row")
OVERVIEW_HEAD = ("paper", *export.LINE_HEAD)
MAX_SEEDS_LISTED = 20


def heads(names: Sequence[str]) -> str:
    """The head of a sortable table; page/script.js makes its buttons work."""
    cells = "".join(
        f'<th{" class=num" if name in NUMERIC else ""} scope="col"><button>{escape(name)}</button></th>'
        for name in names
    )
    return f'<div class="wide"><table class="sortable cards"><thead><tr>{cells}</tr></thead>'


def coloured(text: str, word: str) -> str:
    """A verdict in the colour of its word."""
    return f'<span class="{CLASSES.get(word, "dim")}">{escape(text)}</span>' if text else ""


def cell(name: str, html: str, kind: str = "", rows: int = 1) -> str:
    """One cell; a phone shows its column's name before it.

    Args:
      name: of the column. html: content. kind: CSS class. rows: lines it spans.
    """
    span = f' rowspan="{rows}"' if rows > 1 else ""
    return f'<td{f" class={kind!r}" if kind else ""}{span} data-label="{escape(name)}">{html}</td>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], verdicts: Sequence[str] = ()) -> str:
    """A sortable table; cells are plain text, commands, rows and hashes are set as code.

    Args:
      head: column names.
      rows: texts, as many as columns.
      verdicts: the verdict's word of each row, which colours its cell.
    """
    out = [heads(head), "<tbody>"]
    for index, cells in enumerate(rows):
        out.append("<tr>")
        for name, text in zip(head, cells, strict=True):
            kind = "" if name not in NUMERIC else "num long" if len(text) > 22 else "num"
            if name == "command" and index and rows[index - 1][-1] == cells[-1]:
                kind = "again"  # a phone shows a command once
            html = f"<code>{escape(text)}</code>" if name in CODE and text else escape(text)
            out.append(cell(name, coloured(text, verdicts[index]) if name == "verdict" and verdicts else html, kind))
        out.append("</tr>")
    return "".join([*out, "</tbody></table></div>"])


def lines_table(lines: Sequence[Line], with_paper: Callable[[Line], str] | None = None) -> str:
    """A table of comparison lines, with the paper's name in front where asked for."""
    rows = [(*((with_paper(line),) if with_paper else ()), *export.line_cells(line)) for line in lines]
    head = OVERVIEW_HEAD if with_paper else export.LINE_HEAD
    note = f'<p class="soft">{escape(export.RECALLED_NOTE)}</p>' if export.has_recalled(lines) else ""
    return table(head, rows, [line.verdict.word for line in lines]) + note


def claims_table(results: Sequence[Result]) -> str:
    """One group of lines per claim, a line for each row it was tested on; below the claim where it was made."""
    out = [heads(export.CLAIM_HEAD)]
    names = export.CLAIM_HEAD
    for _, group in groupby(results, key=lambda result: result.claim.id):
        tested = list(group)
        claim = tested[0].claim
        said = "; ".join(part for part in (claim.source, claim.note) if part)
        first = f'{escape(claim.id)}: {escape(claim.text)}<span class="soft said">{escape(said)}</span>'
        out.append("<tbody>")
        for number, result in enumerate(tested):
            _, on, effect, seeds, verdict = export.claim_cells(result)
            cells = [cell(names[0], first, "claim", len(tested))] if number == 0 else []
            cells += [cell(names[1], escape(on)), cell(names[2], escape(effect)), cell(names[3], escape(seeds), "num")]
            out.append(f"<tr>{''.join(cells)}{cell(names[4], coloured(verdict, result.word))}</tr>")
        out.append("</tbody>")
    return "".join([*out, "</table></div>"])


def seeds_table(lines: Sequence[Line]) -> str:
    """Every seed by itself, folded away: a mean hides what one seed did."""
    rows = []
    for line in lines:
        values = [export.number_text(value, line.unit) for value in line.values[:MAX_SEEDS_LISTED]]
        each = ", ".join(f"{seed}: {value}" for seed, value in zip(line.seeds, values, strict=False))
        more = len(line.values) - len(values)
        rows.append((line.row, export.quantity_text(line), each + (f" and {more} more (CSV)" if more else "")))
    rows = [row for row in rows if row[2]]
    if not rows:
        return ""
    return f"<details><summary>Every seed</summary>{table(('row', 'quantity', 'seed: value'), rows)}</details>"


def extra_table(extra: Extra) -> str:
    """A further table of a paper, folded away."""
    note = f'<p class="soft">{escape(extra.note)}</p>' if extra.note else ""
    return f"<details><summary>{escape(extra.title)}</summary>{note}{table(extra.head, extra.rows)}</details>"


def published(comparison: Comparison) -> str:
    """Every published number we have of a paper, folded away."""
    parts = []
    for item in comparison.paper.table:
        numbers = [number for number in comparison.paper.numbers() if number.table == item.id]
        rows = [
            (n.row, n.column, n.printed + ("" if n.evidence == "verified" else export.RECALLED_MARK), n.unit, n.split,
             n.selected, n.evidence, n.note)
            for n in numbers
        ]  # fmt: skip
        head = ("of", "quantity", "value", "unit", "split", "epoch chosen", "evidence", "note")
        parts.append(f'<h4>{escape(item.title)}</h4><p class="soft">{escape(item.where)}</p>{table(head, rows)}')
    count = len(comparison.paper.numbers())
    return f"<details><summary>Every published number we have ({count})</summary>{''.join(parts)}</details>"


def not_run(comparison: Comparison, have: set[str]) -> str:
    """Rows that could be run and were not, with the reason; rows that one command runs stand together."""
    missing = [row for row in comparison.paper.row if row.row not in have]
    what = comparison.paper.full_titles()
    rows = []
    for (needs, command), group in groupby(missing, key=lambda row: (row.needs, row.command)):
        together = list(group)
        names, titles = ", ".join(row.row for row in together), "; ".join(what[row.row] for row in together)
        rows.append((names, titles, f"needs {needs}" if needs else "not started here", command))
    return f"<h3>Not run, and why</h3>{table(('row', 'what', 'why', 'command'), rows)}" if rows else ""
