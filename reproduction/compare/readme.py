"""Keeps the generated tables of README and docs current: `python -m reproduction.readme --check | --write`.

A generated block is between the lines `<!-- generated: NAME -->` and `<!-- end -->`. NAME is `front` (one line a
paper), `overview` (the main claims), `claims`, `gates`, or, with a paper's name, `finding`, `published`, `table`,
`claims`, `charts`, `details`, `rates`, or `clusters finegrained`. docs/findings.md is made from its template. All of it
shows committed records only, so that two checkouts of one commit generate the same text; `make compare` and `make
report` show a machine's own runs.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from datasets.terminal import any_terminal
from reproduction.compare import export
from reproduction.compare.charts import markdown_charts, write_charts
from reproduction.compare.clusters import markdown_clusters
from reproduction.compare.collect import RESULTS, Collection, collect
from reproduction.compare.comparison import Comparison, compare
from reproduction.compare.extras import extras_of
from reproduction.compare.findings import FRONT, PAGE, findings
from reproduction.compare.tables import RECALLED_MARK, load_tables
from reproduction.compare.tabular import markdown_table
from reproduction.runtime.flags import one_line_errors
from reproduction.runtime.run_folder import REPO_ROOT, UserError, shown

BLOCK = re.compile(r"(^<!-- generated: ([^\n]*?) -->\n)(.*?)(^<!-- end -->$)", re.DOTALL | re.MULTILINE)
OPENING = re.compile(r"^<!-- generated: [^\n]*? -->$", re.MULTILINE)
ANCHOR = re.compile(r'<a id="row-([^"]+)"></a>')
MOST_CHARACTERS = 120  # of a cell
MOST_LINES = 30  # of a row and its variants in the table of all rows; more are folded
FOLDERS = ("", "docs", "docs/papers", "docs/deviations")
LEGEND = (
    "One line for each main claim of a paper. Row: data set and profile. `?`: the paper's number is not known here; "
    "`-`: no run. Effect: method minus baseline over the same seeds, with its 95 % interval. `few seeds`: fewer "
    "than five. `seeds only`: the interval covers the seeds, not the choice of test images. `unverified data`: "
    "files with other checksums than the published ones. `two precisions`: some seeds computed in float32, the others "
    "in bfloat16, all networks of a seed in the same. `not testable`: the baseline is too far from the paper's "
    "level, or something is missing. `no effect larger than 0.5`: the 90 % interval lies within ±0.5. `control "
    "undecided`: better than the baseline, perhaps not than the control, such as training longer. How a verdict is "
    "reached, and what findings and checks are: "
    "[docs/results.md](docs/results.md#verdicts-on-claims)."
)


def fit(cell: str) -> str:
    """Cuts a cell of the README's tables to a length that fits; the papers' pages have the whole text."""
    return cell if len(cell) <= MOST_CHARACTERS else f"{cell[: MOST_CHARACTERS - 2]} …"


def overview(comparisons: Sequence[Comparison]) -> str:
    """Returns the first table: one line for each main claim, and what else was tested."""
    shorts = {comparison.paper.paper.short: comparison.paper.paper.id for comparison in comparisons}
    rows = [
        [f"[{short}](docs/papers/{shorts[short]}.md)", *map(fit, cells)]
        for short, *cells in export.first_table(comparisons)
    ]
    counts = export.verdict_counts([result for comparison in comparisons for result in comparison.claims])
    lines = [line for comparison in comparisons for line in comparison.lines]
    known = {(line.paper, line.row) for line in lines}
    ran = {(line.paper, line.row) for line in lines if line.source}
    more = (
        f"Everything tested, small runs included: {counts}. All rows ({len(ran)} run, {len(known - ran)} not, with "
        "the reason) are on the papers' pages."
    )
    note = [export.RECALLED_NOTE] if any(RECALLED_MARK in cell for row in rows for cell in row) else []
    return "\n\n".join([markdown_table(export.FIRST_HEAD, rows), LEGEND, more, *note])


def claims(comparisons: Sequence[Comparison]) -> str:
    """Returns a Markdown table for claims, findings, checks and facts each."""
    return export.markdown_claims([result for comparison in comparisons for result in comparison.claims])


def gates(comparisons: Sequence[Comparison]) -> str:
    """Returns a Markdown table of the accuracies that baselines must reach."""
    rows = [
        [one.paper.paper.short, ", ".join(gate.rows), f"`{gate.metric}`", gate.variant, f"{gate.least:g}"]
        for one in comparisons
        for gate in one.paper.gate
    ]
    return markdown_table(("paper", "rows", "baseline: metric", "of the variant", "at least, %"), rows)


def front(comparisons: Sequence[Comparison], records: Collection) -> str:
    """Returns one line a paper: what it claims and what we found."""
    table = findings(comparisons, records, FRONT).rstrip()
    return "\n".join(" | ".join(map(fit, line.split(" | "))) for line in table.splitlines())


def finding(paper: str, comparisons: Sequence[Comparison], records: Collection) -> str:
    """Returns the README's words about one paper, and how sure they are, for the head of its page."""
    (line,) = [line for line in front(comparisons, records).splitlines() if f"papers/{paper}.md" in line]
    _, claim, words, state, _ = line.strip("| ").split(" | ")
    rules = "([rules](../results.md#verdicts-on-claims))"
    sure = f"{state} {rules}. The brackets are a 95 % interval"
    if state.startswith("0 "):
        sure = f"{state}. Judging needs a run that passes the gate {rules}; the number above decides nothing"
    return f"* **It claims**: {claim}.\n* **We found**: {words}.\n* **How sure**: {sure}."


