"""The nucleus of a distribution (Holtzman et al., 2020), without sorting a whole vocabulary at every step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CUTOFFS = (1e-3, 1e-6)
"""Of the likeliest token's weight: what lies below is hardly ever needed, and most of the vocabulary does."""


def nucleus(weights: NDArray[np.float32], share: float) -> NDArray[np.intp]:
    """The tokens that top-p keeps, rising: the fewest of the likeliest whose weights reach a share of the sum.

    Of equals the first come first; the likeliest token is always kept.

    Args:
        weights: shape (V,), none negative.
        share: p, below 1.
    """
    total, highest = float(weights.sum(dtype=np.float64)), float(weights.max())
    for cutoff in _CUTOFFS:
        some = np.flatnonzero(weights >= cutoff * highest)
        if float(weights[some].sum(dtype=np.float64)) > share * total:
            break  # all others come behind these, and so behind the share
    else:
        some = np.arange(weights.size)
    order = np.argsort(-weights[some], kind="stable")
    ordered = weights[some][order] / total
    kept = np.cumsum(ordered, dtype=np.float64) - ordered < share
    kept[0] = True
    return np.sort(some[order[kept]])
