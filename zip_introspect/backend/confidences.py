"""How sure a model is of a token: log-probabilities under its own distribution, as backends report them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOP_K = 20
"""Likeliest tokens whose log-probabilities make a token's confidence (DeepConf, Fu et al., 2025: arXiv 2508.15260). It
is the same everywhere, so that what was learnt of confidences holds wherever they come from."""

_SMALL = 4096
"""Up to here a vocabulary is partitioned for all rows at once; of a larger one, what lies far below goes first."""
_DEPTHS = (6.0, 12.0)
"""Below the largest logit: few tokens of a large vocabulary lie nearer to it."""


def token_confidences(logits: NDArray[np.float32], drawn: Sequence[int]) -> NDArray[np.float32]:
    """Rows of `Advanced.confidences`, for backends whose logits are in numpy.

    Args:
        logits: shape (rows, V), as the model gave them: at a temperature of 1, before any filter, reserved ids at minus
            infinity.
        drawn: the token that was drawn from each row.

    Returns:
        shape (rows, 2): the token's log-probability, and the mean log-probability of the `TOP_K` likeliest tokens, or
        of all that may be drawn where these are fewer.
    """
    below = logits - np.maximum.reduce(logits, axis=-1, keepdims=True)
    own = below[np.arange(len(drawn)), drawn]
    if TOP_K < below.shape[-1] <= _SMALL:
        best = np.add.reduce(np.partition(below, -TOP_K, axis=-1)[:, -TOP_K:], axis=-1) / np.float32(TOP_K)
    else:
        best = np.full(len(drawn), -np.inf, np.float32)
    for row in np.flatnonzero(best == -np.inf).tolist():
        best[row] = _highest(below[row]).mean()
    totals = np.log(np.add.reduce(np.exp(below, out=below), axis=-1))
    return np.stack([own - totals, best - totals], axis=-1)


def _highest(below: NDArray[np.float32]) -> NDArray[np.float32]:
    """The `TOP_K` largest of numbers that lie at 0 or below; all that are finite, where these are fewer."""
    for depth in (*_DEPTHS, math.inf):
        some = below[below > -depth]
        if some.size >= TOP_K:
            return np.partition(some, -TOP_K)[-TOP_K:]
    return some
