"""The papers' numbers and claims: `tables/<paper>.toml`, one file for each paper, read and checked here.

A file holds the paper in brief, its published tables as tables (columns, rows, values), the rows we can run and
which cells they are compared with, the numbers of ours to print, and the claims with their gates and margins. A new
paper is a new file; no code changes. `docs/results.md` describes the format.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Literal

import pydantic

from reproduction.compare.claim_language import Claim, Gate, Health, Strict, Unit
from reproduction.runtime.record import first_fault
from reproduction.runtime.run_folder import REPO_ROOT, UserError, shown

TABLES = REPO_ROOT / "reproduction" / "tables"
Evidence = Literal["verified", "recalled"]
Selection = Literal["last", "best_on_val", "best_on_test"]
RATE = "-rate-"  # in the name of a row whose runs only choose a learning rate, on held-out training images
RECALLED_MARK = "\N{DAGGER}"  # behind a published number that was typed from memory
ABSENT = "-"  # a cell of a published table that holds nothing (TOML has no null)


class Picture(Strict):
    """A plot that a script draws into the folder of a seed after the stages have written their records."""

    path: str
    title: str


class About(Strict):
    """The paper itself and how this repository came by its numbers."""

    id: str
    title: str
    short: str
    authors: str
    venue: str
    year: int
    folder: str
    link: str
    method: str
    sources: str
    curves: tuple[str, ...] = ()  # scalars of metrics.jsonl that the report draws; empty: the first eight
    across: Literal["steps", "epochs"] = "steps"  # what they are logged at
    curves_note: str = ""  # what a reader of the curves has to know
    pictures: tuple[Picture, ...] = ()  # plots of a seed that no record lists
    pairs: tuple[tuple[str, str], ...] = ()  # variants compared image by image; "" is the base row, "*" each other one
    names: dict[str, str] = {}  # label of a line in a table of details -> what is printed for it


class Measured(Strict):
    """A number of ours: which metric of a record, of which epoch, in which unit."""

    unit: Unit
    metric: str = ""
    selection: Selection = "last"
    key: bool = False  # a main number of its row


class Answered(Measured):
    """What a column of a published table says of its numbers: the metric of ours that answers them, and how."""

    judge: Literal["proportion", "exact", "none"] = "none"  # how our numbers are compared with it
    agree: tuple[str, str] | None = None  # judged only if these two metrics of a run are equal, else `unlike`
    unlike: str = ""
    note: str = ""


class Column(Answered):
    """A column of a published table."""

    name: str


class PublishedRow(Strict):
    """A row of a published table."""

    name: str
    values: tuple[float | int | str, ...]
    samples: int | None = None  # images of the test split, for the binomial error
    ours: tuple[str, ...] = ()  # our rows with the network of this row: the first one that was run stands below it
    note: str = ""


class PublishedTable(Strict):
    """One table or figure of the paper."""

    id: str
    title: str
    where: str
    split: str
    selected: str  # how the authors chose the epoch; "unknown" if they do not say
    evidence: Evidence
    headline: bool = False  # printed by `make compare` even if nothing was run
    columns: tuple[Column, ...]
    rows: tuple[PublishedRow, ...]

    @pydantic.model_validator(mode="after")
    def _rectangular(self) -> PublishedTable:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"{self.id}/{row.name}: {len(row.values)} values for {len(self.columns)} columns")
        return self


class OurRow(Strict):
    """A row we can run: `<dataset>-<profile>[-variant]`."""

    row: str
    title: str
    command: str
    compared_with: tuple[str, ...] = ()  # published cells "row/column"; * allowed
    needs: str = ""  # why it has not been run here: hardware, hours, data
    short: str = ""  # what of the paper's schedule was cut; the verdict is then never more than indicative
    quantity: str = ""  # what its main number is called if the column alone does not say of which network


class Shown(Measured):
    """A number of ours that is printed although the paper has no such number."""

    metric: str
    title: str


class DetailColumn(Strict):
    """A column of a table of details."""

    key: str  # of the entry
    name: str
    form: str = ".2f"  # Python's format of a number
    scale: float = 1.0


class DetailTable(Strict):
    """A table of entries of the records' details, as mean and standard deviation over seeds."""

    title: str
    path: str = ""  # keys below `details`, with "/" between; "*" is each key; empty: one line a row, metrics too
    labels: tuple[str, ...] = ()  # column names of what "*" stands for, and of `class` if the path ends at a list
    columns: tuple[DetailColumn, ...]
    note: str = ""
    rates: bool = False  # of the rows that choose a learning rate alone


class Number(Answered):
    """One published number with everything that belongs to it."""

    table: str
    row: str
    column: str
    value: float | None  # None if the cell is text
    printed: str  # as the paper prints it
    resolution: float  # half a unit of the last printed digit
    split: str
    selected: str
    evidence: Evidence
    samples: int | None
    headline: bool

    @property
    def cell(self) -> str:
        """Its place in the published table, `row/column`."""
        return f"{self.row}/{self.column}"

    @property
    def marked(self) -> str:
        """Returns the number as the paper prints it, with a mark if it is recalled."""
        return self.printed + (RECALLED_MARK if self.evidence == "recalled" else "")


