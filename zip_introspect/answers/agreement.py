"""How far the samples of one prompt say the same: the confidence of a model that gives no joints."""

from __future__ import annotations

from collections.abc import Sequence

UNSEEN = 1.0
"""The weight of what was not drawn yet, in samples."""


def agreement(chosen: str, others: Sequence[str]) -> float:
    """The probability that one more sample says what the chosen one says, from 0 to 1.

    That of a Dirichlet process whose concentration is `UNSEEN` (Blackwell and MacQueen, 1973): n of m samples say it,
    so n / (m + 1). It is the vote's share, corrected for how few have voted: one sample alone gives 1/2, eight of eight
    8/9.

    Args:
        chosen: the key of what the chosen sample says.
        others: the keys of what all others say, in any order.
    """
    return (1 + others.count(chosen)) / (1 + len(others) + UNSEEN)
