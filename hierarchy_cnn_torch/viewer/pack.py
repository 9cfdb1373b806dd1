"""Arrays and settings into one HTML file."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reproduction.runtime.run_folder import UserError

HERE = Path(__file__).resolve().parent
SCRIPTS = ("data", "state", "draw", "icicle", "layers", "samples", "interact", "main")
LARGEST_BYTES = 60_000_000
FOLDER_FROM_BYTES = 25_000_000
COMPRESS_FROM_BYTES = 512


def packed(values: np.ndarray) -> tuple[dict[str, Any], str]:
    """Turns an array into text: {dtype, shape, gzip} and base64 of its little-endian bytes, compressed if that pays.

    Args:
      values: of any shape.
    """
    values = np.ascontiguousarray(values)
    raw = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    small = gzip.compress(raw, 6, mtime=0) if len(raw) >= COMPRESS_FROM_BYTES else raw
    use = len(small) < 0.9 * len(raw)
    kind = values.dtype.str[1:]
    return {"dtype": kind, "shape": list(values.shape), "gzip": use}, base64.b64encode(small if use else raw).decode()


def page(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], sprites: Mapping[str, bytes]) -> str:
    """Returns the whole HTML page.

    Args:
      meta: JSON values, without `arrays`.
      arrays: key -> array of uint8/16/32, int32 or float32/64.
      sprites: key -> JPEG bytes to embed.
    Raises:
      UserError: larger than 60 MB; says what to leave out. Or a setting is no finite number.
    """
    infos, blobs = {}, []
    for key, values in arrays.items():
        infos[key], text = packed(values)
        blobs.append(f'<script type="text/plain" id="d-{key}">{text}</script>')
    for key, data in sprites.items():
        blobs.append(f'<script type="text/plain" id="d-{key}">{base64.b64encode(data).decode()}</script>')
    try:
        settings = json.dumps({**meta, "arrays": infos}, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise UserError("viewer: a statistic of the run is not a finite number; its analysis is damaged") from None
    parts = {
        "TITLE": html.escape(str(meta["title"])),
        "STYLE": (HERE / "style.css").read_text(encoding="utf-8"),
        "META": settings.replace("<", "\\u003c"),
        "BLOBS": "\n".join(blobs),
        "SCRIPT": "\n".join((HERE / "js" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
    }
    text = re.sub(
        r"@([A-Z]+)@", lambda match: parts[match.group(1)], (HERE / "template.html").read_text(encoding="utf-8")
    )
    if len(text) > LARGEST_BYTES:
        raise UserError(
            f"viewer: the file would be {len(text) / 1e6:.0f} MB, at most {LARGEST_BYTES / 1e6:.0f} MB are allowed; "
            "use --thumbs folder or none, fewer layers or fewer epochs"
        )
    return text
