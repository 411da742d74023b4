"""A model without a head, through every front door: samples that agree are its confidence."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zip_introspect import (
    Budget,
    Calibration,
    EscalationPolicy,
    HeadError,
    IntrospectiveLLM,
    Ladder,
)
from zip_introspect.cli.app import app
from zip_introspect.demo import embedded
from zip_introspect.events import SampleFinished, SearchStarted
from zip_introspect.introspection.grid import FILE_NAME
from zip_introspect.search.confidence import UNCALIBRATED
from zip_introspect.testing.simulator import SimulatedBackend

QUESTION = "Solve 3*x+5=35"
NEEDING = (
    *("zip_rc", "zip_rc_reward_pruning", "best_of_n", "weighted_best_of_n", "beam_search"),
    *("best_of_majority", "opt_scale", "step_prune"),
)
NEEDING_NONE = (
    *("adaptive_consistency", "early_stopping_consistency", "majority_vote", "single", "pass_at_k", "deep_conf"),
    "answer_posterior",
)


@pytest.fixture
def llm() -> IntrospectiveLLM:
    return IntrospectiveLLM(SimulatedBackend(seed=3, head=False))


@pytest.fixture(scope="module")
def abacus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint without its grid, so that nothing says which rows are reserved."""
    folder = tmp_path_factory.mktemp("models") / "bare"
    shutil.copytree(embedded.located("transformers"), folder, ignore=shutil.ignore_patterns(FILE_NAME, "*calibration*"))
    return folder


def test_the_default_is_adaptive_consistency_and_its_confidence_is_agreement(llm: IntrospectiveLLM) -> None:
    result = llm.generate("a question", max_samples=12)
    assert (result.strategy, result.selection, result.confidence_source) == (
        "adaptive_consistency",
        "majority",
        "agreement",
    )
    ended = [sample.answer for sample in result.samples if sample.complete]
    assert result.confidence == ended.count(result.answer) / (len(ended) + 1)
    assert result.expected is None
    assert all(sample.value is None and not sample.trace for sample in result.samples)
    assert all(not decision.outlooks and decision.utility is None for decision in result.decisions)
    assert json.loads(result.to_json())["confidence_source"] == "agreement"


def test_a_head_is_what_the_confidence_rests_on_where_there_is_one() -> None:
    result = IntrospectiveLLM(SimulatedBackend(seed=3)).generate("a question")
    assert (result.strategy, result.confidence_source) == ("zip_rc", "head")


@pytest.mark.parametrize("strategy", NEEDING_NONE)
def test_strategies_that_read_no_joints_run(llm: IntrospectiveLLM, strategy: str) -> None:
    result = llm.generate("a question", strategy=strategy, max_samples=6)
    assert (result.finish_reason, result.confidence_source) == ("stop", "agreement")


@pytest.mark.parametrize("strategy", NEEDING)
def test_strategies_that_read_joints_say_how_to_get_a_head(llm: IntrospectiveLLM, strategy: str) -> None:
    with pytest.raises(HeadError, match=rf"strategy {strategy} reads .*simulated world has none; .*majority_vote"):
        llm.generate("a question", strategy=strategy)


def test_selections_by_value_and_prompts_are_refused(llm: IntrospectiveLLM) -> None:
    for selection in ("value", "weighted_majority"):
        with pytest.raises(HeadError, match=f"selection {selection} reads"):
            llm.generate("a question", selection=selection)
    with pytest.raises(HeadError, match="has no head"):
        llm.introspect("a question")
    with pytest.raises(HeadError, match="gives no joints"):
        _ = llm.grid
    assert not llm.has_head


def test_events_leave_out_what_nobody_expects(llm: IntrospectiveLLM) -> None:
    events = list(llm.stream("a question", max_samples=3))
    assert [event.expected for event in events if isinstance(event, SearchStarted)] == [None]
    assert {event.value for event in events if isinstance(event, SampleFinished)} == {None}
    assert all(json.loads(event.to_json()) for event in events)


def test_what_was_cut_has_the_lowest_confidence(llm: IntrospectiveLLM) -> None:
    result = llm.generate("a question", max_new_tokens=1, max_samples=2)
    assert (result.finish_reason, result.confidence, result.answer) == ("length", 0.0, None)
    late = llm.generate("a question", budget=Budget(max_seconds=1e-9))
    assert (late.confidence, late.confidence_source, late.expected) == (0.0, "agreement", None)


