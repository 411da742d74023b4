"""JointGrid: reward and length bins, the reserved token ids that stand for them, and the file that keeps them.

Flat order is the paper's (section 4): the token of reward bin b and length bin l is
`first_reserved + b * num_length_bins + l`, both counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from zip_introspect.errors import GridError, ReservedTokensError
from zip_introspect.introspection.vectors import Numbers, TokenIds, numbers
from zip_introspect.paths import expanded

FILE_NAME = "zip_introspect.json"
FORMAT = "zip_introspect.grid"
FORMAT_VERSION = 1

RELEASED_REWARDS = (0.0, 0.1666667, 0.3333333, 0.5, 0.6666667, 0.8333333, 1.0)

_METADATA_PREFIX = "zip_introspect."
_AXES = ("reward_edges", "length_edges", "reward_values", "length_values")
_MAX_FILE_BYTES = 1 << 20  # a grid of 10,000 cells takes a tenth of it


class JointGrid(BaseModel):
    """The bins of a joint and the reserved tokens whose logits are its cells. Immutable; its arrays are read-only.

    A head file's grid reserves no tokens: its joints come from the head, and every token may be drawn.

    Bins are half-open, [edge, next edge), as in eq. 6. Rewards outside the edges clip into the end bins; the last
    length bin has no upper end. `reward_values` and `length_values` are the representatives that expectations
    use (eq. 8), the midpoints unless given. `first_reserved=` may be given in place of `reserved_token_ids=`.

    Raises:
        GridError: edges that do not rise, values outside their bins, ids that are not contiguous, NaN, wrong sizes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    reward_edges: Numbers
    """Shape (num_reward_bins + 1,), strictly rising."""
    length_edges: Numbers
    """Shape (num_length_bins + 1,), in tokens, strictly rising, from 0 or more."""
    reward_values: Numbers
    """Shape (num_reward_bins,): each bin's representative."""
    length_values: Numbers
    """Shape (num_length_bins,), in tokens: each bin's representative."""
    reserved_token_ids: TokenIds = ()
    """One id a cell, contiguous, in flat order; none where a head gives the joints."""

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            reasons = []
            for item in error.errors():
                place = ".".join(map(str, item["loc"]))
                message = item["msg"].removeprefix("Value error, ")
                reasons.append(f"{place}: {message}" if place else message)
            raise GridError(f"the grid is malformed: {'; '.join(reasons)}") from None

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fill in what may be left out: the midpoints, and the ids after `first_reserved`."""
        data = dict(data)
        for axis in ("reward", "length"):
            if f"{axis}_edges" not in data:
                raise ValueError(f"{axis}_edges is missing")
            try:
                edges = data[f"{axis}_edges"] = numbers(data[f"{axis}_edges"])
            except ValueError as error:
                raise ValueError(f"{axis}_edges: {error}") from None
            if data.get(f"{axis}_values") is None:
                data[f"{axis}_values"] = (edges[:-1] + edges[1:]) / 2
        first = data.pop("first_reserved", None)
        if first is not None:
            if "reserved_token_ids" in data:
                raise ValueError("give first_reserved or reserved_token_ids, not both")
            if isinstance(first, bool) or not isinstance(first, (int, np.integer)):
                raise ValueError(f"first_reserved is {first!r}; expected a token id")
            cells = max(len(data["reward_edges"]) - 1, 0) * max(len(data["length_edges"]) - 1, 0)
            data["reserved_token_ids"] = tuple(range(int(first), int(first) + cells))
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for axis, edges, values in (
            ("reward", self.reward_edges, self.reward_values),
            ("length", self.length_edges, self.length_values),
        ):
            if edges.size < 2:
                raise ValueError(f"{axis}_edges holds {edges.size} numbers; expected 2 or more, one more than bins")
            if not (np.diff(edges) > 0).all():
                raise ValueError(f"{axis}_edges is {edges.tolist()}; expected strictly rising edges")
            if values.size != edges.size - 1:
                raise ValueError(f"{axis}_values holds {values.size} numbers; expected one a bin, {edges.size - 1}")
            upper = edges[1:].copy()
            if axis == "length":
                upper[-1] = np.inf  # the last length bin is open-ended
            outside = np.flatnonzero((values < edges[:-1]) | (values > upper))
            if outside.size:
                raise ValueError(f"{axis}_values[{outside[0]}] is {values[outside[0]]}, which lies outside its bin")
            if not (np.diff(values) > 0).all():
                raise ValueError(f"{axis}_values is {values.tolist()}; expected strictly rising values")
        if self.length_edges[0] < 0:
            raise ValueError(f"length_edges begins at {self.length_edges[0]}; a length is 0 or more")
        ids = self.reserved_token_ids
        if not ids:
            return self
        cells = self.num_reward_bins * self.num_length_bins
        if len(ids) != cells:
            raise ValueError(
                f"reserved_token_ids holds {len(ids)} ids; expected {cells}, "
                f"one for each of {self.num_reward_bins} x {self.num_length_bins} cells"
            )
        if ids[0] < 0:
            raise ValueError(f"reserved_token_ids begins at {ids[0]}; a token id is 0 or more")
        if len(set(ids)) != cells:
            raise ValueError("reserved_token_ids holds an id twice; every cell needs a token of its own")
        if ids != tuple(range(ids[0], ids[0] + cells)):
            raise ValueError("reserved_token_ids is not contiguous; expected first, first + 1, ... in flat order")
        return self

    @classmethod
    def paper(
        cls, first_reserved: int, *, num_reward_bins: int = 8, num_length_bins: int = 8, startup: float = 256
    ) -> Self:
        """The paper's grid (A.1): equal reward bins over [0, 1]; a start-up length bin, then edges that double.

        Args:
            first_reserved: the first reserved token id.
            startup: the upper edge of the first length bin, in tokens; the edges are 0, startup, 2*startup, ...
        """
        if num_reward_bins < 1 or num_length_bins < 1:
            raise GridError(f"a grid of {num_reward_bins} x {num_length_bins} bins; expected 1 or more on each axis")
        return cls(
            reward_edges=np.linspace(0.0, 1.0, num_reward_bins + 1),
            length_edges=np.concatenate([[0.0], startup * 2.0 ** np.arange(num_length_bins)]),
            first_reserved=first_reserved,
        )

    @classmethod
    def released(cls, first_reserved: int, *, reward_values: Sequence[float] = RELEASED_REWARDS) -> Self:
        """The grid of the authors' released training code, so that its checkpoints read with the right numbers.

        Reward bins are centred on the given values, parted halfway between them and ended at the outer ones: the
        sixths, to seven digits, or 0 and 1 where correctness itself was learnt. The 8 length bins are theirs of 0, 256,
        512, ..., 32768: they leave the last token out of what remains, so one more is ours (eq. 6).
        """
        centres = np.array(reward_values, dtype=np.float64)
        return cls(
            reward_edges=np.concatenate([centres[:1], (centres[:-1] + centres[1:]) * 0.5, centres[-1:]]),
            length_edges=np.concatenate([[0.0], 256 * 2.0 ** np.arange(8) + 1]),
            reward_values=centres,
            first_reserved=first_reserved,
        )

    @cached_property
    def num_reward_bins(self) -> int:
        """B_V."""
        return int(self.reward_values.size)

    @cached_property
    def num_length_bins(self) -> int:
        """B_T."""
        return int(self.length_values.size)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(B_V, B_T)."""
        return self.num_reward_bins, self.num_length_bins

    @cached_property
    def num_cells(self) -> int:
        """B_V * B_T, and so the number of reserved tokens, where there are any."""
        return self.num_reward_bins * self.num_length_bins

    @property
    def first_reserved(self) -> int:
        """The token id of cell (0, 0).

        Raises:
            GridError: no tokens are reserved.
        """
        if not self.reserved_token_ids:
            raise GridError("the grid reserves no tokens; expected that of a model whose output head gives the joints")
        return self.reserved_token_ids[0]

    @property
    def reserved(self) -> range:
        """The reserved token ids, which may be none."""
        return range(self.first_reserved, self.first_reserved + self.num_cells) if self.reserved_token_ids else range(0)

    def reward_bin(self, values: ArrayLike) -> NDArray[np.int64]:
        """The reward bin of each value, same shape; values outside the edges clip into the end bins.

        Raises:
            GridError: NaN.
        """
        return _bins(values, self.reward_edges, "reward")

    def representative(self, values: ArrayLike) -> NDArray[np.float64]:
        """The representative of the reward bin of each value, same shape: a value at the resolution of the joints.

        A representative stands for itself, even one that lies on its bin's upper edge.

        Raises:
            GridError: NaN.
        """
        bins = self.reward_bin(values)
        below = np.maximum(bins - 1, 0)
        bins = np.where(self.reward_values[below] == np.asarray(values, dtype=np.float64), below, bins)
        return np.asarray(self.reward_values[bins], dtype=np.float64)

    def length_bin(self, lengths: ArrayLike) -> NDArray[np.int64]:
        """The length bin of each number of tokens, same shape; the last bin takes all that lies beyond it.

        Raises:
            GridError: NaN.
        """
        return _bins(lengths, self.length_edges, "length")

    def flat_index(self, reward_bin: ArrayLike, length_bin: ArrayLike) -> NDArray[np.int64]:
        """The cell's place in flat order; add `first_reserved` for its token id.

        Raises:
            GridError: a bin that the grid does not have.
        """
        rows, columns = (np.asarray(reward_bin, dtype=np.int64), np.asarray(length_bin, dtype=np.int64))
        for name, index, count in (("reward", rows, self.num_reward_bins), ("length", columns, self.num_length_bins)):
            if index.size and (index.min() < 0 or index.max() >= count):
                raise GridError(f"{name} bin {index.min()}..{index.max()} is not on the grid; expected 0..{count - 1}")
        return np.asarray(rows * self.num_length_bins + columns, dtype=np.int64)

    def check_fits(self, vocab_size: int, eos_token_ids: Iterable[int] = ()) -> None:
        """Check that a model has these reserved tokens and ends no sequence with one of them.

        Args:
            vocab_size: rows of the model's output head.

        Raises:
            ReservedTokensError: the model's vocabulary is too small, or an end-of-sequence token is among them.
        """
        if not self.reserved_token_ids:
            raise ReservedTokensError(
                "the grid reserves no tokens, so no row of the model's output head gives its joints. Expected the grid "
                "that the model was trained with; one of a head comes with the head's file."
            )
        first, last = self.first_reserved, self.reserved_token_ids[-1]
        if last >= vocab_size:
            raise ReservedTokensError(
                f"the model's output head has {vocab_size} rows (ids 0..{vocab_size - 1}); the "
                f"{self.num_reward_bins} x {self.num_length_bins} grid needs ids {first}..{last}. "
                f"Use the grid that the model was trained with, or widen its vocabulary and train the new rows."
            )
        clash = sorted(set(eos_token_ids) & set(self.reserved_token_ids))
        if clash:
            raise ReservedTokensError(
                f"the model ends its sequences with token {clash[0]}, which is one of the grid's reserved ids "
                f"{first}..{last}. Choose first_reserved so that no token that the model samples is among them."
            )

    def save(self, path: str | Path) -> Path:
        """Write the grid as JSON into a directory (as `zip_introspect.json`) or a `.json` file; returns the file."""
        file = _file_of(Path(path))
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "version": FORMAT_VERSION, **self.model_dump()}
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        file.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
        return file

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a grid from a model directory or a file. The file is data from outside: nothing in it is trusted.

        Raises:
            GridError: no such file, not a grid's file, a newer version, or contents that make no grid.
        """
        file = _file_of(Path(path))
        try:
            if file.stat().st_size > _MAX_FILE_BYTES:
                raise GridError(f"{file} holds {file.stat().st_size} bytes, more than any grid; is it another file?")
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise GridError(
                f"{file} does not exist: the model has no grid with it. Expected the {FILE_NAME} that training "
                f"saves; pass a JointGrid to use one of your own."
            ) from None
        except OSError as error:
            raise GridError(f"{file} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise GridError(f"{file} is not JSON, or is cut short: {error}") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise GridError(f'{file} is not a grid\'s file; expected an object with "format": "{FORMAT}"')
        return cls._from_version(content, str(file))

    @classmethod
    def beside(cls, model: str | Path) -> Self | None:
        """The grid in a model's directory, or in that of its file; None where there is none.

        Raises:
            GridError: as `load`.
        """
        path = expanded(Path(model))
        file = (path if path.is_dir() else path.parent) / FILE_NAME
        return cls.load(file) if file.is_file() else None

    def to_metadata(self) -> dict[str, int | list[float]]:
        """The grid as flat `zip_introspect.*` keys, as GGUF stores them."""
        metadata: dict[str, int | list[float]] = {f"{_METADATA_PREFIX}version": FORMAT_VERSION}
        if self.reserved_token_ids:
            metadata[f"{_METADATA_PREFIX}first_reserved"] = self.first_reserved
        metadata.update({f"{_METADATA_PREFIX}{axis}": getattr(self, axis).tolist() for axis in _AXES})
        return metadata

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """The grid of a model file's metadata; keys outside `zip_introspect.` are passed over.

        Raises:
            GridError: keys missing or malformed, or a newer version.
        """
        content = {
            key.removeprefix(_METADATA_PREFIX): value
            for key, value in metadata.items()
            if key.startswith(_METADATA_PREFIX)
        }
        if not content:
            raise GridError(
                f"the metadata has no {_METADATA_PREFIX}* keys: the model file has no grid. Convert it from a "
                f"checkpoint that has {FILE_NAME} beside it, or pass a JointGrid."
            )
        wanted = {"version", *_AXES}
        missing = sorted(wanted - content.keys())
        if missing:
            raise GridError(f"the metadata lacks {', '.join(_METADATA_PREFIX + name for name in missing)}")
        known = {name: content[name] for name in (*wanted, "first_reserved") if name in content}
        return cls._from_version(known, "the metadata")

    @classmethod
    def _from_version(cls, content: dict[str, Any], source: str) -> Self:
        version = content.pop("version", None)
        if isinstance(version, bool) or not isinstance(version, (int, np.integer)) or version < 1:
            raise GridError(f"{source} has version {version!r}; expected a whole number, {FORMAT_VERSION} at the most")
        if version > FORMAT_VERSION:
            raise GridError(
                f"{source} has version {version}; this release reads up to {FORMAT_VERSION}. Upgrade zip-introspect."
            )
        try:
            return cls(**content)
        except GridError as error:
            raise GridError(f"{source}: {error}") from None

    def __eq__(self, other: object) -> bool:
        return self is other or self._key == other._key if isinstance(other, JointGrid) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        return *(tuple(getattr(self, axis).tolist()) for axis in _AXES), self.reserved_token_ids


def lowest_reward(grid: JointGrid | None) -> float:
    """What an answer is worth that nobody has: the lowest reward of a grid, 0 for a model without one."""
    return float(grid.reward_values[0]) if grid else 0.0


def _bins(values: ArrayLike, edges: NDArray[np.float64], what: str) -> NDArray[np.int64]:
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        raise GridError(f"a {what} is NaN, which falls in no bin; check where the {what}s come from")
    return np.asarray(np.searchsorted(edges[1:-1], array, side="right"), dtype=np.int64)


def _file_of(path: Path) -> Path:
    path = expanded(path)
    return path if path.is_file() or path.suffix == ".json" else path / FILE_NAME
