"""The plots, images and texts of runs, prepared for one self-contained page."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from markupsafe import Markup

from reproduction.compare.collect import Entry, RowRuns, SeedRun
from reproduction.compare.tables import Picture
from reproduction.page.curves import inside
from reproduction.page.maps import embedding_map
from reproduction.page.templates import part
from reproduction.runtime.figures import png_of
from reproduction.runtime.record import Artefact
from reproduction.runtime.run_folder import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGE_BYTES = 700_000  # larger images are scaled down
IMAGE_WIDTH = 1400
BROAD = 1.8  # width over height
TEXT_CHARACTERS = 20_000
PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of each image that a record lists


@dataclass
class Budget:
    """Bytes of the page that may still be spent on images, curves and texts, and the files that are on it."""

    left: int
    seen: set[Path] = field(default_factory=set)

    def take(self, size: int) -> bool:
        """Spends `size` bytes if there are as many."""
        if size > self.left:
            return False
        self.left -= size
        return True


def shrink(data: bytes) -> bytes | None:
    """Returns a smaller PNG of an image, 128 colours and at most IMAGE_WIDTH wide; None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.thumbnail((IMAGE_WIDTH, 4 * IMAGE_WIDTH))
            out = io.BytesIO()
            image.convert("RGB").quantize(128).save(out, "PNG", optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return out.getvalue()


def width_over_height(data: bytes) -> float:
    """Returns width / height of an image from the head of its bytes; 1 if Pillow cannot read them."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width / max(image.height, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1.0


def chart(name: str, figure: Figure, budget: Budget) -> Markup:
    """Renders a chart over seeds; empty if the page has no room for it."""
    data = png_of(figure)
    if not budget.take(len(data) * 4 // 3 + 300):
        return Markup()
    return part("figure", part("image", name, base64.b64encode(data).decode()), name, True)


def picture(path: Path, title: str, budget: Budget) -> Markup:
    """Renders a figure with the image inside the page, or a line with its path and the reason why it is not shown."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return _line(title, f"{shown(path)}: {error.strerror or error}")
    if not data.startswith(PNG):
        return _line(title, f"{shown(path)}: not a picture that a page can show")
    if len(data) > IMAGE_BYTES:
        smaller = shrink(data)
        if smaller is not None and len(smaller) < len(data):
            data = smaller
    if not budget.take(len(data) * 4 // 3 + 300):
        return _line(title, f"{shown(path)}: left out, the page would grow too large")
    image = part("image", title, base64.b64encode(data).decode())
    return part("figure", image, title, width_over_height(data) > BROAD)


def text_fold(path: Path, title: str, kind: str, budget: Budget) -> Markup:
    """Renders a text or small JSON file, folded away."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return _line(title, f"{shown(path)}: {error.strerror or error}")
    if kind == "json":
        if len(text) > TEXT_CHARACTERS:
            return _line(title, shown(path))
        try:
            text = json.dumps(json.loads(text), indent=1, ensure_ascii=False)
        except (ValueError, RecursionError):
            return _line(title, f"{shown(path)}: not JSON")
    if len(text) > TEXT_CHARACTERS:
        text = text[:TEXT_CHARACTERS] + f"\n... cut here; the whole file is {without_folders(shown(path))}"
    if not budget.take(len(text) * 2):
        return _line(title, f"{shown(path)}: left out, the page would grow too large")
    return part("fold", title, part("text", text))


def without_folders(text: str) -> str:
    """A line without this machine's folders: `~` is the home folder, of another absolute path four names stay."""
    home = os.path.expanduser("~/")
    if home != "/":  # as in some containers
        text = re.sub(rf"(?<![\w.~]){re.escape(home)}", "~/", text)
    return re.sub(r"(?<![\w.~])/(?:[^/\n:]+/)+(?=(?:[^/\n:]+/){3}[^/\n:]+)", ".../", text)


def _line(title: str, text: str) -> Markup:
    return part("line", title, without_folders(text))


def artefact(folder: Path, item: Artefact, page: Path, budget: Budget) -> tuple[Markup, bool]:
    """Renders one artefact of a run.

    Args:
      folder: the run folder.
      item: entry of the record; its path must stay inside the folder.
      page: the file the page is written to, for relative links.
      budget: bytes left.
    Returns:
      (HTML, whether it is an image that belongs into the grid).
    """
    path = inside(folder, item.path)
    if path is None:
        return _line(item.title, f"{item.path}: not in its run folder any more"), False
    if item.kind == "image":
        html = picture(path, item.title, budget)
        return html, html.startswith("<figure")
    if item.kind in ("text", "json"):
        return text_fold(path, item.title, item.kind, budget), False
    if item.kind == "html":
        address = os.path.relpath(path, page.resolve().parent).replace(os.sep, "/")
        return part("link", item.title, quote(os.fsencode(address)), without_folders(shown(path))), False
    return _line(item.title, shown(path)), False


def seed_pictures(run: SeedRun, wanted: Sequence[Picture], budget: Budget) -> list[Markup]:
    """Renders images that are in the folder of the seed but in no record, once on the page.

    The folder is the nearest one above a record that holds such a file: several rows may share it.
    """
    pictures = []
    for item in wanted:
        folders = [folder for entry in run.entries if entry.source == "runs" for folder in entry.path.parents[:5]]
        path = next((path for folder in folders if (path := inside(folder, item.path)) is not None), None)
        if path is not None and path not in budget.seen:
            budget.seen.add(path)
            pictures.append(picture(path, item.title, budget))
    return pictures


def gallery(group: RowRuns, page: Path, budget: Budget, wanted: Sequence[Picture] = ()) -> Markup:
    """Renders the plots and texts of a row's first seed: images in a grid, then the rest; empty if there are none."""
    run = group.runs[0]
    images: list[Markup] = []
    others: list[Markup] = []
    for entry in run.entries:
        if entry.source != "runs":
            continue
        for item in entry.record.artefacts:
            html, is_image = artefact(entry.path.parent, item, page, budget)
            (images if is_image else others).append(html)
            if item.kind == "npz" and (drawn := _map(entry, item, budget)):
                images.append(drawn)
    for html in seed_pictures(run, wanted, budget):
        (images if html.startswith("<figure") else others).append(html)
    return part("gallery", run.seed, images, others) if images or others else Markup()


def _map(entry: Entry, item: Artefact, budget: Budget) -> Markup:
    """Renders the map of an artefact that is an embedding with labels; empty if it is none."""
    path = inside(entry.path.parent, item.path)
    listed = entry.record.details.get("class_names")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    drawn = embedding_map(path, names) if path is not None else None
    return part("figure", *drawn) if drawn is not None and budget.take(len(drawn[0])) else Markup()
