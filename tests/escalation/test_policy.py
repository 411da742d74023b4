from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from zip_introspect import (
    Calibration,
    CalibrationError,
    ConfigError,
    EscalationError,
    EscalationPolicy,
    IntrospectiveLLM,
    Reply,
    Rung,
    SearchFinished,
    Usage,
)
from zip_introspect.introspection.calibration import Threshold
from zip_introspect.testing.simulator import SimulatedBackend


def calibration(confidence: float | None) -> Calibration:
    threshold = Threshold(level=0.05, delta=0.1, confidence=confidence, answered=0.5)
    return Calibration(method="temperature", examples=10, thresholds=(threshold,))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "nothing says when to hand on"),
        ({"otherwise": "raise"}, "nothing says when to hand on"),
        ({"min_confidence": 1.1}, "min_confidence is 1.1"),
        ({"min_confidence": 0.5, "max_error": 0.05}, "both thresholds"),
        ({"min_confidence": 0.5, "otherwise": "shrug"}, "otherwise is 'shrug'"),
        ({"max_error": 0.0}, "max_error is 0.0"),
    ],
)
def test_a_policy_that_says_nothing_or_two_things_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EscalationPolicy(**fields)


def test_a_level_of_error_becomes_the_threshold_that_was_calibrated_for_it() -> None:
    policy = EscalationPolicy(max_error=0.05)
    assert policy.threshold(calibration(0.83)) == 0.83
    with pytest.raises(CalibrationError, match=r"needs a calibration.*zip-introspect calibrate"):
        policy.threshold(None)
    with pytest.raises(CalibrationError, match=r"no threshold holds the error at 0.05 with a probability of 0.9"):
        policy.threshold(calibration(None))
    assert EscalationPolicy(min_confidence=0.4).threshold(calibration(0.83)) == 0.4
    assert EscalationPolicy(expected_utility=True).threshold(calibration(0.83)) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": 7}, "a rung's model is 7; expected an IntrospectiveLLM"),
        ({"model": str, "cost": float("nan")}, "cost of 'str' is nan"),
        ({"model": str, "timeout": 0}, "timeout of 'str' is 0; expected more than 0"),
        ({"model": str, "max_tokens": -1}, "max_tokens"),
        ({"model": str, "max_tokens": 2.5}, "max_tokens of 'str' is 2.5; expected a whole number"),
        ({"model": str, "price_per_prompt_token": float("nan")}, "price_per_prompt_token of 'str' is nan"),
        ({"model": str, "expected_reward": "high"}, "expected_reward of 'str' is 'high'"),
    ],
)
def test_a_rung_that_cannot_be_asked_or_reckoned_with_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Rung(**fields)


def test_a_rung_takes_its_models_name() -> None:
    llm = IntrospectiveLLM(SimulatedBackend())
    assert Rung(llm).name == llm.info.model
    assert Rung(llm, name="small").name == "small"
    assert Rung(sorted).name == "sorted"
    assert Rung(SimpleNamespace(invoke=str, model="big-1")).name == "big-1"
    assert Rung(lambda prompt: "1").name == "function"


def test_an_expected_reward_may_depend_on_the_prompt() -> None:
    assert Rung(str, expected_reward=lambda prompt: len(prompt) / 10).reward("abc") == pytest.approx(0.3)
    with pytest.raises(ConfigError, match="expected_reward of 'str' is nan"):
        Rung(str, expected_reward=lambda prompt: float("nan")).reward("abc")
    known: dict[Any, float] = {}
    with pytest.raises(ConfigError, match="expected_reward of 'str' raised KeyError: 'abc'"):
        Rung(str, expected_reward=known.__getitem__).reward("abc")


@pytest.mark.parametrize(
    ("output", "text", "answer"),
    [
        ("the answer is 7", "the answer is 7", "7"),
        (12, "12", "12"),
        (2.5, "2.5", "2.5"),
        (np.int64(12), "12", "12"),
        (SimpleNamespace(content="so x = 4"), "so x = 4", "4"),
        (SimpleNamespace(content=[{"type": "text"}], text="ans 9"), "ans 9", "9"),
        (Reply("long story", answer="5"), "long story", "5"),
    ],
)
def test_whatever_a_model_returns_becomes_a_reply(output: Any, text: str, answer: str) -> None:
    reply = Reply.of(output)
    assert (reply.text, reply.answer) == (text, answer)


def test_a_message_with_tool_calls_needs_no_text() -> None:
    assert Reply.of(SimpleNamespace(content="", tool_calls=[{"name": "search"}])).complete


@pytest.mark.parametrize(
    "output",
    [None, {"x": 1}, [], True, "", "  ", SimpleNamespace(content=[1]), Reply("1", confidence=float("nan"))],
)
def test_what_is_no_answer_is_refused(output: Any) -> None:
    with pytest.raises(EscalationError, match=r"it returned|its message"):
        Reply.of(output)


def test_a_message_brings_its_usage_and_its_confidence() -> None:
    message = SimpleNamespace(
        content="ans 3",
        usage_metadata={"input_tokens": 11, "output_tokens": 40},
        response_metadata={"introspection": {"confidence": 0.7, "answer": "3", "finish_reason": "length"}},
    )
    reply = Reply.of(message)
    assert (reply.usage.prompt_tokens, reply.usage.generated_tokens) == (11, 40)
    assert (reply.confidence, reply.answer, reply.complete) == (0.7, "3", False)


def test_money_is_what_the_reply_says_or_its_tokens_or_the_most_it_may_be() -> None:
    used = Usage(10, 100, 100, 0, 0.0)
    assert Rung(str, price_per_token=0.5, price_per_prompt_token=0.1).money(Reply("a", usage=used)) == pytest.approx(51)
    assert Rung(str, price_per_token=0.5, max_cost=9.0).money(Reply("a")) == 9.0
    assert Rung(str, max_cost=9.0).money(Reply("a", usage=used)) == 9.0
    assert Rung(str).money(Reply("a", usage=used)) is None
    assert Rung(str, max_cost=9.0).money(Reply("a", usage=Usage(1, 1, 1, 0, 0.0, cost=2.0))) == 2.0


def test_a_calibration_beside_the_model_comes_with_it(tmp_path: Any) -> None:
    assert Calibration.beside(tmp_path) is None
    calibration(0.8).save(tmp_path)
    assert Calibration.beside(tmp_path) == calibration(0.8)
    (tmp_path / "model.gguf").write_bytes(b"")
    assert Calibration.beside(tmp_path / "model.gguf") == calibration(0.8)
    assert Calibration.beside("no/such/model") is None


def test_results_of_a_calibrated_model_say_the_probability_too() -> None:
    found = calibration(0.8)
    llm = IntrospectiveLLM(SimulatedBackend(), calibration=found)
    *_, last = llm.stream("4")
    assert isinstance(last, SearchFinished)
    for result in (llm.generate("1"), *llm.batch(["2", "3"]), last.result):
        assert result.calibrated_confidence == pytest.approx(float(found.apply(result.confidence)))
    assert IntrospectiveLLM(SimulatedBackend()).generate("1").calibrated_confidence is None
