"""Plots F1 to F9 as PNG files, from the measurements of one or several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.flags import ARM_NAMES
from hierarchy_cnn_torch.method import seriation, similarity, trees
from hierarchy_cnn_torch.method.responses import class_correlation
from hierarchy_cnn_torch.method.selectivity import column_order, random_best
from hierarchy_cnn_torch.report.measure import npz
from reproduction.runtime.arrays import confusion_counts
from reproduction.runtime.figures import new_figure, save_figure

# Okabe-Ito colours and a line style each: readable without colour vision
STYLES = {"A0": ("#000000", "-"), "A1": ("#D55E00", "-"), "A2": ("#0072B2", "--"), "A3": ("#009E73", ":"),
          "A4": ("#CC79A7", "-."), "A5": ("#E69F00", (0, (5, 1)))}  # fmt: skip
Seeds = Sequence[Mapping[str, Any]]


def save(figure: Any, path: Path) -> None:
    """Writes a figure without its empty margins."""
    save_figure(figure, path, bbox_inches="tight")


def boxes(axes: Any, level: np.ndarray, order: np.ndarray) -> None:
    """Outlines of neighbouring classes of one group."""
    from matplotlib.patches import Rectangle

    start = 0
    for at in range(1, len(order) + 1):
        if at == len(order) or level[order[at]] != level[order[start]]:
            size = at - start
            axes.add_patch(Rectangle((start - 0.5, start - 0.5), size, size, fill=False, ec="#D55E00", lw=1.2))
            start = at


def orders_of(seed: Mapping[str, Any], folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Levels and unified order of a seed."""
    levels = [np.array(level) for level in seed["levels"]]
    distance = similarity.score_distance(npz(folder / "A0" / "predictions.npz")["val_logits"])
    return levels, seriation.tree_order(trees.tree_of(levels, seed["names"]), distance)


def f1_confusion(seed: Mapping[str, Any], folder: Path, path: Path) -> None:
    """Confusion matrix in class-id order and in tree order, log colour, no diagonal."""
    saved = npz(folder / "A0" / "predictions.npz")
    counts = confusion_counts(saved["test_labels"], saved["test_logits"].argmax(1), len(seed["names"]))
    np.fill_diagonal(counts, 0)
    levels, order = orders_of(seed, folder)
    figure, axes = new_figure(11, 5.4, 1, 2)
    for ax, this, title in zip(axes[0], (np.arange(len(order)), order), ("class-id order", "tree order"), strict=True):
        ax.imshow(np.log1p(counts[np.ix_(this, this)]), cmap="cividis_r", interpolation="nearest")
        ax.set(title=f"{seed['dataset']}, A0, errors, {title}", xlabel="predicted", ylabel="actual")
        if title == "tree order":
            for level in levels:
                boxes(ax, level, order)
        if len(order) <= 30:
            ax.set_yticks(range(len(order)), [seed["names"][c] for c in this])
            ax.set_xticks(range(len(order)), [seed["names"][c] for c in this], rotation=60, ha="right")
    save(figure, path)


def f2_correlation(seed: Mapping[str, Any], folder: Path, path: Path) -> None:
    """Class correlation per layer at the last kept epoch, one order."""
    arrays = npz(folder / "analysis" / "profiles.npz")
    levels, order = orders_of(seed, folder)
    last = seed["kept_epochs"][-1]
    names = list(seed["mantel"])
    figure, axes = new_figure(2.2 * len(names), 2.8, 1, len(names), layout=None)
    for ax, name in zip(axes[0], names, strict=True):
        values = class_correlation(arrays[f"{name}__{last}"].astype(float))
        ax.imshow(values[np.ix_(order, order)], cmap="PuOr_r", vmin=-1, vmax=1, interpolation="nearest")
        boxes(ax, levels[-1], order)
        rho = seed["mantel"][name][str(last)]["rho"]
        ax.set_title(f"{name}\nrho {rho:.2f}", fontsize=9)
        ax.set(xticks=[], yticks=[])
    save(figure, path)


