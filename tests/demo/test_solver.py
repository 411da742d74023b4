"""The fallible solver: its arithmetic, its honesty, and the figures its habits give."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.demo.equations import TIERS, sample
from zip_introspect.demo.solver import FallibleSolver, Habits

FLAWLESS = Habits(slip=0.0, despair=(0.0,) * 5)


@given(st.integers(0, 2**32), st.sampled_from(TIERS), st.booleans())
def test_without_slips_or_despair_it_is_always_right(seed: int, tier: int, solvable: bool) -> None:
    rng = random.Random(seed)
    equation = sample(rng, tier, solvable=solvable)
    working = FallibleSolver(rng, FLAWLESS).solve(equation)
    assert working.rsplit("\n", 1)[-1] == f"ans {equation.answer}"


@given(st.integers(0, 2**32), st.sampled_from(TIERS))
def test_written_operations_are_true_without_slips(seed: int, tier: int) -> None:
    rng = random.Random(seed)
    working = FallibleSolver(rng, FLAWLESS).solve(sample(rng, tier))
    operations = re.findall(r"(-?\d+)([-+*])(\d+)=(-?\d+)", working)
    for left, op, right, result in operations:
        assert eval(f"({left}){op}{right}") == int(result)


@given(st.integers(0, 2**32), st.sampled_from(TIERS))
def test_an_ok_is_shown_by_the_last_working(seed: int, tier: int) -> None:
    rng = random.Random(seed)
    equation = sample(rng, tier)
    lines = FallibleSolver(rng).solve(equation).split("\n")
    if lines[-2].endswith("ok") and tier != 4:
        assert int(re.findall(r"-?\d+", lines[-2])[-1]) == equation.right.b


def test_accuracy_falls_with_difficulty_and_ok_is_worth_more_than_giving_up() -> None:
    rng = random.Random(0)
    solver = FallibleSolver(rng)
    accuracy = []
    for tier in TIERS:
        outcomes = []
        for _ in range(400):
            equation = sample(rng, tier)
            working = solver.solve(equation)
            outcomes.append((working.endswith(f"ans {equation.answer}"), "ok\nans" in working))
        accuracy.append(sum(right for right, _ in outcomes) / 400)
        if tier > 1:
            after_ok = [right for right, ok in outcomes if ok]
            after_doubt = [right for right, ok in outcomes if not ok]
            assert sum(after_ok) / len(after_ok) > 0.95
            assert sum(after_doubt) / len(after_doubt) < 0.3
    assert accuracy[0] >= 0.93
    assert accuracy[-1] <= 0.62
    assert accuracy[0] > accuracy[2] > accuracy[4]


def test_habits_name_the_list_that_does_not_cover_the_tiers() -> None:
    with pytest.raises(ValueError, match="despair has 1 entries; expected 5, one a tier"):
        Habits(despair=(0.1,))
