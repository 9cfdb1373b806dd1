"""Tables T1 to T4 as CSV and Markdown, over the seeds of a row."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hierarchy_cnn_torch.flags import ARM_NAMES
from hierarchy_cnn_torch.method.statistics import paired_interval
from reproduction.runtime.run_folder import write_bytes

Seeds = Sequence[Mapping[str, Any]]
# The paper's ImageNet errors as recalled: nobody here could open its table. Never compared with ours.
RECALLED = [("AlexNet, standard", 42.6, 19.6), ("AlexNet, hierarchy-aware", 34.33, 13.02)]


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """Mean and sd over seeds."""
    values = [v * scale for v in values if v is not None and math.isfinite(v)]
    if not values:
        return "–"
    sd = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{sd}"


def interval(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """Paired mean difference with its 95 % interval over seeds."""
    mean, low, high = paired_interval([v * scale for v in values])
    if math.isnan(low):
        return f"{mean:+.{digits}f} (one seed)"
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def t1(seeds: Seeds) -> list[list[str]]:
    """Per level: groups, group accuracy, share of errors inside, expected, lift, p, mean LCA height. A0."""
    rows = [["groups", "group accuracy %", "errors inside W %", "expected %", "lift", "largest p", "mean LCA height"]]
    for at in range(len(seeds[0]["levels"])):

        def of(key: str, at: int = at) -> list[Any]:
            return [s["T1"]["A0"]["levels"][at][key] for s in seeds if at < len(s["T1"]["A0"]["levels"])]

        row = ["/".join(dict.fromkeys(str(g) for g in of("groups"))), spread(of("accuracy"), 100)]
        row += [spread(of("within"), 100), spread(of("expected"), 100), spread(of("lift")), f"{max(of('p')):.4f}"]
        rows.append([*row, spread([s["T1"]["A0"]["height"] for s in seeds])])
    return rows


def t2(seeds: Seeds) -> list[list[str]]:
    """Epoch to 90 % of the rise, per layer and level, with the random-group control."""
    first = seeds[0]["e90"]
    questions = [q for q in next(iter(first.values())) if "/" not in q]
    rows = [
        [
            "layer",
            *[f"{q} groups" if q != "classes" else q for q in questions],
            *[f"{q} random" for q in questions if q != "classes"],
        ]
    ]
    for tap in first:
        row = [tap]
        for q in questions:
            row.append(spread([s["e90"][tap].get(q) for s in seeds]))
        for q in questions:
            if q != "classes":
                control = [v for s in seeds for name, v in s["e90"][tap].items() if name.startswith(f"{q}/")]
                row.append(spread(control))
        rows.append(row)
    return rows


def t3(seeds: Seeds) -> list[list[str]]:
    """Arms: errors, epochs to A0's final error, parameters, seconds per epoch, paired difference to A0."""
    arms = seeds[0]["arms"]
    metric: Callable[[str, str], list[Any]] = lambda arm, name: [s["curves"][arm]["metrics"].get(name) for s in seeds]  # noqa: E731
    groups = [
        str(s)
        for s in sorted(
            {
                int(name.split("/")[1])
                for s in seeds
                for name in s["curves"]["A0"]["metrics"]
                if name.startswith("group_accuracy/")
            }
        )
    ]
    top5 = all(v is not None for v in metric("A0", "test_top5_accuracy"))
    head = ["arm", "top-1 error %", *(["top-5 error %"] if top5 else []), *[f"{g}-group error %" for g in groups],
            "epochs to A0's error", "parameters", "s/epoch", "accuracy - A0, points", "A1 - arm, points"]  # fmt: skip
    rows = [head]
    for arm in arms:
        error = lambda name, arm=arm: [None if v is None else 1 - v for v in metric(arm, name)]  # noqa: E731
        accuracy = {a: metric(a, "test_accuracy") for a in arms}
        row = [f"{arm} {ARM_NAMES[arm]}", spread(error("test_accuracy"), 100)]
        row += [spread(error("test_top5_accuracy"), 100)] if top5 else []
        row += [spread(error(f"group_accuracy/{g}"), 100) for g in groups]
        row += [spread([s["metrics"][f"epochs_to_A0/{arm}"] for s in seeds]), spread(metric(arm, "parameters"), 1, 0)]
        row += [spread(metric(arm, "seconds_per_epoch"), 1, 1)]
        row.append(
            "–" if arm == "A0" else interval([a - b for a, b in zip(accuracy[arm], accuracy["A0"], strict=True)], 100)
        )
        with_a1 = "A1" in arms and arm != "A1"
        row.append(
            interval([a - b for a, b in zip(accuracy["A1"], accuracy[arm], strict=True)], 100) if with_a1 else "–"
        )
        rows.append(row)
    return rows


def t4(seeds: Seeds) -> list[list[str]]:
    """Planted label noise: AUROC and precision, near and far, and the rank of the split class."""
    rows = [["planted", "AUROC (s2)", "precision (s2)", "AUROC (s1)"]]
    held = [s["quality"] for s in seeds if "quality" in s]
    for name in ("near", "far", "all"):
        rows.append([name, spread([q["retrieval"][f"auroc_{name}"] for q in held], 1, 3),
                     spread([q["retrieval"][f"precision_{name}"] for q in held], 1, 3),
                     spread([q["retrieval_s1"][f"auroc_{name}"] for q in held], 1, 3)])  # fmt: skip
    ranks = [q["retrieval"]["redundant_rank"] for q in held if "redundant_rank" in q["retrieval"]]
    if ranks:
        rows.append(["one class split in two: rank of the pair by s4", spread(ranks, 1, 1), "", ""])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])


def recalled_block() -> str:
    """The paper's own errors, marked."""
    rows = [["model (paper, ImageNet, recalled, not re-run)", "top-1 error %", "top-5 error %"]]
    rows += [[name, f"{a:g} (recalled)", f"{b:g} (recalled)"] for name, a, b in RECALLED]
    return markdown(rows)


TABLES = (  # name, what of a seed's measurements it needs, title, builder
    ("T1", "T1", "errors inside groups, per level", t1),
    ("T2", "e90", "epochs to 90 % per layer and level", t2),
    ("T3", "curves", "arms", t3),
    ("T4", "quality", "planted label noise", t4),
)


def artefacts_of(seed: Mapping[str, Any]) -> list[dict[str, str]]:
    """The tables that one seed's measurements allow, for the record."""
    return [
        {"kind": "text", "path": f"{name}.md", "title": f"{name}: {title}"}
        for name, needs, title, _ in TABLES
        if needs in seed
    ]


def write_all(seeds: Seeds, origin: str, out: Path) -> None:
    """Writes the tables that the measurements allow.

    Args:
      seeds: analysis.json of each seed.
      origin: line under each table: seeds, commit, data checksum, preset, epochs.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, needs, title, build in TABLES:
        if not all(needs in seed for seed in seeds[:1]):
            continue
        rows = build([seed for seed in seeds if needs in seed])
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        write_bytes(out / f"{name}.csv", text.getvalue().encode())
        body = f"# {name}: {title}\n\n{markdown(rows)}\n\n{origin}\n"
        if name == "T3":
            body += f"\n{recalled_block()}\n"
        write_bytes(out / f"{name}.md", body.encode())
