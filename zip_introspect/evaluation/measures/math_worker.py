"""math-verify as a process of its own: what a text makes sympy do ends with the process, whatever it is.

A line of JSON in, two formulas, is a line of JSON out, `true` or `false`. The first line says that it is ready.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from math_verify import grader, parse, verify
from sympy import Float, MatrixBase, Rational, S, simplify

_MEMORY = 8 << 30
_TOLERANCE = 1e-6  # of a decimal, which may be a rounded number; the grader numeric allows the same
_DIGITS = 30
_NOT_FINITE = (S.Infinity, S.NegativeInfinity, S.ComplexInfinity, S.NaN)

_of_matrices = grader.sympy_numeric_eq


def right(given: str, wanted: str) -> bool:
    """Whether two formulas are the same mathematics, whichever of them is the one expected."""
    found, gold = (parse(text, parsing_timeout=None) for text in (given, wanted))
    return _verified(gold, found) and _verified(found, gold)


def _verified(gold: Any, found: Any) -> bool:
    return bool(verify(gold, found, allow_set_relation_comp=True, timeout_seconds=None))


def _equal(a: Any, b: Any, float_rounding: int, numeric_precision: int) -> bool:
    """In place of math-verify's own, which rounds to six decimals and takes what is tiny for nothing."""
    if isinstance(a, MatrixBase) and isinstance(b, MatrixBase):
        return bool(_of_matrices(a, b, float_rounding, numeric_precision))
    percent, share = grader.get_pct_val(a), grader.get_pct_val(b)
    if (percent is None) != (share is None):  # it equals a number with or without the hundredth
        return _same(a, b) or _same(a if percent is None else percent, b if share is None else share)
    return _same(a, b)


def _same(a: Any, b: Any) -> bool:
    rounded = a.has(Float) or b.has(Float)
    a, b = _exact(a).doit(), _exact(b).doit()
    if a.has(*_NOT_FINITE) or b.has(*_NOT_FINITE):
        return bool(a == b)  # a difference of infinities says nothing
    difference = a - b
    if difference == 0 or not (a.is_number and b.is_number):
        return bool(simplify(difference) == 0)
    if rounded and not (a.is_Integer and b.is_Integer):
        larger = max(abs(side.evalf(_DIGITS)) for side in (a, b))
        return bool(abs(difference.evalf(_DIGITS)) <= _TOLERANCE * min(1, larger))
    # Numbers without a decimal are exact: however many digits are the same, the next one may differ.
    return not difference.is_Rational and bool(difference.equals(0))


def _exact(expression: Any) -> Any:
    return expression.replace(lambda part: isinstance(part, Float), lambda part: Rational(str(part)))


grader.sympy_numeric_eq = _equal


def main() -> None:
    """Answer until the input ends."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    replies, sys.stdout = sys.stdout, sys.stderr
    print("true", file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(right(*json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
