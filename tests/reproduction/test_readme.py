"""Generated blocks of README and docs: current in this checkout, and made from committed records only."""

from __future__ import annotations

import re

import pytest

from reproduction.compare import claims, export, readme
from reproduction.compare.collect import collect
from reproduction.compare.comparison import compare
from reproduction.compare.tables import load_tables, paper_of
from reproduction.runtime.run_folder import REPO_ROOT, UserError


def test_this_checkout_is_current(capsys):
    assert readme.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "sure", "not_sure"),
    [
        ("0 of 3 claims judged", "decides nothing", "95 % interval"),
        ("1 of 3 claims judged", "95 % interval", "decides nothing"),
    ],
)
def test_a_page_prints_how_sure_its_finding_is(monkeypatch, state, sure, not_sure):
    line = f"| [X](x/README.md) | it helps | with - without: +1.00 | {state} | [page](docs/papers/x.md) |"
    monkeypatch.setattr(readme, "front", lambda *_: line)
    claim, found, last = readme.finding("x", [], None).splitlines()
    assert claim == "* **It claims**: it helps." and found == "* **We found**: with - without: +1.00."
    assert state in last and sure in last and not_sure not in last


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
    page = "[Class2Str](docs/papers/class2str.md)"
    first = next(line for line in text.splitlines() if line.startswith(f"| {page} |"))
    assert first.endswith("| 90.43 / - | +0.08 / - | - | not run: needs make reproduce-class2str PROFILE=matched |")
    assert "All rows (1 run, " in text and "15 claims (15 without a run) on 0 claim-row pairs:" in text
    path.write_text(text)
    assert readme.changed(checkout, checkout / "results") == {}


@pytest.fixture
def all_papers(committed):
    return committed[0]


def test_the_first_table_is_a_screenful_and_names_every_paper(all_papers):
    rows = export.first_table(all_papers)
    assert 10 <= len(rows) <= 15
    assert {row[0] for row in rows} == {paper.paper.short for paper in load_tables().values()}
    assert all(len(cell) <= 120 for row in rows for cell in row)
    missing = " ".join(row[-1] for row in rows if row[-1].startswith("not"))
    for name in ("data-pathmnist", "SVHN", "TFRecords", "ImageNet", "CUDA GPU"):
        assert name in missing, name


def test_a_judged_row_stands_for_its_claim_and_the_cpu_profile_only_if_judged(make, tmp_path):
    def first(row: str, accuracy: float):
        for variant, value in (("", accuracy + 0.02), ("-baseline", accuracy)):
            for seed in range(5):
                record = make.record({"ccr": make.metric(value)}, row=row + variant, seed=seed, paper="subclass")
                make.put(tmp_path, record)
        found = collect(runs=tmp_path, results=tmp_path / "none")
        return export.first_table(compare([paper_of("subclass")], found))[0][2:]

    assert first("cifar10-cpu", 0.6)[-1] == "not run: needs make reproduce-subclass PROFILE=matched"
    row, baseline, effect, seeds, verdict = first("cifar10-matched", 0.9)
    assert (row, seeds) == ("cifar10-matched", "5") and baseline == "93.5\N{DAGGER} / 90.00"
    assert effect == "? / +2.00 [+2.00, +2.00] points (seeds only)"
    assert verdict == "supported, control undecided (not run)"


def test_only_claims_with_a_run_are_counted_as_tested(all_papers):
    results = [result for comparison in all_papers for result in comparison.claims if result.claim.group == "main"]
    tested = [result for result in results if result.row]
    assert 0 < len(tested) < len(results)
    text = export.verdict_counts(results)
    assert f" claims ({len(results) - len(tested)} without a run) on {len(tested)} claim-row pairs: " in text
    assert sum(int(part.split()[0]) for part in text.partition("pairs: ")[2].split(", ")) == len(tested)


def test_every_row_that_was_run_has_a_title_and_a_command(all_papers):
    unknown = [line.row for comparison in all_papers for line in comparison.lines if line.source and not line.command]
    assert unknown == []


def test_every_result_has_its_line_and_those_that_decide_nothing_are_folded(all_papers):
    for comparison in all_papers:
        text = readme.claims([comparison])
        first, folded, last = text.partition("<details>")
        for claim in comparison.paper.claim:
            assert first.count(f"| {claim.id}: ") <= 1 and last.count(f"| {claim.id}: ") <= 1
            assert text.count(f"| {claim.id}: ") in (1, 2), claim.id
        small = [result for result in comparison.claims if export.decides_nothing(result)]
        lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| claim |")]
        assert len(lines) == len(comparison.claims) and bool(folded) == bool(small)
        assert f"<summary>{len(small)} more lines" in text or not small
        assert "not testable: baseline" not in first and "</details>" in last or not small


