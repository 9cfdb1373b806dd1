"""The comparison in the terminal: the first table, or everything about one paper."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reproduction.compare.comparison import Comparison, Line
from reproduction.compare.export import (
    CLAIM_HEAD,
    FIRST_HEAD,
    LINE_HEAD,
    RECALLED_NOTE,
    by_group,
    claim_rows,
    first_table,
    has_recalled,
    interval_text,
    line_cells,
    main_results,
    number_text,
    ours_text,
    paper_text,
    quantity_text,
)
from reproduction.compare.verdicts import COLOURS

WIDE = 130  # columns from which a table has room for the commands
SHORT_LINES, SHORT_CLAIMS = 14, 6  # numbers and claims of `print_short`
IN_TERMINAL = {"good": "green", "cyan": "cyan", "bad": "red", "open": "yellow", "": "dim"}  # class -> colour


def _console(width: int) -> Console:
    """The terminal in its own width, a file or a pipe in the given one."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False)


def print_comparisons(comparisons: Sequence[Comparison], problems: Sequence[str]) -> None:
    """Prints what was run next to the papers' numbers, every seed, the claims, and what was not run or left out."""
    console = _console(160)
    for comparison in comparisons:
        ran = [line for line in comparison.lines if line.source]
        about = comparison.paper.paper
        console.print(f"\n{about.short} ({about.venue} {about.year})", style="bold", markup=False)
        if ran:
            _print_lines(console, ran)
            _print_seeds(console, ran)
        for title, results in by_group(comparison.claims).items():
            words = [result.verdict.word for result in results]
            _print_table(console, title, CLAIM_HEAD, claim_rows(results), words)
        _print_not_run(console, [line for line in comparison.lines if not line.source])
    if any(has_recalled(comparison.lines) for comparison in comparisons):
        console.print(RECALLED_NOTE, markup=False)
    console.print(
        "h: half-width for one run, max(t(0.975, n-1) sd sqrt(1 + 1/n), 1.96 binomial errors of the test set)"
    )
    _print_problems(console, problems)


def print_short(comparisons: Sequence[Comparison], problems: Sequence[str]) -> None:
    """Prints the main numbers of the rows that were run and the claims tested on them, at most a screenful."""
    console = _console(120)
    for comparison in comparisons:
        about = comparison.paper.paper
        lines = [line for line in comparison.lines if line.source and line.values]
        lines = [line for line in lines if line.key] or lines
        table = Table(title=f"{about.short}: your runs", title_justify="left", box=None, pad_edge=False)
        for name in ("row", "quantity", "paper", "mean ± sd (seeds)", "verdict"):
            table.add_column(name, no_wrap=True)
        for line in lines[:SHORT_LINES]:
            ours, quantity = ours_text(line).split(", last ")[0], quantity_text(line).split(", best ")[0]
            texts = (_cut(line.row, 34), _cut(quantity, 38), paper_text(line), ours, line.verdict.word)
            table.add_row(*map(escape, texts))
        console.print(table)
        tested = [result for result in comparison.claims if result.effect is not None and result.claim.group != "fact"]
        tested.sort(key=lambda result: result.claim.group != "main")  # stable: main claims first
        console.print("\nclaims: method minus baseline, with its 95 % interval" if tested else "", markup=False)
        for result in tested[:SHORT_CLAIMS]:
            effect = interval_text(result.effect, result.claim.unit)
            verdict = _coloured(result.verdict.text, result.verdict.word)
            console.print(f"{result.row}: {result.claim.text}", markup=False, no_wrap=True, overflow="ellipsis")
            console.print(f"    {escape(effect)}: {verdict}", no_wrap=True, overflow="ellipsis")
        left = max(0, len(lines) - SHORT_LINES) + max(0, len(tested) - SHORT_CLAIMS)
        if left:
            console.print(f"and {left} more")
    _print_problems(console, problems, most=2)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _coloured(text: str, word: str) -> str:
    """A verdict's text in the colour of its word."""
    return f"[{IN_TERMINAL[COLOURS.get(word, '')]}]{escape(text)}[/]"


