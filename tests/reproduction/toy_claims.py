"""A claim, its paper and records of its rows, for the tests of pairing and of verdicts."""

from __future__ import annotations

import numpy as np

from reproduction.compare import claims as c
from reproduction.compare.claim_language import Claim, Gate
from reproduction.compare.collect import collect
from reproduction.compare.tables import paper_of
from reproduction.runtime.outcomes import outcomes_of

LABELS = np.arange(1000) % 10


def claim(**changes) -> Claim:
    base = {
        "id": "X-C1", "text": "t", "source": "s", "group": "main", "method": {"metric": "acc"},
        "baseline": {"metric": "acc", "variant": "plain"}, "margin": 0.5,
    }  # fmt: skip
    return Claim.model_validate(base | changes)


def paper_with(*claims: Claim, health=(), least=50.0):
    gate = Gate(rows=("*",), metric="acc", variant="plain", least=least)
    return paper_of("class2str").model_copy(update={"claim": claims, "gate": (gate,), "health": tuple(health)})


def put(make, folder, row, accuracies, outcomes=None, labels=LABELS, **metrics):
    for seed, accuracy in enumerate(accuracies):
        values = {"acc": make.metric(accuracy)}
        values |= {name: make.metric(numbers[seed]) for name, numbers in metrics.items()}
        bits = {} if outcomes is None else {"acc": outcomes_of(outcomes[seed], labels).model_dump()}
        make.put(folder, make.record(values, row=row, seed=seed, outcomes=bits))


def check(folder, paper):
    found = collect(runs=folder, results=folder / "none")
    return {(result.claim.id, result.row): result for result in c.check_claims(paper, found)}, found


def right_of(rng, share: float) -> np.ndarray:
    return rng.random(1000) < share
