"""Which ids are spare, for any vocabulary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.heads.spare_ids import find_runs


@pytest.mark.parametrize(
    "name",
    [
        "<|reserved_special_token_7|>",
        "<unused7>",
        "[unused7]",
        "<|placeholder7|>",
        "<extra_id_7>",
        "<SPECIAL_7>",
        "<|reserved_7|>",
    ],
)
def test_each_familys_name_for_a_reserved_token_is_known(name: str) -> None:
    assert find_runs({0: "a", 1: name, 2: "b"}, 3)[0].first == 1


@given(st.sets(st.integers(0, 60)), st.integers(1, 60))
def test_runs_partition_the_ids_without_a_token(known: set[int], rows: int) -> None:
    runs = find_runs({id_: f"t{id_}" for id_ in known}, rows)
    ids = [id_ for run in runs for id_ in range(run.first, run.first + run.count)]
    assert sorted(ids) == sorted(set(range(rows)) - known)
    ends = {run.first + run.count for run in runs}
    assert not ends & {run.first for run in runs}, "two runs that touch are one"
