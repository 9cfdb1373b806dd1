"""The page of findings: every number from records, and a template that asks for more is an error that names it."""

from __future__ import annotations

import dataclasses
import re
import shutil

import pytest

from reproduction.compare.collect import RESULTS, SeedRun, collect
from reproduction.compare.comparison import compare, planned, recorded_minutes
from reproduction.compare.effects import Effect
from reproduction.compare.findings import TEMPLATE, Answers, findings
from reproduction.compare.tables import load_tables
from reproduction.compare.verdicts import Verdict
from reproduction.runtime.run_folder import REPO_ROOT, UserError


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
        ('{{ published("SDN-C2", "cifar10-cpu") }}', "no verified number of the paper for 'SDN-C2'"),
        ('{{ row("subclass", "no-row") }}', "no record of subclass no-row"),
        ('{{ detail("subclass", "cifar10-cpu", "no_detail") }}', "no record of subclass cifar10-cpu has the detail"),
        ('{{ effects_by_seed("C2S-C1", "cifar10-matched", "x") }}', "not every seed of 'C2S-C1' on .* has 'x'"),
        ('{{ shared_strings("no-row") }}', "'no-row' has no two records with strings"),
        ('{{ kept_strings("mnist5k-cpu", "no-row") }}', "'no-row' have no seed with strings in common"),
        ('{{ classes("subclass", "cifar10-matched", "none") }}', "no record of .* has the detail 'none'"),
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


def test_an_effect_is_shown_seed_by_seed_with_a_count(committed):
    answers, rows = Answers(*committed), committed[1].rows
    runs = rows["class2str", "cifar10-matched"].runs
    plain = {run.seed: run.number("fc_accuracy", "last") for run in rows["class2str", "cifar10-matched-fc"].runs}
    text = answers.effects_by_seed("C2S-C1", "cifar10-matched", "distinct_of_each_attempt")
    found = re.findall(r"(\S+) \((\d+)\)", text)
    assert [int(starts) for _, starts in found] == [len(run.detail("distinct_of_each_attempt")) for run in runs]
    points = [100 * (run.number("class_accuracy_ml", "last") - plain[run.seed]) for run in runs]
    assert [float(effect) for effect, _ in found] == pytest.approx(points, abs=0.006)


def test_a_claim_of_no_loss_that_is_contradicted_reads_as_worse(committed):
    answers = Answers(*committed)
    assert answers.judged("C2S-C1", "cifar10-matched").startswith("**No, it is worse**: -")  # LH recovers FC's accuracy
    assert answers.judged("C2S-C7", "cifar10-matched").startswith("**No, the opposite**: -")  # LH is better


def test_strings_that_two_seeds_share_are_counted_pair_by_pair(committed, tmp_path):
    template = tmp_path / "findings.j2"
    template.write_text('{{ shared_strings("cifar10-cpu") }}')
    tables = [run.detail("strings") for run in committed[1].rows["class2str", "cifar10-cpu"].runs]
    total = sum(tables[i][c] == tables[j][c] for i in range(5) for j in range(i) for c in range(10))
    assert findings(*committed, template) == f"{total / 10:.1f} of 10 classes (by chance 0.6)\n"
    found, key = committed[1], ("class2str", "cifar10-cpu")
    unfinished = dataclasses.replace(found.rows[key], runs=[*found.rows[key].runs, SeedRun(*key, 9)])  # lacks stage 2
    more = dataclasses.replace(found, rows=found.rows | {key: unfinished})
    assert findings(committed[0], more, template) == f"{total / 10:.1f} of 10 classes (by chance 0.6)\n"


@pytest.mark.parametrize(("by_seed", "judged", "words"), [((1.0,), 0, "small: "), ((1.0, 1.5), 1, "2 seeds: ")])
def test_one_seed_counts_as_no_verdict_and_a_small_run_is_quoted(committed, by_seed, judged, words):
    [one] = [comparison for comparison in committed[0] if comparison.paper.paper.id == "finegrained"]
    verdict = Verdict("inconclusive", "inconclusive", 6)
    row = "cifar100-q90-matched"
    changed = [
        dataclasses.replace(result, effect=Effect(by_seed), verdict=verdict)
        if (result.claim.id, result.row) == ("FGL-C1", row)
        else result
        for result in one.claims
        if result.claim.id != "FGL-C2"  # judged on records of its own
    ]
    answers = Answers([dataclasses.replace(one, claims=changed)], committed[1])
    assert answers.state("finegrained").startswith(f"{judged} of ")
    assert words in answers.summary("FGL-C1", "with - without", "FGL-C1-random", "cifar10-cpu", "small:")


