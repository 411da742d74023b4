"""Questions of files, of data sets and of the embedded model's task; and what is said of those that cannot be read."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pyarrow", reason="the extra eval is not installed")

import pyarrow as pa
import pyarrow.parquet as pq

from zip_introspect.demo.problems import held_out
from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.store.datasets import load
from zip_introspect.evaluation.store.rollout_file import Question

WORKED = [
    {"question": "Tom has 3 pens and buys 4. How many?", "answer": "3+4=<<3+4=7>>7 pens.\n#### 7"},
    {"question": "A car costs $1,200. What do two cost?", "answer": "2*1200=<<2*1200=2400>>2,400\n#### 2,400"},
]


def written(folder: Path, *rows: Any, name: str = "questions.jsonl") -> Path:
    file = folder / name
    lines = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows
    ]
    file.write_bytes(b"\n".join(lines))
    return file


def test_a_worked_answer_is_read_to_its_conclusion(tmp_path: Path) -> None:
    assert load(written(tmp_path, *WORKED)) == [
        Question(WORKED[0]["question"], "7"),
        Question(WORKED[1]["question"], "2400"),
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"problem": "q", "solution": "Thus \\boxed{\\frac{1}{2}}."}, "\\frac{1}{2}"),
        ({"problem": "q", "solution": "so \\boxed{3}", "answer": "3"}, "3"),
        ({"prompt": " q ", "target": " in 1990, in Paris "}, "in 1990, in Paris"),
        ({"question": "q", "answer": 72}, "72"),
        ({"question": "q", "answer": 72.0}, "72"),
        ({"question": "q", "answer": 0.5}, "0.5"),
    ],
)
def test_columns_are_found_by_their_usual_names(row: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert load(written(tmp_path, row)) == [Question("q", expected)]


def test_columns_can_be_named(tmp_path: Path) -> None:
    file = written(tmp_path, {"question": "not this", "ask": "q", "answer": "not this", "key": "a", "level": 3})
    assert load(file, question_column="ask", answer_column="key", group_column="level") == [Question("q", "a", "3")]


def test_a_repeated_question_is_kept_once_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": text, "answer": str(number)} for number, text in enumerate(["a", "b", " a", "c", "b"])]
    with caplog.at_level(logging.WARNING):
        assert [(item.text, item.expected) for item in load(written(tmp_path, *rows))] == [
            ("a", "0"),
            ("b", "1"),
            ("c", "3"),
        ]
    assert "2 repeated questions are left out, the first of them line 3 of" in caplog.text


def test_a_limit_leaves_the_rest_unread(tmp_path: Path) -> None:
    assert len(load(written(tmp_path, *WORKED, "not JSON"), limit=2)) == 2


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "holds no questions"),
        (["", "  "], "holds no questions"),
        ([WORKED[0], "{"], "line 2 of .* is not JSON"),
        ([b"\xff\xfe{"], "line 1 of .* is not JSON"),
        (["[" * 100_000], "line 1 of .* is not JSON"),
        (["9" * 5000], "line 1 of .* is not JSON"),
        (["[1]"], "line 1 of .* is a list; expected one object a line"),
        (["x" * (1 << 20 | 1)], "line 1 of .* has more than 1,048,576 bytes"),
        (
            [{"text": "q", "answer": "a"}],
            r"columns \['answer', 'text'\].*question or problem or prompt.*--question-column",
        ),
        ([{"question": "q", "key": "a"}], "answer or solution or target.*--answer-column"),
        ([WORKED[0], {"question": "q"}], "line 2 of .* no 'answer'"),
        ([{"question": "", "answer": "a"}], "'question' in line 1 of .* is ''"),
        ([{"question": "q", "answer": None}], "'answer' in line 1 of .* is None"),
        ([{"question": ["q"], "answer": "a"}], "'question' in line 1"),
        (['{"question": "q", "answer": NaN}'], "'answer' in line 1 of .* is nan"),
        (['{"question": "\\ud800", "answer": "a"}'], "lone surrogate"),
    ],
)
def test_what_cannot_be_read_is_named(rows: list[Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationDataError, match=reason):
        load(written(tmp_path, *rows))


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b'{"question": "q", "answer": ', b"1}", b"\n"]))))
def test_any_bytes_are_questions_or_one_error(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    file = tmp_path_factory.mktemp("any") / "any.jsonl"
    file.write_bytes(b"".join(parts))
    try:
        found = load(file)
    except EvaluationDataError:
        return
    assert found
    assert len({question.text for question in found}) == len(found)


@pytest.fixture
def table() -> pa.Table:
    return pa.table({key: [row[key] for row in WORKED] for key in ("question", "answer")})


def test_a_parquet_file_and_a_directory_of_splits_are_opened(table: pa.Table, tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra train is not installed")
    for split in ("train", "test"):
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(table if split == "test" else table.slice(0, 1), tmp_path / "data" / f"{split}.parquet")
    expected = load(written(tmp_path / "data", *WORKED))
    (tmp_path / "data" / "questions.jsonl").unlink()
    assert load(tmp_path / "data" / "test.parquet") == expected
    assert load(tmp_path / "data") == expected, "test is the split, where there are several"
    assert load(tmp_path / "data", split="train") == expected[:1]
    with pytest.raises(EvaluationDataError, match=r"no split 'dev'; expected one of \['train', 'test'\]"):
        load(tmp_path / "data", split="dev")
    with pytest.raises(EvaluationDataError, match=r"row 1 of .*, split test has the columns"):
        load(tmp_path / "data", answer_column="key")


def test_what_datasets_cannot_open_is_one_error(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra train is not installed")
    file = tmp_path / "broken.parquet"
    file.write_bytes(b"PAR1 and nothing else")
    for source in (file, tmp_path):
        with pytest.raises(EvaluationDataError, match="datasets cannot open"):
            load(source)


@pytest.mark.parametrize("source", ["none.jsonl", "./none", "/none/at/all.parquet"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(source: str) -> None:
    with pytest.raises(EvaluationDataError, match="does not exist"):
        load(source)


def test_the_embedded_models_task_is_a_source() -> None:
    assert load("abacus", limit=10, seed=3) == [
        Question(problem.prompt, problem.answer, f"tier {problem.tier}") for problem in held_out(3, 10)
    ]
    assert {question.group for question in load("abacus:4", limit=5)} == {"tier 4"}
    assert len(load("abacus:1", limit=300)) == 300


@pytest.mark.parametrize(
    ("source", "limit", "reason"),
    [("abacus:9", None, "no tier '9'"), ("abacus:1", 301, "at most 300"), ("abacus", 0, "limit is 0")],
)
def test_what_abacus_has_not_is_refused(source: str, limit: int | None, reason: str) -> None:
    with pytest.raises(EvaluationDataError, match=reason):
        load(source, limit=limit)
