"""How far two runs of one model may lie apart because they add the same numbers in another order.

Batches of other sizes, other kernels and other processors sum in other orders. A sum of n products is wrong by at most
n units of roundoff of its terms' magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), so
two of them differ by at most twice that. What one layer gets wrong the next ones sum again: their lengths add up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

FLOAT32, FLOAT16, BFLOAT16 = 2.0**-24, 2.0**-11, 2.0**-8
"""Units of roundoff: half the distance from 1 to the next number."""

SMALL_MODEL = 1280
"""Sums of a model of three layers of width 32, intermediate size 48, and a context of 256."""


def tolerance(logits: ArrayLike, sums: int, roundoff: float = FLOAT32) -> float:
    """The most that logits may differ.

    Args:
        logits: of any shape; the largest magnitude among them is the scale.
        sums: terms that are added one after another on the way from a token to a logit. For each layer of a
            transformer: the hidden size for queries, keys and values; a head's size; the context; the size of all
            heads; the hidden size again; the intermediate size. For the output head the hidden size.
        roundoff: of the coarsest numbers that are added.
    """
    return 2 * sums * roundoff * float(np.abs(np.asarray(logits)).max(initial=0.0))
