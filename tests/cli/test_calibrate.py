"""`calibrate`: from a file of results or of questions to a calibration's file."""

from __future__ import annotations

import json
import shutil
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from zip_introspect.cli.app import app
from zip_introspect.config import GenerationConfig
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.demo.problems import held_out
from zip_introspect.evaluation.measures import graders
from zip_introspect.evaluation.replay.backend import ReplayBackend
from zip_introspect.evaluation.store.collecting import collect_rollouts
from zip_introspect.evaluation.store.rollout_file import Question, Rollouts
from zip_introspect.introspection.calibration import FILE_NAME, Calibration
from zip_introspect.introspection.grid import FILE_NAME as GRID
from zip_introspect.introspection.posterior import FILE_NAME as ANSWERS
from zip_introspect.introspection.posterior import AnswerModel
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.search.confidence import OF_ANOTHER_SOURCE, UNCALIBRATED
from zip_introspect.search.request import Request, check
from zip_introspect_transformers import TransformersBackend

pytest.importorskip("sklearn", reason="the extra eval is not installed")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


def written(folder: Path, rows: list[Any]) -> Path:
    file = folder / "results.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    confidences = rng.beta(1, 0.5, 2000)
    return written(tmp_path, [{"confidence": c, "right": bool(rng.uniform() < c)} for c in confidences.tolist()])


def test_results_give_a_map_and_thresholds(results: Path) -> None:
    done = run(results)
    assert done.exit_code == 0, done.stderr
    found = Calibration.load(results.parent / FILE_NAME)
    assert found.examples == 2000
    np.testing.assert_allclose(found.apply([0.2, 0.5, 0.9]), [0.2, 0.5, 0.9], atol=0.1)
    assert [item.level for item in found.thresholds] == [0.01, 0.05, 0.1]
    for text in ("2,000 results", "10.0%", "none holds it", FILE_NAME):
        assert text in done.stdout.replace("\n", "")


def test_options_reach_the_fit(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    done = run(results, "--method", "temperature", "--level", "0.2", "--delta", "0.05", "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    found = Calibration.load(out)
    assert shown["temperature"] == found.temperature == pytest.approx(1.0, abs=0.2)
    assert [(item.level, item.delta) for item in found.thresholds] == [(0.2, 0.05)]


def test_questions_are_answered_by_the_model_and_the_map_lies_beside_it(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    problems = held_out(4, 40, tiers=(3, 5))
    known = [
        spelt(problem.answer)  # type: ignore[operator]
        for problem, spelt in zip(problems, cycle([int, float, str, "so it is\n#### {}".format]), strict=False)
    ]
    rows = [{"question": problem.prompt, "answer": answer} for problem, answer in zip(problems, known, strict=True)]
    file = written(tmp_path, rows)
    done = run(file, "--model", model, "--strategy", "single", "--method", "temperature")
    assert done.exit_code == 0, done.stderr
    found = Calibration.load(model)
    assert found.examples == 40
    assert found.apply(0.05) < 0.5 < found.apply(0.95), "its confidence tells right from wrong"


def test_what_tokens_mean_is_learnt_and_said_without_a_head(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model, ignore=shutil.ignore_patterns(GRID, "*calibration*"))
    rows = [{"question": problem.prompt, "answer": problem.answer} for problem in held_out(4, 24, tiers=(3, 5))]
    told = ["--confidence-source", "tokens"]
    done = run(written(tmp_path, rows), "--model", model, "--strategy", "single", "--method", "temperature", *told)
    assert done.exit_code == 0, done.stderr
    found = Calibration.load(model)
    assert (found.source, found.examples) == ("tokens", 24)
    with IntrospectiveLLM.from_pretrained(model, threads=1) as llm:
        by_tokens, agreed = (
            llm.generate(rows[0]["question"], strategy="single", confidence_source=source)
            for source in ("tokens", None)
        )
    assert by_tokens.calibrated_confidence == pytest.approx(float(found.apply(by_tokens.confidence)))
    assert UNCALIBRATED not in by_tokens.warnings
    assert agreed.calibrated_confidence is None
    assert OF_ANOTHER_SOURCE in agreed.warnings


def test_labelled_results_may_be_of_tokens(results: Path) -> None:
    assert run(results, "--confidence-source", "tokens").exit_code == 0
    assert Calibration.load(results.parent / FILE_NAME).source == "tokens"
    refused = run(written(results.parent, [{"question": "1+1", "answer": 2}]), "--confidence-source", "hope")
    assert refused.exit_code == 1
    assert "confidence_source is 'hope'" in refused.stderr


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "is empty"),
        (["{"], "line 1 of"),
        (["[1]"], "is a list; expected an object"),
        ([{"confidence": 0.5, "right": True}, {"confidence": "high", "right": True}], "result 2 of"),
        ([{"confidence": 0.5, "right": "yes"}], "result 1 of"),
        ([{"confidence": 1.5, "right": True}, {"confidence": 0.5, "right": False}], "in [0, 1]"),
        ([{"confidence": 0.5, "right": True}] * 3, "all 3 results are right"),
        ([{"question": "1+1"}], "question 1 of"),
        ([{"prompt": "1+1", "answer": 2}], "question 1 of"),
    ],
)
def test_a_file_that_teaches_nothing_is_one_line(rows: list[Any], reason: str, tmp_path: Path) -> None:
    done = run(written(tmp_path, rows))
    assert done.exit_code == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize(("option", "value"), [("--method", "hope"), ("--level", "1.5"), ("--delta", "0")])
