"""The filter of step 1d: the share of each coarse class whose label the network is most certain of."""

from __future__ import annotations

import numpy as np


def certain_mask(uncertainty: np.ndarray, coarse_labels: np.ndarray, threshold: float) -> np.ndarray:
    """Marks the first int(n_class * (threshold / 100)) images of each class by ascending uncertainty.

    Args:
      uncertainty: float [N], U in [0, 2]. coarse_labels: int64 [N]. threshold: percent kept, in (0, 100].
    Returns:
      bool [N]; among equal U the earlier image of the file is taken first.
    Raises:
      ValueError: lengths differ, threshold out of range, or a U that is not finite.
    Source: authors' pipeline.py, get_pseudo_labels. Deviation: FGL-D19, FGL-D18.
    """
    if len(uncertainty) != len(coarse_labels):
        raise ValueError(f"{len(uncertainty)} uncertainties for {len(coarse_labels)} labels")
    if not 0 < threshold <= 100:
        raise ValueError(f"threshold {threshold}: a percentage above 0 and at most 100")
    if not np.isfinite(uncertainty).all():
        raise ValueError("uncertainties are not finite")
    certain = np.zeros(len(uncertainty), bool)  # DEVIATION FGL-D18: arrays; the released pandas writes do nothing now
    for label in np.unique(coarse_labels):
        members = np.flatnonzero(coarse_labels == label)
        # DEVIATION FGL-D19: a stable sort, so that ties (many U near 0) go by position
        order = members[np.argsort(uncertainty[members], kind="stable")]
        certain[order[: int(len(members) * (threshold / 100))]] = True
    return certain
