"""Plots of a run: test images with their nearest others, and the confusion matrix. Written as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reproduction.runtime.figures import draw_confusions

if TYPE_CHECKING:
    from PIL import Image

QUERIES = 10
TILE, GAP, FRAME = 96, 6, 4  # pixels
GREEN, RED, BLACK = (39, 134, 78), (192, 57, 43), (40, 40, 40)


def queries(labels: np.ndarray) -> np.ndarray:
    """Chooses the images to show: the first of each of QUERIES classes spread evenly over those in `labels`."""
    known, first = np.unique(labels, return_index=True)
    chosen = np.unique(np.linspace(0, len(known) - 1, min(QUERIES, len(known))).round().astype(int))
    return first[chosen]


def neighbours(
    path: Path, files: Sequence[Path], labels: np.ndarray, nearest: np.ndarray, names: Sequence[str]
) -> None:
    """Draws a sheet: on the left a query and its class, to the right its nearest others, green if of its class.

    Args:
      path: PNG file.
      files: image of each item.
      labels: int64 [N].
      nearest: int64 [N, M].
      names: of the classes.
    """
    from PIL import Image, ImageDraw

    rows = queries(labels)
    columns = 1 + nearest.shape[1]
    cell = TILE + 2 * FRAME + GAP
    sheet = Image.new("RGB", (columns * cell + 3 * GAP, len(rows) * (cell + 12)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, query in enumerate(rows):
        for column, item in enumerate((query, *nearest[query])):
            left, top = column * cell + (3 * GAP if column else 0), row * (cell + 12) + 12
            colour = BLACK if column == 0 else GREEN if labels[item] == labels[query] else RED
            box = (left, top, left + TILE + 2 * FRAME - 1, top + TILE + 2 * FRAME - 1)
            draw.rectangle(box, fill=colour)
            tile = _tile(files[item])
            shift = ((TILE - tile.width) // 2 + FRAME, (TILE - tile.height) // 2 + FRAME)
            sheet.paste(tile, (left + shift[0], top + shift[1]))
            draw.text((left, top - 11), names[labels[item]][:16], fill=colour)
    sheet.save(path, "PNG")


def _tile(file: Path) -> Image.Image:
    """Reads an image with its longer side TILE; grey if Pillow refuses what TensorFlow could read."""
    from PIL import Image

    from datasets.orientation import upright

    try:
        raw = Path(file).read_bytes()
        with Image.open(io.BytesIO(raw)) as image:
            tile = upright(image.convert("RGB"), raw)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Image.new("RGB", (TILE, TILE), "lightgrey")
    tile.thumbnail((TILE, TILE))
    if max(tile.size) < TILE:
        scale = TILE / max(tile.size)
        size = (max(1, round(tile.width * scale)), max(1, round(tile.height * scale)))
        tile = tile.resize(size, Image.Resampling.NEAREST)
    return tile


def confusion(path: Path, matrix: np.ndarray, names: Sequence[str], accuracy: float) -> None:
    """Draws the shares of each true class, the diagonal left out so that the errors can be seen.

    Args:
      path: PNG file.
      matrix: int64 [C, C], rows are true classes.
      names: of the classes.
      accuracy: for the title, in [0, 1].
    """
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    draw_confusions(path, [(f"accuracy {100 * accuracy:.2f} %", share)], names, width=5.6, smallest_limit=1e-9)
