"""Tables T1 to T4 as CSV and Markdown, over the seeds of a row."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hierarchy_cnn_torch.flags import ARM_NAMES
from hierarchy_cnn_torch.method.intervals import paired_interval
from reproduction.compare.tabular import markdown_table, spread
from reproduction.runtime.run_folder import write_bytes

Seeds = Sequence[Mapping[str, Any]]
SHARES = ("accuracy", "within", "expected")
# The paper's ImageNet errors as recalled: nobody here could open its table. Never compared with ours.
RECALLED = [("AlexNet, standard", 42.6, 19.6), ("AlexNet, hierarchy-aware", 34.33, 13.02)]


def interval(values: Sequence[float]) -> str:
    """Paired mean difference in points, of fractions, with its 95 % interval over seeds."""
    mean, low, high = paired_interval([100 * value for value in values])
    if math.isnan(low):
        return f"{mean:+.2f} (one seed)"
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def t1(seeds: Seeds) -> list[list[str]]:
    """Per level: groups, group accuracy, share of errors inside, expected, times chance, p, mean LCA height. A0.

    Then, of the errors inside the level above, the share inside this one; and the share of images whose group is right
    that are right one level down. One seed alone has the interval of its share of errors inside, over images.
    """
    rows = [
        [
            "groups",
            "group accuracy %",
            "errors inside W %",
            "expected %",
            "times chance",
            "largest p",
            "mean LCA height",
            "inside W, of those inside the level above %",
            "right one level down, of those right here %",
        ]
    ]
    measured = [s["T1"]["A0"] for s in seeds]
    for at in range(len(seeds[0]["levels"])):
        level = [of_seed["levels"][at] for of_seed in measured if at < len(of_seed["levels"])]
        accuracy, within, expected = (spread([row[name] for row in level], 100) for name in SHARES)
        ends = finite(level[0].get("within_95", ())) if len(level) == 1 else []
        if ends:
            within += " [{:.2f}, {:.2f}]".format(*(100 * end for end in ends))
        p = finite([row["p"] for row in level])  # none where no image is misclassified
        below = [[s[name][at] for s in measured if at < len(s.get(name, ()))] for name in ("nested", "conditional")]
        rows.append(
            [
                "/".join(dict.fromkeys(str(row["groups"]) for row in level)),
                *(accuracy, within, expected),
                spread([row["lift"] for row in level]),
                f"{max(p):.4f}" if p else "-",
                spread([of_seed["height"] for of_seed in measured]),
                *(spread(shares, 100) for shares in below),
            ]
        )
    return rows


def finite(values: Sequence[float | None]) -> list[float]:
    """Returns the numbers that exist."""
    return [value for value in values if value is not None and math.isfinite(value)]


def epochs_risen(values: Sequence[float | None]) -> str:
    """Returns the epochs of the probes that rise as `spread` does, and how many of all do not rise."""
    risen = finite(values)
    lacking = f"no rise in {len(values) - len(risen)} of {len(values)}" if len(risen) < len(values) else ""
    return "; ".join(filter(None, (spread(risen) if risen else "", lacking)))


def t2(seeds: Seeds) -> list[list[str]]:
    """Epoch to 90 % of the rise, per layer and level, with the random-group control; a probe need not rise.

    And the k-means purity of the coarsest groups at the last epoch, which needs no labels.
    """
    first = seeds[0]["e90"]
    questions = [q for q in next(iter(first.values())) if "/" not in q]
    levels = [q for q in questions if q != "classes"]
    heads = ["classes" if q == "classes" else f"{q} groups" for q in questions]
    rows = [["layer", *heads, *(f"{q} random" for q in levels)]]
    purity = "purity" in seeds[0]
    rows[0] += ["k-means purity of the coarsest groups %"] if purity else []
    for tap in first:
        controls = [[v for s in seeds for name, v in s["e90"][tap].items() if name.startswith(f"{q}/")] for q in levels]
        levels_of_tap = [[s["e90"][tap][q] for s in seeds if q in s["e90"][tap]] for q in questions]
        rows.append([tap, *map(epochs_risen, levels_of_tap), *map(epochs_risen, controls)])
        rows[-1] += [spread([s["purity"][tap] for s in seeds if "purity" in s], 100)] if purity else []
    return rows


def t3(seeds: Seeds) -> list[list[str]]:
    """Variants: errors, epochs, parameters, seconds per epoch, paired difference to A0.

    The epochs of a variant and of A0 until the lower of their two final accuracies.
    """
    arms = seeds[0]["arms"]

    def metric(arm: str, name: str) -> list[Any]:
        return [s["curves"].get(arm, {"metrics": {}})["metrics"].get(name) for s in seeds]

    def error(values: Sequence[float | None]) -> str:
        return spread([1 - value for value in values if value is not None], 100)

    def of_groups(arm: str, groups: int) -> list[float]:
        """Accuracy per seed; of T1's tree, since records count the groups of their variant's own tree."""
        levels = [level for s in seeds for level in s.get("T1", {}).get(arm, {"levels": []})["levels"]]
        return [level["accuracy"] for level in levels if level["groups"] == groups]

    def difference(arm: str, other: str) -> str:
        pairs = zip(metric(arm, "test_accuracy"), metric(other, "test_accuracy"), strict=True)
        return interval([a - b for a, b in pairs if a is not None and b is not None])

    sizes = sorted({level["groups"] for s in seeds if "T1" in s for level in s["T1"]["A0"]["levels"]})
    errors = {"top-1 error %": "test_accuracy"}
    if all(v is not None for v in metric("A0", "test_top5_accuracy")):
        errors["top-5 error %"] = "test_top5_accuracy"
    epochs = ("epochs to the lower final accuracy, its and A0's", "A0's epochs to the same")
    measured = (*epochs, "parameters", "s/epoch", "accuracy - A0, points", "A1 - variant, points")
    rows = [["variant", *errors, *(f"{size}-group error %" for size in sizes), *measured]]
    for arm in arms:
        rows.append(
            [
                f"{arm} {ARM_NAMES[arm]}",
                *(error(metric(arm, name)) for name in errors.values()),
                *(error(of_groups(arm, size)) for size in sizes),
                *(spread([s["metrics"].get(f"{of}epochs_to_lower_end/{arm}") for s in seeds]) for of in ("", "A0_")),
                spread(metric(arm, "parameters"), 1, 0),
                spread(metric(arm, "seconds_per_epoch"), 1, 1),
                "-" if arm == "A0" else difference(arm, "A0"),
                difference("A1", arm) if "A1" in arms and arm != "A1" else "-",
            ]
        )
    return rows


def t4(seeds: Seeds) -> list[list[str]]:
    """Planted label noise: AUROC and precision, near and far, and the rank of the split class."""
    rows = [["planted", "AUROC (s2)", "precision (s2)", "AUROC (s1)"]]
    studies = [s["quality"] for s in seeds if "quality" in s]
    for name in ("near", "far", "all"):
        rows.append(
            [
                name,
                spread([q["retrieval"][f"auroc_{name}"] for q in studies], 1, 3),
                spread([q["retrieval"][f"precision_{name}"] for q in studies], 1, 3),
                spread([q["retrieval_s1"][f"auroc_{name}"] for q in studies], 1, 3),
            ]
        )
    ranks = [q["retrieval"]["redundant_rank"] for q in studies if "redundant_rank" in q["retrieval"]]
    if ranks:
        rows.append(["one class split in two: rank of the pair by s4", spread(ranks, 1, 1), "", ""])
    return rows


def t5(seeds: Seeds) -> list[list[str]]:
    """Classes of A0, mean over seeds: popularity, recall, precision, share of mixed-in and mixed-out images."""
    tables = [s["T1"]["A0"]["classes"] for s in seeds if "classes" in s["T1"]["A0"]]
    scales = {"popularity": 1, "recall": 100, "precision": 100, "in_mix": 100, "out_mix": 100}
    rows = [["class", "predicted / actual", "recall %", "precision %", "in-mix %", "out-mix %", "high in its group"]]
    for at, label in enumerate(seeds[0]["names"] if tables else ()):
        cells = [spread([table[name][at] for table in tables], scale) for name, scale in scales.items()]
        high = [name for name in ("in_mix", "out_mix") if all(table[f"high_{name}"][at] for table in tables)]
        rows.append([label, *cells, ", ".join(high).replace("_", "-")])
    return rows


TABLES: tuple[tuple[str, str, str, Callable[[Seeds], list[list[str]]]], ...] = (
    # name, what of a seed's measurements it needs, title, builder
    ("T1", "T1", "errors inside groups, per level", t1),
    ("T2", "e90", "epochs to 90 % per layer and level", t2),
    ("T3", "curves", "variants", t3),
    ("T4", "quality", "planted label noise", t4),
    ("T5", "T1", "classes: over- and under-predicted, mixed", t5),
)


def artefacts_of(seed: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the tables that one seed's measurements allow, for the record."""
    return [
        {"kind": "text", "path": f"{name}.md", "title": f"{name}: {title}"}
        for name, needs, title, _ in TABLES
        if needs in seed
    ]


def write_all(seeds: Seeds, origin: str, out: Path) -> None:
    """Writes the tables that the measurements allow, as CSV and Markdown.

    Args:
      seeds: analysis.json of each seed.
      origin: line under each table: seeds, commit, data checksum, preset, epochs.
      out: folder to write to.
    """
    recalled = [[name, f"{a:g} (recalled)", f"{b:g} (recalled)"] for name, a, b in RECALLED]
    block = markdown_table(
        ["model (paper, ImageNet, recalled, not re-run)", "top-1 error %", "top-5 error %"], recalled
    )
    for name, needs, title, build in TABLES:
        if needs not in seeds[0]:
            continue
        head, *body = build([seed for seed in seeds if needs in seed])
        text = io.StringIO()
        csv.writer(text).writerows([head, *body])
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(out / f"{name}.csv", text.getvalue().encode())
        page = f"# {name}: {title}\n\n{markdown_table(head, body)}\n\n{origin}\n"
        write_bytes(out / f"{name}.md", (page + (f"\n{block}\n" if name == "T3" else "")).encode())