class Paper(Strict):
    """Content of one toml file."""

    paper: About
    table: tuple[PublishedTable, ...] = ()
    row: tuple[OurRow, ...] = ()
    shown: tuple[Shown, ...] = ()
    gate: tuple[Gate, ...] = ()
    health: tuple[Health, ...] = ()
    claim: tuple[Claim, ...] = ()
    details: tuple[DetailTable, ...] = ()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Paper:
        for kind, ids in (
            ("table", [table.id for table in self.table]),
            ("row", [row.row for row in self.row]),
            ("claim", [claim.id for claim in self.claim]),
        ):
            twice = sorted({name for name in ids if ids.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} {twice[0]} stands twice")
        for published in (row for table in self.table for row in table.rows):
            for name in published.ours:
                if name not in [row.row for row in self.row]:
                    raise ValueError(f"published row {published.name}: ours {name!r} is no row of ours")
        cells = [number.cell for number in self.numbers]
        for claim in self.claim:
            for cell in (cell for pair in claim.published.values() for cell in pair):
                if cell not in cells:
                    raise ValueError(f"claim {claim.id}: published {cell!r} is no published cell")
        main_numbers = sum(show.key for show in self.shown)
        for row in self.row:
            if row.quantity and main_numbers > 1:
                raise ValueError(f"row {row.row}: quantity names one main number, and {main_numbers} of shown are key")
            for pattern in row.compared_with:
                if not fnmatch.filter(cells, pattern):
                    raise ValueError(f"row {row.row}: compared_with {pattern!r} matches no published cell")
        return self

    @cached_property
    def numbers(self) -> tuple[Number, ...]:
        """Every published number of the paper, in the order of the file."""
        return tuple(number for table in self.table for number in _numbers_of(table))

    def full_titles(self) -> dict[str, str]:
        """Row -> title that stands alone: "same without subclasses" behind the title it refers to."""
        titles, whole = {}, ""
        for row in self.row:
            whole = whole if row.title.startswith("same") else row.title
            titles[row.row] = row.title if row.title == whole or not whole else f"{whole}: {row.title}"
        return titles

    def compared_with(self, row: OurRow) -> list[Number]:
        """Returns the published numbers that a row of ours is compared with."""
        return [n for n in self.numbers if any(fnmatch.fnmatchcase(n.cell, pattern) for pattern in row.compared_with)]


def parse_printed(printed: str) -> tuple[float, float]:
    """Value and half a unit of the last digit of a number as a paper prints it.

    Args:
      printed: such as "99.38", "-13.9", "1.61 M", "31 K".
    Returns:
      (value, resolution), both in the plain unit: for "1.61 M", (1610000.0, 5000.0).
    Raises:
      ValueError: if it is no number of that form.
    """
    match = re.fullmatch(r"([+-]?\d+(?:\.(\d+))?)\s*([KM]?)", printed.strip())
    if match is None:
        raise ValueError(f"{printed!r} is not a number such as 99.38 or 1.61 M")
    scale = {"": 1.0, "K": 1e3, "M": 1e6}[match.group(3)]
    return float(match.group(1)) * scale, 0.5 * 10.0 ** -len(match.group(2) or "") * scale


def _numbers_of(table: PublishedTable) -> Iterator[Number]:
    for row in table.rows:
        for column, raw in zip(table.columns, row.values, strict=True):
            if raw == ABSENT:
                continue
            value, resolution = (None, 0.0) if column.unit == "text" else parse_printed(str(raw))
            yield Number(
                table=table.id,
                row=row.name,
                column=column.name,
                value=value,
                printed=str(raw),
                resolution=resolution,
                split=table.split,
                selected=table.selected,
                evidence=table.evidence,
                samples=row.samples,
                headline=table.headline,
                **column.model_dump(exclude={"name", "note"}),
                note=" ".join(part for part in (column.note, row.note) if part),
            )


def parse_paper(text: str, name: str) -> Paper:
    """Reads one toml text.

    Raises:
      UserError: one line that names the file and the first thing wrong with it.
    """
    try:
        return Paper.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{name}: not TOML: {error}") from None
    except pydantic.ValidationError as error:
        raise UserError(f"{name}: {first_fault(error)}") from None
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


@cache
def load_tables() -> dict[str, Paper]:
    """All papers that have a toml file, by id, in the order of the papers' folders in the README.

    Raises:
      UserError: a file is wrong, or its name is not its paper's id.
    """
    papers: dict[str, Paper] = {}
    for path in sorted(TABLES.glob("*.toml")):
        paper = parse_paper(path.read_text(encoding="utf-8-sig"), shown(path))
        if paper.paper.id != path.stem:
            raise UserError(f"{shown(path)}: its paper.id is {paper.paper.id}; file name and id must agree")
        papers[path.stem] = paper
    order = ("class2str", "subclass", "finegrained", "triplet", "hierarchy")
    return dict(sorted(papers.items(), key=lambda item: (order.index(item[0]) if item[0] in order else 99, item[0])))


def paper_of(name: str) -> Paper:
    """One paper by id.

    Raises:
      UserError: no such paper, naming those there are.
    """
    papers = load_tables()
    if name not in papers:
        raise UserError(f"paper {name!r} is not one of {', '.join(papers)}")
    return papers[name]
