"""The mean ranking of classes by neglection degree over several runs of stage 1: one file of neglected classes for all.

python subclass_torch/ranking.py --runs runs/subclass/cifar10-matched-ranking/seed? --name cifar10-matched-ranking/mean
"""

import itertools
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduction.runtime.flags import (
    Parser,
    add_common,
    finish_parsing,
    flag,
    flags_alone,
    run_main,
    whole,
)
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import (
    UserError,
    finished_with,
    open_run,
    read_json,
    shown,
    write_json,
)

DRAWN = 2000  # experiments with random rankings
UNUSED = ("data_dir", "seed", "device", "eval", "accept_unverified")  # every script has these flags


def make_parser() -> Parser:
    """The parser of this script."""
    p = Parser("ranking.py", "Mean ranking of the classes over runs of stage 1, and how far the runs agree.")
    flag(p.additions, "--runs", nargs="+", required=True, metavar="FOLDER", help="finished runs of --stage identify")
    flag(p.additions, "--classes", type=whole(1), default=2, help="neglected classes (default 2)")
    add_common(p, "subclass")
    for action in p._actions:
        if action.dest in UNUSED:
            action.help = "accepted without effect: only the files of finished runs are read"
    return p


def read_runs(folders: list[str]) -> list[dict[str, Any]]:
    """The neglected classes and the record of each run's stage 1.

    Raises:
      UserError: a run has not finished, or ranks other classes than the first.
    """
    runs: list[dict[str, Any]] = []
    for folder in folders:
        stage = Path(folder) / "stage1"
        files = sorted((stage / "logs").glob("*_neglected.json")) if (stage / "DONE").exists() else []
        if not files:
            raise UserError(f"{shown(stage)}: stage 1 has not finished; run notebook.py with --stage identify")
        runs.append(read_json(files[-1], "args", "degrees", "theta", "class_names"))
        runs[-1]["record"] = read_json(stage / "record.json", "data", "data_verified")
        if runs[-1]["class_names"] != runs[0]["class_names"]:
            raise UserError(f"{shown(stage)}: ranks other classes than {shown(folders[0])}")
    return runs


def mean_ranking(thetas: list[list[float]]) -> tuple[list[list[int]], list[float], list[int]]:
    """Ranks within each run (1: the most neglected), their means, and the classes in the order of these.

    Args:
      thetas: [runs][C]. Ties of a run: the smaller class first; ties of mean ranks: the larger mean theta first.
    """
    from subclass_torch.method.neglect import ranking

    ranks = []
    for theta in thetas:
        place = {label: at for at, label in enumerate(ranking([theta])[1], 1)}
        ranks.append([place[label] for label in range(len(theta))])
    mean = [sum(column) / len(ranks) for column in zip(*ranks, strict=True)]
    total = [sum(column) for column in zip(*thetas, strict=True)]
    return ranks, mean, sorted(range(len(mean)), key=lambda c: (mean[c], -total[c], c))


def correlation(first: list[int], second: list[int]) -> float:
    """Spearman's rank correlation of two rankings without ties."""
    count = len(first)
    squares = sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
    return 1 - 6 * squares / (count * (count * count - 1))


def agreement(ranks: list[list[int]], order: list[int], classes: int) -> tuple[float | None, float]:
    """Mean rank correlation of two runs, and the share of runs whose first classes are those of `order`."""
    pairs = [correlation(a, b) for a, b in itertools.combinations(ranks, 2)]
    same = [{at for at, place in enumerate(row) if place <= classes} == set(order[:classes]) for row in ranks]
    return (sum(pairs) / len(pairs) if pairs else None), sum(same) / len(same)


def stable_from(degrees: list[list[float]], classes: int, compound: bool = False) -> int:
    """The epoch, counted from 1, from which on a run ranks the same classes first as at its end.

    Args:
      degrees: of a run, [E][C].
      classes: how many are ranked first.
      compound: see `neglect.ranking`.
    """
    from subclass_torch.method.neglect import ranking

    chosen = [set(ranking(degrees[:epochs], compound)[1][:classes]) for epochs in range(1, len(degrees) + 1)]
    return 1 + max((epoch for epoch, first in enumerate(chosen, 1) if first != chosen[-1]), default=0)


