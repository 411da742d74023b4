"""How sure a model is of a token: log-probabilities under its own distribution, as backends report them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TOP_K = 20
"""Likeliest tokens whose log-probabilities make a token's confidence (DeepConf, Fu et al., 2025: arXiv 2508.15260). It
is the same everywhere, so that what was learnt of confidences holds wherever they come from."""

_DEPTHS = (8.0, 16.0)
"""Below the largest logit: most of a vocabulary lies further away."""


def token_confidence(logits: NDArray[np.float32], drawn: int) -> tuple[float, float]:
    """A row of `Advanced.confidences`, for backends whose logits are in numpy.

    Args:
        logits: shape (V,), as the model gave them: at a temperature of 1, before any filter, reserved ids at minus
            infinity.
        drawn: the token that was drawn from them.

    Returns:
        its log-probability, and the mean log-probability of the `TOP_K` likeliest tokens, or of all that may be drawn
        where these are fewer.
    """
    below = logits - logits.max()
    total = math.log(float(np.exp(below).sum(dtype=np.float64)))
    return float(below[drawn]) - total, float(_highest(below).mean(dtype=np.float64)) - total


def _highest(below: NDArray[np.float32]) -> NDArray[np.float32]:
    """The `TOP_K` largest of numbers that lie at 0 or below, the finite ones of all where these are fewer."""
    for depth in (*_DEPTHS, math.inf):
        some = below[below > -depth]
        if some.size >= TOP_K:
            return np.partition(some, -TOP_K)[-TOP_K:]
    return some