def f3_probes(seeds: Seeds, path: Path) -> None:
    """Chance-corrected probe accuracy: layer by epoch per level, mean over seeds; and of random groups."""
    taps = list(seeds[0]["probes"])
    questions = list(seeds[0]["probes"][taps[0]])
    epochs = seeds[0]["kept_epochs"]
    figure, axes = new_figure(2.9 * len(questions), 2.9, 1, len(questions), layout=None, sharey=True)
    for ax, question in zip(axes[0], questions, strict=True):
        grid = np.mean([[[s["probes"][tap][question][str(e)] for e in epochs] for tap in taps] for s in seeds], 0)
        ax.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        for i, row in enumerate(grid):
            for j, value in enumerate(row):
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="w" if value < 0.6 else "k", fontsize=7)
        name, _, control = question.partition("/")
        label = "classes" if name == "classes" else f"{name} groups"
        ax.set_title(label + (" (random control)" if control else ""), fontsize=9)
        ax.set(xticks=range(len(epochs)), xticklabels=epochs, yticks=range(len(taps)), yticklabels=taps, xlabel="epoch")
    figure.suptitle(f"probe accuracy of A0, chance-corrected, {len(seeds)} seed(s)", y=1.04)
    save(figure, path)


def f4_responses(seed: Mapping[str, Any], folder: Path, path: Path) -> None:
    """Response map of conv5, columns by relevance to the first group of the coarsest level."""
    arrays = npz(folder / "analysis" / "profiles.npz")
    levels, order = orders_of(seed, folder)
    values = arrays[f"conv5__{seed['kept_epochs'][-1]}"].astype(float)
    values = values - np.nanmin(values, axis=0)
    values = np.nan_to_num(values / np.maximum(np.nanmax(values, axis=0), 1e-12))  # NaN: a class without test images
    members = levels[0] == levels[0][order[0]]
    columns, share = column_order(values, members)
    figure, axes = new_figure(9, 4, layout=None)
    ax = axes[0, 0]
    ax.imshow(values[np.ix_(order, columns)], cmap="cividis_r", aspect="auto", interpolation="nearest")
    edge = int(members.sum()) - 0.5
    ax.axhline(edge, color="#D55E00")
    by_chance = random_best(len(order), int(members.sum()), len(columns))
    scale = f"best {share.max():.2f}, by chance {by_chance:.2f}"
    title = f"conv5 responses; columns by class-rank S for the top group ({scale})"
    ax.set(title=title, xlabel="channel")
    if len(order) <= 30:
        ax.set_yticks(range(len(order)), [seed["names"][c] for c in order])
    save(figure, path)


def f5_selectivity(seeds: Seeds, path: Path) -> None:
    """Best channel's sample selectivity by layer and level with the 95 % point of its null, trained and untrained."""
    layers = list(seeds[0]["selectivity"])
    count = len(seeds[0]["selectivity"][layers[0]])
    figure, axes = new_figure(4 * count, 3.2, 1, count, layout=None, sharey=True)
    for at, ax in enumerate(axes[0]):
        rows = {
            key: np.array([[s["selectivity"][name][at][key] for name in layers] for s in seeds])
            for key in ("best", "null_mean", "null_95", "untrained", "untrained_95")
            if all(key in s["selectivity"][name][at] for name in layers for s in seeds)  # older runs lack the last two
        }
        x = np.arange(len(layers))
        ax.fill_between(
            x, rows["null_mean"].mean(0), rows["null_95"].mean(0), color="0.8", label="other groups, mean to 95 %"
        )
        sd = rows["best"].std(0, ddof=1) if len(seeds) > 1 else None
        label = "best channel" if sd is None else f"best channel, mean ± sd over {len(seeds)} seeds"
        ax.errorbar(x, rows["best"].mean(0), sd, marker="o", color="#D55E00", label=label)
        if "untrained" in rows:
            ax.plot(x, rows["untrained"].mean(0), color="#0072B2", ls="--", label="best channel, untrained")
            ax.plot(x, rows["untrained_95"].mean(0), color="#0072B2", ls=":", label="other groups, untrained, 95 %")
        ax.set_xticks(x, layers, rotation=45)
        ax.set(title=f"{seeds[0]['selectivity'][layers[0]][at]['level_groups']} groups", ylim=(0, 1.02))
    axes[0, 0].set_ylabel("S_img, mean over groups")
    axes[0, 0].legend(fontsize=7)
    save(figure, path)


