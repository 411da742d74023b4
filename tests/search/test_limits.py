"""A limit never changes what is best before it binds."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.searches import request, results, untimed
from zip_introspect.backend.contract import Advanced, SequenceId
from zip_introspect.budget import Budget, Ledger
from zip_introspect.result import GenerationResult
from zip_introspect.search import continuous_batch
from zip_introspect.search import request as request_module
from zip_introspect.search.request import HandOn
from zip_introspect.testing.simulator import SimulatedBackend

SEARCHING = [
    "zip_rc",
    "best_of_n",
    "majority_vote",
    "single",
    "adaptive_consistency",
    "deep_conf",
    "early_stopping_consistency",
    "best_of_majority",
    "opt_scale",
    "step_prune",
    "zip_rc_reward_pruning",
]
LONGEST = 40  # of a sample in the simulated world
AMPLE = {
    "max_seconds": 3_600.0,
    "max_tokens": 8 * LONGEST,
    "max_depth": 8 * LONGEST,
    "max_samples": 8,
    "max_cost": 8 * LONGEST * 0.5,  # at a price of 0.5, which a float holds exactly
}


def bare(result: GenerationResult) -> dict[str, Any]:
    """A result without what limits alone change: seconds and money."""
    data = untimed(result)
    del data["usage"]["cost"]
    return data


@settings(max_examples=60)
@given(
    text=st.text("abcdef", min_size=1, max_size=4),
    strategy=st.sampled_from(SEARCHING) | st.just("zip_rc"),
    limits=st.sets(st.sampled_from(sorted(AMPLE)), min_size=1),
    alpha=st.sampled_from([0.0, 0.1, 1.0]),
    beta=st.sampled_from([1e-3, 0.05, 0.5, 3.0]),
    interval=st.integers(1, 20),
    horizon=st.sampled_from(["shared", "per_prefix"]),
    worth=st.none() | st.floats(0.0, 1.0),
)
def test_a_limit_changes_nothing_before_it_binds(
    text: str,
    strategy: str,
    limits: set[str],
    alpha: float,
    beta: float,
    interval: int,
    horizon: str,
    worth: float | None,
) -> None:
    price: dict[str, Any] = {"price_per_token": 0.5} if "max_cost" in limits else {}
    budget = Budget(**{name: AMPLE[name] for name in limits}, **price)  # type: ignore[arg-type]
    free = request(
        text,
        strategy=strategy,
        alpha=alpha,
        beta=beta,
        interval=interval,
        horizon=horizon,
        max_new_tokens=LONGEST,
    )
    free = dataclasses.replace(free, hand_on=HandOn(worth=worth))
    (limited,) = results(SimulatedBackend(), [dataclasses.replace(free, budget=budget)])
    assert bare(limited) == bare(results(SimulatedBackend(), [free])[0])


class SlowToStart(SimulatedBackend):
    """Its clock goes by what it computes: a second for the first call, and a hundredth for every later step."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.now, self.first = 0.0, first

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        found = super().advance(sequences, steps)
        self.now += self.first or 0.01 * max(len(item.tokens) for item in found)
        self.first = 0.0
        return found


@pytest.mark.parametrize("hand_on", [None, HandOn(worth=0.5)])
def test_a_slow_first_call_does_not_blind_the_planner(hand_on: HandOn | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(12):
        free = dataclasses.replace(request(f"p{place}", beta=0.05, interval=16), hand_on=hand_on)
        expected = results(SimulatedBackend(), [free])[0]
        backend = SlowToStart(first=1.0)
        clock = partial(getattr, backend, "now")
        with monkeypatch.context() as patch:
            patch.setattr(request_module, "Ledger", partial(Ledger, clock=clock))
            patch.setattr(continuous_batch, "time", types.SimpleNamespace(perf_counter=clock))
            limited = dataclasses.replace(free, budget=Budget(max_seconds=8.0))
            (result,) = results(backend, [limited])
        assert backend.now <= 8.0
        assert bare(result) == bare(expected)
