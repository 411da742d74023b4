"""What a network over hidden states foretells: a class of each outcome to learn from, and what its logits say.

Reward and cost together (`RewardCost`) are the target of heads, by which samples are searched. The others are those of
probes: one of some names, yes or no, or a number in bins. A target is data, and goes into the file with the weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError, model_validator

from zip_introspect.config import Settings
from zip_introspect.errors import ConfigError, HeadError, NonFiniteLogitsError, TrainingDataError
from zip_introspect.introspection.grid import JointGrid

IGNORED = -100
"""The label of what is not known, and not learnt from."""
MOST_CLASSES = 1 << 12

Outcomes = ArrayLike | Sequence[object] | None
"""What became of prefixes: numbers or names, one or an array of them, None among them where nobody knows."""


class Target(Settings, ABC):
    """What is foretold: `num_classes` classes of outcomes, of which a network gives the logits.

    Raises:
        HeadError: a target that is malformed.
    """

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """How many classes there are."""

    @abstractmethod
    def labels(self, outcomes: Outcomes) -> NDArray[np.int64]:
        """The class of each outcome, from 0, or `IGNORED` where it is not known (None or NaN).

        Raises:
            TrainingDataError: an outcome that cannot be.
        """

    @property
    @abstractmethod
    def representatives(self) -> NDArray[np.float64]:
        """What each class stands for, shape (num_classes, ...), as expectations take it."""

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """The distribution over classes that logits stand for, their softmax, shape (..., num_classes).

        Raises:
            HeadError: another number of logits.
            NonFiniteLogitsError: a logit is NaN or infinite.
        """
        given = np.asarray(logits, np.float64)
        if not given.ndim or given.shape[-1] != self.num_classes:
            raise HeadError(
                f"logits of shape {given.shape}; expected a last axis of the {self.num_classes} classes of the target"
            )
        if not np.isfinite(given).all():
            raise NonFiniteLogitsError(
                "a logit is NaN or infinite; expected finite numbers. Check the hidden states, or load the model in a "
                "wider dtype such as float32."
            )
        weights = np.exp(given - given.max(-1, keepdims=True, initial=-np.inf))
        return np.asarray(weights / weights.sum(-1, keepdims=True))

    def expectation(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        """The mean of what classes stand for.

        Args:
            probabilities: shape (..., num_classes).
        """
        return np.asarray(np.tensordot(np.asarray(probabilities, np.float64), self.representatives, axes=1))

    @classmethod
    def _explain(cls, error: ValidationError) -> ConfigError:
        raise HeadError(f"the target is malformed: {super()._explain(error)}") from None


class Categorical(Target):
    """One of some names. What a name stands for is the unit vector of its class, so expectations are probabilities."""

    kind: Literal["categorical"] = "categorical"
    names: tuple[str, ...] = Field(min_length=2, max_length=MOST_CLASSES, description="Of the classes, in order.")

    @model_validator(mode="after")
    def _distinct(self) -> Categorical:
        if len(set(self.names)) != len(self.names):
            raise ValueError("a name is given twice; expected each once")
        return self

    @property
    def num_classes(self) -> int:
        """As many as names."""
        return len(self.names)

    @property
    def representatives(self) -> NDArray[np.float64]:
        """Shape (num_classes, num_classes)."""
        return np.eye(self.num_classes)

    def labels(self, outcomes: Outcomes) -> NDArray[np.int64]:
        """The places of names, same shape; of None `IGNORED`."""
        given = np.asarray(outcomes, dtype=object)
        places: dict[object, int] = {None: IGNORED, **{name: place for place, name in enumerate(self.names)}}
        found = [places.get(item) for item in given.reshape(-1).tolist()]
        if None in found:
            other = given.reshape(-1)[found.index(None)]
            raise TrainingDataError(f"an outcome is {other!r}; expected one of {', '.join(self.names)}, or None")
        return np.array(found, np.int64).reshape(given.shape)


class Bernoulli(Target):
    """Yes or no: class 1 is yes, and the expectation is its probability."""

    kind: Literal["bernoulli"] = "bernoulli"

    @property
    def num_classes(self) -> int:
        """Two."""
        return 2

    @property
    def representatives(self) -> NDArray[np.float64]:
        """0 and 1."""
        return np.array([0.0, 1.0])

    def labels(self, outcomes: Outcomes) -> NDArray[np.int64]:
        """1 of what is true or 1, 0 of what is false or 0, same shape."""
        given = _numbers(outcomes)
        known = ~np.isnan(given)
        wrong = given[known & (given != 0) & (given != 1)]
        if wrong.size:
            raise TrainingDataError(f"an outcome is {wrong[0]:g}; expected true or false, or NaN where nobody knows")
        return np.where(known, np.nan_to_num(given), IGNORED).astype(np.int64)


class Binned(Target):
    """A number in bins, half-open: [edge, next edge). Numbers outside the edges fall into the end bins."""

    kind: Literal["binned"] = "binned"
    edges: tuple[float, ...] = Field(min_length=2, max_length=MOST_CLASSES + 1, description="Strictly rising.")
    values: tuple[float, ...] = Field((), description="What each bin stands for; the midpoints unless given.")

    @model_validator(mode="after")
    def _consistent(self) -> Binned:
        if not (np.diff(self.edges) > 0).all():
            raise ValueError("edges do not rise; expected strictly rising ones")
        if self.values and len(self.values) != self.num_classes:
            raise ValueError(f"there are {len(self.values)} values; expected one a bin, {self.num_classes}")
        if not np.isfinite(self.representatives).all():
            raise ValueError("the midpoint of a bin overflows; expected edges that can be added")
        return self

    @property
    def num_classes(self) -> int:
        """One less than edges."""
        return len(self.edges) - 1

    @property
    def representatives(self) -> NDArray[np.float64]:
        """Shape (num_classes,)."""
        with np.errstate(over="ignore"):
            return np.array(self.values or np.add(self.edges[:-1], self.edges[1:]) / 2, np.float64)

    def labels(self, outcomes: Outcomes) -> NDArray[np.int64]:
        """The bins of numbers, same shape."""
        given = _numbers(outcomes)
        bins = np.searchsorted(np.array(self.edges[1:-1]), given, side="right")
        return np.where(np.isnan(given), IGNORED, bins).astype(np.int64)


class RewardCost(Target):
    """The reward that an answer ends with and the tokens that remain, jointly (eq. 6): the cells of a grid.

    Outcomes have shape (..., 2): reward, and remaining tokens, end of sequence included.
    """

    kind: Literal["reward_cost"] = "reward_cost"
    grid: JointGrid

    @property
    def num_classes(self) -> int:
        """B_V * B_T."""
        return self.grid.num_cells

    @property
    def representatives(self) -> NDArray[np.float64]:
        """Shape (B_V * B_T, 2): expected reward and length are what eq. 8 says."""
        rewards, lengths = np.meshgrid(self.grid.reward_values, self.grid.length_values, indexing="ij")
        return np.stack([rewards.reshape(-1), lengths.reshape(-1)], axis=-1)

    def labels(self, outcomes: Outcomes) -> NDArray[np.int64]:
        """Cells in flat order, b * B_T + l, shape (...)."""
        given = _numbers(outcomes)
        if not given.ndim or given.shape[-1] != 2:
            raise TrainingDataError(f"outcomes of shape {given.shape}; expected (..., 2): reward and remaining tokens")
        known = np.asarray(~np.isnan(given).any(-1))
        reward, remaining = np.moveaxis(np.where(known[..., None], given, 0.0), -1, 0)
        cells = self.grid.flat_index(self.grid.reward_bin(reward), self.grid.length_bin(remaining))
        return np.where(known, cells, IGNORED)


AnyTarget = Annotated[Categorical | Bernoulli | Binned | RewardCost, Field(discriminator="kind")]
"""Those that a file can hold."""


def _numbers(outcomes: Outcomes) -> NDArray[np.float64]:
    """With None as NaN."""
    try:
        return np.asarray(outcomes, np.float64)
    except (TypeError, ValueError) as error:
        raise TrainingDataError(f"outcomes are not numbers: {error}; expected numbers, or None or NaN") from None
