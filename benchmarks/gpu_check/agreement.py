"""How far a device may differ from the CPU in each precision, and whether it does. No framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FLOOR = 0.01  # a layer whose norm is below this share of the whole is held to the whole: it may be rounding alone


class Tolerance(NamedTuple):
    """Largest differences from the CPU in float32 that pass, in a step from the same weights.

    Attributes:
      loss: relative.
      norm: relative, of the gradient and of the update of each layer.
      cosine: smallest cosine between both gradients, and both updates, of the whole network.
    """

    loss: float
    norm: float
    cosine: float


# Ours. bf16 was tried on a CPU, by emulation, for three steps; float32 and TF32 on a GPU have not been tried.
TOLERANCES = {
    "float32": Tolerance(1e-4, 5e-3, 0.9999),
    "tf32": Tolerance(5e-3, 0.05, 0.999),
    "bf16": Tolerance(0.05, 0.25, 0.85),
}


@dataclass
class Agreement:
    """The largest differences seen so far between a device and the CPU.

    Attributes:
      precision: key of TOLERANCES.
      steps: compared.
      loss: largest relative difference.
      norm: likewise, of a layer's gradient or update.
      cosine: smallest.
    """

    precision: str
    steps: int = 0
    loss: float = 0.0
    norm: float = 0.0
    cosine: float = 1.0

    def add(self, losses: tuple[float, float], *changes: tuple[Sequence[np.ndarray], Sequence[np.ndarray]]) -> None:
        """Takes a step; np.maximum and np.minimum keep a NaN.

        Args:
          losses: of the CPU and of the device.
          changes: (arrays of the CPU, arrays of the device), one array a layer; of the gradient and of the update.
        """
        expected, measured = losses
        self.steps += 1
        self.loss = float(np.maximum(self.loss, abs(measured - expected) / max(abs(expected), 1e-12)))
        for reference, other in changes:
            norm, cosine = differences(reference, other)
            self.norm = float(np.maximum(self.norm, norm))
            self.cosine = float(np.minimum(self.cosine, cosine))

    @property
    def is_close(self) -> bool:
        """Whether all differences are within the tolerance; one that is not a number is not."""
        allowed = TOLERANCES[self.precision]
        close = self.loss <= allowed.loss and self.norm <= allowed.norm and self.cosine >= allowed.cosine
        return bool(self.steps > 0 and close)

    def describe(self) -> str:
        """The differences next to what is allowed."""
        allowed = TOLERANCES[self.precision]
        return (
            f"{self.precision}: {'within' if self.is_close else 'OUTSIDE'} tolerance in {self.steps} steps: "
            f"loss {self.loss:.1e} (allowed {allowed.loss:g}), norms {self.norm:.1e} ({allowed.norm:g}), "
            f"cosine {self.cosine:.5f} ({allowed.cosine:g})"
        )


def differences(reference: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> tuple[float, float]:
    """Compares two lists of arrays, one array a layer.

    Returns:
      (largest relative difference of the norms of a layer, cosine of the two lists as vectors; 1 if both are zero).
    """
    pairs = [
        (a.ravel().astype(np.float64), b.ravel().astype(np.float64)) for a, b in zip(reference, other, strict=True)
    ]
    norms = np.array([(np.linalg.norm(a), np.linalg.norm(b)) for a, b in pairs])
    whole, measured = np.linalg.norm(norms, axis=0)
    if whole == measured == 0:
        return 0.0, 1.0
    gaps = np.abs(norms[:, 1] - norms[:, 0]) / np.maximum(norms[:, 0], FLOOR * max(whole, 1e-30))
    product = sum(float(a @ b) for a, b in pairs)
    return float(gaps.max()), product / max(whole * measured, 1e-30)