def test_folding_the_table_of_all_rows_loses_no_line_and_leaves_every_anchor_visible(all_papers):
    folded = 0
    for comparison in all_papers:
        whole, text = export.markdown_lines(comparison.lines, anchors=True), readme.all_rows(comparison)
        seen = re.sub(r"</summary>.*?</details>", "", text, flags=re.DOTALL)
        assert readme.ANCHOR.findall(seen) == readme.ANCHOR.findall(whole) == readme.ANCHOR.findall(text)

        def lines(page: str) -> list[str]:
            rows = [readme.ANCHOR.sub("", line) for line in page.splitlines() if line.startswith("| ")]
            return [line for line in rows if not line.startswith("| row | quantity")]

        assert lines(text) == lines(whole)
        folded += text.count("<details>")
    assert folded > 3


def test_published_tables_hold_every_main_number_and_mark_the_recalled(all_papers):
    for comparison in all_papers:
        main = [number for number in comparison.paper.numbers if number.headline]
        text = export.markdown_published(comparison)
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
        for number in main:
            mark = export.RECALLED_MARK if number.evidence == "recalled" else ""
            assert any(line[0] == number.row and f"{number.printed}{mark}" in line for line in cells), number.cell
        assert main and (export.RECALLED_NOTE in text) == any(number.evidence == "recalled" for number in main)


def test_below_a_published_row_is_the_run_row_of_the_profile_nearest_the_papers(make, tmp_path):
    def lines(row: str, value: float):
        for seed in range(2):
            metrics = {"ccr": make.metric(value, best_on_test=value)}
            make.put(tmp_path, make.record(metrics, row=row, seed=seed, paper="subclass"))
        (comparison,) = compare([paper_of("subclass")], collect(runs=tmp_path, results=tmp_path / "none"))
        text = export.markdown_published(comparison)
        assert (export.OURS_NOTE in text) != (export.NONE_OF_OURS in text)
        return [line.split(" | ")[:3] for line in text.splitlines() if line.startswith("| ours")]

    before = lines("cifar10-cpu", 0.6)
    assert before == [["| ours: [cifar10-cpu](#row-cifar10-cpu)", "-", "60.00 ± 0.00 (2), last 60.00"]]
    assert lines("cifar100-matched", 0.5) == before  # a row that the tables do not know
    assert lines("cifar10-matched-baseline", 0.8) == [
        ["| ours: [cifar10-matched-baseline](#row-cifar10-matched-baseline)", "80.00 ± 0.00 (2), last 80.00", "-"]
    ]
    assert lines("cifar10-matched", 0.9) == [
        [
            "| ours: [cifar10-matched](#row-cifar10-matched)",
            "80.00 ± 0.00 (2), last 80.00",
            "90.00 ± 0.00 (2), last 90.00",
        ]
    ]


def test_a_published_row_can_name_our_rows_that_have_its_network(make, tmp_path):
    for row, value in {"mnist-paper-epochs-100": 0.97, "mnist-matched": 0.98, "mnist-matched-fc": 0.5}.items():
        record = make.record({"fc_accuracy": make.metric(value, best_on_test=value)}, row=row, paper="class2str")
        make.put(tmp_path, record)
    paper = paper_of("class2str")
    (comparison,) = compare([paper], collect(runs=tmp_path, results=tmp_path / "none"))
    (main,) = [table for table in paper.table if table.id == "main"]
    below = export.nearest_lines(comparison, "main", main.rows[0])
    assert main.rows[0].name == "MNIST" and below["FC"].row == "mnist-matched"
    unnamed = main.rows[0].model_copy(update={"ours": ()})
    assert export.nearest_lines(comparison, "main", unnamed)["FC"].row == "mnist-paper-epochs-100"


def test_a_changed_record_is_a_difference(checkout, make):
    (checkout / "README.md").write_text("<!-- generated: table class2str -->\nold\n<!-- end -->\n")
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
        ("<!-- generated: overveiw -->\n<!-- end -->\n", "'overveiw' is not one of front, overview, claims, gates"),
        ("<!-- generated: overview -->\n", "no <!-- end -->"),
        ("<!-- generated: overview -->\n<!-- generated: claims -->\n<!-- end -->\n", "no <!-- end -->"),
    ],
)
def test_broken_blocks(committed, text, names):
    with pytest.raises(UserError, match=names):
        readme.regenerate(text, [], committed[1], "README.md")


def test_the_code_that_checks_a_verdict_by_hand_prints_the_effect_of_the_page(all_papers, capsys, monkeypatch):
    monkeypatch.chdir(REPO_ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", (REPO_ROOT / "docs" / "results.md").read_text(), re.DOTALL)
    exec(compile(code, "results.md", "exec"), {})
    results = [result for comparison in all_papers for result in comparison.claims]
    (result,) = [r for r in results if r.claim.id == "SDN-C2" and r.on.startswith("cifar10-matched")]
    effect = export.interval_text(result.effect, "points").removesuffix(" points")
    assert f"95 %: {effect}\n" in capsys.readouterr().out


def test_no_line_of_the_front_page_is_cut(committed):
    assert " …" not in readme.front(*committed)
