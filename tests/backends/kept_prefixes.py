"""Any order of calls, on a backend that keeps prompts and on one that does not: both say the same."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from zip_introspect.backend.contract import Backend, SequenceId
from zip_introspect.config import SamplingParams

SAMPLED = SamplingParams(seed=3)
COMMON = [[4] * 40, [4] * 30 + [5] * 20, [6] * 35]
Step = tuple[str, int, int]

steps = st.lists(
    st.tuples(st.sampled_from(["prefill", "fork", "advance", "release"]), st.integers(0, 99), st.integers(1, 5)),
    max_size=25,
)
"""A verb, a number that chooses what it is done to, and how many."""


def check_alike(keeping: Backend, plain: Backend, steps: Sequence[Step]) -> None:
    """Do the same to both, compare what samples say, and release everything at the end."""
    pair = keeping, plain
    living: list[tuple[SequenceId, SequenceId]] = []
    prompts: set[tuple[SequenceId, SequenceId]] = set()
    for verb, number, count in steps:
        if verb == "prefill":
            tokens = [
                [*COMMON[(number + each) % 3], *range(1, 1 + (number + each) % 4)] for each in range(count % 3 + 1)
            ]
            one, other = ([found.sequence for found in backend.prefill(tokens)] for backend in pair)
            living += zip(one, other, strict=True)
            prompts |= set(zip(one, other, strict=True))
        elif living:
            chosen = living[number % len(living)]
            if verb == "fork":
                one, other = (b.fork(own, range(count), SAMPLED) for b, own in zip(pair, chosen, strict=True))
                living += zip(one, other, strict=True)
            elif verb == "advance" and chosen not in prompts:
                mine, theirs = (b.advance([own], [count])[0] for b, own in zip(pair, chosen, strict=True))
                assert mine.tokens.tolist() == theirs.tokens.tolist()
                if mine.finished:
                    living.remove(chosen)
            elif verb == "release":
                living.remove(chosen)
                for backend, own in zip(pair, chosen, strict=True):
                    backend.release([own])
    for backend, ids in zip(pair, zip(*living, strict=True), strict=False):
        backend.release(ids)
