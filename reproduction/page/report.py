"""The page one sends to a colleague: `python -m reproduction.page.report --out runs/report.html`.

One self-contained file, no network, under 10 MB: overview, claims, and for each paper its method, table, learning
curves and pictures, what was not run and why, then machines, versions and data checksums. Everything comes from
records and tables. A Markdown version with the same tables lies beside it.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from datasets.terminal import any_terminal
from reproduction.compare import export
from reproduction.compare.collect import Collection, Entry, RowRuns
from reproduction.compare.comparison import Comparison, given
from reproduction.compare.extras import extras_of
from reproduction.compare.tables import About, load_tables, paper_of
from reproduction.compare.tabular import markdown_table
from reproduction.page.curves import row_charts
from reproduction.page.gallery import Budget, gallery, without_folders
from reproduction.page.htmltables import claims_table, extra_table, lines_table, not_run, published, seeds_table, table
from reproduction.runtime.record import commit_and_dirty
from reproduction.runtime.run_folder import RUNS_ROOT, UserError, shown

PAGE = Path(__file__).resolve().parent  # style.css and script.js lie here too
MAX_BYTES = 10_000_000
MEDIA_BYTES = 6_500_000  # pictures, curves and folded texts; the rest is for the tables
HOW_TO_READ = """The method and its baseline of each paper; every row stands in its paper's section. Ours: mean ± \
standard deviation (seeds). h: half-width for one further run, max(t(0.975, n-1) sd sqrt(1 + 1/n), binomial error of \
the test split), in points. A cpu profile is a smaller network on fewer images: its numbers stand beside the paper's, \
and only the claims are tested on it."""
Users = dict[tuple[str, ...], set[tuple[str, str]]]  # a line of a table -> paper and row of the records behind it
HASH_HEAD = ("file", "sha256", "checked", "used by")


def row_section(group: RowRuns, title: str, about: About, page: Path, budget: Budget) -> str:
    """Curves and pictures of one row; empty if it has neither."""
    charts, seeds = row_charts(group, about.curves, about.across)
    drawn = [
        f"<figure>{svg}<figcaption>{escape(name)}</figcaption></figure>"
        for name, svg in charts
        if budget.take(len(svg) + 100)
    ]
    pictures = gallery(group, page, budget, about.pictures)
    if not drawn and not pictures:
        return ""
    code = f"<code class='soft'>{escape(group.row)}</code>"
    parts = [f"<h3>{escape(title)} {code}</h3>" if title else f"<h3><code>{escape(group.row)}</code></h3>"]
    if group.blemish:
        parts.append(f'<p class="open">{escape(group.blemish)}</p>')
    if drawn:
        keys = "".join(
            f'<span><svg viewBox="0 0 30 8" aria-hidden="true"><line class="k{k}" x1="0" x2="30" y1="4" y2="4"/></svg> '
            f"seed {seed}</span>"
            for k, seed in enumerate(seeds)
        )
        rest = f"<span>of {len(group.runs)} seeds</span>" if len(group.runs) > len(seeds) else ""
        left_out = f"<span>{len(charts) - len(drawn)} left out, the page would grow too large</span>"
        left_out = left_out if len(charts) > len(drawn) else ""
        parts.append(f'<div class="legend">{keys}{rest}{left_out}<span>across: {about.across}</span></div>')
        parts.append(f'<p class="soft">{escape(about.curves_note)}</p>' if about.curves_note else "")
        parts.append(f'<div class="charts">{"".join(drawn)}</div>')
    return "".join([*parts, pictures])


def paper_section(comparison: Comparison, found: Collection, page: Path, budget: Budget) -> str:
    """All of one paper."""
    about = comparison.paper.paper
    groups = {group.row: group for group in found.of(about.id)}
    titles = comparison.paper.full_titles()
    order = [name for name in titles if name in groups] + sorted(name for name in groups if name not in titles)
    ran = [line for line in comparison.lines if line.row in groups]
    parts = [
        f'<h2 id="{escape(about.id)}">{escape(about.short)} ({escape(about.venue)} {about.year})</h2>',
        f'<p>{escape(about.authors)}: <a href="{escape(about.link)}">{escape(about.title)}</a>. '
        f"Code: <code>{escape(about.folder)}/</code></p>",
        f"<p>{escape(about.method)}</p>",
        f'<p class="soft">{escape(about.sources)}</p>',
        "<h3>Our figures beside the paper's</h3>",
        lines_table(ran) if ran else "<p>Nothing has been run yet.</p>",
        seeds_table(ran),
        "<h3>Claims</h3>" + claims_table(comparison.claims) if comparison.claims else "",
        *(extra_table(extra) for extra in extras_of(comparison.paper, found)),
    ]
    sections = [row_section(groups[name], titles.get(name, ""), about, page, budget) for name in order]
    parts += sections
    if ran and not any(sections):
        parts.append('<p class="soft">Curves and pictures lie in the run folders, not with the committed records.</p>')
    parts += [not_run(comparison, set(groups)), published(comparison)]
    return "".join(parts)


def used_by(where: set[tuple[str, str]]) -> str:
    """`class2str: row, row; subclass: row` of pairs of paper and row."""
    papers = groupby(sorted(where), key=lambda pair: pair[0])
    return "; ".join(f"{paper}: {', '.join(row for _, row in pairs)}" for paper, pairs in papers)


def machines(entries: Sequence[Entry]) -> str:
    """Machines, versions, commits and data files of all runs shown."""
    if not entries:
        return ""
    hardware: Users = {}
    software: Users = {}
    files: Users = {}
    deviations: Users = {}
    for entry in entries:
        record, m = entry.record, entry.record.machine
        where = record.paper, record.row
        hardware.setdefault((m.cpu, str(m.cores), m.gpu or "none", m.system), set()).add(where)
        versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
        commit = record.commit[:10] + (" with changes" if record.dirty and record.commit != "unknown" else "")
        exact = "deterministic" if record.deterministic else "not deterministic"
        software.setdefault((commit, record.lock_hash, f"{record.precision}, {exact}", versions), set()).add(where)
        if record.deviations:
            stage = record.paper, f"{record.row} ({record.stage})"
            deviations.setdefault((", ".join(record.deviations),), set()).add(stage)
        for name, digest in record.data.items():
            files.setdefault((name, digest, "verified" if record.data_verified else "NOT verified"), set()).add(where)

    def rows(found: Users) -> list[tuple[str, ...]]:
        return [(*key, used_by(where)) for key, where in sorted(found.items())][:200]

    return (
        '<h2 id="machines">Machines, versions, data</h2><h3>Machines</h3>'
        + table(("CPU", "cores", "GPU", "system", "used by"), rows(hardware))
        + "<h3>Versions</h3>"
        + table(("commit", "lock", "precision", "versions", "used by"), rows(software))
        + "<h3>Data files</h3>"
        + table(HASH_HEAD, rows(files))
        + ("<h3>Deviations that were active (docs/deviations)</h3>" if deviations else "")
        + (table(("ids", "used by"), rows(deviations)) if deviations else "")
    )


def build(comparisons: Sequence[Comparison], found: Collection, page: Path) -> str:
    """The whole page.

    Args:
      comparisons: one per paper.
      found: the records they were made from.
      page: the file it will be written to, for relative links.
    """
    names = {comparison.paper.paper.id: comparison.paper.paper.short for comparison in comparisons}
    wanted = [group for comparison in comparisons for group in found.of(comparison.paper.paper.id)]
    entries = [entry for group in wanted for run in group.runs for entry in run.entries]
    have = {(group.paper, group.row) for group in wanted}
    claims = [result for comparison in comparisons for result in comparison.claims]
    overview = [line for comparison in comparisons for line in comparison.overview()]
    links = [("overview", "Overview"), ("claims", "Claims"), *names.items()]
    links += [("machines", "Machines")] if entries else []
    links += [("left-out", "Left out")] if found.problems else []
    budget = Budget(MEDIA_BYTES)
    shares = []
    for index, comparison in enumerate(comparisons):  # what one paper leaves of its share goes to the next
        share = Budget(budget.left // (len(comparisons) - index))
        before = share.left
        shares.append(paper_section(comparison, found, page, share))
        budget.left -= before - share.left
    title = "Class hierarchy in image classifiers: papers and reproductions"
    commit, dirty = commit_and_dirty()
    changes = " with changes" if dirty and commit != "unknown" else ""
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    problems = "".join(f"<li>{escape(without_folders(problem))}</li>" for problem in found.problems[:200])
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; "
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{(PAGE / 'style.css').read_text(encoding='utf-8')}</style></head><body>",
        f'<header class="top"><h1>{title}</h1><p>{len(entries)} records in {len(have)} rows. Claims: '
        f"{escape(export.verdict_counts(claims))}.</p>"
        f'<p class="soft">Made {made} at commit {escape(commit[:10])}{changes}. Every figure is '
        "computed from a record; how verdicts are reached is in docs/results.md.</p></header>",
        "<nav><div>" + "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in links),
        '<button class="theme" type="button">colours: auto</button></div></nav><main>',
        '<h2 id="overview">Overview</h2>',
        "" if entries else "<p>Nothing has been run yet.</p>",
        lines_table(overview, lambda line: names[line.paper]),
        f'<p class="soft">{HOW_TO_READ}</p>',
        '<h2 id="claims">Claims</h2>',
        claims_table(claims),
        *shares,
        machines(entries),
        f'<h2 id="left-out">Left out</h2><ul class="soft">{problems}</ul>' if problems else "",
        f"</main><script>{(PAGE / 'script.js').read_text(encoding='utf-8')}</script></body></html>\n",
    ]  # fmt: skip
    return "".join(parts)


def markdown_report(comparisons: Sequence[Comparison], found: Collection) -> str:
    """The same tables as Markdown, with what was not run and what was left out."""
    parts = ["# Results\n\nGenerated from records by `make report`; how verdicts are reached: docs/results.md."]
    parts.append(export.markdown(comparisons).strip())
    for comparison in comparisons:
        for extra in extras_of(comparison.paper, found):
            parts += [f"### {extra.title}", extra.note, markdown_table(extra.head, extra.rows)]
    if found.problems:
        parts.append("## Left out\n\n" + "\n".join(f"* {without_folders(problem)}" for problem in found.problems[:200]))
    return "\n\n".join(parts) + "\n"


@any_terminal()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `make report`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.page.report",
        description="Writes one self-contained HTML page, and the same tables as Markdown beside it.",
        allow_abbrev=False,
    )
    made = "records or run folders made elsewhere; default: runs/ and the committed results"
    parser.add_argument("--out", type=Path, default=RUNS_ROOT / "report.html", help="default: runs/report.html")
    parser.add_argument("--paper", action="append", default=[], help="one paper (repeatable); default: all")
    parser.add_argument("--runs", nargs="+", type=Path, default=[], metavar="PATH", help=made)
    args = parser.parse_args(argv)
    try:
        papers = [paper_of(name) for name in args.paper] or list(load_tables().values())
        comparisons, found = given(papers, args.runs)
        page = build(comparisons, found, args.out)
        if len(page.encode()) > MAX_BYTES:
            print(f"note: the page has {len(page.encode()) / 1e6:.1f} MB; --paper makes a smaller one", file=sys.stderr)
        export.write_text(args.out, page)
        beside = args.out.with_suffix(".md")
        export.write_text(beside, markdown_report(comparisons, found))
    except UserError as error:
        print(f"reproduction.page.report: error: {error}", file=sys.stderr)
        return 2
    size = f"{len(page.encode()) / 1e6:.1f} MB"
    print(f"wrote {shown(args.out)} ({size}; open it in a browser, it needs no network) and {shown(beside)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
