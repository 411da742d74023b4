"""The search for meta-actions against calling the sampling utility for every candidate."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zip_introspect.errors import ConfigError, GridError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.joint import expected_length
from zip_introspect.introspection.plans import EXACT_LIMIT, HorizonMode, Plan, SearchMode, best_plan
from zip_introspect.introspection.utility import normalized_beta, sampling_utility

GRID = JointGrid(reward_edges=[0, 0.3, 0.8, 1], length_edges=[0, 4, 8, 16, 64], first_reserved=0)
LAST = 3


def situation(seed: int, n: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    joints = rng.dirichlet(np.full(12, 0.3), size=n + 1).reshape(n + 1, 3, 4)
    return {
        "leaf_joints": joints[:n],
        "root_joint": joints[n],
        "grid": GRID,
        "alpha": rng.random(),
        "beta": float(rng.choice([0.0, 0.01, 0.1, 0.5, 2.0])),
        "leaf_lengths": rng.integers(0, 100, n),
        "root_length": float(rng.integers(0, 30)),
        "finished_values": rng.random(rng.integers(0, 3)).tolist(),
        "max_new": int(rng.integers(0, 4)),
        "max_active": None if rng.random() < 0.5 else int(rng.integers(1, 6)),
    }


def value_of(case: dict[str, Any], leaves: tuple[int, ...], new: int, horizon: Any) -> float:
    """One candidate by the book: its own joints, its own beta."""
    joints = np.concatenate([case["leaf_joints"][list(leaves)], np.repeat(case["root_joint"][None], new, axis=0)])
    lengths = [*case["leaf_lengths"][list(leaves)], *[case["root_length"]] * new]
    beta = normalized_beta(case["beta"], lengths, expected_length(joints, GRID))
    return sampling_utility(joints, GRID, case["alpha"], beta, case["finished_values"], horizon).value


def candidates(case: dict[str, Any]) -> list[tuple[tuple[int, ...], int]]:
    n = len(case["leaf_joints"])
    limit = n + case["max_new"] if case["max_active"] is None else case["max_active"]
    return [
        (leaves, new)
        for k in range(n + 1)
        for leaves in itertools.combinations(range(n), k)
        for new in range(case["max_new"] + 1)
        if 0 < k + new <= limit
    ]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 4), st.sampled_from(["shared", "none"]))
def test_exact_finds_what_brute_force_finds(seed: int, n: int, horizon: HorizonMode) -> None:
    case = situation(seed, n)
    found = best_plan(**case, horizon=horizon, search="exact")
    cap = None if horizon == "shared" else LAST
    tried = {candidate: value_of(case, *candidate, cap) for candidate in candidates(case)}
    if not tried:
        assert found.size == 0
        return
    best = max(tried.values())
    assert found.utility.value == pytest.approx(best, abs=1e-11)
    assert tried[found.leaves, found.new_samples] == pytest.approx(best, abs=1e-11)
    assert found.size == min(len(s) + m for (s, m), value in tried.items() if value >= best - 1e-12)
    assert found.worth_running == (best > found.keep_value + 1e-12)


@settings(max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(0, 5), st.sampled_from(["shared", "none", "per_prefix"]),
    st.sampled_from(["nested", "exact"]),
)  # fmt: skip
def test_what_it_reports_is_what_the_utility_says(seed: int, n: int, horizon: HorizonMode, search: SearchMode) -> None:
    case = situation(seed, n)
    found = best_plan(**case, horizon=horizon, search=search)
    assert found.keep_value == max(case["finished_values"], default=GRID.reward_values[0])
    if not found.size:
        assert found.utility.value == found.keep_value
        assert not found.worth_running
        return
    assert (found.leaves, found.new_samples) in candidates(case)
    assert found.utility.value == pytest.approx(
        value_of(case, found.leaves, found.new_samples, found.utility.horizon), abs=1e-11
    )
    cost = case["alpha"] * found.utility.expected_compute + (1 - case["alpha"]) * found.utility.expected_latency
    assert found.utility.value == pytest.approx(found.utility.expected_reward - found.normalized_beta * cost)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 3))
def test_a_typical_length_gives_every_candidate_the_same_beta(seed: int, n: int) -> None:
    case = situation(seed, n) | {"max_active": None, "max_new": 2}
    found = best_plan(**case, typical_length=50.0, search="exact")
    beta = case["beta"] / 50.0
    best = -np.inf
    for leaves, new in candidates(case):
        rows = [case["leaf_joints"][i] for i in leaves] + [case["root_joint"]] * new
        best = max(best, sampling_utility(rows, GRID, case["alpha"], beta, case["finished_values"]).value)
    assert found.normalized_beta == pytest.approx(beta)
    assert found.utility.value == pytest.approx(best, abs=1e-11)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 6))
def test_more_search_is_never_worse(seed: int, n: int) -> None:
    case = situation(seed, n)
    value = {
        (search, horizon): best_plan(**case, search=search, horizon=horizon).utility.value
        for search in ("nested", "exact")
        for horizon in ("none", "shared", "per_prefix")
    }
    for search in ("nested", "exact"):
        assert value[search, "none"] <= value[search, "shared"] + 1e-12 <= value[search, "per_prefix"] + 2e-12
    for horizon in ("none", "shared"):
        assert value["nested", horizon] <= value["exact", horizon] + 1e-12


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_nested_weighs_every_single_leaf_rank_and_every_number_of_new_samples(seed: int, n: int) -> None:
    """With no leaf, all leaves, or leaves that are all alike, nested is exact."""
    case = situation(seed, n)
    case["leaf_joints"] = np.repeat(case["leaf_joints"][:1], n, axis=0)
    case["leaf_lengths"] = np.repeat(case["leaf_lengths"][:1], n)
    nested, exact = (best_plan(**case, search=search) for search in ("nested", "exact"))
    assert nested.utility.value == pytest.approx(exact.utility.value, abs=1e-12)
    assert nested.size == exact.size


def test_nested_loses_little_on_average() -> None:
    losses = []
    for seed in range(60):
        case = situation(seed, 6)
        nested, exact = (best_plan(**case, search=search).utility.value for search in ("nested", "exact"))
        losses.append(exact - nested)
    assert np.mean(losses) < 0.01
    assert np.mean(np.array(losses) < 1e-9) > 0.6


def test_equal_candidates_prefer_fewer_samples() -> None:
    sure = np.zeros((3, 4))
    sure[2, 0] = 1.0
    found = best_plan(
        np.stack([sure] * 4), sure, GRID, alpha=0.1, beta=0.0, leaf_lengths=[9] * 4, max_new=4
    )  # fmt: skip
    assert (found.leaves, found.new_samples) == ((0,), 0)
    assert found.utility.horizon == 0


def test_starts_something_when_nothing_is_finished_and_stops_when_all_is_won() -> None:
    hopeful = np.zeros((3, 4))
    hopeful[2, 1] = hopeful[0, 1] = 0.5
    common: dict[str, Any] = {
        "leaf_joints": np.zeros((0, 3, 4)),
        "root_joint": hopeful,
        "grid": GRID,
        "leaf_lengths": [],
    }
    start = best_plan(**common, alpha=0.1, beta=0.05, max_new=8)
    assert start.worth_running
    assert start.new_samples > 1
    won = best_plan(**common, alpha=0.1, beta=0.05, max_new=8, finished_values=[0.9])
    assert won.size == 1  # the least costly, for the caller to weigh
    assert not won.worth_running


def test_more_samples_when_compute_is_cheap() -> None:
    root = np.zeros((3, 4))
    root[0, 2], root[2, 2] = 0.7, 0.3
    none: dict[str, Any] = {
        "leaf_joints": np.zeros((0, 3, 4)),
        "leaf_lengths": [],
        "root_joint": root,
        "grid": GRID,
        "max_new": 8,
    }
    new = [best_plan(**none, alpha=alpha, beta=0.1).new_samples for alpha in (0.0, 0.3, 1.0)]
    # By hand: of equal lengths, m samples are worth 0.9 - 0.75 * 0.7^m - 0.1 * (alpha*m + 1 - alpha).
    assert new == [8, 6, 3]


@pytest.mark.parametrize("horizon", ["shared", "none", "per_prefix"])
@pytest.mark.parametrize("search", ["nested", "exact"])
def test_nothing_may_run(horizon: HorizonMode, search: SearchMode) -> None:
    case = situation(3, 0) | {"max_new": 0, "finished_values": [0.4]}
    found = best_plan(**case, horizon=horizon, search=search)
    assert (found.leaves, found.new_samples, found.utility.value) == ((), 0, 0.4)
    assert not found.worth_running
    paused = best_plan(**(situation(3, 2) | {"max_active": 0}), horizon=horizon, search=search)
    assert paused.size == 0


def test_exact_beyond_its_limit_is_no_worse_than_nested() -> None:
    case = situation(5, EXACT_LIMIT + 4) | {"beta": 0.01, "max_new": 2, "max_active": None, "alpha": 0.0}
    nested, exact = (best_plan(**case, search=search) for search in ("nested", "exact"))
    assert exact.utility.value >= nested.utility.value - 1e-12


def test_takes_lists_and_float32() -> None:
    case = situation(8, 3)
    expected = best_plan(**case)
    case["leaf_joints"] = case["leaf_joints"].tolist()
    case["leaf_lengths"] = case["leaf_lengths"].tolist()
    assert best_plan(**case) == expected
    case["leaf_joints"] = np.asarray(case["leaf_joints"], dtype=np.float32)
    assert isinstance(best_plan(**case), Plan)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"max_new": -1}, ConfigError, "max_new is -1"),
        ({"max_active": -2}, ConfigError, "max_active -2"),
        ({"typical_length": 0.0}, ConfigError, "typical_length is 0.0"),
        ({"horizon": "long"}, ConfigError, "horizon 'long'"),
        ({"search": "greedy"}, ConfigError, "search 'greedy'"),
        ({"alpha": 2.0}, ConfigError, "alpha is 2.0"),
        ({"leaf_lengths": [1, 2]}, GridError, "2 lengths"),
        ({"leaf_lengths": [1, 2, -3]}, ConfigError, "a length is 0 or more"),
        ({"leaf_lengths": [1, 2, float("nan")]}, ConfigError, "a length is 0 or more"),
        ({"root_joint": np.zeros((4, 3))}, GridError, r"a root joint of shape \(4, 3\)"),
        ({"leaf_joints": np.zeros((3, 2, 2)), "root_joint": np.zeros((2, 2))}, GridError, r"expected \(\.\.\., 3, 4\)"),
        ({"leaf_joints": np.full((3, 3, 4), np.nan)}, GridError, "NaN or infinite"),
    ],
)
def test_refuses_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        best_plan(**(situation(1, 3) | change))
