"""The page one sends to a colleague: `python -m reproduction.page.report --out runs/report.html`.

One self-contained file, no network, under 10 MB: overview, claims, and for each paper its method, table, learning
curves and plots, what was not run and why, then machines, versions and data checksums. Everything comes from
records and tables. A Markdown version with the same tables is written next to it.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from datasets.terminal import any_terminal
from reproduction.compare import export
from reproduction.compare.charts import charts
from reproduction.compare.collect import Collection, Entry, RowRuns
from reproduction.compare.comparison import Comparison, add_choice, load_comparisons
from reproduction.compare.extras import extras_of, rows_in_order
from reproduction.compare.tables import About
from reproduction.compare.tabular import markdown_table
from reproduction.page.curves import row_charts
from reproduction.page.gallery import Budget, chart, gallery, without_folders
from reproduction.page.htmltables import claims_table, first_table, lines_table, not_run, published, seeds_table
from reproduction.page.templates import part, whole_page
from reproduction.runtime.flags import one_line_errors
from reproduction.runtime.record import commit_and_dirty, current_date
from reproduction.runtime.run_folder import RUNS_ROOT, UserError, shown

MAX_BYTES = 10_000_000
MAX_LINES = 200  # of a list about all records
MEDIA_BYTES = 6_500_000  # plots, curves and folded texts; the rest is for the tables
Users = defaultdict[tuple[str, ...], set[tuple[str, str]]]  # line of a table -> paper and row of the records behind it


def row_section(group: RowRuns, title: str, about: About, page: Path, budget: Budget) -> Markup:
    """Renders curves and plots of one row; empty if it has neither."""
    charts, seeds = row_charts(group, about.curves, about.across)
    figures = [part("figure", svg, name) for name, svg in charts if budget.take(len(svg) + 100)]
    plots = gallery(group, page, budget, about.pictures)
    if not figures and not plots:
        return Markup()
    return part("row_section", group, title, about, figures, seeds, len(charts) - len(figures), plots)


def paper_section(comparison: Comparison, records: Collection, page: Path, budget: Budget) -> Markup:
    """Renders all of one paper."""
    paper = comparison.paper
    groups, titles = rows_in_order(paper, records), paper.full_titles()
    ran = [line for line in comparison.lines if line.row in groups]
    return part(
        "paper",
        paper.paper,
        lines=lines_table(ran),
        seeds=seeds_table(ran),
        claims=claims_table(comparison.claims) if comparison.claims else "",
        extras=extras_of(paper, records),
        charts=[chart(name, figure, budget) for name, figure in charts([comparison], records)],
        sections=[row_section(group, titles.get(row, ""), paper.paper, page, budget) for row, group in groups.items()],
        ran=bool(ran),
        unrun=not_run(comparison, set(groups)),
        published=published(comparison),
        published_count=len(paper.numbers),
    )


def used_by(rows: set[tuple[str, str]]) -> str:
    """`class2str: row, row; subclass: row` of pairs of paper and row."""
    papers = groupby(sorted(rows), key=lambda pair: pair[0])
    return "; ".join(f"{paper}: {', '.join(row for _, row in pairs)}" for paper, pairs in papers)


def commit_text(commit: str, dirty: bool) -> str:
    """Returns the first ten digits of a commit, and whether files differed from it."""
    return commit[:10] + (" with changes" if dirty and commit != "unknown" else "")


def left_out(records: Collection) -> list[str]:
    """Returns one line for each file or pair that was left out, without this machine's folders."""
    return [without_folders(problem) for problem in list(dict.fromkeys(records.problems))[:MAX_LINES]]