def show_sheet(ax: Any, images: np.ndarray, across: int) -> None:
    """Draws images [N, H, W, C] as one sheet with white gaps, in grey if they have one channel; nothing if N is 0."""
    ax.axis("off")
    if not len(images):
        return
    framed = np.pad(images, ((0, -len(images) % across), (0, 1), (0, 1), (0, 0)), constant_values=255)
    _, h, w, c = framed.shape
    pixels = framed.reshape(-1, across, h, w, c).swapaxes(1, 2).reshape(-1, across * w, c)
    ax.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)


def f6_top_images(seed: Mapping[str, Any], folder: Path, test_images: np.ndarray, path: Path) -> None:
    """The strongest images of the 8 channels of each convolution that exceed chance most, which we do not name."""
    arrays = npz(folder / "analysis" / "profiles.npz")
    layers = [name for name in seed["selectivity"] if name.startswith("conv")]
    figure, axes = new_figure(2.6 * len(layers), 3.2, 1, len(layers), layout=None)
    for ax, name in zip(axes[0], layers, strict=True):
        by_chance = np.concatenate([row["groups_95"] for row in seed["selectivity"][name]])
        best = np.argsort(-(arrays[f"group_simg__{name}"] - by_chance[:, None]).max(0), kind="stable")[:8]
        ids = arrays[f"top__{name}"][:9, best].T.ravel()
        show_sheet(ax, test_images[ids], 9)
        ax.set_title(f"{name}: a row per channel", fontsize=8)
    save(figure, path)


def f7_gaps(seeds: Seeds, path: Path) -> None:
    """Train minus test accuracy of all classes and per group, flat against aware."""
    arms = list(seeds[0]["gap"])

    def gaps_of(seed: Mapping[str, Any], arm: str) -> dict[str | None, list[float]]:
        """By group, of all classes under None; in older runs that is the group "all"."""
        return ({None: seed["gap_overall"][arm]} if "gap_overall" in seed else {}) | seed["gap"][arm]

    gaps = [{arm: gaps_of(seed, arm) for arm in arms} for seed in seeds]
    names = [name for name in gaps[0][arms[0]] if all(name in gap[arm] for gap in gaps for arm in arms)]
    labels = ["all classes" if name is None else name for name in names]
    figure, axes = new_figure(max(6, 0.5 * len(names) + 3), 3.6, layout=None)
    ax = axes[0, 0]
    for at, arm in enumerate(arms):
        values = np.array([[gap[arm][name] for name in names] for gap in gaps]) * 100
        mean = values.mean(0)
        bars = np.abs(mean[:, 1:] - mean[:, :1]).T
        ax.errorbar(
            np.arange(len(names)) + 0.2 * at - 0.1,
            mean[:, 0],
            bars,
            fmt="os"[at % 2],
            color=STYLES[arm][0],
            capsize=3,
            label=f"{arm} {ARM_NAMES[arm]}",
        )
    ax.axhline(0, color="0.6", lw=0.8)
    ax.set_xticks(range(len(names)), labels, rotation=30, ha="right", fontsize=8)
    title = f"over-fitting per group, bootstrap 95 %, {len(seeds)} seed(s)"
    ax.set(title=title, ylabel="train - test accuracy, points")
    ax.legend(fontsize=8)
    save(figure, path)