@pytest.mark.parametrize("everything", [False, True])
def test_fine_grained_answers_its_two_questions_from_matched_records(make, tmp_path, everything):
    means = {"": 0.66, "-base-budget": 0.67, "-ft": 0.68, "-ft-random": 0.675, "-ft-true": 0.70}
    if everything:
        means |= {"-mh09": 0.65, "-stability": 0.5}
    counts = [{"class": 10, "clusters": 3}, {"class": 17, "clusters": 4}]
    for variant, mean in means.items():
        for seed in range(1 if variant == "-stability" else 5):
            values = {"accuracy": mean + 0.001 * seed, "num_sub": 60, "stability": 0.41, "stability_kmeans": 0.52}
            values |= {"ari": 0.05, "ari_random": 0.0, "ari_kmeans": 0.04}
            metrics = {name: make.metric(value) for name, value in values.items()}
            row = f"cifar100-q90-matched{variant}"
            more = {"details": {"per_class": counts}, "paper": "finegrained", "row": row, "seed": seed}
            make.put(tmp_path / "own", make.record(metrics, **more))
    others = shutil.copytree(RESULTS, tmp_path / "others")
    for ours in (others / "finegrained").glob("cifar10*-matched*"):
        shutil.rmtree(ours)
    found = collect(runs=tmp_path / "own", results=others)
    page = findings(compare(list(load_tables().values()), found), found)
    section = page.partition("## Fine-grained labels")[2].partition("\n## ")[0]
    assert len(section.split("\n* ")[1:]) == (6 if everything else 4)
    section = section.replace("\n  ", " ")
    accuracies = (
        "at 66.20 %)? **Yes**: +2.00 [+2.00, +2.00] points (5 seeds).",
        "beyond training longer? **Yes**: +1.00 [",
        "of the same sizes? **Yes**: +0.50 [",
        "trained on as long? **Yes**: +3.00 [",
        "beat pseudo-labels? **Yes**: +2.00 [",
    )
    clusters = ("random labels? **Yes**: +0.050", "there are 3 clusters, in trees 4;", "any sub-labels: +1.00 [")
    for words in (*accuracies, *clusters):
        assert words in section, words
    assert ("Do both heads at once beat the coarse network? **No, the opposite**: -1.00 [" in section) == everything
    assert ("0.410, those of k-means by" in section) == everything and "do as well" not in section


def test_each_link_leads_to_its_row():
    docs = REPO_ROOT / "docs"
    links = re.findall(r"\]\((papers/\w+\.md)#(row-[\w-]+)\)", (docs / "findings.md").read_text(encoding="utf-8"))
    assert len(links) > 15
    for page, anchor in links:
        assert f'<a id="{anchor}"></a>' in (docs / page).read_text(encoding="utf-8"), (page, anchor)


def test_no_number_with_decimals_is_typed():

    text = re.sub(r"\{[{%].*?[}%]\}", "", TEMPLATE.read_text(encoding="utf-8"))
    assert set(re.findall(r"\d+\.\d+", text)) <= {"0.1"}


def test_the_plan_names_the_seeds_of_each_main_claim_and_the_recorded_minutes():
    minutes, *others = planned("class2str", {"mnist5k-cpu": 20, "no-such-row": 5})
    assert re.fullmatch(r"about [1-9]\d* min on two cores for 1 of 2 rows \(recorded, float32\)", minutes)
    assert others and all("seeds" in line for line in others)


