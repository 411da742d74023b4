"""A head: a small network from a model's last hidden state to the logits of a joint.

What it reads is the state behind the final norm, as the model's own output head does, and its running mean over the
answer so far. Backends compute it in the pass that gives the next token; this is what they have to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError, model_validator

from zip_introspect.config import GenerationConfig, Settings
from zip_introspect.errors import ConfigError, HeadError
from zip_introspect.framing import NO_FRAMING, Framing
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.introspection.grid import JointGrid

Input = Literal["last", "mean"]
"""last: the hidden state after the last token. mean: the mean of the states after the prompt and each token since."""

BALANCED = "balanced"
MOST_LAYERS = 2
MOST_WIDTH = 1 << 16
"""Of a layer, in and out: beyond that of any hidden state."""


class Searched(Settings):
    """What the confidence of results means after a search of one kind: the best of many is surer than it should be."""

    strategy: str
    selection: str
    max_samples: int = Field(ge=1)
    calibration: Calibration


class About(Settings):
    """All that a head's file says beside its weights.

    Raises:
        HeadError: anything malformed.
    """

    inputs: tuple[Input, ...] = Field(("last", "mean"), min_length=1, description="What the head reads, in order.")
    hidden_size: int = Field(ge=1, le=MOST_WIDTH, description="Of the model whose states it reads.")
    reward_edges: tuple[float, ...] = Field(description="Of its grid, as JointGrid has them.")
    length_edges: tuple[float, ...]
    reward_values: tuple[float, ...]
    length_values: tuple[float, ...]
    framing: Framing = Field(NO_FRAMING, description="How the questions that it learnt from were put.")
    recommended: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict, description="Settings at each price, by the names of GenerationConfig's fields."
    )
    searched: tuple[Searched, ...] = ()
    card: dict[str, JsonValue] = Field(
        default_factory=dict, description="What it was trained on, how, and how well it did."
    )

    @model_validator(mode="after")
    def _consistent(self) -> About:
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"inputs is {self.inputs}; expected each once")
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

    def calibration(self, strategy: str, selection: str, max_samples: int) -> Calibration | None:
        """What confidence means after a search: that of the nearest number of samples; None where nobody knows."""
        alike = [item for item in self.searched if (item.strategy, item.selection) == (strategy, selection)]
        nearest = min(alike, key=lambda item: abs(item.max_samples - max_samples), default=None)
        return nearest.calibration if nearest else None

    @classmethod
    def _explain(cls, error: ValidationError) -> ConfigError:
        raise HeadError(f"the head is malformed: {super()._explain(error)}") from None


class Head:
    """Weights over hidden states, the grid of the joints that they give, and whose they are.

    One layer is the linear head (what ZIP-RC-Lite trains), two are an MLP with SiLU between.

    Args:
        weights: of layer i `{i}.weight`, shape (out, in), and `{i}.bias`, shape (out,); the last layer's outputs are
            the grid's cells in flat order.
        fingerprint: of the model that it belongs to; None lets it be laid over any of its size.

    Raises:
        HeadError: weights that are missing, not finite, or of shapes that do not fit each other and the grid.
    """

    def __init__(
        self, about: About, weights: Mapping[str, NDArray[np.floating]], fingerprint: Fingerprint | None = None
    ) -> None:
        self.about, self.fingerprint = about, fingerprint
        self.grid = JointGrid(
            reward_edges=about.reward_edges,
            length_edges=about.length_edges,
            reward_values=about.reward_values,
            length_values=about.length_values,
        )
        self.layers = _layers(weights, len(about.inputs) * about.hidden_size, self.grid.num_cells)

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
    def kind(self) -> Literal["linear", "mlp"]:
        """What it is: one matrix, or one hidden layer."""
        return "linear" if len(self.layers) == 1 else "mlp"

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """As they were given, in float32."""
        return {
            f"{place}.{name}": array
            for place, layer in enumerate(self.layers)
            for name, array in zip(("weight", "bias"), layer, strict=True)
        }

    def logits(self, last: NDArray[np.floating], mean: NDArray[np.floating]) -> NDArray[np.float32]:
        """The joint's logits, shape (..., B_V*B_T).

        Args:
            last: hidden states, shape (..., hidden size).
            mean: their running means, the same shape.
        """
        read = {"last": last, "mean": mean}
        x = np.concatenate([np.asarray(read[name], np.float32) for name in self.about.inputs], axis=-1)
        for place, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias if not place else _silu(x) @ weight.T + bias
        return np.asarray(x, np.float32)

    def check_fits(self, hidden_size: int) -> None:
        """Check that a model's states are as wide as those that it reads.

        Raises:
            HeadError: they are not.
        """
        if hidden_size != self.about.hidden_size:
            raise HeadError(
                f"the head reads hidden states of {self.about.hidden_size} numbers, and the model's have "
                f"{hidden_size}; expected the model that the head was made for"
            )

    def check_belongs(self, take: Callable[[Sequence[int]], Fingerprint]) -> tuple[str, ...]:
        """Check that a model is the one that this head was made for; as `Fingerprint.compare`.

        Args:
            take: a backend's `fingerprint`.
        """
        return () if self.fingerprint is None else self.fingerprint.compare(take(self.fingerprint.token_ids))


Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


def _layers(weights: Mapping[str, NDArray[np.floating]], width: int, cells: int) -> tuple[Layer, ...]:
    count = len(weights) // 2
    expected = {f"{place}.{name}" for place in range(count) for name in ("weight", "bias")}
    if not 1 <= count <= MOST_LAYERS or set(weights) != expected:
        raise HeadError(
            f"the head has the weights {', '.join(sorted(weights)) or 'none'}; expected 0.weight and 0.bias, and of "
            f"an MLP 1.weight and 1.bias too"
        )
    layers = []
    for place in range(count):
        weight, bias = (np.ascontiguousarray(weights[f"{place}.{name}"], np.float32) for name in ("weight", "bias"))
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1] or len(bias) > MOST_WIDTH:
            raise HeadError(
                f"layer {place} of the head has weights of shape {weight.shape} and biases of shape {bias.shape}; "
                f"expected (out, {width}) and (out,)"
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise HeadError(f"layer {place} of the head holds NaN or infinity; is the file damaged? Train it again.")
        layers.append((weight, bias))
        width = len(bias)
    if width != cells:
        raise HeadError(f"the head gives {width} logits, and its grid has {cells} cells; expected as many")
    return tuple(layers)


def _silu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x * (0.5 + 0.5 * np.tanh(0.5 * x)), np.float32)  # which does not overflow
