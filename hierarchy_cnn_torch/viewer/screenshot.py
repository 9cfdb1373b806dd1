"""Takes the picture of a viewer page for README and docs, with a Chromium that needs no window.

python -m hierarchy_cnn_torch.viewer.screenshot runs/hierarchy/cifar100-q90-matched/seed0/analysis/view.html
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reproduction.runtime.flags import Parser, flag, run_main
from reproduction.runtime.run_folder import REPO_ROOT, UserError, shown, write_bytes

PICTURE = REPO_ROOT / "docs" / "images" / "viewer.png"
WINDOW, WIDTH, MOST_BYTES = (1440, 1000), 1200, 300_000
SECONDS = 120
META = re.compile(r'<script type="application/json" id="meta">(.*?)</script>', re.DOTALL)


def names_of(node: dict[str, Any]) -> Iterator[str]:
    """Yields the names of a tree's nodes in the order in which the page numbers them."""
    yield node["name"]
    for child in node["children"]:
        yield from names_of(child)


def address_of(page: Path, group: str = "") -> str:
    """Returns the page's address, with the state that selects a group.

    Args:
      page: written by the viewer's export.
      group: name of a node of its tree, or "" for the page as it opens.
    Raises:
      UserError: the page cannot be read or is none of the viewer's, or its tree has no such node.
    """
    try:
        settings = META.search(page.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown(page)}: {getattr(error, 'strerror', None) or error}") from None
    if settings is None:
        raise UserError(f"{shown(page)}: not a page of the viewer")
    names = list(names_of(json.loads(settings.group(1))["tree"]))
    if group and group not in names:
        raise UserError(f"--group {group}: not in the tree of {shown(page)}, which has {', '.join(names[:12])} ...")
    state = quote(json.dumps({"nodes": [names.index(group)]})) if group else ""
    return f"{page.resolve().as_uri()}#{state}"


def photograph(address: str) -> bytes:
    """Returns a PNG of a page in a window of 1440 x 1000.

    Raises:
      UserError: no Chromium, or it took no picture.
    """
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        raise UserError("no Chromium: apt-get install chromium, or set CHROMIUM to one")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        size = ",".join(map(str, WINDOW))
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}"]
        words += ["--virtual-time-budget=20000", f"--user-data-dir={folder}/profile", f"--screenshot={picture}"]
        try:
            done = subprocess.run([chromium, *words, address], capture_output=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"{chromium}: {error}") from None
        if not picture.exists():
            raise UserError(f"{chromium}: took no picture (exit code {done.returncode})")
        return picture.read_bytes()


def reduced(picture: bytes) -> bytes:
    """Returns the picture 1200 pixels wide, with as many colours as keep it under 300 kB."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        size = WIDTH, round(image.height * WIDTH / image.width)
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    for colours in (256, 128, 64, 32, 16):
        out = io.BytesIO()
        small.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() < MOST_BYTES:
            break
    return out.getvalue()


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = Parser("python -m hierarchy_cnn_torch.viewer.screenshot", "Takes the picture of a viewer page.")
    parser.add_argument("page", type=Path, metavar="PAGE", help="view.html of an analysis or of the viewer's export")
    flag(parser.additions, "--group", default="", help="name of a group to select: its images are in the picture then")
    flag(parser.additions, "--out", type=Path, default=PICTURE, help="default: docs/images/viewer.png")
    run_main(lambda: take(parser.parse_args(argv)))


def take(args: Any) -> None:
    """Writes the picture and prints its size."""
    data = reduced(photograph(address_of(args.page, args.group)))
    write_bytes(args.out, data)
    print(f"{shown(args.out)}: {len(data) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
