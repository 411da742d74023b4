"""What is the same mathematics, and what only looks like it: infinities, many digits, roots."""

from __future__ import annotations

import pytest

pytest.importorskip("math_verify", reason="the extra eval is not installed")

from zip_introspect.evaluation.measures.math_worker import right

SAME = [
    (r"\infty", r"\infty"),
    (r"(-\infty,5)", r"(-\infty,5)"),
    ("2^{2010}-1", "2^{2010}-1"),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}"),
    (r"\frac{\sqrt{5}-1}{4}", r"\sin(\frac{\pi}{10})"),
    (r"(1,\sqrt{8})", r"(1,2\sqrt{2})"),
    (r"\ln 8", r"3\ln 2"),
    ("3.14159265", r"\pi"),
]
OTHER = [
    (r"\infty", "5"),
    (r"\infty", "10^{9}"),
    (r"\infty", r"-\infty"),
    (r"(-\infty,5)", r"(\infty,5)"),
    (r"(2,\infty)", r"(2,-\infty)"),
    (r"\{-\infty\}", r"\{\infty\}"),
    ("2^{100}-1", "2^{100}"),
    ("2^{2010}-1", "2^{2010}"),
    ("100!+1", "100!"),
    ("10^{50}+7", "10^{50}"),
    (r"e^{\pi\sqrt{163}}", "262537412640768744"),  # they share 30 digits
    (r"\pi", r"\frac{22}{7}"),
]


@pytest.mark.parametrize(("one", "other", "expected"), [(*p, True) for p in SAME] + [(*p, False) for p in OTHER])
def test_formulas_are_the_same_or_not_whichever_comes_first(one: str, other: str, expected: bool) -> None:
    assert right(f"${one}$", f"${other}$") is expected
    assert right(f"${other}$", f"${one}$") is expected
