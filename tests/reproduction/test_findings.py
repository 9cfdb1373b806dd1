"""The page of findings: every number from records, and a template that asks for more is an error that names it."""

from __future__ import annotations

import dataclasses

import pytest

from reproduction.compare.collect import collect
from reproduction.compare.comparison import compare, planned
from reproduction.compare.effects import Effect
from reproduction.compare.findings import TEMPLATE, Answers, findings
from reproduction.compare.tables import load_tables
from reproduction.compare.verdicts import Verdict
from reproduction.runtime.run_folder import UserError


@pytest.fixture(scope="module")
def committed():
    found = collect(committed_only=True)
    return compare(list(load_tables().values()), found), found


def test_each_paper_has_three_to_six_findings_with_a_link_each(committed):
    sections = findings(*committed).split("\n## ")[1:]
    assert len(sections) == 5
    for section in sections:
        items = section.split("\n* ")[1:]
        assert 2 <= len(items) <= 6, section[:60]
        assert all("](papers/" in item for item in items), section[:60]
        assert "What surprised us" in section and "What would change our mind" in section


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{{ mean("subclass", "cifar10-cpu", "ccx") }}', "no record of subclass cifar10-cpu has 'ccx'"),
        ('{{ mean("subclass", "no-row", "ccr") }}', "no record of subclass no-row"),
        ('{{ effect("SDN-C2", "no-row") }}', "no record tests 'SDN-C2' on 'no-row'"),
        ('{{ row("subclass", "no-row") }}', "no record of subclass no-row"),
        ('{{ detail("subclass", "cifar10-cpu", "no_detail") }}', "no record of subclass cifar10-cpu has the detail"),
        ('{{ shared_strings("no-row") }}', "'no-row' has no two records with strings"),
        ("{{ men() }}", "'men' is undefined"),
        ("{% if %}", "findings.j2"),
    ],
)
def test_a_placeholder_without_a_record_is_an_error(committed, tmp_path, text, names):
    template = tmp_path / "findings.j2"
    template.write_text(text)
    with pytest.raises(UserError, match=names):
        findings(*committed, template)


def test_the_number_is_the_one_of_the_records(committed, tmp_path):
    template = tmp_path / "findings.j2"
    template.write_text('{{ mean("subclass", "cifar10-cpu", "ccr") }}')
    runs = committed[1].rows["subclass", "cifar10-cpu"].runs
    mean = 100 * sum(run.number("ccr", "last") for run in runs) / len(runs)
    assert findings(*committed, template) == f"{mean:.2f} %\n"


def test_strings_that_two_seeds_share_are_counted_pair_by_pair(committed, tmp_path):
    template = tmp_path / "findings.j2"
    template.write_text('{{ shared_strings("cifar10-cpu") }}')
    tables = [run.detail("strings") for run in committed[1].rows["class2str", "cifar10-cpu"].runs]
    total = sum(tables[i][c] == tables[j][c] for i in range(5) for j in range(i) for c in range(10))
    assert findings(*committed, template) == f"{total / 10:.1f} of 10 (random: 0.6)\n"


@pytest.mark.parametrize(("by_seed", "judged", "words"), [((1.0,), 0, "1 seed: "), ((1.0, 1.5), 1, "2 seeds: ")])
def test_one_seed_is_shown_but_counts_as_no_verdict(committed, by_seed, judged, words):
    [one] = [comparison for comparison in committed[0] if comparison.paper.paper.id == "finegrained"]
    verdict = Verdict("inconclusive", "inconclusive", 6)
    first = [r.claim.id for r in one.claims].index("FGL-C1")
    changed = list(one.claims)
    changed[first] = dataclasses.replace(
        changed[first], effect=Effect(by_seed), verdict=verdict, row="cifar100-matched"
    )
    answers = Answers([dataclasses.replace(one, claims=changed)], committed[1])
    assert answers.state("finegrained").startswith(f"{judged} of ")
    assert words in answers.summary("FGL-C1", "with - without", "none", "none", "")


def test_no_number_with_decimals_is_typed():
    """Apart from the papers' own numbers, which the toml files hold."""
    import re

    text = re.sub(r"\{[{%].*?[}%]\}", "", TEMPLATE.read_text(encoding="utf-8"))
    assert set(re.findall(r"\d+\.\d+", text)) <= {"0.08", "2.11", "0.1"}


def test_the_plan_names_the_seeds_of_each_main_claim():
    assert all("seeds" in line for line in planned("class2str"))


@pytest.mark.parametrize(
    ("word", "words"),
    [("supported", "Yes"), ("no effect", "No effect larger than 0.5"), ("inconclusive", "Too uncertain to say")],
)
def test_a_question_is_answered_by_verdict_effect_and_seeds(committed, word, words):
    answers = Answers(*committed)
    key, result = next((k, r) for k, r in answers.results.items() if r.effect is not None and r.effect.seeds == 3)
    text = "no effect larger than 0.5 (few seeds)"
    answers.results[key] = dataclasses.replace(result, verdict=Verdict(word, text, 2))
    assert answers.judged(*key) == f"**{words}**: {answers.effect(*key)} (3 seeds)"
