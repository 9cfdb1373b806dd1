"""The committed toml files: complete against the papers' files, and strict about mistakes."""

from __future__ import annotations

import re

import pytest

from reproduction.compare.tables import TABLES, Paper, load_tables, parse_paper, parse_printed
from reproduction.runtime.run_folder import UserError

PAPERS = load_tables()


@pytest.mark.parametrize("paper", PAPERS.values(), ids=list(PAPERS))
def test_every_number_says_where_it_comes_from(paper: Paper):
    assert all(table.where for table in paper.table)
    for number in paper.numbers:
        assert number.evidence in ("verified", "recalled")
        assert number.split and number.selected, number
        assert number.judge == "none" or number.metric, number
        assert number.judge != "proportion" or number.samples, number


@pytest.mark.parametrize("paper", PAPERS.values(), ids=list(PAPERS))
def test_rows_and_claims_can_be_used(paper: Paper):
    for row in paper.row:
        assert row.command.startswith(("make ", "python ")), row
        assert paper.compared_with(row) or not row.compared_with
        assert any(f"-{profile}" in row.row for profile in ("paper", "matched", "cpu")), row
    assert paper.claim
    assert len({claim.id.split("-")[0] for claim in paper.claim}) == 1
    own_words = re.compile(r"\b(lift|healthy|degenerate|gate|arm)\b")  # a claim is read without our definitions
    assert not [claim.id for claim in paper.claim if own_words.search(claim.text)]


def cells(paper: str, table: str) -> dict[str, str]:
    return {n.cell: n.printed for n in PAPERS[paper].numbers if n.table == table}


@pytest.mark.parametrize("paper", PAPERS.values(), ids=list(PAPERS))
def test_a_row_s_title_can_stand_alone(paper: Paper):
    titles = paper.full_titles()
    assert list(titles) == [row.row for row in paper.row] and not any(t.startswith("same") for t in titles.values())
    assert all(titles[row.row].endswith(row.title) for row in paper.row)


def test_the_subclass_claims_leave_out_rows_that_do_not_split():
    """Else doubling alone would count as a gain of subclasses; every other row with flags of its own counts."""
    claims = {claim.id: claim for claim in PAPERS["subclass"].claim}
    for name in ("SDN-C1", "SDN-C2"):
        assert all(claims[name].is_about(row) for row in ("cifar10-cpu", "cifar100-paper", "cifar10-cpu-batch_size-32"))
        assert not any(claims[name].is_about(f"cifar10-{p}-numSubclassesPerClass-1") for p in ("cpu", "paper"))


def test_class2str_main_table():
    """The 28 numbers of the poster's result table, typed a second time from the paper's file."""
    main = cells("class2str", "main")
    columns = ("FC", "LH", "reduced FC", "parameters FC", "parameters LH", "reduction", "test time")
    want = """
    MNIST|99.38|99.36|98.45|1.61 M|31 K|98|-13.9
    CIFAR-10|90.43|90.51|88.40|1.58 M|6 K|99|-15.9
    CIFAR-100|64.65|64.67|57.90|1.58 M|30 K|98|-14.8
    ImageNet 1K|70.51|70.11|67.88|123.63 M|72.42 M|41|-5.5
    """
    rows = [line.strip().split("|") for line in want.strip().splitlines()]
    assert main == {f"{row[0]}/{c}": v for row in rows for c, v in zip(columns, row[1:], strict=True)}


def test_class2str_curves_and_strings():
    assert len(cells("class2str", "bits")) == 11
    assert len(cells("class2str", "length")) == 14
    assert cells("class2str", "bits")["CIFAR-100/bit 3"] == "73.2"
    for dataset, length, count in (("mnist", 4, 10), ("cifar10", 4, 10), ("cifar100", 7, 19)):
        strings = [v for k, v in cells("class2str", f"strings-{dataset}").items() if k.endswith("/string")]
        assert len(strings) == len(set(strings)) == count
        assert all(len(string) == length and set(string) <= {"0", "1"} for string in strings)


def test_recalled_and_verified_of_subclass():
    recalled = [n for n in PAPERS["subclass"].numbers if n.evidence == "recalled" and n.value is not None]
    assert sorted(n.value for n in recalled) == sorted(
        [93.5, 94.8, 96.92, 97.14, 71.24, 73.67, 81.59, 82.17, 98.16, 98.35, 98.70, 98.81]
    )
    assert cells("subclass", "cutout")["SVHN/WRN + cutout"] == "98.70"
    for table in ("cutout",):  # accuracy and error of one cell must add up
        values = {k: float(v) for k, v in cells("subclass", table).items()}
        for row in ("CIFAR-10", "CIFAR-100", "SVHN"):
            for column in ("WRN + cutout", "WRN without cutout"):
                assert values[f"{row}/{column}"] + values[f"{row}/error, {column}"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("printed", "value", "resolution"),
    [
        ("99.38", 99.38, 0.005),
        ("98", 98, 0.5),
        ("-13.9", -13.9, 0.05),
        ("1.61 M", 1.61e6, 5e3),
        ("31 K", 31e3, 500),
    ],
)
def test_printed_numbers(printed, value, resolution):
    assert parse_printed(printed) == pytest.approx((value, resolution))


@pytest.mark.parametrize("printed", ["", "about 5", "1,5", "nan", "1e5", "5 k"])
def test_numbers_that_are_none(printed):
    with pytest.raises(ValueError):
        parse_printed(printed)


GOOD = (TABLES / "class2str.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ('evidence = "verified"', 'evidence = "sure"', "evidence"),
        ('"98.45"', '"98,45"', "98,45"),
        ('selected = "unknown"\n', "", "selected"),
        ('["99.38", ', "[", "6 values for 7 columns"),
        ("headline = true", "headlines = true", "headlines"),
        ('compared_with = ["MNIST/*"]', 'compared_with = ["MINST/*"]', "MINST"),
        ("margin = 0.5", "", "a main needs `method`, `baseline` and `margin`"),
        ("margin = 0.5", "margins = 0.5", "claim.0.margins: Extra inputs are not permitted"),
        ('{ metric = "fc_accuracy", variant = "fc" }', '{ metrics = "fc_accuracy" }', "claim.0.baseline"),
        ("least = 88.0", "lest = 88.0", "gate.0.least"),
        ('"CIFAR-10/LH", ', '"CIFAR-10/HL", ', "published 'CIFAR-10/HL' is no published cell"),
        ('row = "cifar10-paper"', 'row = "mnist-paper"', "stands twice"),
        ("[[table]]", "[[table]", "not TOML"),
    ],
)
def test_mistakes_in_a_file_are_one_clear_line(old, new, names):
    assert old in GOOD
    with pytest.raises(UserError) as error:
        parse_paper(GOOD.replace(old, new, 1), "tables/class2str.toml")
    assert str(error.value).startswith("tables/class2str.toml: ")
    assert names in str(error.value) and "\n" not in str(error.value)


def test_one_name_for_two_main_numbers_is_refused():
    text = (TABLES / "hierarchy.toml").read_text()
    named = text.replace('row = "cifar10-cpu"\n', 'row = "cifar10-cpu"\nquantity = "accuracy"\n', 1)
    with pytest.raises(UserError, match="row cifar10-cpu: quantity names one main number, and 2 of shown are key"):
        parse_paper(named, "tables/hierarchy.toml")
