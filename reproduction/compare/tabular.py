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