def all_rows(comparison: Comparison) -> str:
    """Returns the table of all rows of a paper; long groups, a row and its variants, are folded.

    The anchors of a folded group are in the line that stays visible, so that a link to a row leads somewhere.
    """
    head = markdown_table(export.LINE_HEAD, [])
    before, _, text = export.markdown_lines(comparison.lines, anchors=True).partition(f"{head}\n")
    table, _, after = text.partition("\n\n")
    names, groups, base = ANCHOR.findall(table), dict[str, list[str]](), ""
    for line in table.splitlines():
        if row := ANCHOR.search(line):
            base = min((name for name in names if f"{row[1]}-".startswith(f"{name}-")), key=len)
        groups.setdefault(base, []).append(line)
    if max(map(len, groups.values()), default=0) <= MOST_LINES:
        return f"{before}{head}\n{text}" if text else before
    parts = [before.strip()]
    for base, lines in groups.items():
        if len(lines) <= MOST_LINES:
            parts.append("\n".join([head, *lines]))
            continue
        anchors = [found[0] for line in lines for found in ANCHOR.finditer(line)]
        summary = f"{''.join(anchors)}{base}{'*' * (len(anchors) > 1)}: {len(anchors)} rows, {len(lines)} lines"
        bare = [ANCHOR.sub("", line) for line in lines]
        parts += [f"<details><summary>{summary}</summary>", "\n".join([head, *bare]), "</details>"]
    return "\n\n".join([*parts, after] if after else parts)


def details(comparison: Comparison, records: Collection, only_rates: bool = False) -> str:
    """Returns the tables of the records' details that a paper's toml asks for, or those of its learning rates alone."""
    tables = extras_of(comparison.paper, records, only_rates)
    texts = [f"{table.title}. {table.note}\n\n{markdown_table(table.head, table.rows)}" for table in tables]
    return "\n\n".join(texts) or "No record yet."


def _blocks(comparisons: Sequence[Comparison], records: Collection) -> dict[str, Callable[[], str]]:
    """Returns what each block is made by, by the block's name."""
    blocks: dict[str, Callable[[], str]] = {
        "front": lambda: front(comparisons, records),
        "overview": lambda: overview(comparisons),
        "claims": lambda: claims(comparisons),
        "gates": lambda: gates(comparisons),
        "clusters finegrained": lambda: markdown_clusters(records),
    }
    of_paper: dict[str, Callable[[Comparison], str]] = {
        "table": all_rows,
        "published": export.markdown_published,
        "finding": lambda one: finding(one.paper.paper.id, comparisons, records),
        "charts": lambda one: markdown_charts(one.paper.paper.id),
        "claims": lambda one: claims([one]),
        "details": lambda one: details(one, records),
        "rates": lambda one: details(one, records, only_rates=True),
    }
    for one in comparisons:
        blocks |= {f"{kind} {one.paper.paper.id}": partial(text, one) for kind, text in of_paper.items()}
    return blocks


