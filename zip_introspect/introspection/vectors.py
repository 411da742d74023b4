"""Fields of models that hold numbers from outside: read-only arrays and token ids, checked element by element."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer


def numbers(value: Any) -> NDArray[np.float64]:
    """A read-only vector of finite numbers; anything else is refused, strings and booleans among it."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, (Iterable, np.ndarray)):
        raise ValueError("expected a list of numbers")
    items = np.asarray(value).tolist() if isinstance(value, np.ndarray) else list(value)
    if any(isinstance(item, bool) or not isinstance(item, (int, float, np.number)) for item in items):
        raise ValueError("expected a flat list of numbers")
    try:
        array = np.array(items, dtype=np.float64)
    except OverflowError:
        raise ValueError("holds a number beyond the range of a float") from None
    if not np.isfinite(array).all():
        raise ValueError("holds NaN or infinity; every edge and value must be finite")
    array.setflags(write=False)
    return array


def _token_ids(value: Any) -> tuple[int, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ValueError("expected a list of token ids")
    ids = tuple(value)
    if any(isinstance(item, bool) or not isinstance(item, (int, np.integer)) for item in ids):
        raise ValueError("expected a list of whole numbers")
    return tuple(int(item) for item in ids)


Numbers = Annotated[NDArray[np.float64], BeforeValidator(numbers), PlainSerializer(lambda array: array.tolist())]
TokenIds = Annotated[tuple[int, ...], BeforeValidator(_token_ids)]