def by_chance(runs: int, count: int, classes: int) -> dict[str, float]:
    """What random rankings reach: 95 % quantile of each number of `agreement` over DRAWN drawn experiments."""
    draw, drawn = random.Random(0), []
    for _ in range(DRAWN if runs > 1 else 0):
        ranks = [draw.sample(range(1, count + 1), count) for _ in range(runs)]
        order = mean_ranking([[-float(place) for place in row] for row in ranks])[2]
        drawn.append(agreement(ranks, order, classes))
    names = ("rank_correlation", "same_classes")
    return {
        name: sorted(values)[int(0.95 * DRAWN)] for name, values in zip(names, zip(*drawn, strict=True), strict=False)
    }


def rank(config: dict[str, Any], argv: list[str]) -> None:
    """Writes neglected.json and the record, unless the run folder is finished.

    Args:
      config: the parsed flags.
      argv: the command line, for the record.
    """
    from subclass_torch import plots

    folder, classes = Path(config["runs_dir"]) / config["name"], config["classes"]
    flags = {"runs": [shown(path) for path in config["runs"]], "classes": classes}
    done = not config["overwrite"] and finished_with(folder, flags)
    ranked = [] if done else read_runs(config["runs"])  # before the run folder exists, which belongs to these flags
    if ranked and classes > len(ranked[0]["class_names"]):
        raise UserError(f"--classes {classes}: the runs rank {len(ranked[0]['class_names'])} classes")
    with open_run(folder, flags, overwrite=config["overwrite"]) as run:
        if run.is_finished():
            return
        thetas = [item["theta"] for item in ranked]
        ranks, mean, order = mean_ranking(thetas)
        names, chosen = ranked[0]["class_names"], order[:classes]
        content = {
            "ranking": order,
            "theta": [sum(column) / len(thetas) for column in zip(*thetas, strict=True)],
            "mean_rank": mean,
            "ranks": ranks,
            "degrees": [item["degrees"] for item in ranked],
            "class_names": names,
        }
        write_json(folder / "neglected.json", content)
        alike, same = agreement(ranks, order, classes)
        ends = [stable_from(item["degrees"], classes, item["args"]["neglect_total"] == "compound") for item in ranked]
        stable = sum(ends) / len(ends)
        metrics = {"rank_correlation": alike, "same_classes": same, "stable_from_epoch": stable}
        chance = by_chance(len(ranked), len(mean), classes)
        words = ", ".join(f"{names[c]} (mean rank {mean[c]:.1f})" for c in chosen)
        print(f"neglected in {len(ranked)} runs: {words}; {same:.0%} of the runs choose the same", flush=True)
        run.finish(
            make_record(
                paper="subclass",
                row=config["row"],
                stage="ranking",
                seed=0,
                argv=argv,
                config=flags,
                seconds=0.0,
                metrics={name: {"last": value} for name, value in metrics.items()},
                data={key: value for item in ranked for key, value in item["record"]["data"].items()},
                data_verified=all(item["record"]["data_verified"] for item in ranked),
                deviations=[],
                versions=versions_of("numpy"),
                deterministic=True,
                curve=None,
                artefacts=[
                    {"kind": "image", "path": "ranking.png", "title": "Neglection degrees, one point a run"},
                    {"kind": "json", "path": "neglected.json", "title": "Mean ranking and the runs' degrees"},
                ],
                details={
                    "neglected": chosen,
                    "neglected_names": [names[c] for c in chosen],
                    "chance_95": chance,
                    **content,
                },
            ),
            lambda: plots.ranking(folder / "ranking.png", thetas, order, chosen, names),
        )


def main() -> None:
    """Parses first: --help and --print-config need no framework."""
    rank(finish_parsing(make_parser(), flags_alone), sys.argv)


if __name__ == "__main__":
    run_main(main)
