"""`evaluate` and `report`: from stored rollouts to a page, without a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.evaluation.stored import CONFIG, simulated
from zip_introspect.cli.app import app

pytest.importorskip("sklearn", reason="the extra eval is not installed")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return simulated(questions=6)[1].save(tmp_path / "rollouts.parquet")


def test_rollouts_become_a_page_and_the_page_is_written_anew(stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--alpha", "0.1", "--beta", "0.1", "--beta", "0.01", "--interval", str(CONFIG.interval))
    done = run("evaluate", stored, "--out", out, *options, "--windows", "2", "--processes", "2")
    assert done.exit_code == 0, done.stderr
    page = (out / "report.md").read_text(encoding="utf-8")
    assert done.stdout.strip() == str(out / "report.md")
    assert "at alpha 0.1" in page
    assert "| majority vote | " in page
    (out / "report.md").unlink()
    done = run("report", out, stored)
    assert done.exit_code == 0, done.stderr
    assert (out / "report.md").read_text(encoding="utf-8") == page


def test_what_cannot_be_evaluated_is_named(stored: Path, tmp_path: Path) -> None:
    for arguments, reason in (
        (("evaluate", tmp_path / "none.parquet", "--out", tmp_path), "zip-introspect rollouts"),
        (("evaluate", stored, "--out", tmp_path, "--alpha", "2"), "--alpha is 2; expected 0 to 1"),
        (("evaluate", stored, "--out", tmp_path, "--beta", "-1"), "beta is -1.0"),
        (("report", tmp_path / "nothing", stored), "zip-introspect evaluate"),
    ):
        done = run(*arguments)
        assert done.exit_code == 1
        assert reason in done.stderr


def test_without_the_extra_the_command_says_what_to_install(stored: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; sys.argv = ['zip-introspect', 'report', 'x', sys.argv[1]]\n"
        "from zip_introspect.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, stored], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "zip-introspect[eval]"' in done.stderr
