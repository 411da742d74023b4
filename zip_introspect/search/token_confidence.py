"""What the confidences of a sample's tokens come to: all together, the last group, and the least sure one."""

from __future__ import annotations

import copy
import math

import numpy as np
from numpy.typing import NDArray

from zip_introspect.result import TokenConfidence


class ConfidenceTrace:
    """Takes in the confidences of one sample's tokens, and keeps those of its last group only.

    Args:
        window: tokens of a group.
    """

    def __init__(self, window: int) -> None:
        self._window, self._count = window, 0
        self._sum = np.zeros(2)
        self._recent = np.empty((0, 2))
        """Of the last tokens, at most a group."""
        self._least = np.array([math.inf, -math.inf])
        """Means of the group whose tokens were least likely, and of the one whose likeliest tokens were most likely."""

    def grow(self, rows: NDArray[np.floating]) -> None:
        """Take in those of further tokens, shape (n, 2), as `Advanced.confidences`."""
        if not len(rows):
            return
        given = np.asarray(rows, np.float64)
        self._count += len(given)
        self._sum += given.sum(0)
        seen = np.concatenate([self._recent, given])
        if len(seen) >= self._window:
            sums = np.concatenate([np.zeros((1, 2)), np.cumsum(seen, axis=0)])
            drawn, likeliest = (sums[self._window :] - sums[: -self._window]).T / self._window
            self._least = np.array([min(self._least[0], drawn.min()), max(self._least[1], likeliest.max())])
        self._recent = seen[-self._window :]

    def fork(self) -> ConfidenceTrace:
        """That of a sample that goes on from here on its own."""
        twin = copy.copy(self)
        twin._sum = self._sum.copy()
        return twin

    def read(self) -> TokenConfidence | None:
        """What they come to; None before the first token."""
        if not self._count:
            return None
        last = self._recent.mean(0)
        least = last if self._count < self._window else self._least
        drawn, likeliest = np.stack([self._sum / self._count, last, least]).T
        return TokenConfidence(*np.exp(np.minimum(drawn, 0.0)).tolist(), *(-likeliest).tolist())
