"""How good a head is on questions that it did not see: in numbers, and what they mean in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zip_introspect.answers.agreement import agreement
from zip_introspect.answers.extraction import key
from zip_introspect.evaluation.measures.metrics import auroc, auroc_within, expected_calibration_error
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.fitting.choosing import PRICES, Tried, promised
from zip_introspect.fitting.states import States
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid

_EDGE = 0.03
"""Of AUROC: what lies nearer is no difference."""


@dataclass(frozen=True)
class Quality:
    """Figures of a head, all on held-out questions."""

    questions: int
    samples: int
    right: float
    """Share of the samples."""
    end: float
    """AUROC of the value at the end of a sample."""
    within: float
    """The same between samples of one question; NaN where none has both."""
    prompt: float
    """AUROC of the value at the prompt: whether it knows which questions are hard."""
    votes: float
    """AUROC of the share of votes."""
    votes_within: float
    ece: float
    """Calibration error of the value at the end, ten bins."""
    length_error: float
    """Mean absolute error of the length expected at the prompt, in tokens."""
    length_guess: float
    """The same of one guess for all, their median."""


def quality(rollouts: Rollouts, states: States, grid: JointGrid, probabilities: NDArray[np.floating]) -> Quality:
    """Measure cross-fitted joints, shape (rows, B_V*B_T), row by row as `states` has them."""
    joints = probabilities.reshape(-1, *grid.shape).astype(np.float64)
    values, lengths = joint.expected_value(joints, grid), joint.expected_length(joints, grid)
    whole = states.finished
    end, right, question = values[states.ends][whole], states.right[whole], states.question[whole]
    votes = _votes(rollouts)[whole]
    taken = states.length[whole]
    return Quality(
        questions=len(rollouts.problems),
        samples=len(states.right),
        right=float(states.right.mean()),
        end=auroc(right, end),
        within=auroc_within(question, right, end)[0],
        prompt=auroc(right, values[states.starts][whole]),
        votes=auroc(right, votes),
        votes_within=auroc_within(question, right, votes)[0],
        ece=expected_calibration_error(right, np.clip(end, 0, 1)),
        length_error=float(np.abs(lengths[states.starts][whole] - taken).mean()),
        length_guess=float(np.abs(np.median(taken) - taken).mean()),
    )


def _votes(rollouts: Rollouts) -> NDArray[np.float64]:
    """The agreement of each rollout with the others of its question, shape (rollouts,)."""
    found = []
    for problem in rollouts.problems:
        keys = [None if item.answer is None else key(item.answer) for item in problem.rollouts]
        counts = Counter(keys)
        for own in keys:
            others = list(counts.elements())
            others.remove(own)
            found.append(0.0 if own is None else agreement(own, [str(other) for other in others]))
    return np.array(found)


def in_words(found: Quality, played: list[Tried], chosen: dict[str, Tried]) -> list[str]:
    """What a user should know, a sentence each."""
    said = [
        f"Measured on {found.questions} questions that the head did not see ({found.samples} samples, "
        f"{found.right:.0%} of them right), by cross-fitting.",
    ]
    if np.isnan(found.end):
        said.append(
            "All samples that came to an end were right, or all wrong: the others were cut. So it cannot be said how "
            "well it tells them apart; let samples be longer (--max-new-tokens)."
        )
        return said
    said += [
        f"At its end, a right sample gets a higher value than a wrong one in {found.end:.0%} of the pairs (AUROC "
        f"{found.end:.2f}); the share of votes does so in {found.votes:.0%}.",
    ]
    if np.isnan(found.within):
        said.append("No question has right and wrong samples, so it cannot be said whether it tells them apart.")
    elif found.within < 0.5 + 2 * _EDGE:
        said.append(
            f"Between samples of one question it can hardly tell (AUROC {found.within:.2f}, votes "
            f"{found.votes_within:.2f}): it knows which questions are hard, not which sample is right. Votes choose "
            f"better than it does here."
        )
    else:
        better = found.within > found.votes_within + _EDGE
        worse = found.within < found.votes_within - _EDGE
        verdict = "better than votes do" if better else "not as well as votes do" if worse else "as well as votes do"
        said.append(
            f"Between samples of one question it tells right from wrong {verdict}: AUROC {found.within:.2f}, and of "
            f"votes {found.votes_within:.2f}."
        )
    said.append(
        f"Before the first token it tells which questions will be answered right with an AUROC of {found.prompt:.2f}"
        + (", which is next to nothing." if found.prompt < 0.5 + 2 * _EDGE else ".")
    )
    gain = 1 - found.length_error / found.length_guess if found.length_guess else 0.0
    said.append(
        f"The length that it expects at the prompt is off by {found.length_error:.0f} tokens on average; one guess for "
        f"all questions is off by {found.length_guess:.0f}"
        + (f", so it explains {gain:.0%} of that." if gain > _EDGE else ", so it does not see lengths there.")
    )
    said.append(f"Its confidence at the end of one sample is off by {found.ece:.3f} on average (ECE).")
    for price, item in chosen.items():
        right, cost = promised(played, PRICES[price])
        said.append(
            f"At the {price} price (one sample is worth {PRICES[price]:g} of accuracy): {item.name}. What is best by "
            f"other questions is right in {right:.1%} at {cost:.2f} samples' tokens. "
            f"{_against_votes(item, right, cost, played)}"
        )
    return said


def _against_votes(item: Tried, right: float, cost: float, played: list[Tried]) -> str:
    """What a setting saves beside majority voting of about the same accuracy."""
    votes = sorted(
        (other for other in played if other.config.strategy in ("single", "majority_vote")),
        key=lambda other: other.config.max_samples,
    )
    reached = next((other for other in votes if other.right.mean() >= right - 1e-9), None)
    if item.config.strategy in ("single", "majority_vote"):
        return "The head adds nothing to votes here."
    if reached is None:
        most = votes[-1]
        name = f"Majority voting of {most.config.max_samples}"
        return f"{name} is right in {most.right.mean():.1%} at {most.cost.mean():.2f}."
    saved = 1 - cost / reached.cost.mean()
    name = "one sample" if reached.config.max_samples == 1 else f"majority voting of {reached.config.max_samples}"
    return f"{name[0].upper()}{name[1:]} takes {reached.cost.mean():.2f} for that: {saved:+.0%} saved."
