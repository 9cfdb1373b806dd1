"""What the viewer shows, as arrays: confusion triplets, byte maps, correlations, samples and their thumbnails."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from hierarchy_cnn_torch.method import seriation, trees
from hierarchy_cnn_torch.method.trees import Node
from hierarchy_cnn_torch.viewer import pack
from reproduction.compare.export import write_text
from reproduction.runtime.run_folder import UserError, shown, write_bytes

PER_SPRITE, ACROSS = 1000, 40
# label, class responses float [K, M] or None, class correlation float [K, K] or None, rho or NaN
Epoch = tuple[str, np.ndarray | None, np.ndarray | None, float]
NO_THUMB = 0xFFFFFFFF
EXEMPLARS = 5


@dataclass
class Layer:
    """One layer of the response and correlation tabs.

    Attributes:
      name: shown.
      epochs: oldest first.
      top: image ids of each channel's strongest images, int [25, M], or None.
      simg: sample selectivity for each group of each level, coarsest level first, float [groups, M] in [0, 1], or None.
      null: 95 % point of the best channel by chance for each of these groups, or None.
    """

    name: str
    epochs: list[Epoch]
    top: np.ndarray | None = None
    simg: np.ndarray | None = None
    null: list[float] | None = None


@dataclass
class Samples:
    """The images behind the cells: errors, and a few right ones of each class.

    Attributes:
      ids: int [N], positions in the split.
      actual: int [N], true classes.
      predicted: int [N], classes.
      confidence: probability of the predicted class, float [N] in [0, 1].
      s1: p(predicted) - p(actual) for errors, else 0.
      images: uint8 [N, H, W, C] of the same rows, or None.
      note: which images and which network, for people.
    """

    ids: np.ndarray
    actual: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    s1: np.ndarray
    images: np.ndarray | None = None
    note: str = ""


@dataclass
class View:
    """Everything one page shows."""

    title: str
    names: Sequence[str]
    tree: Node
    distance: np.ndarray
    runs: list[tuple[str, list[tuple[str, np.ndarray]]]]
    layers: list[Layer] = field(default_factory=list)
    samples: Samples | None = None
    about: str = ""


def smallest(values: np.ndarray) -> np.ndarray:
    """Stores whole numbers, not negative, in the smallest type of the page that holds them; exact up to 2^53.

    Args:
      values: int, of any shape.
    """
    most = int(values.max()) if values.size else 0
    whole = (kind for kind in (np.uint8, np.uint16, np.uint32) if most <= np.iinfo(kind).max)
    return values.astype(next(whole, np.float64))


def scaled_bytes(responses: np.ndarray) -> np.ndarray:
    """Turns class responses into bytes, each channel from its least to its largest class; uint8 [K, M].

    Args:
      responses: float [K, M].
    """
    low, high = np.nanmin(responses, 0), np.nanmax(responses, 0)
    span = np.where(high > low, high - low, 1)
    return np.nan_to_num(np.rint((responses - low) / span * 255), nan=0.0).astype(np.uint8)


def triangle_bytes(values: np.ndarray) -> np.ndarray:
    """Turns the upper triangle of correlations into bytes, -1..1 on 0..255; uint8 [K (K - 1) / 2].

    Args:
      values: float [K, K].
    """
    upper = values[np.triu_indices(len(values), 1)]
    return np.rint((np.clip(upper, -1, 1) + 1) * 127.5).astype(np.uint8)


def colour_tables() -> dict[str, np.ndarray]:
    """Returns look-up tables of 256 colours, uint8 [256, 3], safe for colour-blind readers.

    They are cividis, a blue-orange map whose ends differ by sign glyphs, and a light table for tree nodes.
    """
    import matplotlib

    grid = np.linspace(0, 1, 256)
    rgb = lambda name, x: np.rint(matplotlib.colormaps[name](x)[:, :3] * 255).astype(np.uint8)  # noqa: E731
    return {
        "sequential": rgb("cividis_r", grid),
        "diverging": rgb("PuOr_r", grid),
        "nodes": rgb("Greys_r", 0.35 + 0.6 * grid),
    }


def sprite_of(images: np.ndarray, tile: int) -> bytes:
    """Returns up to 1,000 images as one JPEG sheet, 40 across.

    Args:
      images: uint8 [N, H, W, C].
      tile: side of an image on the sheet, pixels.
    """
    from PIL import Image

    rows = math.ceil(len(images) / ACROSS)
    sheet = Image.new("RGB", (ACROSS * tile, rows * tile), "white")
    for at, image in enumerate(images):
        data = image[:, :, 0] if image.shape[2] == 1 else image
        picture = Image.fromarray(np.ascontiguousarray(data)).convert("RGB")
        if picture.size != (tile, tile):
            picture = picture.resize((tile, tile))
        sheet.paste(picture, (at % ACROSS * tile, at // ACROSS * tile))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=88)
    return out.getvalue()


def errors_and_exemplars(labels: np.ndarray, probabilities: np.ndarray, keep: Sequence[int] = ()) -> np.ndarray:
    """Chooses the rows to list as samples: all errors, the surest right images of each class, and those asked for.

    Args:
      labels: int [N].
      probabilities: float [N, K].
      keep: further rows.
    Returns:
      int64, ascending.
    """
    predicted = probabilities.argmax(1)
    rows = set(np.flatnonzero(predicted != labels).tolist()) | {int(i) for i in keep}
    sure = probabilities[np.arange(len(labels)), predicted]
    for label in np.unique(labels):
        right = np.flatnonzero((labels == label) & (predicted == label))
        rows |= set(right[np.argsort(-sure[right], kind="stable")[:EXEMPLARS]].tolist())
    return np.array(sorted(rows), np.int64)


def samples_of(
    labels: np.ndarray, probabilities: np.ndarray, images: np.ndarray | None, keep: Sequence[int] = (), note: str = ""
) -> Samples:
    """Returns the sample table of some predictions.

    Args:
      labels: int [N].
      probabilities: float [N, K].
      images: uint8 [N, H, W, C] or None.
      keep: further images to list (a channel's strongest).
      note: which images and which network, for people.
    """
    rows = errors_and_exemplars(labels, probabilities, keep)
    predicted = probabilities.argmax(1)
    sure = probabilities[np.arange(len(labels)), predicted]
    s1 = sure - probabilities[np.arange(len(labels)), labels]
    part = None if images is None else images[rows]
    return Samples(rows, labels[rows], predicted[rows], sure[rows], s1[rows], part, note)


def build(view: View) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns settings and arrays of a page (without thumbnails).

    Args:
      view: what to show.
    Raises:
      UserError: shapes of the parts do not fit each other.
    """
    size = len(view.names)
    tree = trees.check_tree(view.tree, view.names)
    levels = trees.levels_of(tree)
    arrays: dict[str, np.ndarray] = {"order": smallest(seriation.tree_order(tree, view.distance))}
    level_infos = []
    for at, level in enumerate(levels):
        arrays[f"level_{at}"] = smallest(level)
        titles = [_group_title(tree, np.flatnonzero(level == g)) for g in range(int(level.max()) + 1)]
        level_infos.append({"name": f"level {at + 1}", "groups": titles})
    for name, table in colour_tables().items():
        arrays[f"lut_{name}"] = table
    runs = []
    for r, (run_name, epochs) in enumerate(view.runs):
        entries = []
        for e, (label, counts) in enumerate(epochs):
            if counts.shape != (size, size):
                raise UserError(f"viewer: {run_name}, {label}: confusion of {counts.shape[0]} classes, {size} names")
            row, col = np.nonzero(counts)
            key = f"c{r}_{e}"
            arrays |= {f"{key}_row": smallest(row), f"{key}_col": smallest(col), f"{key}_n": smallest(counts[row, col])}
            entries.append({"label": label, "key": key})
        runs.append({"name": run_name, "epochs": entries})
    groups = sum(len(info["groups"]) for info in level_infos)
    layers = [_layer(at, layer, size, groups, arrays) for at, layer in enumerate(view.layers)]
    meta = {
        "format": "blocks-view-1",
        "title": view.title,
        "about": view.about,
        "names": list(view.names),
        "tree": trees.to_json(tree),
        "levels": level_infos,
        "runs": runs,
        "layers": layers,
        "samples": None,
    }
    if view.samples is not None:
        s = view.samples
        arrays |= {"sample_id": s.ids.astype(np.uint32), "sample_actual": s.actual.astype(np.uint16)}
        arrays |= {"sample_predicted": s.predicted.astype(np.uint16), "sample_confidence": _byte(s.confidence)}
        arrays |= {"sample_s1": _byte(s.s1)}
        meta["samples"] = {"note": s.note, "sprites": [], "per": PER_SPRITE, "across": ACROSS, "tile": 32}
    return meta, arrays


def _byte(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _group_title(tree: Node, classes: np.ndarray) -> str:
    wanted = tuple(classes.tolist())
    return next(
        (node.name for _, node in tree.walk() if node.classes == wanted), trees.auto_name([str(c) for c in wanted])
    )


def _layer(at: int, layer: Layer, size: int, groups: int, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    channels = next((r.shape[1] for _, r, _, _ in layer.epochs if r is not None), 0)
    epochs: list[dict[str, Any]] = []
    for e, (label, responses, correlation, rho) in enumerate(layer.epochs):
        entry: dict[str, Any] = {"label": label, "key": None, "corr": None, "rho": None if math.isnan(rho) else rho}
        if responses is not None:
            if responses.shape != (size, channels):
                raise UserError(
                    f"viewer: responses of {layer.name} are {responses.shape}, expected ({size}, {channels})"
                )
            entry["key"] = f"r{at}_{e}"
            arrays[f"r{at}_{e}"] = scaled_bytes(responses)
        if correlation is not None:
            entry["corr"] = f"k{at}_{e}"
            arrays[f"k{at}_{e}"] = triangle_bytes(correlation)
        epochs.append(entry)
    info = {"name": layer.name, "channels": channels, "epochs": epochs, "top": None, "simg": None, "null": None}
    if layer.top is not None:
        info["top"] = f"t{at}"
        arrays[f"t{at}"] = layer.top.astype(np.uint32)
    if layer.simg is not None and len(layer.simg) == len(layer.null or ()) == groups:  # else of another tree
        info |= {"simg": f"s{at}", "null": layer.null}
        arrays[f"s{at}"] = _byte(layer.simg)
    return info


def write(view: View, out: Path, thumbs: str | None = None) -> Mapping[str, Any]:
    """Writes the page.

    Args:
      view: what to show.
      out: the HTML file.
      thumbs: embed, folder (sheets next to the page) or none; None chooses embed up to 25 MB in all, else folder.
    Returns:
      The page's settings.
    Raises:
      UserError: thumbnails without images; too large; or it cannot be written.
    """
    meta, arrays = build(view)
    images = None if view.samples is None else view.samples.images
    if thumbs in ("embed", "folder") and images is None:
        raise UserError(f"--thumbs {thumbs}: no images were given; give --images, or --thumbs none")
    sprites: dict[str, bytes] = {}
    if view.samples is not None:
        count = len(view.samples.ids)
        if images is None or thumbs == "none":
            arrays["sample_thumb"] = np.full(count, NO_THUMB, np.uint32)
        else:
            tile = min(64, max(images.shape[1:3]))
            meta["samples"]["tile"] = tile
            arrays["sample_thumb"] = np.arange(count, dtype=np.uint32)
            parts = [images[start : start + PER_SPRITE] for start in range(0, count, PER_SPRITE)]
            sprites = {f"sprite_{at}": sprite_of(part, tile) for at, part in enumerate(parts)}
            text_size = 4 / 3 * sum(map(len, sprites.values())) + sum(len(pack.packed(a)[1]) for a in arrays.values())
            if thumbs == "folder" or (thumbs is None and text_size > pack.FOLDER_FROM_BYTES):
                folder = out.parent / f"{out.stem}_thumbs"
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    for key, data in sprites.items():
                        write_bytes(folder / f"{key}.jpg", data)
                except OSError as error:
                    raise UserError(f"{shown(folder)}: cannot be written ({error.strerror or error})") from None
                meta["samples"]["sprites"] = [
                    {"file": quote(os.fsencode(f"{folder.name}/{key}.jpg"))} for key in sprites
                ]
                sprites = {}
            else:
                meta["samples"]["sprites"] = [{"key": key} for key in sprites]
    write_text(out, pack.page(meta, arrays, sprites))
    return meta
