"""Images that a camera stored rotated: reads the orientation (EXIF tag 274) and turns the pixels accordingly.

Every decoder of the repository uses this, Pillow's and TensorFlow's alike; neither turns an image by itself.
"""

from __future__ import annotations

import io
import threading
import warnings

import numpy as np
from PIL import ExifTags, Image

# How the EXIF block of a JPEG and of a PNG starts; a file without one is not opened a second time.
MARKS = (b"Exif\0\0", b"eXIf")
_FILTERS = threading.Lock()  # warning filters belong to the process, and TensorFlow decodes in several threads


def orientation(raw: bytes) -> int:
    """EXIF orientation of an image file.

    Args:
      raw: bytes of a JPEG or PNG file.

    Returns:
      1 to 8; 1 (upright) if the file has no orientation, or none that can be read.
    """
    if not any(mark in raw for mark in MARKS):
        return 1
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of in a damaged EXIF block
            with Image.open(io.BytesIO(raw), formats=("JPEG", "PNG")) as picture:
                value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged block raises nearly anything, and the pixels may be whole
        return 1
    return int(value) if value in range(1, 9) else 1


def turn(pixels: np.ndarray, number: int) -> np.ndarray:
    """Turns an image with that orientation upright.

    Args:
      pixels: any type, [H, W] or [H, W, C].
      number: EXIF orientation, 1 to 8.

    Returns:
      The same values; [W, H] or [W, H, C] for orientations 5 to 8.
    """
    if number >= 5:
        pixels = pixels.swapaxes(0, 1)
    if number in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if number in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def upright(picture: Image.Image, raw: bytes) -> Image.Image:
    """Returns a decoded image, turned as its file says.

    Args:
      picture: mode L or RGB.
      raw: bytes of the file that it was decoded from.
    """
    number = orientation(raw)
    return picture if number == 1 else Image.fromarray(turn(np.asarray(picture), number))