def test_a_wrong_option_is_refused_before_a_question_is_asked(option: str, value: str, tmp_path: Path) -> None:
    file = written(tmp_path, [{"question": "1+1", "answer": 2}])
    done = run(file, "--model", tmp_path / "no model is opened", option, value)
    assert done.exit_code == 1
    assert option.strip("-") in done.stderr
    assert value in done.stderr


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path / "none.jsonl")
    assert done.exit_code == 1
    assert "is not a file" in done.stderr


def test_options_reach_the_chat_template(tmp_path: Path, thinking_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    batch = IntrospectiveLLM.batch

    def watched(self: IntrospectiveLLM, prompts: Any, **settings: Any) -> Any:
        seen.append(settings["chat_template_kwargs"])
        return batch(self, prompts, max_new_tokens=4, **settings)

    monkeypatch.setattr(IntrospectiveLLM, "batch", watched)
    rows = written(tmp_path, [{"question": "1+1", "answer": 2}, {"question": "2+2", "answer": 4}])
    run(rows, "--model", thinking_model, "--template-option", "enable_thinking=false")
    assert seen == [{"enable_thinking": False}]


def test_rollouts_tell_what_to_believe_of_answers(tmp_path: Path) -> None:
    """From rollouts to a model that searches by it, and back into rollouts, which replays then read."""
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model, ignore=shutil.ignore_patterns("*.gguf", ANSWERS))
    rollouts, again = tmp_path / "rollouts.parquet", tmp_path / "again.parquet"
    question = CliRunner().invoke(app, ["rollouts", "abacus", str(rollouts), "--limit", "6", "--samples", "3"])
    assert question.exit_code == 0, question.stderr
    done = run(rollouts, "--model", model)
    assert done.exit_code == 0, done.stderr
    learnt = AnswerModel.load(model)
    assert f"{learnt.trust:.3f}" in done.stdout
    assert learnt != AnswerModel()
    with IntrospectiveLLM.from_pretrained(model, "transformers") as llm:
        assert llm.backend.answers == learnt
        assert isinstance(llm.backend, TransformersBackend)
        checked = check(Request((1, 2), GenerationConfig(strategy="answer_posterior")), llm.backend)
        assert checked.strategy.options.answers == learnt
        own = GenerationConfig(strategy="answer_posterior", strategy_options={"answers": {"trust": 0.0}})
        assert check(Request((1, 2), own), llm.backend).strategy.options.answers.trust == 0
        kept = collect_rollouts(llm, [Question("Solve 3*x+5=35", "10")], graders.get("abacus"), samples=1)
    kept.save(again)
    assert Rollouts.load(again).answers == ReplayBackend(Rollouts.load(again)).answers == learnt
