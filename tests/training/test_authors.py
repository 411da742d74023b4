"""The authors' files: their labels, by a plain reading of their rule, and rows that cannot be learnt from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zip_introspect.errors import TrainingDataError
from zip_introspect.heads.targets import IGNORED
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training import authors
from zip_introspect.training.dataset import load, targets

SEVEN = (0.0, 0.1666667, 0.3333333, 0.5, 0.6666667, 0.8333333, 1.0)
LENGTHS = (0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


def written(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def theirs(**changed: Any) -> dict[str, Any]:
    return {"input_ids": [1, 2, 3, 4], "prompt_token_ids": [1, 2], "length": 2, "correct": 1.0, "value": 0.4, **changed}


def their_label(length: int, position: int, reward: float) -> int:
    """Of a row of `length` ids, at a position of those but the last: what remains behind it, the last id left out."""
    remaining = (length - 1) - position - 1
    column = max(place for place in range(8) if remaining >= LENGTHS[place])
    edges = [0.0, *((low + high) * 0.5 for low, high in pairwise(SEVEN)), 1.0]
    inside = [place for place in range(7) if edges[place] <= reward < edges[place + 1]]
    return column + 8 * (inside[0] if inside else 6)


@settings(max_examples=30)
@given(st.integers(1, 40), st.sampled_from([1, 2, 255, 256, 257, 258, 511, 1025, 5_000]), st.data())
def test_their_labels_come_out_of_their_grid(prompt: int, response: int, data: st.DataObject) -> None:
    edges = [0.08333335, 0.25, 0.41666665, 0.58333335, 0.75, 0.91666665]
    reward = data.draw(st.sampled_from([*SEVEN, *edges]) | st.floats(0, 1))
    length = prompt + response
    found = targets(JointGrid.released(0), prompt, length, reward)
    for position in range(length - 1):
        expected = their_label(length, position, reward) if position >= prompt - 1 else IGNORED
        assert found[position] == expected


def test_what_was_not_graded_is_left_out_and_what_was_cut_is_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [theirs(finished=True), theirs(finished=True, correct=None), theirs(finished=False, correct=None)]
    found = authors.load(written(tmp_path / "a.parquet", *rows))
    assert found["reward"][:] == [1.0, 0.0]
    assert "1 rows of" in caplog.text
    assert "the first of them 1" in caplog.text
    with pytest.raises(TrainingDataError, match=r"no row of .* has a correct"):
        authors.load(written(tmp_path / "b.parquet", *rows[1:2]))


def test_two_states_are_right_and_wrong() -> None:
    grid = JointGrid.released(5, reward_values=(0.0, 1.0))
    assert grid.shape == (2, 8)
    assert grid.reward_bin([0.0, 0.49, 0.5, 1.0]).tolist() == [0, 0, 1, 1]
    assert grid.reserved == range(5, 21)


def test_rows_are_read_cut_and_written_again(tmp_path: Path) -> None:
    file = written(tmp_path / "theirs.parquet", theirs(), theirs(correct=0.0))
    dataset = authors.load(file)
    assert dataset[0] == {"input_ids": [1, 2, 3, 4], "prompt_length": 2, "length": 4, "reward": 1.0, "finished": True}
    assert authors.load(file, "value")["reward"] == [0.4, 0.4]
    assert authors.load(file, longest=2)["input_ids"] == [[1, 2, 3]] * 2
    again = authors.load(authors.save(dataset, tmp_path / "again.parquet"))
    assert again.to_list() == dataset.to_list()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt_token_ids": [2, 1]}, "row 1: prompt_token_ids is .*what input_ids begins with"),
        ({"input_ids": [1, 2], "length": 0}, "row 1: input_ids .*at least one token of a response"),
        ({"length": 4}, "row 1: length is 4; expected the 2 tokens behind the prompt"),
        ({"correct": 1.5}, "row 1: correct is 1.5; expected a number from 0 to 1"),
        ({"input_ids": None}, "row 1: input_ids is None; expected a list"),
    ],
)
def test_bad_rows_are_named(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match=message):
        authors.load(written(tmp_path / "bad.parquet", theirs(), theirs(**changed)))


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(TrainingDataError, match="not a readable Parquet"):
        authors.load(tmp_path / "text.parquet")
    with pytest.raises(TrainingDataError, match=r"expected \['value'\] too"):
        authors.load(written(tmp_path / "none.parquet", {"input_ids": [1], "prompt_token_ids": [1]}), "value")


def test_their_length_in_a_file_of_ours_is_refused(tmp_path: Path) -> None:
    """Theirs counts generated tokens and ours all: mixed up, rows would be weighed by a negative count, in silence."""
    file = written(
        tmp_path / "mixed.parquet", {"input_ids": [1, 2, 3, 4], "prompt_length": 2, "length": 2, "reward": 1.0}
    )
    with pytest.raises(TrainingDataError, match=r"row 0: length is 2, and there are 4 token ids"):
        load(file)
