"""Tables as Markdown and LaTeX, and numbers over seeds as the text of one cell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from tabulate import DataRow, TableFormat, tabulate

# GitHub's Markdown without padding: a changed cell changes its own line only
_MARKDOWN = TableFormat(
    lineabove=None,
    linebelowheader=lambda widths, alignments: "|" + "---|" * len(widths),  # type: ignore[arg-type]
    linebetweenrows=None,
    linebelow=None,
    headerrow=DataRow("| ", " | ", " |"),
    datarow=DataRow("| ", " | ", " |"),
    padding=0,
    with_header_hide=None,
)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table; bars and backslashes in cells are escaped, line breaks become spaces.

    Args:
      head: column names.
      rows: cells, as many as columns.
    """

    def escape(cells: Sequence[object]) -> list[str]:
        return [str(cell).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells]

    return tabulate(
        [escape(row) for row in rows], escape(head), _MARKDOWN, disable_numparse=True, stralign=None, numalign=None
    )


def escape_latex(text: str) -> str:
    """Returns the text as LaTeX prints it without further packages."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
               "\N{DAGGER}": r"$^\dagger$", "<": r"$<$", ">": r"$>$"}  # fmt: skip
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)


def latex_table(title: str, head: Sequence[str], columns: str, rows: Sequence[Sequence[str]]) -> str:
    """Returns a tabular environment below a comment with its title; it needs no package.

    Args:
      title: one line.
      head: column names.
      columns: LaTeX's column specification, such as "llr".
      rows: cells, as many as columns.
    """
    cells = [[escape_latex(cell) for cell in row] for row in (head, *rows)]
    text = tabulate(cells[1:], cells[0], "latex_raw", disable_numparse=True, stralign=None)
    begin, _, body = text.partition("\n")
    return f"% {title}\n\\begin{{tabular}}{{{columns}}}\n{body}"


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """Returns mean ± standard deviation, such as "97.10 ± 0.12"; one value stands alone, none is "-".

    Args:
      values: one number a seed; None and numbers that are not finite do not count.
      scale: factor, 100 for percent of a fraction.
      digits: digits after the point.
    """
    finite = [scale * value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return "-"
    mean = f"{statistics.fmean(finite):.{digits}f}"
    return mean if len(finite) < 2 else f"{mean} ± {statistics.stdev(finite):.{digits}f}"
