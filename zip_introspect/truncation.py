"""Where a sample ends before the backend says so: at a stop string, or at logits that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend import Advanced


def cut_at_stop(
    decode: Callable[[Sequence[int]], str], before: NDArray[np.int32], tokens: NDArray[np.int32], stops: Sequence[str]
) -> tuple[int, str] | None:
    """How many of the new tokens complete the first stop string, and the sample's text before it.

    Args:
        decode: from token ids to text.
        before: shape (n,), what the sample held before; a stop string may begin there.
        tokens: shape (m,), the new tokens.

    Returns:
        None where no stop string occurs.
    """
    if not stops or _before_stop(decode([*before.tolist(), *tokens.tolist()]), stops) is None:
        return None
    for count in range(1, len(tokens) + 1):
        kept = _before_stop(decode([*before.tolist(), *tokens[:count].tolist()]), stops)
        if kept is not None:
            return count, kept
    return None


def sound(advanced: Advanced) -> Advanced:
    """What was generated up to the first joint that is not finite: it too is a sign of broken logits."""
    finite = np.isfinite(advanced.reserved_logits).all(axis=1)
    if finite.all():
        return advanced
    good = int(finite.argmin())
    return Advanced(advanced.tokens[: good + 1], advanced.reserved_logits[:good], finished=False, non_finite=True)


def _before_stop(text: str, stops: Sequence[str]) -> str | None:
    """The text before the earliest stop string; None without one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None
