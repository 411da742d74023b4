"""A head: a small network (`network`) from a model's last hidden state to the logits of a joint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, model_validator

from zip_introspect.config import GenerationConfig, Settings
from zip_introspect.errors import HeadError
from zip_introspect.framing import NO_FRAMING, Framing
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect.heads.network import AboutNetwork, Input, Network
from zip_introspect.heads.targets import RewardCost
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.posterior import AnswerModel

BALANCED = "balanced"


class Searched(Settings):
    """What the confidence of results means after a search of one kind: the best of many is surer than it should be."""

    strategy: str
    selection: str
    max_samples: int = Field(ge=1)
    calibration: Calibration


class About(AboutNetwork):
    """All that a head's file says beside its weights.

    Raises:
        HeadError: anything malformed.
    """

    what: ClassVar[str] = "head"

    reward_edges: tuple[float, ...] = Field(description="Of its grid, as JointGrid has them.")
    length_edges: tuple[float, ...]
    reward_values: tuple[float, ...]
    length_values: tuple[float, ...]
    framing: Framing = Field(NO_FRAMING, description="How the questions that it learnt from were put.")
    recommended: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict, description="Settings at each price, by the names of GenerationConfig's fields."
    )
    searched: tuple[Searched, ...] = ()
    answers: AnswerModel | None = Field(None, description="What is believed of answers, by `answer_posterior`.")

    @model_validator(mode="after")
    def _consistent(self) -> About:
        for price in self.recommended:
            self.config(price)
        return self

    def config(self, price: str = BALANCED) -> GenerationConfig | None:
        """The settings recommended at a price; None where none are.

        Raises:
            ConfigError: settings that do not exist, or are out of range.
        """
        found = self.recommended.get(price)
        return None if found is None else GenerationConfig(**cast(dict[str, Any], found))

    def calibration(
        self, strategy: str, selection: str, max_samples: int, source: str | None = None
    ) -> Calibration | None:
        """What confidence means after a search: that of the nearest number of samples; None where nobody knows.

        Args:
            source: tokens, or None for what results rest on unless asked otherwise.
        """
        alike = [
            item
            for item in self.searched
            if (item.strategy, item.selection, item.calibration.source) == (strategy, selection, source)
        ]
        nearest = min(alike, key=lambda item: abs(item.max_samples - max_samples), default=None)
        return nearest.calibration if nearest else None


class Head(Network):
    """Weights over hidden states, the grid of the joints that they give, and whose they are.

    One layer is the linear head (what ZIP-RC-Lite trains), two are an MLP with SiLU between.

    Args:
        weights: of layer i `{i}.weight`, shape (out, in), and `{i}.bias`, shape (out,); the last layer's outputs are
            the grid's cells in flat order.
        fingerprint: of the model that it belongs to; None lets it be laid over any of its size.

    Raises:
        HeadError: weights that are missing, not finite, or of shapes that do not fit each other and the grid.
    """

    about: About

    def __init__(
        self, about: About, weights: Mapping[str, NDArray[np.floating]], fingerprint: Fingerprint | None = None
    ) -> None:
        super().__init__(about, weights, fingerprint)
        self.grid = JointGrid(
            reward_edges=about.reward_edges,
            length_edges=about.length_edges,
            reward_values=about.reward_values,
            length_values=about.length_values,
        )
        if self.outputs != self.grid.num_cells:
            raise HeadError(
                f"the head gives {self.outputs} logits, and its grid has {self.grid.num_cells} cells; expected as many"
            )

    @classmethod
    def of(
        cls,
        grid: JointGrid,
        weights: Mapping[str, NDArray[np.floating]],
        *,
        hidden_size: int,
        inputs: tuple[Input, ...] = ("last", "mean"),
        fingerprint: Fingerprint | None = None,
        **about: Any,
    ) -> Head:
        """A head over a grid, whose reserved ids do not matter.

        Args:
            about: further fields of `About`.
        """
        axes: dict[str, Any] = {
            axis: tuple(getattr(grid, axis).tolist())
            for axis in ("reward_edges", "length_edges", "reward_values", "length_values")
        }
        return cls(About(inputs=inputs, hidden_size=hidden_size, **axes, **about), weights, fingerprint)

    @property
    def target(self) -> RewardCost:
        """What its logits are of."""
        return RewardCost(grid=self.grid)
