"""A stronger model that is no model: sympy solves the equation in a question, as a LangChain Runnable."""

from __future__ import annotations

import re

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableLambda
from sympy import Poly, Symbol
from sympy.parsing.sympy_parser import implicit_multiplication, parse_expr, standard_transformations

X = Symbol("x")
RULES = (*standard_transformations, implicit_multiplication)
# parse_expr evaluates what it reads, so nothing gets there but sums of numbers, 3x, 3*x, x*x and 3*(x+2).
BRACKET = r"\(x[+-]\d{1,4}\)"
TERM = rf"(?:x\*x|(?:\d{{1,4}}\*?)?(?:x|{BRACKET})|\d{{1,4}})"
SIDE = re.compile(rf"{TERM}(?:[+-]{TERM})*")
EQUATION = re.compile(r"[\dx+\-*() ]+=[\dx+\-*()= ]+")
LARGEST, LARGEST_SQUARED = 40, 20
"""The whole numbers to look among end here; where x is squared, earlier."""


def solve(question: str) -> str:
    """The whole number that solves the equation in a question, as "ans 12", or "ans none".

    Raises:
        ValueError: no equation in x, or one with other terms than these.
    """
    found = EQUATION.search(question)
    sides = re.sub(r" *([-+*()=]) *", r"\1", found[0].strip()).split("=") if found else []
    if len(sides) != 2 or not all(SIDE.fullmatch(side) for side in sides):
        raise ValueError(f"no equation that can be solved was found in {question!r}")
    left, right = (parse_expr(side, {"x": X}, RULES) for side in sides)
    difference = Poly(left - right, X)
    if difference.degree() < 1:
        raise ValueError(f"the equation in {question!r} does not depend on x")
    largest = LARGEST if difference.degree() == 1 else LARGEST_SQUARED
    roots = [root for root in difference.ground_roots() if root.is_integer and 0 <= root <= largest]
    return f"ans {min(roots, default='none')}"


def solve_last(given: LanguageModelInput) -> str:
    """`solve`, for whatever a chat model takes: the last message holds the question."""
    if isinstance(given, PromptValue):
        given = given.to_messages()
    messages = convert_to_messages([given] if isinstance(given, str) else given)
    return solve(messages[-1].text)


solver = RunnableLambda(solve_last, name="sympy")
