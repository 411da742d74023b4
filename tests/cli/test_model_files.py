"""What `inspect` reads off a model's files, and what it says of files that are broken."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zip_introspect.cli.app import app
from zip_introspect.cli.model_files import read
from zip_introspect.errors import ModelLoadError
from zip_introspect.introspection.grid import JointGrid

TEXT_TOKENS = 100
MakeModel = Callable[..., Path]


def write_safetensors(file: Path, tensors: dict[str, list[int]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(end))


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    def make(*, rows: int = 164, named: int = 64, grid: JointGrid | None = None, **config: Any) -> Path:
        content = {"architectures": ["TinyForCausalLM"], "vocab_size": rows, "hidden_size": 4, "num_hidden_layers": 2}
        (tmp_path / "config.json").write_text(json.dumps({**content, "eos_token_id": 0, **config}))
        tokenizer = {
            "model": {"vocab": {f"t{i}": i for i in range(TEXT_TOKENS)}},
            "added_tokens": [{"id": TEXT_TOKENS + i, "content": f"<|reserved_{i}|>"} for i in range(named)],
        }
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
        write_safetensors(tmp_path / "model.safetensors", {"lm_head.weight": [rows, 4], "norm.weight": [4]})
        if grid is not None:
            grid.save(tmp_path)
        return tmp_path

    return make


def test_named_reserved_tokens_are_found_and_the_papers_grid_is_proposed(make_model: MakeModel) -> None:
    facts = read(str(make_model()))
    assert [(run.first, run.count, run.named) for run in facts.runs] == [(100, 64, 64)]
    assert facts.proposal == JointGrid.paper(100)
    assert facts.grid is None
    assert facts.weights is not None
    assert facts.weights.parameters == 164 * 4 + 4
    assert facts.problems == ()


def test_padding_of_the_vocabulary_joins_the_run_of_named_tokens(make_model: MakeModel) -> None:
    run = read(str(make_model(rows=120, named=10))).runs[0]
    assert (run.first, run.count, run.named) == (100, 20, 10)


@pytest.mark.parametrize(
    ("free", "shape"), [(3, None), (4, (2, 2)), (20, (4, 5)), (57, (7, 8)), (64, (8, 8)), (90, (8, 8))]
)
def test_the_largest_grid_that_fits_is_proposed(
    make_model: MakeModel, free: int, shape: tuple[int, int] | None
) -> None:
    proposal = read(str(make_model(rows=TEXT_TOKENS + free, named=0))).proposal
    assert (proposal and proposal.shape) == shape


def test_the_end_of_sequence_token_is_never_free(make_model: MakeModel) -> None:
    runs = read(str(make_model(eos_token_id=110))).runs
    assert sorted((run.first, run.count) for run in runs) == [(100, 10), (111, 53)]


def test_a_grid_that_fits_makes_the_model_ready(make_model: MakeModel) -> None:
    result = CliRunner().invoke(app, ["inspect", str(make_model(grid=JointGrid.paper(100)))])
    assert result.exit_code == 0
    assert "ready: the grid fits" in result.stdout


def test_a_grid_beyond_the_vocabulary_is_a_problem_and_exit_code_1(make_model: MakeModel) -> None:
    result = CliRunner().invoke(app, ["inspect", str(make_model(grid=JointGrid.paper(150))), "--json"])
    assert result.exit_code == 1
    assert "needs ids 150..213" in json.loads(result.stdout)["problems"][0]


def test_a_truncated_safetensors_file_is_a_problem(make_model: MakeModel) -> None:
    folder = make_model()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cut short" in read(str(folder)).problems[0]
    weights.write_bytes(b"\x00")
    assert "cut short or not a safetensors file" in read(str(folder)).problems[0]


def test_a_shard_that_the_index_names_and_is_not_there_is_a_problem(make_model: MakeModel) -> None:
    folder = make_model()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "shard-2.safetensors"}}))
    assert "is missing, though the index names it" in read(str(folder)).problems[0]


def test_json_says_all_that_the_table_says(make_model: MakeModel) -> None:
    result = CliRunner().invoke(app, ["inspect", str(make_model()), "--json"])
    facts = json.loads(result.stdout)
    assert facts["architecture"] == "TinyForCausalLM"
    assert facts["proposal"]["reserved_token_ids"] == list(range(100, 164))
    assert facts["weights"]["head_rows"] == 164


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("config.json", "{", "not readable JSON"),
        ("config.json", "[]", "expected an object"),
        ("config.json", "{}", "vocab_size"),
        ("tokenizer.json", '{"model": {}}', "not a tokenizer's file"),
    ],
)
def test_files_that_are_no_models_are_refused(make_model: MakeModel, name: str, content: str, expected: str) -> None:
    folder = make_model()
    (folder / "model.safetensors").unlink()
    (folder / name).write_text(content)
    with pytest.raises(ModelLoadError, match=expected):
        read(str(folder))


@pytest.mark.parametrize(
    ("model", "expected"), [("./nowhere", "does not exist"), ("", "does not exist"), (__file__, "is a file")]
)
def test_what_is_no_model_gets_one_line_on_stderr_and_exit_code_1(model: str, expected: str) -> None:
    result = CliRunner().invoke(app, ["inspect", model])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"has no config\.json"):
        read(str(tmp_path))
