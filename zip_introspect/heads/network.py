"""A small network over a model's last hidden states: what heads and probes have in common.

What it reads is the state behind the final norm, as the model's own output head does, and its running mean over the
answer so far. Backends compute it in the pass that gives the next token; this is what they have to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError, model_validator

from zip_introspect.config import Settings
from zip_introspect.errors import ConfigError, HeadError
from zip_introspect.heads.fingerprint import Fingerprint

Input = Literal["last", "mean"]
"""last: the hidden state after the last token. mean: the mean of the states after the prompt and each token since."""

MOST_LAYERS = 2
MOST_WIDTH = 1 << 16
"""Of a layer, in and out: beyond that of any hidden state."""

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


class AboutNetwork(Settings):
    """What a network's file says beside its weights, whatever it foretells.

    Raises:
        HeadError: anything malformed.
    """

    what: ClassVar[str] = "network"
    """What it is called in messages."""

    inputs: tuple[Input, ...] = Field(("last", "mean"), min_length=1, description="What it reads, in order.")
    hidden_size: int = Field(ge=1, le=MOST_WIDTH, description="Of the model whose states it reads.")
    card: dict[str, JsonValue] = Field(
        default_factory=dict, description="What it was trained on, how, and how well it did."
    )

    @model_validator(mode="after")
    def _each_once(self) -> AboutNetwork:
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"inputs is {self.inputs}; expected each once")
        return self

    @classmethod
    def _explain(cls, error: ValidationError) -> ConfigError:
        raise HeadError(f"the {cls.what} is malformed: {super()._explain(error)}") from None


class Network:
    """Weights over hidden states, and whose they are. One layer is linear, two are an MLP with SiLU between.

    Args:
        weights: of layer i `{i}.weight`, shape (out, in), and `{i}.bias`, shape (out,).
        fingerprint: of the model that it belongs to; None lets it be laid over any of its size.

    Raises:
        HeadError: weights that are missing, not finite, or of shapes that do not fit each other.
    """

    def __init__(
        self, about: AboutNetwork, weights: Mapping[str, NDArray[np.floating]], fingerprint: Fingerprint | None = None
    ) -> None:
        self.about, self.fingerprint = about, fingerprint
        self.layers = _layers(about.what, weights, len(about.inputs) * about.hidden_size)

    @property
    def outputs(self) -> int:
        """Logits that it gives."""
        return len(self.layers[-1][1])

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
        """The logits, shape (..., outputs): of a head, those of the joint's cells.

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
                f"the {self.about.what} reads hidden states of {self.about.hidden_size} numbers, and the model's have "
                f"{hidden_size}; expected the model that the {self.about.what} was made for"
            )

    def check_belongs(self, take: Callable[[Sequence[int]], Fingerprint]) -> tuple[str, ...]:
        """Check that a model is the one that this was made for; as `Fingerprint.compare`.

        Args:
            take: a backend's `fingerprint`.
        """
        return () if self.fingerprint is None else self.fingerprint.compare(take(self.fingerprint.token_ids))


def _layers(what: str, weights: Mapping[str, NDArray[np.floating]], width: int) -> tuple[Layer, ...]:
    count = len(weights) // 2
    expected = {f"{place}.{name}" for place in range(count) for name in ("weight", "bias")}
    if not 1 <= count <= MOST_LAYERS or set(weights) != expected:
        raise HeadError(
            f"the {what} has the weights {', '.join(sorted(weights)) or 'none'}; expected 0.weight and 0.bias, and of "
            f"an MLP 1.weight and 1.bias too"
        )
    layers = []
    for place in range(count):
        weight, bias = (np.ascontiguousarray(weights[f"{place}.{name}"], np.float32) for name in ("weight", "bias"))
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1] or len(bias) > MOST_WIDTH:
            raise HeadError(
                f"layer {place} of the {what} has weights of shape {weight.shape} and biases of shape {bias.shape}; "
                f"expected (out, {width}) and (out,)"
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise HeadError(f"layer {place} of the {what} holds NaN or infinity; is the file damaged? Train it again.")
        layers.append((weight, bias))
        width = len(bias)
    return tuple(layers)


def _silu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x * (0.5 + 0.5 * np.tanh(0.5 * x)), np.float32)  # which does not overflow