def test_a_calibration_says_what_agreement_means() -> None:
    known = Calibration(method="isotonic", confidences=(0.0, 1.0), probabilities=(0.2, 0.6), examples=10)
    llm = IntrospectiveLLM(SimulatedBackend(seed=3, head=False), calibration=known)
    result = llm.generate("a question")
    assert result.calibrated_confidence == pytest.approx(0.2 + 0.4 * result.confidence)


def test_ladders_of_samples_that_agree_are_cascades(llm: IntrospectiveLLM) -> None:
    asked: list[str] = []

    def strong(prompt: object) -> str:
        asked.append(str(prompt))
        return "ans 1"

    ladder = Ladder(llm, strong, min_confidence=0.75)
    results = ladder.batch([f"question {number}" for number in range(30)], max_samples=8)
    assert 0 < len(asked) < 30
    for result in results:
        handed_on = result.escalation is not None
        assert handed_on or result.confidence >= 0.75
        assert result.confidence_source == (None if handed_on else "agreement")
    weighed = Ladder(llm, strong, policy=EscalationPolicy(min_confidence=0.75))
    assert asyncio.run(weighed.agenerate("question 1")).text


def test_texts_vote_where_there_is_no_answer() -> None:
    llm = IntrospectiveLLM(SimulatedBackend(max_length=4, head=False), extractor=lambda text: None)
    result = llm.generate("a question", strategy="majority_vote", max_samples=40)
    texts = [sample.text for sample in result.samples]
    assert texts.count(result.text) == max(map(texts.count, texts)) > 1
    assert result.confidence == texts.count(result.text) / 41
    assert len(llm.generate("a question", max_samples=40).samples) == 4


def test_a_ladder_cannot_decide_at_the_prompt(llm: IntrospectiveLLM) -> None:
    with pytest.raises(HeadError, match=r"min_prompt_confidence=0\.5 needs .*give min_confidence"):
        Ladder(llm, str, min_prompt_confidence=0.5)


def test_a_checkpoint_without_a_grid_opens_and_answers(abacus: Path) -> None:
    with IntrospectiveLLM.from_pretrained(abacus, threads=1) as llm:
        result = llm.generate(QUESTION, max_samples=8, temperature=0.7, max_new_tokens=200)
    assert result.answer == "10"
    assert result.confidence > 0.5


def test_it_says_how_likely_it_found_its_words(abacus: Path) -> None:
    with IntrospectiveLLM.from_pretrained(abacus, threads=1) as llm:
        asked: dict[str, Any] = {"max_samples": 5, "temperature": 0.7, "max_new_tokens": 200}
        plain, told = (llm.generate(QUESTION, confidence_source=source, **asked) for source in (None, "tokens"))
        pruned = llm.generate(QUESTION, strategy="deep_conf", **asked)
    assert [sample.text for sample in told.samples] == [sample.text for sample in plain.samples]
    assert (told.answer, told.confidence_source) == ("10", "tokens")
    assert 0.5 < told.confidence < 1
    assert UNCALIBRATED in told.warnings
    assert UNCALIBRATED not in plain.warnings
    assert pruned.answer == "10"
    assert all(sample.token_confidence for sample in pruned.samples)


def test_the_command_line_asks_and_inspects_it(abacus: Path) -> None:
    run = CliRunner().invoke
    asked = run(app, ["ask", QUESTION, "--model", str(abacus), "--max-samples", "4", "--json"])
    assert json.loads(asked.stdout)["confidence_source"] == "agreement", asked.output
    sure = run(app, ["ask", QUESTION, "--model", str(abacus), "--max-samples", "2", "--confidence-source", "tokens"])
    assert "the likelihood of its tokens" in sure.stdout, sure.output
    shown = run(app, ["ask", QUESTION, "--model", str(abacus), "--max-samples", "4"])
    assert "of agreement" in shown.stdout.replace("the agreement", "of agreement"), shown.output
    refused = run(app, ["ask", QUESTION, "--model", str(abacus), "--strategy", "zip_rc"])
    assert refused.exit_code == 1
    assert "strategy zip_rc reads what the head of a model expects" in " ".join(refused.stderr.split())
    inspected = run(app, ["inspect", str(abacus)])
    assert inspected.exit_code == 0
    assert "ready without a head" in inspected.stdout
