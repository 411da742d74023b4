"""`evaluate` and `report`: from stored rollouts to a page, without a model."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.evaluation.stored import CONFIG, simulated
from zip_introspect.cli.app import app
from zip_introspect.evaluation.store.rollout_file import Rollouts

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


def test_prices_and_another_model_are_told_of(stored: Path, tmp_path: Path) -> None:
    other = simulated(questions=6, seed=9)[1].save(tmp_path / "other.parquet")
    out = tmp_path / "out"
    options = ("--alpha", "0.1", "--beta", "0.01", "--interval", str(CONFIG.interval), "--processes", "1")
    prices = ("--price-per-token", "0.5", "--price-per-prompt-token", "0.1", "--joules-per-token", "3")
    theirs = ("--other", other, "--other-price-per-token", "2")
    done = run("evaluate", stored, "--out", out, *options, *prices, *theirs)
    assert done.exit_code == 0, done.stderr
    page = (out / "report.md").read_text(encoding="utf-8")
    assert page.index("## What a right answer costs, in money") < page.index("## What a right answer costs, in joules")
    assert "Price reversal (Chen et al., 2026): " in page
    with (out / "two_models.csv").open(encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert [row[3] for row in rows[1:3]] == ["0.0%", "0.0%"]
    assert rows[0][1] == "money a question"
    rollouts = Rollouts.load(stored)
    paid = np.mean(
        [
            np.mean([0.5 * len(item.tokens) for item in problem.rollouts]) + 0.1 * len(problem.prompt_tokens)
            for problem in rollouts.problems
        ]
    )
    assert rows[1][1] == f"{paid:.3g}"
    done = run("report", out, stored, "--other", other)
    assert done.exit_code == 0, done.stderr
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "in money" not in page
    assert "Both have the same price a token" in page


def test_prices_that_do_not_fit_are_refused_before_anything_is_replayed(stored: Path, tmp_path: Path) -> None:
    fewer = simulated(questions=4)[1].save(tmp_path / "fewer.parquet")
    for options, reason in (
        (("--price-per-token", "0"), "a token's price is 0"),
        (("--price-per-prompt-token", "1"), "--price-per-token was not"),
        (("--other-price-per-token", "1", "--price-per-token", "1"), "--other-price-per-token is that of --other"),
        (("--other", stored, "--price-per-token", "1"), "--other-price-per-token was not"),
        (("--other", fewer), "the 4 questions of"),
        (("--joules-per-token", "-1"), "a token's price is -1"),
    ):
        done = run("evaluate", stored, "--out", tmp_path / "out", *options)
        assert done.exit_code == 1
        assert reason in " ".join(done.stderr.split())
        assert not (tmp_path / "out").exists()


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
