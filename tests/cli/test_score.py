"""`score`, and what `evaluate` and `report` make of it: rivals and another head on samples of the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("sklearn", reason="the extra eval is not installed")
pytest.importorskip("transformers", reason="the extra transformers is not installed")

from tests.evaluation.stored import simulated
from zip_introspect.cli.app import app
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.evaluation.store.rollout_file import Rollouts


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_a_judge_and_another_head_appear_in_the_report(tmp_path: Path) -> None:
    own, scored, head = (tmp_path / f"{name}.parquet" for name in ("own", "scored", "head"))
    assert run("rollouts", "abacus", own, "--limit", "10", "--samples", "2", "--max-new-tokens", "200").exit_code == 0
    question = ("--question", "<|user|>?", "--yes", "Y", "--no", "N")
    done = run("score", own, scored, "--judge", DEMO_MODEL, *question)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(scored)
    assert all(item.self_score is not None for problem in Rollouts.load(scored).problems for item in problem.rollouts)
    done = run("score", scored, head, "--joints-of", DEMO_MODEL)
    assert done.exit_code == 0, done.stderr

    log = tmp_path / "training.json"
    log.write_text(json.dumps([{"step": step, "policy_kl": 0.01 * step, "loss": 3.0} for step in (1, 2, 3)]))
    out = tmp_path / "out"
    options = ("--lite", head, "--training", f"with the KL term={log}")
    done = run("evaluate", scored, "--out", out, "--alpha", "1", "--beta", "0.1", *options)
    assert done.exit_code == 0, done.stderr
    page = (out / "report.md").read_text(encoding="utf-8")
    for text in ("weighted best of N, self-evaluation", "## ZIP-RC-Lite", "| ZIP-RC-Lite |", "(training_kl.png)"):
        assert text in page
    assert "with the KL term: 0.03 at the end" in (out / "training_kl.svg").read_text(encoding="utf-8")
    assert (out / "joints_lite.png").read_bytes().startswith(b"\x89PNG")
    # The very head again: what it predicts is the same up to rounding, and so is what the search makes of it.
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    curves = {
        name: [p for p in found["alphas"][0]["points"] if p["curve"] == name] for name in ("zip_rc", "zip_rc_lite")
    }
    assert curves["zip_rc"]
    for one, other in zip(curves["zip_rc"], curves["zip_rc_lite"], strict=True):
        assert one["cost"]["value"] == pytest.approx(other["cost"]["value"], abs=0.1)
    (out / "report.md").unlink()
    assert run("report", out, scored, *options).exit_code == 0
    assert (out / "report.md").read_text(encoding="utf-8") == page


def test_what_is_missing_or_wrong_is_said_before_anything_is_read(tmp_path: Path) -> None:
    stored = simulated(questions=4)[1].save(tmp_path / "stored.parquet")
    other = simulated(questions=4, seed=9)[1].save(tmp_path / "other.parquet")
    bad = tmp_path / "bad.json"
    bad.write_text('[{"step": 1}]')
    evaluate = ("evaluate", stored, "--out", tmp_path / "out")
    for arguments, reason in (
        (("score", stored, tmp_path / "out.parquet"), "expected --reward-model, --judge or --joints-of"),
        (("score", stored, tmp_path / "out.parquet", "--yes", "Y", "--joints-of", DEMO_MODEL), "expected --judge"),
        (("score", stored, tmp_path / "out.json", "--judge", DEMO_MODEL), "expected the name of a .parquet file"),
        (
            ("score", stored, tmp_path / "out.parquet", "--judge", DEMO_MODEL),
            "expected a model with the same tokenizer",
        ),
        ((*evaluate, "--lite", other), "make them with score --joints-of"),
        ((*evaluate, "--training", "x"), "expected NAME=FILE"),
        ((*evaluate, "--training", f"x={bad}"), "holds no training's log"),
        ((*evaluate, "--training", f"x={tmp_path / 'none.json'}"), "cannot be read"),
    ):
        done = run(*arguments)
        assert done.exit_code == 1, arguments
        assert reason in done.stderr
    assert not (tmp_path / "out").exists()
