"""Generated blocks of README and docs: current in this checkout, and made from committed records only."""

from __future__ import annotations

import pytest

from reproduction.compare import claims, readme
from reproduction.compare.collect import collect
from reproduction.compare.comparison import compare
from reproduction.compare.tables import load_tables
from reproduction.runtime.run_folder import UserError


def test_this_checkout_is_current(capsys):
    assert readme.main(["--check"]) == 0, capsys.readouterr().out


@pytest.fixture
def checkout(make, tmp_path, monkeypatch):
    """A small repository: two Markdown files and three committed records, no benchmarks."""
    monkeypatch.setattr(claims, "BENCHMARKS", tmp_path / "none")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Title\n\n<!-- generated: overview -->\nold\n<!-- end -->\n\nrest\n")
    (tmp_path / "docs" / "a.md").write_text("no block; `<!-- generated: overview -->` in a line is text\n")
    for seed in range(3):
        made = make.record({"fc_accuracy": make.metric(0.9938), "lh_accuracy": make.metric(0.98)}, seed=seed)
        path = tmp_path / "results" / "class2str" / "mnist-paper" / f"seed{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made.model_dump_json())
    return tmp_path


def test_blocks_are_filled_from_records_and_the_rest_stays(checkout):
    [(path, text)] = readme.changed(checkout, checkout / "results").items()
    assert path == checkout / "README.md"
    assert text.startswith("# Title\n\n<!-- generated: overview -->\n| paper |") and text.endswith(
        "<!-- end -->\n\nrest\n"
    )
    first = text.splitlines()[5]
    page = "[Class2Str](docs/papers/class2str.md)"
    assert first.startswith(f"| {page} | mnist-paper | FC % | 99.38 | 99.38 ± 0.00 (3) | consistent; +0.00 |")
    assert "all of them (1 run, " in text and " lines, one for each row: 1 not supported, " in text
    path.write_text(text)
    assert readme.changed(checkout, checkout / "results") == {}


def test_the_overview_is_a_screenful_and_names_every_paper():
    """What the first screen is for: the method and its baseline of each paper, beside what the paper says."""
    comparisons = compare(list(load_tables().values()), collect(committed_only=True))
    for comparison in comparisons:
        lines = comparison.overview()
        assert 2 <= len(lines) <= 6, comparison.paper.paper.id
        assert any(line.source for line in lines)
        assert all(line.command and (line.source or line.number) for line in lines)
    assert sum(len(comparison.overview()) for comparison in comparisons) <= 24


def test_all_claims_stand_in_one_table_each_named_once():
    comparisons = compare(list(load_tables().values()), collect(committed_only=True))
    table = readme.claims(comparisons)
    for comparison in comparisons:
        for claim in comparison.paper.claim:
            assert table.count(f"| {claim.id}: ") == 1
    assert len(table.splitlines()) == 2 + sum(len(comparison.claims) for comparison in comparisons)


def test_a_changed_record_is_a_difference(checkout, make):
    for path, text in readme.changed(checkout, checkout / "results").items():
        path.write_text(text)
    record = make.record({"fc_accuracy": make.metric(0.9)}, seed=1)
    (checkout / "results" / "class2str" / "mnist-paper" / "seed1.json").write_text(record.model_dump_json())
    assert list(readme.changed(checkout, checkout / "results")) == [checkout / "README.md"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"dirty": True}, "uncommitted changes"),
        ({"commit": "unknown", "dirty": True}, "unknown commit"),
        ({"profile": "smoke"}, "smoke profile"),
        ({"seed": 2}, "belongs to"),
        ({"row": "mnist-cpu"}, "belongs to"),
    ],
)
def test_records_that_may_not_be_committed(checkout, make, changes, names):
    record = make.record({"fc_accuracy": make.metric(0.9)}, seed=1).model_copy(update=changes)
    for seed in (0, 2):
        (checkout / "results" / "class2str" / "mnist-paper" / f"seed{seed}.json").unlink()
    (checkout / "results" / "class2str" / "mnist-paper" / "seed1.json").write_text(record.model_dump_json())
    with pytest.raises(UserError, match=names):
        readme.changed(checkout, checkout / "results")


def test_one_bad_record_beside_good_ones_is_an_error(checkout, make):
    record = make.record({"fc_accuracy": make.metric(0.9)}, seed=1, dirty=True)
    (checkout / "results" / "class2str" / "mnist-paper" / "seed1.json").write_text(record.model_dump_json())
    with pytest.raises(UserError, match="uncommitted changes"):
        readme.changed(checkout, checkout / "results")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("<!-- generated: overveiw -->\n<!-- end -->\n", "'overveiw' is not one of overview, claims"),
        ("<!-- generated: overview -->\n", "no <!-- end -->"),
        ("<!-- generated: overview -->\n<!-- generated: claims -->\n<!-- end -->\n", "no <!-- end -->"),
    ],
)
def test_broken_blocks(text, names):
    with pytest.raises(UserError, match=names):
        readme.regenerate(text, [], "README.md")
