from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.evaluation.stored import simulated
from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.introspection import joint


@pytest.fixture(scope="module")
def rollouts() -> Rollouts:
    return simulated()[1]


def test_what_is_saved_is_loaded(rollouts: Rollouts, tmp_path: Path) -> None:
    scored = dataclasses.replace(rollouts.problems[0].rollouts[0], external_score=0.25, self_score=None)
    first = dataclasses.replace(rollouts.problems[0], rollouts=(scored, *rollouts.problems[0].rollouts[1:]))
    given = dataclasses.replace(rollouts, problems=(first, *rollouts.problems[1:]))
    loaded = Rollouts.load(given.save(tmp_path / "r.parquet"))
    assert (loaded.grid, loaded.model, loaded.max_new_tokens) == (given.grid, given.model, given.max_new_tokens)
    assert len(loaded.problems) == len(given.problems) == 12
    for ours, theirs in zip(given.problems, loaded.problems, strict=True):
        assert (ours.question, ours.prompt_tokens) == (theirs.question, theirs.prompt_tokens)
        for one, other in zip(ours.rollouts, theirs.rollouts, strict=True):
            assert np.array_equal(one.tokens, other.tokens)
            assert np.array_equal(one.joints, other.joints)
            plain = ("text", "answer", "right", "finished", "external_score", "self_score")
            assert [getattr(one, name) for name in plain] == [getattr(other, name) for name in plain]


def test_others_can_read_it(rollouts: Rollouts, tmp_path: Path) -> None:
    file = rollouts.save(tmp_path / "r.parquet")
    table = datasets.load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path / "cache"))["train"]
    assert table.num_rows == 48
    row = table[5]
    stored = rollouts.problems[1].rollouts[1]
    assert (row["problem"], row["sample"], row["text"]) == (1, 1, stored.text)
    assert np.allclose(np.array(row["joints"], np.float16), stored.joints)


def test_joints_are_those_of_the_model_to_half_precision(rollouts: Rollouts) -> None:
    llm, _ = simulated(questions=1)
    for problem in rollouts.problems[:4]:
        root = llm.backend.prefill([problem.prompt_tokens])[0]
        exact = joint.from_logits(root.joint_logits, llm.grid).reshape(-1)
        for rollout in problem.rollouts:
            assert np.abs(rollout.joints[0] - exact).max() < 1e-3
            assert len(rollout.joints) == len(rollout.tokens) + (not rollout.finished)


def test_final_values_are_those_that_a_search_gives(rollouts: Rollouts) -> None:
    llm, _ = simulated(questions=1)
    for problem in rollouts.problems[:6]:
        result = llm.generate(problem.question.text, strategy="best_of_n", max_samples=4)
        for sample, rollout in zip(result.samples, problem.rollouts, strict=True):
            assert sample.token_ids == tuple(rollout.tokens.tolist())
            assert rollouts.final_value(rollout) == pytest.approx(sample.value, abs=2e-3)


def test_confidences_are_kept_where_they_were_asked_for(rollouts: Rollouts, tmp_path: Path) -> None:
    _, told = simulated(confidences=True)
    loaded = Rollouts.load(told.save(tmp_path / "told.parquet"))
    assert loaded.confidences
    assert not Rollouts.load(rollouts.save(tmp_path / "silent.parquet")).confidences
    for ours, theirs, silent in zip(told.problems, loaded.problems, rollouts.problems, strict=True):
        for one, other, without in zip(ours.rollouts, theirs.rollouts, silent.rollouts, strict=True):
            assert one.confidences is not None
            assert other.confidences is not None
            assert one.confidences.shape == (len(one.tokens), 2)
            assert np.array_equal(one.confidences, other.confidences)
            assert np.array_equal(one.tokens, without.tokens)
            assert np.array_equal(one.joints, other.joints)
            assert without.confidences is None


def test_a_file_from_before_there_were_confidences_loads(rollouts: Rollouts, tmp_path: Path) -> None:
    file = rollouts.save(tmp_path / "r.parquet")
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[b"zip_introspect"])
    assert about.pop("confidences") is False
    pq.write_table(table.replace_schema_metadata({b"zip_introspect": json.dumps(about)}), file)
    loaded = Rollouts.load(file)
    assert not loaded.confidences
    assert loaded.problems[0].rollouts[0].confidences is None


def test_confidences_that_are_none_are_refused(tmp_path: Path) -> None:
    _, told = simulated(questions=1, confidences=True)
    file = told.save(tmp_path / "r.parquet")
    table = pq.read_table(file)
    place = table.schema.get_field_index("confidences")
    kind = table.schema.field("confidences")
    for wrong in ([[0.5, -1.0]], [[-0.5, -np.inf]], []):
        rows = [wrong or row[:-1] for row in table["confidences"].to_pylist()]
        if wrong:
            rows = [wrong * len(row) for row in table["tokens"].to_pylist()]
        halves = [[[np.float16(number) for number in pair] for pair in row] for row in rows]
        pq.write_table(table.set_column(place, kind, pa.array(halves, kind.type)), file)
        with pytest.raises(EvaluationDataError, match=r"sample 0 of problem 0 has \d+ tokens and \d+ confidences"):
            Rollouts.load(file)
    mixed = dataclasses.replace(told.problems[0].rollouts[0], confidences=None)
    problem = dataclasses.replace(told.problems[0], rollouts=(mixed, *told.problems[0].rollouts[1:]))
    with pytest.raises(EvaluationDataError, match="a rollout has no confidences, and others do"):
        dataclasses.replace(told, problems=(problem,)).save(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "does not exist"), (b"", "not a readable Parquet"), (b"PAR1 and then nothing", "not a readable Parquet")],
)
def test_what_is_no_parquet_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EvaluationDataError, match=said):
        Rollouts.load(file)


def test_a_foreign_or_damaged_table_is_refused(rollouts: Rollouts, tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(EvaluationDataError, match="holds no rollouts of format 1"):
        Rollouts.load(file)
    table = pq.read_table(rollouts.save(file))
    pq.write_table(table.drop_columns(["right"]), file)
    with pytest.raises(EvaluationDataError, match="has the columns"):
        Rollouts.load(file)
    pq.write_table(table.slice(0, 0), file)
    with pytest.raises(EvaluationDataError, match="holds no rollouts"):
        Rollouts.load(file)
    index = table.schema.get_field_index("tokens")
    longer = pa.array([[*row, 1] for row in table["tokens"].to_pylist()], table.schema.field("tokens").type)
    pq.write_table(table.set_column(index, table.schema.field("tokens"), longer), file)
    with pytest.raises(EvaluationDataError, match=r"sample 0 of problem 0 has \d+ tokens and \d+ joints"):
        Rollouts.load(file)


def test_a_file_appears_when_it_is_whole(rollouts: Rollouts, tmp_path: Path) -> None:
    broken = dataclasses.replace(rollouts.problems[-1], rollouts=(object(),))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        dataclasses.replace(rollouts, problems=(*rollouts.problems, broken)).save(tmp_path / "r.parquet")
    assert not (tmp_path / "r.parquet").exists()
