"""`python -m reproduction.compare`: prints our numbers next to the papers'."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from datasets.terminal import any_terminal
from reproduction.compare import export, terminal
from reproduction.compare.comparison import add_choice, load_comparisons
from reproduction.runtime.flags import one_line_errors
from reproduction.runtime.run_folder import shown


@any_terminal()
@one_line_errors("reproduction.compare")
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `make compare`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.compare",
        description="Prints what the papers claim next to what we find; with --paper or --runs every number as well.",
        allow_abbrev=False,
    )
    add_choice(parser, "everything about one paper (repeatable)")
    parser.add_argument("--short", action="store_true", help="only the main numbers and claims, one screen for a paper")
    for name in ("markdown", "csv", "latex"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write the comparison as {name} too")
    args = parser.parse_args(argv)
    comparisons, records = load_comparisons(args.paper, args.runs)
    if args.short:
        terminal.print_short(comparisons, records.problems)
    elif args.paper or args.runs:
        terminal.print_comparisons(comparisons, records.problems)
    else:
        terminal.print_first_table(comparisons, records.problems)
    for name, text in (("markdown", export.markdown), ("csv", export.csv_text), ("latex", export.latex)):
        path: Path | None = getattr(args, name)
        if path is not None:
            export.write_text(path, text(comparisons))
            print(f"wrote {shown(path)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
