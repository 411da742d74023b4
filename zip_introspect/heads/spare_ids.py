"""Token ids that no text is made of: rows of an output head that can be trained, or written into."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Llama's <|reserved_special_token_7|>, Gemma's <unused7>, BERT's [unused7], Phi's <|placeholder7|>,
# T5's <extra_id_7>, Mistral's <SPECIAL_7> and [control_7], and <|reserved_7|>.
_RESERVED_NAME = re.compile(
    r"(?i)[<\[|]+(?:reserved|unused|placeholder|dummy|extra_id|special|control)\w*?_?\d+[>\]|]+"
)


@dataclass(frozen=True, slots=True)
class SpareIds:
    """Consecutive token ids that no text is made of."""

    first: int
    count: int
    named: int
    """How many have a reserved token's name; the others are rows of the output head without a token."""


def first_of(names: dict[int, str], head_rows: int, eos_token_ids: Iterable[int], count: int) -> int | None:
    """The first of `count` consecutive spare ids, of the longest run; None where no run has as many."""
    runs = find_runs(names, head_rows, tuple(eos_token_ids))
    return runs[0].first if runs and runs[0].count >= count else None


def find_runs(names: dict[int, str], head_rows: int, eos_token_ids: tuple[int, ...] = ()) -> tuple[SpareIds, ...]:
    """Runs of ids that are named as reserved or have no token, longest first.

    Args:
        names: the tokenizer's tokens by id.
        head_rows: rows of the output head.
    """
    reserved = {id_ for id_, name in names.items() if id_ < head_rows and _RESERVED_NAME.fullmatch(name)}
    free = sorted((reserved | (set(range(head_rows)) - names.keys())) - set(eos_token_ids))
    groups: list[list[int]] = []
    for id_ in free:
        if groups and groups[-1][-1] == id_ - 1:
            groups[-1].append(id_)
        else:
            groups.append([id_])
    runs = [SpareIds(first=group[0], count=len(group), named=sum(id_ in reserved for id_ in group)) for group in groups]
    return tuple(sorted(runs, key=lambda run: (-run.count, run.first)))