def _print_problems(console: Console, problems: Sequence[str], most: int = 20) -> None:
    problems = list(dict.fromkeys(problems))  # two claims may lack the same pair of runs
    if problems:
        console.print(f"\nleft out ({len(problems)}):")
        for problem in problems[:most]:
            console.print(f"  {problem}", markup=False)
        if len(problems) > most:
            console.print(f"  and {len(problems) - most} more")


def _print_lines(console: Console, lines: Sequence[Line]) -> None:
    """Numbers of what was run; a narrow terminal gets the commands below the table instead of in it."""
    wide = console.width >= WIDE
    table = Table()
    for name in LINE_HEAD if wide else LINE_HEAD[:-1]:
        table.add_column(name, overflow="fold", justify="right" if name in LINE_HEAD[2:5] else "left")
    row = verdict = None
    for line in lines:
        cells = [escape(cell) for cell in line_cells(line)]
        text = line.verdict.text
        if line.row == row:
            cells[0] = cells[-1] = ""
            text = '"' if text == verdict and text else text
        elif row is not None:
            table.add_section()
        cells[5] = _coloured(text, line.verdict.word)
        row, verdict = line.row, line.verdict.text
        table.add_row(*(cells if wide else cells[:-1]))
    console.print(table)
    if not wide:
        for name, command in {line.row: line.command for line in lines if line.command}.items():
            console.print(f"  {name}: {command}", markup=False)


def _print_not_run(console: Console, lines: Sequence[Line]) -> None:
    """One entry per row that was not run: the paper's key numbers, what it needs, the command."""
    if not lines:
        return
    wide = console.width >= WIDE
    table = Table(title="not run", title_justify="left")
    for name in ("row", "paper's numbers", "why") + (("command",) if wide else ()):
        table.add_column(name, overflow="fold")
    for name, group in groupby(lines, key=lambda line: line.row):
        here = list(group)
        numbers = ", ".join(f"{line.quantity} {paper_text(line)}" for line in here if line.number is not None)
        cells = [name, numbers, here[0].verdict.text.removeprefix("not run").removeprefix(": "), here[0].command]
        table.add_row(*map(escape, cells if wide else cells[:-1]))
    console.print(table)


def _print_seeds(console: Console, lines: Sequence[Line]) -> None:
    """Every seed by itself: a mean hides what one seed did."""
    seeds = sorted({seed for line in lines for seed in line.seeds})
    if not seeds:
        return
    if len(seeds) > 10:
        console.print(f"{len(seeds)} seeds: too many to list each; --csv FILE holds them all")
        return
    table = Table(title="every seed", title_justify="left")
    table.add_column("row", overflow="fold")
    table.add_column("quantity", overflow="fold")
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    row = None
    for line in (line for line in lines if line.values):
        by_seed = dict(zip(line.seeds, line.values, strict=True))
        texts = [number_text(by_seed[seed], line.unit) if seed in by_seed else "" for seed in seeds]
        table.add_row("" if line.row == row else escape(line.row), escape(quantity_text(line)), *texts)
        row = line.row
    console.print(table)


def print_first_table(comparisons: Sequence[Comparison], problems: Sequence[str]) -> None:
    """Prints one line for each main claim of every paper, and what was left out."""
    console = _console(200)
    words = [result.verdict.word for one in comparisons for result in main_results(one)]
    _print_table(console, "What the papers claim, and what we find", FIRST_HEAD, first_table(comparisons), words)
    console.print("every number, claim and row of a paper: make compare PAPER=class2str", markup=False)
    _print_problems(console, problems)


def _print_table(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str]
) -> None:
    """A table whose last column is a verdict; a row that names something new in its first column begins a section."""
    table = Table(title=title, title_justify="left")
    for name in head:
        table.add_column(name, overflow="fold")
    for word, texts in zip(words, rows, strict=True):
        *cells, verdict = texts
        if cells[0]:
            table.add_section()
        table.add_row(*map(escape, cells), _coloured(verdict, word))
    console.print(table)
