"""The whole recipe at the smallest scale: every step runs on what the one before it wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.demo.problems import training_mix
from zip_introspect.demo.recipe import base_rollouts
from zip_introspect.demo.recipe.__main__ import _done
from zip_introspect.demo.recipe.base import train_base
from zip_introspect.demo.recipe.base_rollouts import ending, evidence, roll_out
from zip_introspect.demo.recipe.evaluate import evaluate
from zip_introspect.demo.recipe.head import abacus_grid, train_head
from zip_introspect.demo.recipe.report import page, summary
from zip_introspect.demo.recipe.scorers import train_judge, train_reward_model
from zip_introspect.evaluation.reporting.training_log import load_history
from zip_introspect.evaluation.store.collecting import collect_rollouts
from zip_introspect.evaluation.store.rescoring import with_external_scores, with_self_scores
from zip_introspect.evaluation.store.rollout_file import Question
from zip_introspect.training.dataset import load
from zip_introspect.training.run import FOLDER, LOG_FILE
from zip_introspect_transformers import TransformersBackend

QUICK = ("training.tokens_per_batch=300", "training.logging_steps=1", "training.warmup_steps=1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, rollouts and final model, each of a few steps; so young a model is never right, so that luck grades it."""
    runs = tmp_path_factory.mktemp("runs")
    train_base(runs / "base", count=48)
    tokenizer = AutoTokenizer.from_pretrained(runs / "base")
    model = AutoModelForCausalLM.from_pretrained(runs / "base", dtype="float32")
    backend = TransformersBackend.from_model(model, tokenizer, abacus_grid())
    roll_out(backend, training_mix(0, 4), 2, runs / "rollouts.parquet", seed=0, max_new_tokens=24)
    rows = load(runs / "rollouts.parquet").remove_columns(["reward", "finished"])
    rows.add_column("reward", [0.0, 1.0] * 4).add_column("finished", [True] * 8).to_parquet(runs / "graded.parquet")
    train_head(runs / "base", runs / "graded.parquet", runs / "final", seed=0, changes=QUICK)
    return runs


def test_rollouts_are_graded_rows_in_order(runs: Path) -> None:
    rows = load(runs / "rollouts.parquet")
    assert list(zip(rows["problem"], rows["sample"], strict=True)) == [(p, s) for p in range(4) for s in range(2)]
    assert set(rows["reward"]) <= {0.0, 1.0}
    assert all(length <= prompt + 24 for length, prompt in zip(rows["length"], rows["prompt_length"], strict=True))


def test_interrupted_rollouts_go_on_after_the_last_part(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(runs / "base")
    model = AutoModelForCausalLM.from_pretrained(runs / "base", dtype="float32")
    backend = TransformersBackend.from_model(model, tokenizer, abacus_grid())
    problems, path = training_mix(0, 4), tmp_path / "rollouts.parquet"
    monkeypatch.setattr(base_rollouts, "PART", 2)
    real, calls = base_rollouts.collect, []  # type: ignore[attr-defined]

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(base_rollouts, "collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        roll_out(backend, problems, 2, path, seed=0, max_new_tokens=24)
    assert not path.exists()
    resumed = roll_out(backend, problems, 2, path, seed=0, max_new_tokens=24)
    assert len(calls) == 3
    assert calls[1] == calls[2]
    assert resumed["input_ids"][:] == load(runs / "rollouts.parquet")["input_ids"][:]
    assert [file.name for file in tmp_path.iterdir()] == ["rollouts.parquet"]


def test_a_step_refuses_results_of_other_settings(tmp_path: Path) -> None:
    assert not _done(tmp_path, "base", "base.bin", seed=0, examples=5)
    (tmp_path / "base.bin").touch()
    assert _done(tmp_path, "base", "base.bin", seed=0, examples=5)
    with pytest.raises(typer.BadParameter, match=r"made with .*'examples': 5.*, not with .*'examples': 6"):
        _done(tmp_path, "base", "base.bin", seed=0, examples=6)


def test_the_evaluation_runs_to_its_pages() -> None:
    """At the smallest scale, with the shipped model for its own base: then its KL is nothing."""
    figures = evaluate(DEMO_MODEL, DEMO_MODEL, seed=1, problems=10, measured=5, rollouts=2)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["kl"]["nats_per_token"] == pytest.approx(0.0, abs=1e-6)
    single = figures["prediction"]["accuracy"]
    assert single == next(row["by_tier"] for row in figures["search"]["rows"] if row["setting"] == 1)
    assert all(0 <= accuracy <= 1 for accuracy in single.values())
    for text in (page(figures), summary(figures)):
        assert "nan" not in text
        assert "majority" in text


def test_the_final_model_opens_as_any_other(runs: Path) -> None:
    with IntrospectiveLLM.from_pretrained(runs / "final", config=GenerationConfig(max_new_tokens=8)) as llm:
        out = llm.generate("Solve 3*x+5=35")
    assert 0 <= out.confidence <= 1
    assert (runs / "final" / "model.safetensors").stat().st_size < 8_000_000


def test_the_rivals_take_over_the_values_of_the_final_model(runs: Path, tmp_path: Path) -> None:
    free = (*QUICK, "training.kl_weight=0", "training.epochs=6")
    train_head(runs / "base", runs / "graded.parquet", tmp_path, seed=0, labels=runs / "final", changes=free)
    for name in ("labelled.parquet", "grid.json"):
        assert (tmp_path / FOLDER / name).read_bytes() == (runs / "final" / FOLDER / name).read_bytes()
    record = load_history(tmp_path / FOLDER / LOG_FILE)[-1]
    assert record.policy_kl > 0, "logged, though nothing holds it"


def test_reward_model_and_judge_score_stored_rollouts(runs: Path, tmp_path: Path) -> None:
    train_reward_model(runs / "base", runs / "graded.parquet", tmp_path / "reward_model", seed=0)
    train_judge(runs / "base", runs / "graded.parquet", tmp_path / "judge", seed=0)
    question = Question("Solve 3*x+5=35", "10")
    with IntrospectiveLLM.from_pretrained(runs / "final", config=GenerationConfig(max_new_tokens=8)) as llm:
        stored = collect_rollouts(llm, [question], lambda text, expected: False, samples=2)
    scored = with_self_scores(with_external_scores(stored, tmp_path / "reward_model"), tmp_path / "judge")
    for item in scored.problems[0].rollouts:
        assert item.external_score is not None
        assert item.self_score is not None
        assert 0 < item.external_score < 1
        assert 0 < item.self_score < 1
    assert scored.judgement_tokens == 2


def test_the_evidence_table_tells_endings_apart(runs: Path) -> None:
    assert ending("0..40 try 7: 3*7=21|21?21 ok\nans 7") == "ok"
    assert ending("0..40 try 7: 3*7=21|21?22 low\ngive up\nans 7") == "give up"
    assert ending("none\nans none") == "none"
    assert ending("I only find a whole x") == "other"
    rows = evidence(load(runs / "rollouts.parquet"))
    assert rows.columns[0].header == "tier"
    assert rows.row_count >= 2