def f8_curves(seeds: Seeds, path: Path) -> None:
    """Test error of the variants over epochs (mean and sd over seeds), and gradients of the first epoch."""
    figure, ((errors, *gradients),) = new_figure(15, 3.8, 1, 3, layout=None)
    titles = {"gradients": "b: gradient L2 norm", "ratios": "c: gradient / weight, L2 norms"}
    for arm in seeds[0]["arms"]:
        colour, line = STYLES[arm]
        runs = np.array([s["curves"][arm]["test"] for s in seeds if arm in s.get("curves", {})])
        error = 100 * (1 - runs)
        x = np.arange(1, error.shape[1] + 1)
        errors.plot(x, error.mean(0), color=colour, ls=line, label=f"{arm} {ARM_NAMES[arm]}")
        if len(runs) > 1:
            sd = error.std(0, ddof=1)
            errors.fill_between(x, error.mean(0) - sd, error.mean(0) + sd, color=colour, alpha=0.12)
        for ax, name in zip(gradients, titles, strict=True):
            norms = np.array([s["curves"][arm][f"first_epoch_{name}"] for s in seeds if arm in s.get("curves", {})])
            ax.plot(range(1, norms.shape[1] + 1), norms.mean(0), color=colour, ls=line, marker="o", ms=3)
    errors.set(title=f"a: test error, {len(seeds)} seed(s), mean ± sd", xlabel="epoch", ylabel="test error, %")
    errors.legend(fontsize=7)
    for ax, title in zip(gradients, titles.values(), strict=True):
        ax.set(title=f"{title}, first epoch", xlabel="convolution", xticks=range(1, 6), yscale="log")
    save(figure, path)


def f9_quality(seed: Mapping[str, Any], train_images: np.ndarray, path: Path) -> None:
    """Contact sheets: the most doubtful labels (s2), images between two far classes (s3), near-duplicates."""
    quality = seed["quality"]
    figure, (axes,) = new_figure(12, 4.4, 1, 3, layout=None)
    titles = {"s2": "far, confident errors (s2)", "s3": "two far classes alike (s3)"}
    for ax, (key, title) in zip(axes, titles.items(), strict=False):
        drawn = np.array(quality[f"images_{key}"][:48], int)
        show_sheet(ax, train_images[drawn], 8)
        planted = int(np.count_nonzero(quality[f"planted_{key}"][:48]))
        ax.set_title(f"{title}; {planted} of {len(drawn)} were planted", fontsize=9)
    names = [*seed["names"], "second label"]
    lines = [f"{names[i]} / {names[j]}: {s:.3f}" for i, j, s in quality["pairs"][:6]]
    pairs = np.array([pair[:2] for pair in quality["duplicates"][:12]], int).reshape(-1)
    show_sheet(axes[2], train_images[pairs], 4)
    axes[2].set_title(
        "redundant labels (s4):\n"
        + "\n".join(lines)
        + f"\nnear-duplicates across classes: {quality['duplicate_pairs']}",
        fontsize=8,
    )
    save(figure, path)


FIGURES = (  # name, what of a seed's measurements it needs, title
    ("F1", "T1", "confusion matrix, class-id order and tree order"),
    ("F2", "mantel", "class correlation per layer"),
    ("F3", "probes", "probe accuracy per layer, level and epoch"),
    ("F4", "mantel", "response map"),
    ("F5", "selectivity", "best channel's selectivity with its null, trained and untrained"),
    ("F6", "selectivity", "strongest images per channel"),
    ("F7", "gap", "train-test gap per group"),
    ("F8", "curves", "learning curves and gradient norms of the variants"),
    ("F9", "quality", "doubtful labels"),
)


def artefacts_of(seed: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the plots that one seed's measurements allow, for the record."""
    return [
        {"kind": "image", "path": f"{name}.png", "title": f"{name}: {title}"}
        for name, needs, title in FIGURES
        if needs in seed
    ]


def draw_seed(seed: Mapping[str, Any], folder: Path, data: Data, out: Path) -> None:
    """Draws all plots that one seed's measurements allow.

    Args:
      seed: content of analysis.json.
      folder: holds A0, A1, ... and analysis.
      data: images in their splits.
      out: folder to write to.
    """
    draws: dict[str, Callable[[Path], None]] = {
        "F1": lambda path: f1_confusion(seed, folder, path),
        "F2": lambda path: f2_correlation(seed, folder, path),
        "F3": lambda path: f3_probes([seed], path),
        "F4": lambda path: f4_responses(seed, folder, path),
        "F5": lambda path: f5_selectivity([seed], path),
        "F6": lambda path: f6_top_images(seed, folder, data.test_images, path),
        "F7": lambda path: f7_gaps([seed], path),
        "F8": lambda path: f8_curves([seed], path),
        "F9": lambda path: f9_quality(seed, data.images, path),
    }
    for name, needs, _ in FIGURES:
        if needs in seed:
            draws[name](out / f"{name}.png")
