"""A page of the viewer, read back: its settings and arrays."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def read_page(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and arrays of a page."""
    text = path.read_text(encoding="utf-8")
    meta = json.loads(re.search(r'<script type="application/json" id="meta">(.*?)</script>', text, re.S)[1])
    blobs = dict(re.findall(r'<script type="text/plain" id="d-([\w.-]+)">([^<]*)</script>', text))
    return meta, {key: unpacked(blobs[key], info) for key, info in meta["arrays"].items()}


def unpacked(text: str, info: Mapping[str, Any]) -> np.ndarray:
    """One array of a page."""
    raw = base64.b64decode(text)
    raw = gzip.decompress(raw) if info["gzip"] else raw
    return np.frombuffer(raw, np.dtype("<" + info["dtype"])).reshape(info["shape"])