def machines(entries: Sequence[Entry]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Lists machines, versions, data files and deviations of all runs on the page, as (heading, head, rows)."""
    hardware, software, files, deviations = (Users(set) for _ in range(4))
    for entry in entries:
        record, m = entry.record, entry.record.machine
        row = record.paper, record.row
        hardware[m.cpu, str(m.cores), m.gpu or "none", m.system].add(row)
        versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
        commit = commit_text(record.commit, record.dirty)
        exact = "deterministic" if record.deterministic else "not deterministic"
        software[commit, record.lock_hash, f"{record.precision}, {exact}", versions].add(row)
        if record.deviations:
            deviations[(", ".join(record.deviations),)].add((record.paper, f"{record.row} ({record.stage})"))
        for name, digest in record.data.items():
            files[name, digest, "verified" if record.data_verified else "NOT verified"].add(row)
    tables = (
        ("Machines", ("CPU", "cores", "GPU", "system", "used by"), hardware),
        ("Versions", ("commit", "lock", "precision", "versions", "used by"), software),
        ("Data files", ("file", "sha256", "checked", "used by"), files),
        ("Deviations that were active (docs/deviations)", ("ids", "used by"), deviations),
    )
    return [
        (heading, head, [(*key, used_by(rows)) for key, rows in sorted(users.items())][:MAX_LINES])
        for heading, head, users in tables
        if users or heading != tables[-1][0]
    ]


def build(comparisons: Sequence[Comparison], records: Collection, page: Path) -> str:
    """Renders the whole page.

    Args:
      comparisons: one per paper.
      records: those behind the comparisons.
      page: the file it will be written to, for relative links.
    """
    names = {comparison.paper.paper.id: comparison.paper.paper.short for comparison in comparisons}
    groups = [group for name in names for group in records.of(name)]
    entries = [entry for group in groups for run in group.runs for entry in run.entries]
    results = [result for comparison in comparisons for result in comparison.claims]
    budget = Budget(MEDIA_BYTES)
    papers = []
    for index, comparison in enumerate(comparisons):  # what one paper leaves of its share goes to the next
        share = Budget(budget.left // (len(comparisons) - index))
        before = share.left
        papers.append(paper_section(comparison, records, page, share))
        budget.left -= before - share.left
    several = len(comparisons) > 1  # the section of a paper has its claims, too
    links = [("overview", "Overview"), *([("claims", "Claims")] if several else []), *names.items()]
    links += [("machines", "Machines")] if entries else []
    links += [("left-out", "Left out")] if records.problems else []
    return whole_page(
        title="Class hierarchy in image classifiers: papers and reproductions",
        links=links,
        entries=entries,
        rows=len({(group.paper, group.row) for group in groups}),
        verdict_counts=export.verdict_counts(results),
        date=current_date(),
        commit=commit_text(*commit_and_dirty()),
        overview=first_table(comparisons) if any(map(export.main_results, comparisons)) else "",
        claims=claims_table(results) if several else "",
        papers=papers,
        machines=machines(entries),
        problems=left_out(records),
    )


def markdown_report(comparisons: Sequence[Comparison], records: Collection) -> str:
    """The same tables as Markdown, with what was not run and what was left out."""
    parts = ["# Results\n\nGenerated from records by `make report`; how verdicts are reached: docs/results.md."]
    parts.append(export.markdown(comparisons).strip())
    for comparison in comparisons:
        for extra in extras_of(comparison.paper, records):
            parts += [f"### {extra.title}", extra.note, markdown_table(extra.head, extra.rows)]
    if records.problems:
        parts.append("## Left out\n\n" + "\n".join(f"* {line}" for line in left_out(records)))
    return "\n\n".join(parts) + "\n"


@any_terminal()
@one_line_errors("reproduction.page.report")
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `make report`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.page.report",
        description="Writes one self-contained HTML page, and the same tables as Markdown next to it.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, default=RUNS_ROOT / "report.html", help="default: runs/report.html")
    add_choice(parser, "one paper (repeatable); default: all")
    args = parser.parse_args(argv)
    if not args.out.name or args.out.suffix == ".md":
        raise UserError(f"--out {args.out}: expected a file name for the HTML page, such as report.html")
    comparisons, records = load_comparisons(args.paper, args.runs)
    page = build(comparisons, records, args.out)
    bytes_of_page = len(page.encode())
    size = f"{bytes_of_page / 1e6:.1f} MB"
    if bytes_of_page > MAX_BYTES:
        print(f"note: the page has {size}; --paper makes a smaller one", file=sys.stderr)
    export.write_text(args.out, page)
    markdown_path = args.out.with_suffix(".md")
    export.write_text(markdown_path, markdown_report(comparisons, records))
    print(f"wrote {shown(args.out)} ({size}; open it in a browser, it needs no network) and {shown(markdown_path)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
