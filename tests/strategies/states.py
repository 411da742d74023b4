"""Meta-states as tests make them up: votes cast, samples running, and any that a search could be in."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.strategies.test_strategies import GRID, OPEN, leaf, state
from zip_introspect import strategies
from zip_introspect.config import GenerationConfig
from zip_introspect.strategies import Finished, MetaState, Strategy


def voted(*answers: str | None, running: int = 0, **config: Any) -> MetaState:
    """Samples that ended in these answers, in the order of their numbers, and some that still run."""
    finished = tuple(Finished(number, 9, 0.5, complete=True, answer=answer) for number, answer in enumerate(answers))
    leaves = tuple(leaf(len(answers) + number, OPEN) for number in range(running))
    return state(leaves, finished, **{"max_samples": 20, **config})


def made(config: GenerationConfig) -> Strategy:
    return strategies.chosen(config, joints=True)(config)


@st.composite
def states(draw: st.DrawFn, /, joints: bool, **config: Any) -> MetaState:
    """Any state that a search could be in: leaves and endings of every kind, limits that bind, no room at all."""
    kinds = draw(st.lists(st.sampled_from(["runs", "paused", "ended", "cut", "dropped"]), max_size=9))
    settings = GenerationConfig(**{"max_samples": max(1, len(kinds) + draw(st.integers(0, 4))), **config})
    limit = draw(st.sampled_from([0, 1, 7, 100]))
    leaves, finished = [], []
    for number, kind in enumerate(kinds):
        mass = np.array(draw(st.lists(st.integers(0, 4), min_size=6, max_size=6).filter(any)), dtype=float)
        if kind in ("runs", "paused"):
            at = leaf(number, (mass / mass.sum()).reshape(GRID.shape), draw(st.integers(1, 50)), limit)
            leaves.append(dataclasses.replace(at, running=kind == "runs"))
        elif kind != "dropped":
            value = draw(st.floats(0.0, 1.0)) if kind == "ended" else 0.0
            answer = draw(st.sampled_from(["7", "7.0", "8", "9", None])) if kind == "ended" else None
            finished.append(Finished(number, draw(st.integers(1, 50)), value, kind == "ended", answer))
    room = draw(st.integers(0 if kinds else 1, settings.max_samples - len(kinds)))
    made_up = dataclasses.replace(
        state(tuple(leaves), tuple(finished), limit=limit, room=room),
        config=settings,
        started=len(kinds),
        tokens_left=draw(st.none() | st.just(limit)),
    )
    if joints:
        return made_up
    blind = np.zeros((0, 0))
    return dataclasses.replace(
        made_up,
        bins=None,
        root_joint=blind,
        root_value=np.nan,
        root_remaining=np.nan,
        leaves=tuple(dataclasses.replace(item, joint=blind, value=np.nan, remaining=np.nan) for item in leaves),
        finished=tuple(dataclasses.replace(item, value=np.nan) for item in finished),
    )
