"""Whose a head is: enough of a model's weights to know it again in any number format, and to tell it from others.

Three things are compared. Rows of the embedding, and of the output projection of the middle layer's MLP, which a file
may hold quantised: they differ by no more than the rounding of both. The weights of the final norm, which all files
keep in full: a fine-tune of all weights moves them. A fine-tune that moved only what is not among them passes, and the
chat template, which is compared by its text, only warns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zip_introspect.errors import HeadError

ROWS = 16
"""Rows of the embedding."""
MLP_ROWS = 4
SLACK = 2.0
"""Of the rounding that two files may differ by: their types' typical one, twice."""
EXACT = 0.01
"""What a norm's weights may differ by, relative to their spread."""
HALF = 0.0025
"""What either of them may be rounded by, relative to their size: bfloat16 rounds to 0.002."""


@dataclass(frozen=True)
class Fingerprint:
    """What is known of a model. Arrays are float32; those that a model does not have are empty.

    Raises:
        HeadError: arrays that are not finite or do not fit the sizes.
    """

    architecture: str
    """As its files name it; it differs between formats, so it is for people."""
    hidden_size: int
    layers: int
    token_ids: tuple[int, ...]
    """Whose embeddings are compared."""
    rows: NDArray[np.float32]
    """Shape (ids, hidden size)."""
    mlp: NDArray[np.float32]
    """Shape (rows, width): the first rows of the middle layer's down projection."""
    norm: NDArray[np.float32]
    """Shape (hidden size,)."""
    rounding: float = 0.0
    """Of the rows, relative to their size: that of the file's number format."""
    template: str = ""
    """The chat template's SHA-256; empty where there is none."""

    def __post_init__(self) -> None:
        arrays = {"rows": self.rows, "mlp": self.mlp, "norm": self.norm}
        fits = self.rows.shape == (len(self.token_ids), self.hidden_size) and self.mlp.ndim == 2
        fits = fits and self.norm.shape in ((0,), (self.hidden_size,)) and 0 <= self.rounding <= 1
        if not fits or not all(np.isfinite(array).all() for array in arrays.values()):
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise HeadError(f"the head's fingerprint is malformed: {shapes} of a hidden size of {self.hidden_size}")

    def compare(self, model: Fingerprint) -> tuple[str, ...]:
        """Check that a model is the one that this was taken of.

        Args:
            model: taken with this one's `token_ids`.

        Returns:
            warnings: what differs, and does not make it another model.

        Raises:
            HeadError: another model, or one that was trained on since.
        """
        for name in ("hidden_size", "layers"):
            mine, other = getattr(self, name), getattr(model, name)
            if mine != other:
                raise HeadError(
                    f"the head belongs to a {self.architecture} with {name.replace('_', ' ')} {mine}, and this "
                    f"{model.architecture} has {other}; expected the model that the head was made for"
                )
        allowed = EXACT + SLACK * (self.rounding + model.rounding)
        measured = {
            "the embeddings": (_difference(self.rows, model.rows), allowed),
            "the middle layer": (_difference(self.mlp, model.mlp), allowed),
            # Formats store some norms as their distance from 1.
            "the final norm": (
                _difference(self.norm - _mean(self.norm), model.norm - _mean(model.norm)),
                EXACT + _tightness(self.norm) * sum(min(item.rounding, HALF) for item in (self, model)),
            ),
        }
        for what, (difference, most) in measured.items():
            if difference > most:
                other = "another model" if difference > 0.5 else "a model that was trained on since"
                raise HeadError(
                    f"{what} of this model differ by {difference:.3f} from those that the head was made for; expected "
                    f"at most {most:.3f}, so this is {other}. Make it a head of its own."
                )
        if self.template and model.template and self.template != model.template:
            return ("the model's chat template is not the one that its head was trained with",)
        return ()


def token_ids(vocabulary: int, count: int = ROWS) -> tuple[int, ...]:
    """Ids over the whole vocabulary, its first and last left out: padding and special tokens lie there."""
    return tuple(int(place) for place in np.linspace(0, vocabulary, count + 2)[1:-1])


def _mean(array: NDArray[np.float32]) -> float:
    return float(array.mean()) if array.size else 0.0


def _tightness(norm: NDArray[np.float32]) -> float:
    """The size of weights over that of their spread."""
    spread = float(np.linalg.norm(norm - _mean(norm)))
    return float(np.linalg.norm(norm)) / spread if spread else 0.0


def _difference(mine: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Relative to the size of both; 0 where one of them is not known."""
    if not mine.size or not other.size:
        return 0.0
    if mine.shape != other.shape:
        return 1.0
    size = max(float(np.linalg.norm(mine)), float(np.linalg.norm(other)), float(np.finfo(np.float32).tiny))
    return float(np.linalg.norm(mine - other)) / size