def test_recorded_minutes_are_of_one_thread_on_any_machine(make, tmp_path):
    machine = {"cpu": "c", "cores": 16, "system": "Linux"}
    make.put(tmp_path, make.record({}, row="mnist-matched", seconds=1200.0, machine=machine))
    found = collect(runs=tmp_path, results=tmp_path / "none")
    (line,) = recorded_minutes("class2str", {"mnist-matched": 5}, found)
    assert line.startswith("about 50 min on two cores for 1 of 1 rows")


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("supported (few seeds)", "supported on 3 seeds"),
        ("supported (few seeds) (unadjusted)", "supported on 3 seeds (unadjusted)"),
        ("inconclusive: 5 seeds would decide (few seeds)", "inconclusive on 3 seeds, 5 would decide"),
        ("supported", "supported"),
        ("not testable: baseline 50.00, needs 88", "not testable: baseline 50.00, needs 88"),
    ],
)
def test_a_verdict_inside_a_sentence_names_its_seeds_if_they_are_few(committed, text, said):
    answers = Answers(*committed)
    key, result = next((k, r) for k, r in answers.results.items() if r.effect is not None and r.effect.seeds == 3)
    answers.results[key] = dataclasses.replace(result, verdict=Verdict(text.split(":")[0], text, 2))
    assert answers.verdict(*key) == said


def test_an_answer_says_that_it_holds_without_the_adjustment_only(committed):
    answers = Answers(*committed)
    key, result = next((k, r) for k, r in answers.results.items() if r.effect is not None and r.effect.seeds == 3)
    for word, answer in (("supported", "Yes"), ("smaller than the paper's", "Smaller than the paper's")):
        verdict = Verdict(word, f"{word} (few seeds) (unadjusted)", 4)
        answers.results[key] = dataclasses.replace(result, verdict=verdict)
        assert answers.judged(*key) == f"**{answer} (unadjusted)**: {answers.effect(*key)} (3 seeds)"
    answers.main = {"class2str": [answers.results[key]]}
    assert answers.summary(key[0], "with - without", "", "", "").endswith(": smaller than the paper's (unadjusted)")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("no effect", "no effect larger than 0.5"),
        ("control undecided", "supported, control undecided"),
        ("contradicted", "contradicted"),
    ],
)
def test_the_readme_says_no_more_than_the_verdict(committed, word, text):
    answers = Answers(*committed)
    key, result = next((k, r) for k, r in answers.results.items() if r.effect is not None and r.effect.seeds == 3)
    verdict = Verdict(word, f"{text} (few seeds)", 4)
    answers.main = {"class2str": [dataclasses.replace(result, verdict=verdict)]}
    assert answers.summary(key[0], "with - without", "", "", "").endswith(f", 3 seeds: {text}")


def test_a_control_that_was_not_run_is_not_said_to_do_as_well(committed):
    answers = Answers(*committed)
    key, result = next((k, r) for k, r in answers.results.items() if r.effect is not None and r.effect.seeds == 5)
    verdict = Verdict("control undecided", "supported, control undecided (not run)", 4)
    answers.results[key] = dataclasses.replace(result, verdict=verdict)
    assert answers.judged(*key).startswith("**Yes, but its control was not run**: ")


def test_precisions_and_copies_of_data_are_named(committed):
    answers, page = Answers(*committed), findings(*committed)
    one, other = (answers.precision("triplet", f"dogs-s144-matched-try-{name}") for name in ("euclidean", "soft"))
    assert (one, other) == ("bfloat16", "float32") and f"(in {one}, the others in {other})" in page
    head = page.partition("## ")[0]
    assert all(words in head for words in ("`q90` use a JPEG copy", "144 pixels", "in bfloat16", "one in twenty"))


def test_signs_shared_strings_and_class_names_are_read_from_the_records(committed):
    answers, rows = Answers(*committed), committed[1].rows
    by_seed = answers.results["FGL-C3", "cifar100-q90-matched"].effect.by_seed  # of both signs
    assert answers.below("FGL-C3", "cifar100-q90-matched") == f"{sum(d < 0 for d in by_seed)} of {len(by_seed)} seeds"
    one, other = (
        {run.seed: strings for run in rows["class2str", row].runs if (strings := run.detail("strings")) is not None}
        for row in ("mnist5k-cpu", "mnist5k-cpu-stop")
    )
    total = sum(one[seed][c] == other[seed][c] for seed in range(5) for c in range(10))
    assert answers.kept_strings("mnist5k-cpu", "mnist5k-cpu-stop") == f"{total / 5:.1f} of 10 classes"
    run = rows["subclass", "cifar10-matched"].runs[0]
    assert answers.classes("subclass", "cifar10-matched", "neglected") == " and ".join(run.detail("neglected_names"))


def test_a_degenerate_run_answers_no_question(committed):
    assert "**Not judged, embedding collapsed**: +" in Answers(*committed).judged("STL-C10", "cifar10-cpu")
