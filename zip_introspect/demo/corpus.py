"""What the embedded model is trained on: phrased equations with a solver's working, and declines.

Every draw depends on a `random.Random` alone, so a seed fixes the corpus. Held-out equations
(`Equation.held_out`) never appear in it.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass

from zip_introspect.demo.equations import TIERS, Equation, parse, sample
from zip_introspect.demo.solver import FallibleSolver

DECLINE = "I only find a whole x from 0 to 40, as in 3*x+5=35."

PHRASINGS = (
    "{}",
    "Solve {}",
    "solve {}",
    "Solve {}.",
    "Solve {} for x.",
    "Solve for x: {}",
    "Find x: {}",
    "Find the whole number x with {}",
    "Find the whole number x that solves {}.",
    "What x makes {} true?",
    "What is x if {}?",
    "Which x solves {}?",
    "{} What is x?",
    "Please solve {}",
)

TIER_WEIGHTS = (0.12, 0.18, 0.22, 0.22, 0.26)  # harder tiers have more arithmetic to learn
DECLINED, UNSOLVABLE, WITH_HISTORY = 0.04, 0.06, 0.04


@dataclass(frozen=True)
class Example:
    """A conversation that ends in the user's prompt, and the completion to learn."""

    messages: tuple[dict[str, str], ...]
    completion: str
    tier: int
    """1 to 5; 0 for a prompt that is not an equation of the grammar."""


def examples(seed: int, count: int) -> Iterator[Example]:
    """Draw the training corpus: `count` examples, the same for the same seed."""
    rng = random.Random(seed)
    solver = FallibleSolver(rng)
    for _ in range(count):
        if rng.random() < DECLINED:
            prompt, completion, tier = unanswerable(rng), DECLINE, 0
        else:
            solvable = rng.random() >= UNSOLVABLE
            equation = sample(rng, rng.choices(TIERS, TIER_WEIGHTS)[0], held_out=False, solvable=solvable)
            prompt, completion, tier = phrase(equation, rng), solver.solve(equation), equation.tier
        yield Example((*_history(rng), {"role": "user", "content": prompt}), completion, tier)


def phrase(equation: Equation, rng: random.Random) -> str:
    """The equation as a user might type it: bare or in a sentence, spaced, with `3x` for `3*x`, sides swapped."""
    text = str(equation)
    style = rng.random()
    if style < 0.15:
        text = text.replace("+", " + ").replace("-", " - ").replace("=", " = ")
    elif style < 0.25:
        text = " ".join(text.replace("*x", "x*").replace("x*x*", "x*x").replace("x*", "x").replace("xx", "x*x").split())
        text = text.replace("*(", "(")
    elif style < 0.32:
        left, right = text.split("=")
        text = f"{right}={left}"
    text = text if parse(text) == equation else str(equation)
    return rng.choice(PHRASINGS).format(text) if rng.random() < 0.7 else text


def _history(rng: random.Random) -> Iterator[dict[str, str]]:
    """Rarely, a system message or an earlier turn, so that a conversation does not confuse the model."""
    if rng.random() < WITH_HISTORY:
        yield {
            "role": "system",
            "content": rng.choice(("You are a helpful assistant.", "Solve the equation.", "Be brief.")),
        }
    if rng.random() < WITH_HISTORY:
        equation = sample(rng, rng.choice(TIERS[:2]), held_out=False)
        yield {"role": "user", "content": phrase(equation, rng)}
        yield {"role": "assistant", "content": f"ans {equation.answer}" if rng.random() < 0.5 else "Hello!"}


_SUBJECTS = (
    "the weather",
    "a cat",
    "my friend",
    "this poem",
    "the capital of France",
    "a good book",
    "music",
    "history",
)
_OPENINGS = (
    "Hello",
    "Hi",
    "Tell me about",
    "What is",
    "Who was",
    "Write a story about",
    "Explain",
    "Translate",
    "Why is",
)


def unanswerable(rng: random.Random) -> str:
    """A prompt outside the grammar: chatter, noise, another letter, numbers too large, no equation at all."""
    while True:
        text = rng.choice((_chatter, _noise, _other_letter, _too_large, _broken))(rng)
        if text.strip() and parse(text) is None:
            return rng.choice(PHRASINGS).format(text) if rng.random() < 0.5 else text


def _chatter(rng: random.Random) -> str:
    words = [rng.choice(_OPENINGS), rng.choice(_SUBJECTS)]
    if rng.random() < 0.3:
        words.append("".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 8))))
    return " ".join(words) + rng.choice(("", "?", ".", "!"))


def _noise(rng: random.Random) -> str:
    alphabet = rng.choice(
        (string.ascii_letters + " ", string.digits + "+-*/=x() ", string.printable[:95], "äöüéñ日本語 ")
    )
    return "".join(rng.choices(alphabet, k=rng.randint(1, 24)))


def _other_letter(rng: random.Random) -> str:
    equation = sample(rng, rng.choice(TIERS), held_out=False)
    return str(equation).replace("x", rng.choice("abcyzntkm"))


def _too_large(rng: random.Random) -> str:
    a, b, c = rng.randint(10, 999), rng.randint(130, 9999), rng.randint(1000, 99999)
    return rng.choice((f"{a}*x+{b}={c}", f"{a}*x={c}", f"x*x*x+{b % 60}={c}", f"{a % 10}*x+{b}={c}", f"x/{a}={b}"))


def _broken(rng: random.Random) -> str:
    text = str(sample(rng, rng.choice(TIERS), held_out=False))
    cut = rng.randrange(1, len(text))
    return rng.choice(
        (text[:cut], text[cut:], text.replace("=", ""), text.replace("=", "=="), f"{text[:cut]}{text[cut + 1 :]}=")
    )
