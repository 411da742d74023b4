"""A fallible solver: it guesses, checks, narrows, slips now and then, and sometimes gives up.

Its written working is what the embedded model is trained to imitate. A run that ends in `ok` has
shown a check that came out; one that ends in `give up` has not: a solution carries visible
evidence of its own correctness, and luck decides its length.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from zip_introspect.demo.equations import NO_ANSWER, TIERS, Equation, Side

OK, LOW, HIGH, GIVE_UP, NONE = "ok", "low", "high", "give up", "none"
ANSWER = "ans "


@dataclass(frozen=True)
class Habits:
    """How the solver errs.

    `slip`: probability that one operation comes out wrong. `despair`: probability of giving up
    after a failed try, by tier. `blur`: standard deviation of the first guess, by tier.
    `wander`: how far from the middle of the range left the next guess may fall, as a share of it.
    """

    slip: float = 0.025
    despair: tuple[float, ...] = (0.012, 0.04, 0.07, 0.11, 0.21)
    blur: tuple[float, ...] = (3.0, 6.0, 6.0, 8.0, 5.0)
    wander: float = 0.4

    def __post_init__(self) -> None:
        for name in ("despair", "blur"):
            if len(getattr(self, name)) != len(TIERS):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries; expected {len(TIERS)}, one a tier")


class FallibleSolver:
    """Writes one noisy solution of an equation; `rng` decides all of its luck."""

    def __init__(self, rng: random.Random, habits: Habits | None = None) -> None:
        self._rng = rng
        self._habits = habits or Habits()

    def solve(self, equation: Equation) -> str:
        """The working, ending in a line `ans N` or `ans none`."""
        lines: list[str] = []
        low, high = -1, equation.max_x + 1  # both known to be wrong
        doubts: list[int] = []  # neighbours still to be checked again before "none" is said
        guess = self._first_guess(equation)
        while True:
            working, verdict = self._check(equation, guess)
            # The range left is written out, so that the next guess follows from one line and not from all of them.
            step = f"{low + 1}..{high - 1} try" if high - low > 1 else "again"
            lines.append(f"{step} {guess}: {working} {verdict}")
            if verdict == OK:
                return _finish(lines, str(guess))
            if self._rng.random() < self._habits.despair[equation.tier - 1]:
                lines.append(GIVE_UP)
                return _finish(lines, str(self._next_guess(low, high)))
            too_low = (verdict == LOW) == equation.rises
            if low < guess < high:
                low, high = (guess, high) if too_low else (low, guess)
                doubts = [x for x in (low, high) if 0 <= x <= equation.max_x] if high - low == 1 else []
            elif too_low != (guess == low):
                # The first try of this guess, or an earlier one, slipped: its far side is open again.
                low, high = (guess, equation.max_x + 1) if too_low else (-1, guess)
                doubts = []
            elif not doubts:
                lines.append(NONE)
                return _finish(lines, NO_ANSWER)
            guess = doubts.pop(0) if doubts else self._next_guess(low, high)

    def _check(self, equation: Equation, guess: int) -> tuple[str, str]:
        left, left_value = self._evaluate(equation.left, guess)
        right, right_value = self._evaluate(equation.right, guess)
        working = left if equation.right.kind == "constant" else f"{left}|{right}"
        # Both values stand side by side before the verdict: a small model compares neighbours, not distant numbers.
        verdict = OK if left_value == right_value else LOW if left_value < right_value else HIGH
        return f"{working}|{left_value}?{right_value}", verdict

    def _evaluate(self, side: Side, guess: int) -> tuple[str, int]:
        results: list[int] = []
        written: list[str] = []

        def number(operand: int | str) -> int:
            if isinstance(operand, int):
                return operand
            return guess if operand == "x" else results[int(operand[1:])]

        for step in side.steps():
            left, right = number(step.left), number(step.right)
            exact = {"+": left + right, "-": left - right, "*": left * right}[step.op]
            results.append(self._slip(exact))
            written.append(f"{left}{step.op}{right}={results[-1]}")
        value = results[-1] if results else side(guess)
        return ",".join(written) or str(value), value

    def _slip(self, exact: int) -> int:
        if self._rng.random() >= self._habits.slip:
            return exact
        return exact + self._rng.choice((-10, -2, -1, 1, 2, 10))

    def _first_guess(self, equation: Equation) -> int:
        hunch = self._rng.gauss(_crossing(equation), self._habits.blur[equation.tier - 1])
        return min(max(round(hunch), 0), equation.max_x)

    def _next_guess(self, low: int, high: int) -> int:
        share = 0.5 + self._habits.wander * self._rng.uniform(-1, 1)
        return min(max(round(low + share * (high - low)), low + 1), high - 1)


def _crossing(equation: Equation) -> int:
    """The first x at which left - right has the sign it keeps; the solution where there is one."""
    signs = (equation.left(x) >= equation.right(x) for x in range(equation.max_x + 1))
    return next((x for x, sign in enumerate(signs) if sign == equation.rises), equation.max_x)


def _finish(lines: list[str], answer: str) -> str:
    return "\n".join([*lines, ANSWER + answer])
