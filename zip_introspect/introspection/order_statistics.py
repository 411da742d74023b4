"""The expected maximum of independent variables, in closed form from their distribution functions (eq. 20, 22-24)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zip_introspect.errors import GridError


def expected_max(pmfs: ArrayLike, values: ArrayLike, floor: float | None = None) -> float:
    """E[max of n independent variables], each over the same rising values.

    Args:
        pmfs: shape (n, B), one distribution a row, n >= 1.
        values: shape (B,), rising.
        floor: a constant that takes part in the maximum; it need not be one of the values.

    Raises:
        GridError: shapes that do not match, values that fall, or no variable.
    """
    masses, points = np.asarray(pmfs, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if masses.ndim != 2 or points.shape != masses.shape[1:] or not masses.size:
        raise GridError(f"pmfs of shape {masses.shape} and values of {points.shape}; expected (n, B) and (B,), n >= 1")
    if (np.diff(points) < 0).any():
        raise GridError(f"values are {points.tolist()}; expected rising values, for the maximum follows their order")
    if floor is not None:
        points = np.maximum(points, floor)
    # Eq. 24 for each variable; the product is the distribution function of the maximum (eq. 23).
    return float(expectation_from_cdf(np.cumsum(masses, axis=1).prod(axis=0)[:-1], points))


def expectation_from_cdf(cdf: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """E[X], shape (...), from P(X <= values[b]) for every b but the last, where it is 1 (eq. 20 summed by parts).

    Args:
        cdf: shape (..., B-1).
        values: shape (B,), rising.
    """
    return np.asarray(values[-1] - cdf @ (values[1:] - values[:-1]), dtype=np.float64)
