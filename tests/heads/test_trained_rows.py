"""A grid is doubted where the rows of the output head show another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from zip_introspect.heads.spare_ids import SpareIds
from zip_introspect.heads.trained_rows import doubt
from zip_introspect.introspection.grid import JointGrid

RUN = SpareIds(first=100, count=267, named=0)


def output_head(trained: range, step: float) -> NDArray[np.float32]:
    """Spare rows as padding leaves them, alike but for noise, of which some were trained."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=64) + 0.02 * rng.normal(size=(400, 64))
    rows[trained.start : trained.stop] += step * rng.normal(size=(len(trained), 64))
    return rows.astype(np.float32)


def said(trained: range, grid: JointGrid, step: float = 0.06, run: SpareIds = RUN) -> str | None:
    rows = output_head(trained, step)

    def read(ids: Sequence[int]) -> NDArray[np.float32]:
        return rows[list(ids)]

    return doubt(grid, [run], read)


@pytest.mark.parametrize("step", [0.06, 1.0])
def test_the_right_grid_is_not_doubted(step: float) -> None:
    assert said(range(100, 164), JointGrid.paper(100), step) is None
    assert said(range(150, 206), JointGrid.released(150), step) is None


@pytest.mark.parametrize(
    ("trained", "grid", "expected"),
    [
        (range(100, 156), JointGrid.paper(100), "8 of the grid's 64 rows look untrained"),
        (range(100, 164), JointGrid.released(100), "8 spare rows beside the grid's look trained too"),
        (range(108, 172), JointGrid.paper(100), "8 of the grid's 64 rows look untrained"),
        (range(100), JointGrid.paper(100), "none of the rows 100 to 163 looks trained"),
    ],
)
def test_another_shape_is_seen(trained: range, grid: JointGrid, expected: str) -> None:
    assert expected in str(said(trained, grid))


def test_where_no_spare_rows_are_left_nothing_is_said() -> None:
    assert said(range(100, 156), JointGrid.paper(100), run=SpareIds(100, 70, 0)) is None
    assert said(range(100, 156), JointGrid.paper(100), run=SpareIds(100, 10, 0)) is None
