"""The hidden states of stored rollouts as one table: a row for each prefix that was kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zip_introspect.errors import TrainingDataError
from zip_introspect.evaluation.store.rollout_file import Rollouts


@dataclass(frozen=True)
class States:
    """Prefixes of rollouts, a row for each, and what became of the rollouts."""

    last: NDArray[np.float16]
    """Shape (rows, hidden size)."""
    mean: NDArray[np.float16]
    rollout: NDArray[np.int64]
    """Of which rollout; rising."""
    position: NDArray[np.int64]
    """Generated tokens of the prefix."""
    remaining: NDArray[np.int64]
    """Tokens still to come, end of sequence included; of one that was cut, up to the cut."""
    right: NDArray[np.bool_]
    """Shape (rollouts,), as the next ones."""
    finished: NDArray[np.bool_]
    length: NDArray[np.int64]
    """Generated tokens."""
    question: NDArray[np.int64]

    @classmethod
    def of(cls, rollouts: Rollouts) -> States:
        """Read them off rollouts.

        Raises:
            TrainingDataError: no hidden states were kept.
        """
        everything = [(place, item) for place, problem in enumerate(rollouts.problems) for item in problem.rollouts]
        kept = [item.hidden for _, item in everything if item.hidden is not None]
        if not kept or len(kept) < len(everything):
            raise TrainingDataError(
                f"the rollouts of {rollouts.model} hold hidden states of {len(kept)} samples of {len(everything)}; "
                f"collect them with: zip-introspect rollouts ... --hidden-every 8"
            )
        counts = [len(states.positions) for states in kept]
        length = np.array([len(item.tokens) for _, item in everything])
        rollout = np.repeat(np.arange(len(kept)), counts)
        position = np.concatenate([states.positions for states in kept]).astype(np.int64)
        return cls(
            last=np.concatenate([states.last for states in kept]),
            mean=np.concatenate([states.mean for states in kept]),
            rollout=rollout,
            position=position,
            remaining=length[rollout] - position,
            right=np.array([item.right for _, item in everything]),
            finished=np.array([item.finished for _, item in everything]),
            length=length,
            question=np.array([place for place, _ in everything]),
        )

    @property
    def ends(self) -> NDArray[np.intp]:
        """The row of each rollout's last prefix, shape (rollouts,)."""
        return np.flatnonzero(np.diff(self.rollout, append=-1))

    @property
    def starts(self) -> NDArray[np.intp]:
        """The row of each rollout's prompt, shape (rollouts,)."""
        return np.flatnonzero(np.diff(self.rollout, prepend=-1))

    @property
    def groups(self) -> NDArray[np.int64]:
        """The question of each row."""
        return self.question[self.rollout]

    def weights(self) -> NDArray[np.float64]:
        """What each row counts for in training: the end of a rollout as much as all its other prefixes together.

        There its value is read that chooses among samples, and there is most to be seen.
        """
        counts = np.bincount(self.rollout)
        weights = np.ones(len(self.rollout))
        weights[self.ends] = np.maximum(counts - 1, 1)
        return weights

    def features(self, inputs: tuple[str, ...]) -> NDArray[np.float32]:
        """What a head reads of each row, shape (rows, inputs * hidden size)."""
        return features(self, inputs)


class Read(Protocol):
    """Rows of hidden states, as `States` has them."""

    @property
    def last(self) -> NDArray[np.float16]: ...
    @property
    def mean(self) -> NDArray[np.float16]: ...


def features(rows: Read, inputs: tuple[str, ...]) -> NDArray[np.float32]:
    """What a network reads of each row, shape (rows, inputs * hidden size)."""
    return np.concatenate([getattr(rows, name) for name in inputs], axis=1).astype(np.float32)


def check_enough(states: States, fewest: int = 20) -> None:
    """Refuse rollouts from which nothing can be learnt.

    Raises:
        TrainingDataError: too few questions, or hardly any right or wrong sample.
    """
    questions, right, count = len(np.unique(states.question)), int(states.right.sum()), len(states.right)
    if questions < fewest:
        raise TrainingDataError(f"there are {questions} questions; expected {fewest} or more, and better some hundred")
    for what, found in (("right", right), ("wrong", count - right)):
        if found < fewest:
            raise TrainingDataError(
                f"{found} of {count} samples are {what}; expected {fewest} or more, or nothing tells right from wrong. "
                f"Take {'easier' if what == 'right' else 'harder'} questions, or look at what the grader takes"
            )
