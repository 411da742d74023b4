"""`fit`: one command from a model without a head to answers that rest on one, and what it refuses before that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("pyarrow", reason="the extra eval is not installed")
pytest.importorskip("regex", reason="the extra eval is not installed")
pytest.importorskip("torch", reason="the extra train is not installed")

from zip_introspect.cli.app import app
from zip_introspect.demo import embedded
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.heads import file
from zip_introspect.introspection.grid import FILE_NAME
from zip_introspect.introspection.posterior import AnswerModel

QUESTION = "Solve 3*x+5=35"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint as a model that nobody trained for this."""
    folder = tmp_path_factory.mktemp("models") / "bare"
    shutil.copytree(embedded.located("transformers"), folder, ignore=shutil.ignore_patterns(FILE_NAME, "*calibration*"))
    return folder


def test_a_model_gets_a_head_and_answers_with_it(bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "head.zip.safetensors"
    how: list[str | Path] = [
        "--grader",
        "abacus",
        "--samples",
        "2",
        "--max-new-tokens",
        "300",
        "--temperature",
        "1",
        "--out",
        out,
    ]
    first = run("fit", bare, "abacus", "--limit", "50", *how, "--dry-run")
    assert first.exit_code == 0, first.output
    assert "for the 34 that are left" in first.stderr
    assert not out.exists()
    done = run("fit", bare, "abacus", "--limit", "50", *how)
    assert done.exit_code == 0, done.output
    assert "questions are taken over" in done.stderr, "those of the dry run"
    assert "AUROC" in done.stdout
    report = (tmp_path / "head.zip.report.md").read_text()
    assert report.startswith("# head.zip.safetensors")
    for name in ("head.zip.calibration.png", "head.zip.strategies.png"):
        assert f"]({name})" in report
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    head = file.load(out)
    assert head.fingerprint is not None
    assert Rollouts.load(tmp_path / "head.zip.rollouts.parquet").grid is None
    asked = run("ask", QUESTION, "--model", bare, "--head", out, "--json")
    result = json.loads(asked.stdout)
    assert result["confidence_source"] in ("head", "both")
    assert result["warnings"] == []
    assert result["expected"]["remaining"] > 1
    _attaches(bare, out, how, tmp_path)
    framed = json.loads(run("ask", QUESTION, "--model", bare, "--system", "Be brief.", "--json").stdout)
    assert framed["usage"]["prompt_tokens"] > result["usage"]["prompt_tokens"]
    other = run("fit", bare, "abacus", "--limit", "51", *how)
    assert other.exit_code == 1
    assert "holds rollouts that differ in questions" in " ".join(other.stderr.split())
    _is_taken_over_only_where_it_is_the_same(bare, out, how)


def test_what_no_head_can_be_made_of_is_refused_before_a_model_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str | Path) -> str:
        done = run("fit", tmp_path / "no-such-model", *arguments, "--out", tmp_path / "head.safetensors")
        assert done.exit_code == 1, done.output
        return " ".join(done.stderr.split())

    assert "there are 5 questions; expected 20 or more" in refused("abacus", "--limit", "5", "--grader", "abacus")
    (tmp_path / "kind.py").write_text("def grade(text: str, expected: str) -> bool:\n    return True\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "the grader takes 'I do not know.' for right" in refused("abacus", "--grader", "kind:grade")
    done = run("fit", "model", "abacus", "--grader", "abacus", "--out", tmp_path / "head.json")
    assert "expected the name of a .safetensors file" in " ".join(done.stderr.split())


def _attaches(bare: Path, out: Path, how: list[str | Path], folder: Path) -> None:
    """A head of the same rollouts, written into the model."""
    other = folder / "rows.zip.safetensors"
    shutil.copy2(out.with_suffix(".rollouts.parquet"), other.with_suffix(".rollouts.parquet"))
    done = run("fit", bare, "abacus", "--limit", "50", *how[:-1], other, "--attachable")
    assert done.exit_code == 0, done.output
    refused = run("attach", bare, out, folder / "attached")
    assert "fit --attachable" in " ".join(refused.stderr.split()), "the usual kind"
    attached = run("attach", bare, other, folder / "attached")
    assert attached.exit_code == 0, attached.output
    assert "what confidence means after" in " ".join(attached.stdout.split())
    assert AnswerModel.beside(folder / "attached") == file.load(other).about.answers is not None
    laid = json.loads(run("ask", QUESTION, "--model", bare, "--head", other, "--json").stdout)
    written = json.loads(run("ask", QUESTION, "--model", folder / "attached", "--json").stdout)
    assert written["confidence_source"] in ("head", "both")
    assert written["expected"]["value"] == pytest.approx(laid["expected"]["value"], abs=0.02)
    assert written["expected"]["remaining"] == pytest.approx(laid["expected"]["remaining"], rel=0.02)


def _is_taken_over_only_where_it_is_the_same(bare: Path, out: Path, how: list[str | Path]) -> None:
    before = out.read_bytes()
    hotter = run("fit", bare, "abacus", "--limit", "50", *how, "--temperature", "2")
    assert "differ in temperature: temperature is 1.0, and here 2.0" in " ".join(hotter.stderr.split())
    dry = run("fit", bare, "abacus", "--limit", "50", *how, "--dry-run")
    assert dry.exit_code == 0
    other = run("fit", bare, "abacus", "--limit", "50", *how, "--grader", "regex:(no such thing)")
    assert "0 of 100 samples are right" in " ".join(other.stderr.split()), "graded anew"
    assert out.read_bytes() == before


def test_a_grader_that_never_agrees_ends_it_after_a_few_questions(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").unlink(missing_ok=True)
    done = run(
        *("fit", bare, "abacus", "--limit", "50", "--samples", "2", "--max-new-tokens", "40"),
        *("--grader", "regex:never (.*)", "--out", tmp_path / "head.safetensors"),
    )
    assert done.exit_code == 1
    said = " ".join(done.stderr.split())
    assert "all of the first 80 samples are wrong" in said
    assert "questions are kept in" in said
