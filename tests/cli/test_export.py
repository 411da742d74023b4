"""`export gguf` and `attach-grid`: from a checkpoint to an answer under llama.cpp, by the commands of the docs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from zip_introspect.cli.app import app
from zip_introspect.introspection.grid import FILE_NAME, JointGrid

pytest.importorskip("gguf", reason="the extra llama-cpp is not installed")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("out") / "tiny.gguf"
    done = run("export", "gguf", tiny_model, target, "--type", "f16")
    assert done.exit_code == 0, done.stderr
    assert str(target) in done.stdout
    assert "ask --model" in done.stdout
    return target


def test_what_was_exported_answers(exported: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")
    done = run("ask", "--model", exported, "1+1", "--max-new-tokens", "8", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["usage"]["generated_tokens"] > 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--type", "q3_k"), "type is 'q3_k'; expected one of f32"),
        (("--grid", "nowhere.json"), "nowhere.json"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: tuple[str, ...], reason: str, tiny_model: str, tmp_path: Path) -> None:
    done = run("export", "gguf", tiny_model, tmp_path / "out.gguf", *arguments)
    assert done.exit_code == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    done = run("export", "gguf", tmp_path, tmp_path / "out.gguf")
    assert done.exit_code == 1
    assert "has no config.json" in done.stderr


def test_an_architecture_that_is_not_known_is_told_the_way_round(tiny_model: str, tmp_path: Path) -> None:
    for file in Path(tiny_model).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"})
    )
    done = run("export", "gguf", tmp_path, tmp_path / "out.gguf")
    assert done.exit_code == 1
    assert "convert_hf_to_gguf.py" in done.stderr
    assert "zip-introspect attach-grid" in done.stderr


def test_a_grid_is_attached_to_a_copy(exported: Path, tiny_model: str, tmp_path: Path) -> None:
    source = tmp_path / "plain.gguf"
    source.write_bytes(exported.read_bytes().replace(b"zip_introspect.", b"zip_introspecT."))
    before = source.read_bytes()
    done = run("attach-grid", source, Path(tiny_model) / FILE_NAME)
    assert done.exit_code == 0, done.stderr
    target = tmp_path / "plain.grid.gguf"
    assert str(target) in done.stdout
    assert source.read_bytes() == before
    assert b"zip_introspect.version" in target.read_bytes()
    again = run("attach-grid", source, tiny_model, "--out", source)
    assert again.exit_code == 1
    assert "is the file itself" in again.stderr
    missing = run("attach-grid", tmp_path / "none.gguf", tiny_model)
    assert missing.exit_code == 1
    assert "is not a file" in missing.stderr


def test_a_preset_is_written_beside_a_checkpoint(tiny_model: str, tmp_path: Path) -> None:
    for file in Path(tiny_model).iterdir():
        if file.name != FILE_NAME:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    at = JointGrid.load(tiny_model).first_reserved
    first = str(at)
    done = run("attach-grid", tmp_path, "--preset", "ziprc-release", "--first-reserved", first)
    assert done.exit_code == 0, done.stderr
    assert JointGrid.load(tmp_path) == JointGrid.released(at)
    states = ["--reward-value", "-1", "--reward-value", "0", "--reward-value", "1"]
    done = run("attach-grid", tmp_path, "--preset", "ziprc-release", "--first-reserved", first, *states)
    assert done.exit_code == 0, done.stderr
    assert JointGrid.load(tmp_path).reward_values.tolist() == [-1, 0, 1]
    for wrong, message in (
        (["--preset", "mine"], "expected one of paper, ziprc-release"),
        (["--preset", "paper"], "needs --first-reserved"),
        ([], "the grid's file or --preset"),
        (["--preset", "paper", "--first-reserved", "100000"], "needs ids 100000"),
    ):
        refused = run("attach-grid", tmp_path, *wrong)
        assert refused.exit_code == 1
        assert message in " ".join(refused.stderr.split())
    assert JointGrid.load(tmp_path).num_reward_bins == 3, "what was there stays where the new one is refused"


def test_inspect_reads_what_was_exported(exported: Path, tiny_model: str) -> None:
    shown = run("inspect", exported)
    assert shown.exit_code == 0, shown.stderr
    assert "ready: the grid fits the vocabulary" in shown.stdout
    facts, source = (json.loads(run("inspect", model, "--json").stdout) for model in (exported, tiny_model))
    for name in ("layers", "hidden_size", "max_context", "head_rows", "eos_token_ids", "chat_template", "runs", "grid"):
        assert facts[name] == source[name], name
    assert facts["weights"]["parameters"] == source["weights"]["parameters"]
    assert "F16" in facts["weights"]["dtypes"]


def test_inspect_proposes_a_grid_where_a_file_has_none(exported: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.gguf"
    plain.write_bytes(exported.read_bytes().replace(b"zip_introspect.", b"zip_introspecT."))
    shown = run("inspect", plain, "--json")
    assert shown.exit_code == 0, shown.stderr
    facts = json.loads(shown.stdout)
    assert facts["grid"] is None
    assert (
        facts["proposal"]["reserved_token_ids"]
        == json.loads(run("inspect", exported, "--json").stdout)["grid"]["reserved_token_ids"]
    )


def test_inspect_of_a_file_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    done = run("inspect", tmp_path / "notes.txt")
    assert done.exit_code == 1
    assert "is a file, and not a GGUF one" in done.stderr
    assert done.stderr.count("\n") == 1
