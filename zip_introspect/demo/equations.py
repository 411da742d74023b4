"""The embedded model's task: find the whole number x that makes an equation true.

The grammar is small and closed, so that every equation in it has a tier, an exact answer and a
step-by-step evaluation. `parse` accepts any of its spellings; `sample` draws one of a tier.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

TIERS = (1, 2, 3, 4, 5)
MAX_X = 40  # linear and nested forms; quadratics stop at MAX_X_SQUARED
MAX_X_SQUARED = 20
MAX_FACTOR = 9
MAX_INNER = 9
MAX_CONSTANT = 60
NO_ANSWER = "none"

Kind = Literal["constant", "linear", "falling", "nested", "square"]


@dataclass(frozen=True)
class Step:
    """One operation of an evaluation: `left op right`, each operand a number or an earlier result."""

    left: int | str
    op: Literal["+", "-", "*"]
    right: int | str


@dataclass(frozen=True)
class Side:
    """One side of an equation.

    `constant`: b. `linear`: a*x+b. `falling`: b-a*x. `nested`: a*(x+c)+b. `square`: x*x+a*x+b.
    b and c may be negative in linear and nested forms; a is at least 1 (0 in x*x+b).
    """

    kind: Kind
    a: int = 0
    b: int = 0
    c: int = 0

    def __call__(self, x: int) -> int:
        match self.kind:
            case "constant":
                return self.b
            case "linear":
                return self.a * x + self.b
            case "falling":
                return self.b - self.a * x
            case "nested":
                return self.a * (x + self.c) + self.b
            case "square":
                return x * x + self.a * x + self.b

    def __str__(self) -> str:
        match self.kind:
            case "constant":
                return str(self.b)
            case "linear":
                return _times_x(self.a) + _signed(self.b)
            case "falling":
                return f"{self.b}-{_times_x(self.a)}"
            case "nested":
                return f"{self.a}*(x{_signed(self.c)}){_signed(self.b)}"
            case "square":
                return "x*x" + (f"+{_times_x(self.a)}" if self.a else "") + _signed(self.b)

    @property
    def slope(self) -> int:
        """The sign and size of the growth with x (for a square: positive)."""
        return {"constant": 0, "falling": -self.a, "square": 1 + self.a}.get(self.kind, self.a)

    def steps(self) -> list[Step]:
        """The operations that evaluate this side at x; "x" is the guess, "#n" the result of step n."""
        out: list[Step] = []

        def add(left: int | str, op: Literal["+", "-", "*"], right: int | str) -> str:
            out.append(Step(left, op, right))
            return f"#{len(out) - 1}"

        def plus(left: int | str, b: int) -> None:
            if b:
                add(left, "+" if b > 0 else "-", abs(b))

        match self.kind:
            case "constant":
                pass
            case "linear":
                plus(add(self.a, "*", "x") if self.a > 1 else "x", self.b)
            case "falling":
                add(self.b, "-", add(self.a, "*", "x") if self.a > 1 else "x")
            case "nested":
                plus(add(self.a, "*", add("x", "+" if self.c > 0 else "-", abs(self.c))), self.b)
            case "square":
                total = add("x", "*", "x")
                if self.a:
                    product = add(self.a, "*", "x") if self.a > 1 else "x"
                    total = add(total, "+", product)
                plus(total, self.b)
        return out


@dataclass(frozen=True)
class Equation:
    """`left = right`, with x on the left at least."""

    left: Side
    right: Side

    def __str__(self) -> str:
        return f"{self.left}={self.right}"

    @property
    def max_x(self) -> int:
        """The largest x that is tried."""
        return MAX_X_SQUARED if "square" in (self.left.kind, self.right.kind) else MAX_X

    @cached_property
    def solution(self) -> int | None:
        """The whole number in 0..max_x that makes both sides equal, or None. It is unique: both sides are monotone."""
        return next((x for x in range(self.max_x + 1) if self.left(x) == self.right(x)), None)

    @property
    def answer(self) -> str:
        """The right answer as text: a number, or `none`."""
        return NO_ANSWER if self.solution is None else str(self.solution)

    @property
    def rises(self) -> bool:
        """Whether left - right grows with x, so that a too small left side means a too low guess."""
        return self.left.slope > self.right.slope

    @property
    def tier(self) -> int:
        """The difficulty, 1 to 5: the form decides it, and for one-step linear forms the size."""
        kinds = {self.left.kind, self.right.kind}
        if "square" in kinds:
            return 5
        if self.right.kind != "constant":
            return 4
        if "nested" in kinds:
            return 3
        if "falling" in kinds or self.left.b < 0 or self.left.b > 20 or (self.solution or 0) > 20:
            return 2
        return 1

    @property
    def held_out(self) -> bool:
        """Whether the equation belongs to the eighth of all equations that no training ever sees."""
        return hashlib.blake2b(str(self).encode(), digest_size=1).digest()[0] < 32


def sample(rng: random.Random, tier: int, *, held_out: bool | None = None, solvable: bool = True) -> Equation:
    """Draw an equation of a tier; `held_out` restricts it to that side of the split.

    Without `solvable` the right-hand side is moved so that no whole number fits.
    """
    while True:
        equation = _draw(rng, tier)
        if not solvable:
            shifted = Side(equation.right.kind, equation.right.a, equation.right.b + rng.choice((-2, -1, 1, 2)))
            equation = Equation(equation.left, shifted)
        if (equation.solution is not None) != solvable or equation.tier != tier or not _in_range(equation):
            continue
        if held_out is None or equation.held_out == held_out:
            return equation


def _draw(rng: random.Random, tier: int) -> Equation:
    a = rng.randint(2, MAX_FACTOR)
    match tier:
        case 1:
            x, b = rng.randint(0, 20), rng.randint(0, 20)
            side = Side("linear", 1 if rng.random() < 0.2 and b else a, b)
        case 2:
            x, b = rng.randint(0, MAX_X), rng.randint(1, MAX_CONSTANT)
            if rng.random() < 0.3 and a * x <= 360:
                side = Side("falling", a, a * x + rng.randint(0, 40))
            else:
                side = Side("linear", a, b if rng.random() < 0.6 else -min(b, a * x))
        case 3:
            x, c = rng.randint(0, MAX_X), rng.randint(1, MAX_INNER)
            c = c if rng.random() < 0.7 or x < c else -c
            b = rng.randint(-min(20, a * (x + c)), 40)
            side = Side("nested", a, b, c)
        case 4:
            x, other = rng.randint(0, MAX_X), rng.randint(1, MAX_FACTOR)
            while other == a:
                other = rng.randint(1, MAX_FACTOR)
            b = rng.randint(0, MAX_CONSTANT)
            d = a * x + b - other * x
            if not 0 <= d <= 2 * MAX_CONSTANT:
                return _draw(rng, tier)
            return Equation(Side("linear", a, b), Side("linear", other, d))
        case 5:
            x = rng.randint(1, MAX_X_SQUARED)
            side = Side("square", rng.randint(0, MAX_FACTOR), rng.randint(0, MAX_CONSTANT))
        case _:
            raise ValueError(f"tier is {tier}; expected one of {TIERS}")
    return Equation(side, Side("constant", b=side(x)))


_TIMES = r"\*?"
_SIDES: tuple[tuple[str, Kind], ...] = (
    (rf"(?P<a>\d+){_TIMES}\(x(?P<c>[+-]\d+)\)(?P<b>[+-]\d+)?", "nested"),
    (rf"x\*x(?:\+(?:(?P<a>\d+){_TIMES})?(?P<x>x))?(?P<b>[+-]\d+)?", "square"),
    (rf"(?:(?P<a>\d+){_TIMES})?x(?P<b>[+-]\d+)?", "linear"),
    (rf"(?P<b>\d+)-(?:(?P<a>\d+){_TIMES})?x", "falling"),
    (rf"(?P<b>\d+)\+(?:(?P<a>\d+){_TIMES})?x", "linear"),
    (r"(?P<b>\d+)", "constant"),
)


def parse(text: str) -> Equation | None:
    """The equation that a text spells, or None when it is not in the grammar.

    Spaces, an omitted `*` before x or a bracket, and swapped sides are accepted; sizes are
    those of the module's constants.
    """
    halves = re.sub(r"\s+", "", text).split("=")
    if len(halves) != 2:
        return None
    left, right = (_parse_side(half) for half in halves)
    if left is None or right is None:
        return None
    if left.kind == "constant":
        left, right = right, left
    equation = Equation(left, right)
    return equation if _in_range(equation) else None


def _parse_side(text: str) -> Side | None:
    for pattern, kind in _SIDES:
        if match := re.fullmatch(pattern, text):
            groups = match.groupdict()
            a = int(groups.get("a") or 0)
            if not a and (kind in ("linear", "falling") or groups.get("x")):
                a = 1
            return Side(kind, a, int(groups.get("b") or 0), int(groups.get("c") or 0))
    return None


def _in_range(equation: Equation) -> bool:
    left, right = equation.left, equation.right
    if left.slope == right.slope or not all(_side_fits(side) for side in (left, right)):
        return False
    return right.kind == "constant" or (left.kind == right.kind == "linear" and left.b >= 0 and right.b >= 0)


def _side_fits(side: Side) -> bool:
    match side.kind:
        case "constant":
            return 0 <= side.b < 1000
        case "linear":
            return 1 <= side.a <= MAX_FACTOR and abs(side.b) <= 2 * MAX_CONSTANT
        case "falling":
            return 1 <= side.a <= MAX_FACTOR and side.b <= 400
        case "nested":
            return 2 <= side.a <= MAX_FACTOR and 1 <= abs(side.c) <= MAX_INNER and -20 <= side.b <= 40
        case "square":
            return side.a <= MAX_FACTOR and 0 <= side.b <= MAX_CONSTANT


def _times_x(a: int) -> str:
    return "x" if a == 1 else f"{a}*x"


def _signed(b: int) -> str:
    return f"{b:+d}" if b else ""
