"""Writes docs/findings.md and the README's line for each paper from templates and the committed records.

The templates, `reproduction/tables/findings.md.j2` and `front.md.j2`, call the methods of `Answers`; a name that no
record knows is an error that names it. No number is typed.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reproduction.compare.charts import gains_in_words, gains_of
from reproduction.compare.claims import UNADJUSTED, Result
from reproduction.compare.collect import Collection
from reproduction.compare.comparison import Comparison
from reproduction.compare.export import interval_text, main_results, number_text
from reproduction.compare.pairs import scale_of
from reproduction.compare.tables import TABLES
from reproduction.compare.verdicts import FEW
from reproduction.runtime.run_folder import REPO_ROOT, UserError

TEMPLATE = TABLES / "findings.md.j2"
FRONT = TABLES / "front.md.j2"
PAGE = REPO_ROOT / "docs" / "findings.md"
# verdicts as answers to a question; the others read well as they are
IN_WORDS = {
    "supported": "yes",
    "contradicted": "no, the opposite",
    "inconclusive": "too uncertain to say",
    "control undecided": "yes, but perhaps only as much as the control",
}


class Answers:
    """What the template may ask; a paper is named by its id, a row by its label, a claim by its id."""

    def __init__(self, comparisons: Sequence[Comparison], records: Collection, template: str = TEMPLATE.name):
        """Looks up what the comparisons found.

        Args:
          comparisons: one a paper.
          records: those behind the comparisons.
          template: name of its file, for messages.
        """
        self.template = template
        self.results = {(r.claim.id, r.row): r for comparison in comparisons for r in comparison.claims}
        self.records = records
        self.main = {one.paper.paper.id: main_results(one) for one in comparisons}

    def _result(self, claim: str, row: str) -> Result:
        if (claim, row) not in self.results:
            raise UserError(f"{self.template}: no record tests {claim!r} on {row!r}")
        return self.results[claim, row]

    def ran(self, paper: str, row: str, seeds: int = 3) -> bool:
        """Whether a row has records of so many seeds."""
        return len(self.records.runs(paper, row)) >= seeds

    def mean(self, paper: str, row: str, metric: str, unit: str = "percent") -> str:
        """Returns a metric of the last epoch over seeds, such as "88.41 %"."""
        numbers = [run.number(metric, "last") for run in self.records.runs(paper, row)]
        known = [number for number in numbers if number is not None]
        if not known:
            raise UserError(f"{self.template}: no record of {paper} {row} has {metric!r}")
        text = number_text(scale_of(unit) * statistics.fmean(known), unit)
        return text + {"percent": " %", "points": " points"}.get(unit, "")

    def effects_by_seed(self, claim: str, row: str, listed: str) -> str:
        """Returns the effect of each seed and, in parentheses, the length of a list in its details: "-2.10 (1)"."""
        result = self._result(claim, row)
        effects = dict(zip(result.seeds, result.effect.by_seed, strict=True)) if result.effect is not None else {}
        counts = {run.seed: len(run.listed(listed)) for run in self.records.runs(result.paper, row)}
        if not effects or not all(counts.get(seed) for seed in effects):
            raise UserError(f"{self.template}: not every seed of {claim!r} on {row!r} has {listed!r}")
        return ", ".join(f"{effect:+.2f} ({counts[seed]})" for seed, effect in effects.items())

    def effect(self, claim: str, row: str) -> str:
        """Returns an effect with its interval, such as "+0.32 [-0.10, +0.74] points"."""
        result = self._result(claim, row)
        return interval_text(result.effect, result.claim.unit)

    def size(self, claim: str, row: str) -> str:
        """Returns an effect alone, such as "+0.32", for lines too short for its interval."""
        return self.effect(claim, row).partition(" ")[0]

    def published(self, claim: str, row: str) -> str:
        """Returns the paper's effect, such as "+0.08"."""
        number = self._result(claim, row).published
        if number is None:
            raise UserError(f"{self.template}: no verified number of the paper for {claim!r} on {row!r}")
        return f"{number:+.2f}"

    def verdict(self, claim: str, row: str) -> str:
        """Returns the verdict in a sentence: "inconclusive on 3 seeds, 5 would decide"."""
        result = self._result(claim, row)
        text = result.verdict.text.removesuffix(UNADJUSTED)
        if not text.endswith(FEW) or result.effect is None:
            return _degenerate(result) or result.verdict.text
        word, _, reason = text.removesuffix(FEW).partition(": ")
        advice = f", {reason.replace(' seeds would', ' would')}" if reason else ""
        return f"{word} on {result.effect.seeds} seed{'s' * (result.effect.seeds != 1)}{advice}{_unadjusted(result)}"

    def judged(self, claim: str, row: str) -> str:
        """Answers a question: "**Too uncertain to say**: +0.32 [-0.10, +0.74] points (3 seeds)"."""
        result = self._result(claim, row)
        text = result.verdict.text.removesuffix(UNADJUSTED).removesuffix(FEW)
        fault = _degenerate(result)
        words = IN_WORDS.get(result.verdict.word, text)
        if "(not run)" in text:
            words = "yes, but its control was not run"
        if result.claim.no_loss and result.verdict.word == "contradicted":
            words = "no, it is worse"  # the question is whether it is as good
        answer = f"not judged, {fault}" if fault else words + _unadjusted(result)
        count = result.effect.seeds if result.effect is not None else 0
        return f"**{answer[0].upper()}{answer[1:]}**: {self.effect(claim, row)} ({count} seed{'s' * (count != 1)})"

    def below(self, claim: str, row: str) -> str:
        """Returns in how many seeds an effect is below zero, such as "5 of 5 seeds"."""
        effect = self._result(claim, row).effect
        by_seed = effect.by_seed if effect is not None else ()
        return f"{sum(value < 0 for value in by_seed)} of {len(by_seed)} seeds"

    def tested(self, claim: str, row: str) -> bool:
        """Whether the records of a row hold what a claim needs."""
        return (claim, row) in self.results

    def answer(self, claim: str, row: str, yes: str, no: str, unclear: str) -> str:
        """Returns the words that a verdict stands for.

        Args:
          claim: its id.
          row: that it was tested on.
          yes: words if it is supported, whatever its size.
          no: words if there is no effect, the control explains it, or it is contradicted.
          unclear: words if the runs do not tell.
        """
        verdict = self._result(claim, row).verdict
        if verdict.word in ("no effect", "contradicted", "explained by control"):
            return no
        return yes if verdict.line in (2, 4) and verdict.word != "control undecided" else unclear

    def detail(self, paper: str, row: str, *path: str) -> float:
        """Returns a number from the details of a row's first record, such as ("chance_95", "same_classes")."""
        runs = self.records.runs(paper, row)
        value: Any = runs[0].detail(*path) if runs else None
        if not isinstance(value, int | float):
            raise UserError(f"{self.template}: no record of {paper} {row} has the detail {'.'.join(path)!r}")
        return value

    def shared_strings(self, row: str) -> str:
        """Returns how many classes have the same string in two seeds, such as "0.7 of 10 classes (by chance 0.6)"."""
        runs = self.records.runs("class2str", row)
        tables = [strings for run in runs if (strings := run.listed("strings"))]  # not of stage 1 alone
        if len(tables) < 2:
            raise UserError(f"{self.template}: {row!r} has no two records with strings")
        same = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in itertools.combinations(tables, 2)]
        classes, bits = len(tables[0]), len(tables[0][0])
        return f"{statistics.fmean(same):.1f} of {classes} classes (by chance {classes / 2**bits:.1f})"

    def kept_strings(self, row: str, other: str) -> str:
        """Returns how many classes have one string in two rows, mean over seeds, such as "9.4 of 10 classes"."""
        same, classes = self._same_strings(row, other)
        return f"{statistics.fmean(same):.1f} of {classes} classes"

    def kept_strings_by_seed(self, row: str, other: str) -> str:
        """Returns the same seed by seed, such as "10, 9, 10"."""
        return ", ".join(map(str, self._same_strings(row, other)[0]))

    def _same_strings(self, row: str, other: str) -> tuple[list[int], int]:
        """How many classes have one string in two rows, by seed, and how many classes there are."""
        one, two = (
            {run.seed: strings for run in self.records.runs("class2str", name) if (strings := run.listed("strings"))}
            for name in (row, other)
        )
        seeds = sorted(one.keys() & two.keys())
        if not seeds:
            raise UserError(f"{self.template}: {row!r} and {other!r} have no seed with strings in common")
        return [sum(map(str.__eq__, one[seed], two[seed])) for seed in seeds], len(one[seeds[0]])

    def classes(self, paper: str, row: str, chosen: str) -> str:
        """Returns the names of the classes that a detail lists by number, such as "cat and dog"."""
        runs = self.records.runs(paper, row)
        names, numbers = (runs[0].listed(key) if runs else [] for key in ("class_names", chosen))
        if not names or not numbers:
            raise UserError(f"{self.template}: no record of {paper} {row} has the detail {chosen!r}")
        return " and ".join(names[number] for number in numbers)

    def chosen_in_common(self, row: str) -> str:
        """Returns how many classes of a mean ranking a run ranks first: "7.3 on average (by chance 1.0)"."""
        run = next((run for run in self.records.runs("subclass", row) if run.listed("ranks")), None)
        if run is None:
            raise UserError(f"{self.template}: no record of subclass {row} has the detail 'ranks'")
        neglected, ranks = run.listed("neglected"), run.listed("ranks")
        common = statistics.fmean(sum(places[c] <= len(neglected) for c in neglected) for places in ranks)
        return f"{common:.1f} on average (by chance {len(neglected) ** 2 / len(ranks[0]):.1f})"

    def gains(self, row: str, variant: str) -> str:
        """Returns how the gains of the classes add up: "sum over the neglected +1.2, over the others -3.4"."""
        by_class = gains_of(self.records, row, variant)
        if not by_class:
            raise UserError(f"{self.template}: {row!r} has no two seeds of every class")
        return gains_in_words(by_class, self.records.runs("subclass", row)[0].listed("neglected"))

    def precision(self, paper: str, row: str) -> str:
        """Returns what the runs of a row computed in, such as "bfloat16" or "bfloat16 and float32"."""
        return " and ".join(sorted({name for run in self.records.runs(paper, row) for name in run.precisions()}))

    def row(self, paper: str, row: str) -> str:
        """Returns a link to the table that holds the row."""
        if not self.records.runs(paper, row):
            raise UserError(f"{self.template}: no record of {paper} {row}")
        return f"[`{row}`](papers/{paper}.md#row-{row})"

    def summary(self, claim: str, words: str, else_claim: str, else_row: str, else_words: str) -> str:
        """Returns what was found about a paper's first claim, or, while it has no two seeds, what a small run showed.

        Args:
          claim: main claim; its row is the one of the first table.
          words: what its effect compares.
          else_claim: claim to quote without such runs.
          else_row: row of the quoted effect.
          else_words: words before the quoted effect.
        """
        for result in (result for results in self.main.values() for result in results if result.claim.id == claim):
            if result.effect is not None and result.effect.seeds > 1:
                text, seeds = interval_text(result.effect, result.claim.unit), result.effect.seeds
                word = _degenerate(result) or result.verdict.word
                if word in ("no effect", "control undecided"):  # each alone says more, or less, than the verdict
                    word = result.verdict.text.removesuffix(UNADJUSTED).removesuffix(FEW)
                return f"{words} {text}, {seeds} seeds: {word}{_unadjusted(result)}"
        return f"{else_words} {self.effect(else_claim, else_row)} ({else_row})"

    def state(self, paper: str) -> str:
        """Returns how many main claims of a paper have a verdict on two seeds or more: "1 of 3 claims judged"."""
        results = self.main[paper]
        judged = sum(
            result.verdict.word not in ("not run", "not testable")
            and result.effect is not None
            and result.effect.seeds > 1
            for result in results
        )
        return f"{judged} of {len(results)} claims judged"


def _degenerate(result: Result) -> str:
    """Returns what makes a run degenerate, such as "embedding collapsed", without the advice; "" if nothing does."""
    reason = result.verdict.text.partition("degenerate: ")[2]
    return reason.partition(" (")[0].partition(";")[0]


def _unadjusted(result: Result) -> str:
    """Returns the mark of a verdict that holds without Holm's adjustment alone, "" for any other."""
    return UNADJUSTED if result.verdict.text.endswith(UNADJUSTED) else ""


def findings(comparisons: Sequence[Comparison], records: Collection, template: Path = TEMPLATE) -> str:
    """Renders the page.

    Raises:
      UserError: the template asks for what no record holds, or is no template.
    """
    from jinja2 import Environment, StrictUndefined, TemplateError

    answers = Answers(comparisons, records, template.name)
    names = {name: getattr(answers, name) for name in vars(Answers) if not name.startswith("_")}
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    try:
        return environment.from_string(template.read_text(encoding="utf-8")).render(**names).rstrip() + "\n"
    except TemplateError as error:
        raise UserError(f"{template.name}: {error}") from None
