"""Counter-based random streams: the draw for (seed, sample, step) never depends on what else runs.

Every backend samples by the inverse CDF of these uniforms, so one seed gives one result whatever
the batch, the interval or the order in which samples were started, paused and resumed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_DRAWS_PER_BLOCK = 4  # Philox4x64 yields four words for each counter value
_WORD = (1 << 64) - 1


def uniforms(seed: int, sample: int, start: int, count: int) -> NDArray[np.float64]:
    """The draws for steps `start` to `start + count - 1` of one sample, each in [0, 1).

    Args:
        seed: of the generation; any integer.
        sample: the number of the sample within its prompt, from 0.
        start: the first step, from 0.
        count: how many steps.

    Returns:
        shape (count,).
    """
    key = np.array([seed & _WORD, sample & _WORD], dtype=np.uint64)
    block, offset = divmod(start, _DRAWS_PER_BLOCK)
    generator = np.random.Generator(np.random.Philox(key=key, counter=[block, 0, 0, 0]))
    return generator.random(offset + count)[offset:]