def regenerate(text: str, comparisons: Sequence[Comparison], records: Collection, name: str = "text") -> str:
    """Returns the text with its generated blocks replaced by new ones.

    Args:
      text: Markdown with marked blocks.
      comparisons: what to generate from.
      records: those behind the comparisons.
      name: of the file, for the error message.
    Raises:
      UserError: a block of an unknown name, or one without its end.
    """
    blocks = _blocks(comparisons, records)
    if len(OPENING.findall(text)) != len(BLOCK.findall(text)):
        raise UserError(f"{name}: a generated block has no <!-- end -->")

    def fill(match: re.Match[str]) -> str:
        wanted = match.group(2).strip()
        if wanted not in blocks:
            raise UserError(f"{name}: generated block {wanted!r} is not one of {', '.join(blocks)}")
        if OPENING.search(match.group(3)):
            raise UserError(f"{name}: generated block {wanted!r} has no <!-- end --> before the next one")
        return f"{match.group(1)}{blocks[wanted]()}\n{match.group(4)}"

    return BLOCK.sub(fill, text)


def files(root: Path = REPO_ROOT) -> list[Path]:
    """Markdown files that may hold generated blocks: README, docs, and the README of each package."""
    pages = [path for folder in FOLDERS for path in sorted((root / folder).glob("*.md"))]
    pages += sorted(path for path in root.glob("*/README.md") if not path.parent.name.startswith("."))
    marked = [path for path in pages if path.is_file() and OPENING.search(path.read_text(encoding="utf-8"))]
    return list(dict.fromkeys(marked))


def committed(results: Path = RESULTS) -> Collection:
    """Reads the committed records.

    Raises:
      UserError: one of them cannot be used.
    """
    records = collect(results=results, committed_only=True)
    if records.problems:
        raise UserError(f"committed record: {records.problems[0]}")
    for group in records.rows.values():
        reasons = {reason for run in group.runs for reason in run.caveats} - {"unverified data"}
        if reasons:
            folder = shown(results / group.paper / group.row)
            raise UserError(f"{folder}: committed records must be clean, these say {', '.join(sorted(reasons))}")
    return records


def changed(root: Path = REPO_ROOT, results: Path = RESULTS) -> dict[Path, str]:
    """Files whose generated blocks are out of date, with what they should hold.

    Raises:
      UserError: see `regenerate` and `committed`.
    """
    records = committed(results)
    comparisons = compare(list(load_tables().values()), records)
    stale = {}
    for path in files(root):
        old = path.read_text(encoding="utf-8")
        new = regenerate(old, comparisons, records, shown(path))
        if new != old:
            stale[path] = new
    page = root / "docs" / PAGE.name
    if page.is_file() and (new := findings(comparisons, records)) != page.read_text(encoding="utf-8"):
        stale[page] = new
    return stale


@any_terminal()
@one_line_errors("reproduction.readme")
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit code 1 if --check finds a difference."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.readme",
        description="Checks or rewrites the generated tables of README and docs.",
        allow_abbrev=False,
    )
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--check", action="store_true", help="print differences; exit code 1 if there are any")
    choice.add_argument("--write", action="store_true", help="rewrite the blocks")
    args = parser.parse_args(argv)
    if args.write:
        records = committed()
        write_charts(compare(list(load_tables().values()), records), records)
    stale = changed()
    for path, text in stale.items():
        if args.write:
            export.write_text(path, text)
            print(f"wrote {shown(path)}")
        else:
            old = path.read_text(encoding="utf-8").splitlines()
            difference = difflib.unified_diff(old, text.splitlines(), shown(path), "generated", lineterm="", n=0)
            print("\n".join(difference))
    if not stale:
        print("generated tables are current")
    elif args.check:
        print("generated tables are out of date: python -m reproduction.readme --write", file=sys.stderr)
    return 1 if stale and args.check else 0
