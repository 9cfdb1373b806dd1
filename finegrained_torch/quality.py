"""The report's part on clusters: the table of section 7.4, the controls over seeds, and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from finegrained_torch import tables
from finegrained_torch.controls import TITLES as CONTROL_TITLES
from finegrained_torch.gather import SeedFolder
from finegrained_torch.scores import NAMES

_CLOSE = 0.03  # ARI: closer than this is "about as good"
_BETWEEN = ("noise_certain", "noise_uncertain", "weak_certain", "weak_uncertain")


def section(here: SeedFolder, runs: Sequence[SeedFolder]) -> str:
    """Section 7.4: clusters of this seed by class, and all clusterings over seeds."""
    if "cluster" not in here.records:
        return "## Clusters\n\nnot run" if any("cluster" in run.records for run in runs) else ""
    details, parts = here.cluster_details(), ["## Clusters"]
    names = details.get("class_names") or []
    found = {entry["class"]: entry for entry in details.get("scores", {}).get("found", {}).get("per_class", [])}
    head = ["class", "certain", "clusters", "true", "silhouette", "noise", "hard/soft differ", *map(_short, NAMES)]
    rows = []
    for entry in details["per_class"]:
        score = found.get(entry["class"], {})
        rows.append([
            names[entry["class"]] if names else entry["class"], f"{entry['count']:,}", entry["clusters"],
            score.get("subclasses", "-"), _number(entry["silhouette"]), _percent(entry["noise_share"]),
            _percent(entry["disagreement"]), *(_number(score.get(name), 3) for name in NAMES),
        ])  # fmt: skip
    parts.append(f"Seed {here.seed}, certain training images, in visiting order:\n\n" + tables.markdown(head, rows))
    said = [f"* class {e['class']}: {text}" for e in details["per_class"] for text in e["warnings"]]
    if said:
        parts.append("\n".join(said))
    scored = [run.cluster_details().get("scores", {}) for run in runs]
    kinds = [name for name in CONTROL_TITLES if any(name in scores for scores in scored)]
    if not kinds:
        return "\n\n".join(
            [*parts, "No subclasses are known here, so nothing says whether the clusters mean anything."]
        )
    parts += [
        "### Against the known subclasses, over seeds",
        _controls_table(runs, kinds),
        _verdict(runs, kinds, names),
    ]
    between = {name: [v for run in runs if (v := run.metric("cluster", name)) is not None] for name in _BETWEEN}
    if between["noise_certain"]:
        text = {name: tables.spread(values, 100, 1) for name, values in between.items()}
        parts.append(
            f"With all images clustered, HDBSCAN calls {text['noise_uncertain']} % of the uncertain and "
            f"{text['noise_certain']} % of the certain ones noise; in the lowest tenth of membership of their class "
            f"are {text['weak_uncertain']} % of the uncertain and {text['weak_certain']} % of the certain ones."
        )
    return "\n\n".join(parts)


def _short(name: str) -> str:
    return name.upper() if len(name) == 3 else name


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _over(runs: Sequence[SeedFolder], get: Callable[[dict[str, Any]], float | None]) -> list[float]:
    found = [get(run.cluster_details().get("scores", {})) for run in runs]
    return [value for value in found if value is not None]


def _controls_table(runs: Sequence[SeedFolder], kinds: Sequence[str]) -> str:
    head = ["clustering", *(f"{_short(name)}" for name in NAMES), "ARI, weighted", "ARI, global*"]
    rows = []
    for kind in kinds:

        def value(scores: dict[str, Any], of: str, name: str, kind: str = kind) -> float | None:
            return scores.get(kind, {}).get(of, {}).get(name)

        columns = [("class_mean", name) for name in NAMES] + [("weighted", "ari"), ("global", "ari")]
        cells = [tables.spread(_over(runs, lambda s, c=c: value(s, *c)), 1, 3) for c in columns]  # type: ignore[misc]
        rows.append([CONTROL_TITLES[kind], *cells])
    return (
        "Mean of the coarse classes unless it says otherwise; all on the certain images.\n\n"
        + tables.markdown(head, rows)
        + "\n\n\\* all classes at once: inflated, because the coarse label is given."
    )


def _class_ari(runs: Sequence[SeedFolder], kind: str, label: int) -> float | None:
    def of(scores: dict[str, Any]) -> float | None:
        entries = scores.get(kind, {}).get("per_class", [])
        return next((entry["ari"] for entry in entries if entry["class"] == label), None)

    values = _over(runs, of)
    return sum(values) / len(values) if values else None


def _verdict(runs: Sequence[SeedFolder], kinds: Sequence[str], names: Sequence[str]) -> str:
    """In words, class by class: is the method ahead of each control, about as good, or behind?"""
    lines = []
    for entry in runs[0].cluster_details()["per_class"] if "cluster" in runs[0].records else []:
        label = entry["class"]
        ours = _class_ari(runs, "found", label)
        others = {kind: _class_ari(runs, kind, label) for kind in kinds if kind != "found"}
        known = {kind: ari for kind, ari in others.items() if ari is not None}
        if ours is None or not known:
            continue
        groups: dict[str, list[str]] = {"better": [], "about as good": [], "worse": []}
        for kind, ari in known.items():
            word = "about as good" if abs(ari - ours) <= _CLOSE else "better" if ari > ours else "worse"
            groups[word].append(f"{CONTROL_TITLES[kind]} ({ari:.2f})")
        said = "; ".join(f"{word}: {', '.join(group)}" for word, group in groups.items() if group)
        lines.append(f"* {names[label] if names else f'class {label}'}: the method's ARI is {ours:.2f}; {said}.")
    if not lines:
        return ""
    return f"Mean over seeds, by class; within {_CLOSE} of the method counts as about as good:\n\n" + "\n".join(lines)
