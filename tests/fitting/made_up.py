"""Rollouts with hidden states of a made-up model: what will become of a sample shows in them, more or less."""

from __future__ import annotations

import numpy as np

from zip_introspect.evaluation.store.rollout_file import Question, QuestionRollouts, Rollouts, StoredRollout
from zip_introspect.training.on_policy import HiddenRows

SIZE, EVERY, LONGEST = 16, 8, 64


def rollouts(questions: int = 60, samples: int = 4, *, tells: float = 2.0, seed: int = 0, noise: int = 0) -> Rollouts:
    """Samples of 5 to 60 tokens, some cut at 64; right ones have a first number that is higher by `tells`.

    Args:
        noise: so many numbers of a state in place of the usual ones, and all of them noise.
    """
    rng = np.random.default_rng(seed)
    problems = []
    for place in range(questions):
        ease = rng.uniform(0.1, 0.9)
        made: list[StoredRollout] = []
        for _ in range(samples):
            right, length = bool(rng.random() < ease), int(rng.integers(5, 61))
            finished = bool(rng.random() < 0.95)
            length = length if finished else LONGEST
            right = right and finished
            rows = length if finished else length + 1
            positions = np.unique([*range(0, rows, EVERY), rows - 1]).astype(np.int32)
            states = rng.normal(size=(len(positions), noise or SIZE))
            if noise:
                states += rng.normal(size=noise)  # of a sample: what one prefix shows, all do
            states[:, 0] += tells * (right - 0.5) * positions / rows
            states[:, 1] += (length - positions) / 10
            states[:, 2] += 0 if noise else 2 * ease
            means = states.cumsum(0) / np.arange(1, len(states) + 1)[:, None]
            hidden = HiddenRows(positions, states.astype(np.float16), means.astype(np.float16))
            own = np.random.default_rng((seed, place, len(made)))
            told = -own.exponential((0.2 if right else 1.0, 9.0), (length, 2)).astype(np.float16)
            answer = str(place) if right else str(1_000 + int(rng.integers(3)))
            made.append(
                StoredRollout(
                    tokens=rng.integers(1, 100, length).astype(np.int32),
                    text=f"ans {answer}",
                    answer=answer if finished else None,
                    right=right,
                    finished=finished,
                    joints=np.zeros((rows, 0), np.float16),
                    hidden=hidden,
                    confidences=told,
                )
            )
        problems.append(QuestionRollouts(Question(f"question {place}", str(place)), (1, 2, place + 3), tuple(made)))
    return Rollouts(None, "made up", LONGEST, tuple(problems), hidden_size=noise or SIZE, confidences=not noise)
