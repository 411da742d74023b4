"""Training rows: targets against eq. 6 written as a loop, and files that training cannot use."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.errors import TrainingDataError
from zip_introspect.heads.targets import IGNORED
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.dataset import JointCollator, load, row, save, targets

GRID = JointGrid(
    reward_edges=(0.0, 0.25, 0.5, 1.0), length_edges=(0, 2, 5, 9, 100), reserved_token_ids=tuple(range(20, 32))
)


@given(st.integers(1, 20), st.integers(1, 60), st.floats(0, 1))
def test_targets_follow_equation_6(prompt: int, generated: int, reward: float) -> None:
    found = targets(GRID, prompt, prompt + generated, reward)
    for i in range(prompt + generated):
        remaining = prompt + generated - 1 - i
        if i < prompt - 1 or remaining == 0:
            assert found[i] == IGNORED
            continue
        b = sum(reward >= edge for edge in (0.25, 0.5))
        l_ = sum(remaining >= edge for edge in (2, 5, 9))
        assert found[i] == b * 4 + l_


def test_the_collator_pads_on_the_right_and_ignores_padding() -> None:
    batch = JointCollator(GRID, pad_token_id=7)([row([1, 2], [3, 4, 5], 1.0), row([1], [6], 0.0)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [1, 6, 7, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch["targets"].tolist() == [
        [IGNORED, *targets(GRID, 2, 5, 1.0)[1:4].tolist(), IGNORED],
        [targets(GRID, 1, 2, 0.0)[0], *[IGNORED] * 4],
    ]


def test_rows_survive_parquet(tmp_path: Path) -> None:
    save([row([1, 2], [3], 0.5, tier=4), row([1], [2, 3], 1.0, tier=5)], tmp_path / "rows.parquet")
    found = load(tmp_path / "rows.parquet")
    assert found["input_ids"][:] == [[1, 2, 3], [1, 2, 3]]
    assert np.asarray(found["reward"]).tolist() == [0.5, 1.0]
    assert found["tier"][:] == [4, 5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input_ids": [1, 2], "prompt_length": 1}], r"expected at least one row and the columns"),
        ([row([1], [2], 1.5)], "rewards from 1.5 to 1.5; expected 0 to 1"),
        ([row([1], [2], 1.0), row([1, 2], [], 1.0)], "row 1: prompt_length is 2 of 2 tokens"),
    ],
)
def test_unusable_rows_are_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    save(rows, tmp_path / "rows.parquet")
    with pytest.raises(TrainingDataError, match=message):
        load(tmp_path / "rows.parquet")


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(TrainingDataError, match="not a readable Parquet file"):
        load(tmp_path / "rows.parquet")


def test_a_reward_that_is_no_number_is_no_unknown_one() -> None:
    with pytest.raises(TrainingDataError, match="the reward is NaN; expected a number from 0 to 1"):
        targets(GRID, 1, 4, float("nan"))
