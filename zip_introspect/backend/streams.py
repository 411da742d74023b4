"""Counter-based random streams: the draw for (seed, sample, step) never depends on what else runs.

Every backend samples by the inverse CDF of these uniforms, so one seed gives one result whatever
the batch, the interval or the order in which samples were started, paused and resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DRAWS_PER_BLOCK = 4  # Philox4x64 yields four words for each counter value
_WORD = (1 << 64) - 1


def prompt_seed(seed: int, tokens: Sequence[int]) -> int:
    """The seed of a prompt's samples: prompts must not share their luck, and the same prompt must keep its own.

    Args:
        seed: of the generation; any integer.
        tokens: the prompt's ids.

    Returns:
        63 bits, the same for the same arguments on every machine.
    """
    content = np.array([seed & _WORD, *tokens], dtype="<u8").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


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
