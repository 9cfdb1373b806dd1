"""Which test images a network classified correctly, stored in the record with its accuracy.

Seeds share the test images, so an interval over seeds alone hides the noise of the test set. With one bit an image
`reproduction.compare` adds it (docs/results.md, "Interval of an effect").
"""

from __future__ import annotations

import base64
import binascii
import hashlib

import numpy as np
import pydantic


class Outcomes(pydantic.BaseModel, extra="forbid"):
    """One bit for each test image, in the order of the test split: 1 if it was classified correctly.

    Attributes:
      count: N, images.
      order: first 16 hexadecimal digits of the SHA-256 of the labels in test order; only equal orders are paired.
      right: ceil(N / 8) bytes in base64, the first image in the highest bit of the first byte.
    """

    count: int = pydantic.Field(gt=0)
    order: str
    right: str

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Outcomes:
        try:
            size = len(base64.b64decode(self.right, validate=True))
        except binascii.Error as error:
            raise ValueError(f"right: not base64 ({error})") from None
        if size != (self.count + 7) // 8:
            raise ValueError(f"right: {size} bytes, {self.count} images take {(self.count + 7) // 8}")
        return self

    def bits(self) -> np.ndarray:
        """Returns bool [N], whether each image was classified correctly."""
        packed = np.frombuffer(base64.b64decode(self.right), np.uint8)
        return np.unpackbits(packed, count=self.count).astype(bool)


def outcomes_of(right: np.ndarray, labels: np.ndarray) -> Outcomes:
    """Packs which images a network classified correctly, for the record; every training script uses this function.

    Args:
      right: bool [N], whether each test image was classified correctly, in test order.
      labels: int [N], the classes of these images; they identify the order.
    Raises:
      ValueError: other shapes than two equal [N], or N = 0.
    """
    right, labels = np.asarray(right), np.asarray(labels)
    if right.ndim != 1 or right.shape != labels.shape or not len(right):
        raise ValueError(f"outcomes: {right.shape} outcomes for {labels.shape} labels, need two of the same [N], N > 0")
    return Outcomes(
        count=len(right),
        order=hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()[:16],
        right=base64.b64encode(np.packbits(right.astype(bool)).tobytes()).decode(),
    )
