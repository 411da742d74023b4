"""The corpus: seeded, free of held-out equations, and honest about what cannot be solved."""

from itertools import islice

import pytest

from zip_introspect.demo.corpus import DECLINE, examples
from zip_introspect.demo.equations import TIERS, Equation, parse
from zip_introspect.demo.problems import held_out, training_mix
from zip_introspect.errors import TrainingDataError


def test_a_seed_fixes_the_corpus() -> None:
    assert list(examples(3, 50)) == list(examples(3, 50))
    assert list(examples(3, 50)) != list(examples(4, 50))


def test_bare_equations_of_the_corpus_are_never_held_out() -> None:
    equations = [parse(example.messages[-1]["content"]) for example in examples(0, 3000)]
    found = [equation for equation in equations if equation is not None]
    assert len(found) > 500
    assert not any(equation.held_out for equation in found)


def test_what_is_no_equation_is_declined_and_what_is_one_is_worked() -> None:
    for example in islice(examples(1, 2000), 2000):
        if example.tier == 0:
            assert example.completion == DECLINE
            assert parse(example.messages[-1]["content"]) is None
        else:
            assert example.completion.split("\n")[-1].startswith("ans ")


def test_held_out_problems_are_distinct_solvable_and_balanced() -> None:
    problems = held_out(0, 100)
    assert [problem.tier for problem in problems] == list(TIERS) * 20
    assert len({problem.prompt for problem in problems}) == 100
    assert all(problem.answer != "none" for problem in problems)
    assert held_out(0, 10) == problems[:10]


def test_the_mirror_of_a_held_out_equation_is_held_out_too() -> None:
    equations = [parse(problem.prompt) for problem in held_out(0, 60, tiers=(4,))]
    bare = [equation for equation in equations if equation]
    assert len(bare) > 5
    assert all(Equation(equation.right, equation.left).held_out for equation in bare)


def test_grading_reads_the_last_line_only() -> None:
    problem = next(problem for problem in training_mix(0, 50) if problem.tier)
    assert problem.grade(f"try 1: 1 low\nans {problem.answer}")
    assert not problem.grade(f"ans {problem.answer}\nans 99")
    assert not problem.grade("")
    declined = next(problem for problem in training_mix(0, 500) if not problem.tier)
    assert declined.grade(DECLINE)
    assert not declined.grade("ans 4")


def test_more_problems_than_there_are_is_refused() -> None:
    with pytest.raises(TrainingDataError, match="5000 problems of the tiers 1 were asked for, and hardly more than 4"):
        held_out(0, 5000, [1])
