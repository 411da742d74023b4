"""The task's grammar: spelling, solving, tiers and the split."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.demo.corpus import phrase
from zip_introspect.demo.equations import MAX_X, TIERS, Equation, parse, sample

seeds = st.integers(0, 2**32)
tiers = st.sampled_from(TIERS)


@given(seeds, tiers, st.booleans())
def test_a_drawn_equation_survives_being_spelt(seed: int, tier: int, solvable: bool) -> None:
    equation = sample(random.Random(seed), tier, solvable=solvable)
    assert parse(str(equation)) == equation
    assert equation.tier == tier


@given(seeds, tiers)
def test_the_solution_is_what_python_finds(seed: int, tier: int) -> None:
    equation = sample(random.Random(seed), tier)
    left, right = str(equation).split("=")
    roots = [x for x in range(equation.max_x + 1) if eval(left, {"x": x}) == eval(right, {"x": x})]
    assert roots == [equation.solution]


@given(seeds, tiers)
def test_an_unsolvable_equation_has_no_whole_root(seed: int, tier: int) -> None:
    equation = sample(random.Random(seed), tier, solvable=False)
    assert all(equation.left(x) != equation.right(x) for x in range(equation.max_x + 1))
    assert equation.answer == "none"


@given(seeds, tiers)
def test_too_low_a_guess_is_on_the_side_that_rises_says(seed: int, tier: int) -> None:
    equation = sample(random.Random(seed), tier)
    assert equation.solution is not None
    for x in range(equation.max_x + 1):
        below = (equation.left(x) < equation.right(x)) == equation.rises
        assert (x < equation.solution) == (below and x != equation.solution)


@given(seeds, tiers)
def test_every_phrasing_still_spells_the_equation(seed: int, tier: int) -> None:
    rng = random.Random(seed)
    equation = sample(rng, tier)
    prompt = phrase(equation, rng)
    spans = [prompt[i:j] for i in range(len(prompt)) for j in range(i + 3, len(prompt) + 1)]
    assert any(parse(span) == equation for span in spans if "=" in span)


@given(seeds, tiers)
def test_the_split_is_respected(seed: int, tier: int) -> None:
    assert sample(random.Random(seed), tier, held_out=True).held_out
    assert not sample(random.Random(seed), tier, held_out=False).held_out


@pytest.mark.parametrize(
    ("text", "solution", "tier"),
    [
        ("3*x+5=35", 10, 1),
        ("3x + 5 = 35", 10, 1),
        ("35=3*x+5", 10, 1),
        ("x+4=9", 5, 1),
        ("5+3*x=35", 10, 1),
        ("40-3*x=10", 10, 2),
        ("2(x+3)-4=20", 9, 3),
        ("5*x+3=2*x+30", 9, 4),
        ("x*x+6*x+17=152", 9, 5),
        ("x*x=49", 7, 5),
    ],
)
def test_the_documented_forms_are_read(text: str, solution: int, tier: int) -> None:
    equation = parse(text)
    assert equation is not None
    assert (equation.solution, equation.tier) == (solution, tier)


@pytest.mark.parametrize(
    "text",
    ["", "hello", "3*y+5=35", "3*x+5", "3*x+5=3*x+9", "30*x+5=35", "x*x*x=8", "3*x+5==35", "3*x+500=600", "=", "x/2=4"],
)
def test_what_is_outside_the_grammar_is_refused(text: str) -> None:
    assert parse(text) is None


def test_an_unknown_tier_is_named() -> None:
    with pytest.raises(ValueError, match="tier is 9; expected one of"):
        sample(random.Random(0), 9)


def test_the_range_of_x_is_the_documented_one() -> None:
    equation = parse("2*x=80")
    assert isinstance(equation, Equation)
    assert equation.solution == MAX_X
    beyond = parse("2*x=82")
    assert beyond is not None
    assert beyond.solution is None
