"""One number in the many ways in which people and models write it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from hypothesis import strategies as st

Spelling = Callable[[Decimal], str]


def numbers() -> st.SearchStrategy[Decimal]:
    """Decimals of up to 15 digits before the point and 6 behind it."""
    return st.builds(
        lambda digits, places: Decimal(digits).scaleb(-places), st.integers(-(10**15), 10**15), st.integers(0, 6)
    )


def _plain(number: Decimal) -> str:
    return f"{number:f}"


def _scientific(number: Decimal) -> str:
    mantissa, exponent = f"{number:e}".split("e")
    return f"{mantissa} \\times 10^{{{int(exponent)}}}"


def _grouped(separator: str) -> Spelling:
    return lambda number: f"{number:,f}".replace(",", separator)


def _fraction(pattern: str) -> Spelling:
    return lambda number: pattern.format(*number.as_integer_ratio())


SPELLINGS: list[Spelling] = [
    _plain,
    _scientific,
    _grouped(","),
    _grouped("\\,"),
    _grouped("{,}"),
    _grouped(",\\!"),
    _grouped("\u202f"),
    _fraction("{}/{}"),
    _fraction("\\frac{{{}}}{{{}}}"),
    _fraction("\\dfrac {{{}}} {{{}}}"),
    lambda number: f"${_plain(number)}$",
    lambda number: f"\\({_plain(number)}\\)",
    lambda number: f"{_plain(number)}0" if "." in _plain(number) else f"{_plain(number)}.00",
    lambda number: _plain(number).replace("-", "−"),
    lambda number: _plain(number).replace("-", "- "),
    lambda number: f"\\boxed{{{_plain(number)}}}",
    lambda number: f"\\text{{{_plain(number)}}}",
    lambda number: f"**{_plain(number)}**.",
    lambda number: f"{_plain(number)} dollars",
    lambda number: f"${_plain(number)}".replace("$-", "-$"),
    lambda number: f"{_plain(number)}, in total, so that is all",
    lambda number: f"{_plain(number)}. She pays so much.",
    lambda number: f"The final answer is {_plain(number)}",
]
"""Each is equal to the plain number in every grader and every vote."""
