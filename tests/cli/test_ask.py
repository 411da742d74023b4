"""`ask` against a real model with random weights: what is asked reaches the search, what it found reaches the user."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from zip_introspect import IntrospectiveLLM, PromptError
from zip_introspect.cli.app import app

SHORT = ("--max-new-tokens", "12", "--interval", "4")


def ask(model: str, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["ask", *arguments, "--model", model, *SHORT], input=stdin)


def asked(model: str, *arguments: str) -> dict[str, Any]:
    result = ask(model, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_json_is_what_the_library_returns(tiny_model: str) -> None:
    shown = asked(tiny_model, "1+1", "--seed", "3", "--max-samples", "2")
    with IntrospectiveLLM.from_pretrained(tiny_model) as llm:
        returned = llm.generate("1+1", seed=3, max_samples=2, max_new_tokens=12, interval=4).to_dict()
    for result in (shown, returned):
        result["usage"].pop("seconds")
    assert shown == json.loads(json.dumps(returned))


def test_options_reach_the_search(tiny_model: str) -> None:
    voted = asked(tiny_model, "1+1", "--strategy", "majority_vote", "--max-samples", "3", "--temperature", "0")
    assert voted["strategy"] == "majority_vote"
    assert len(voted["samples"]) == 1, "greedy samples are all the same"
    assert "the temperature is 0" in voted["warnings"][0]
    assert len(asked(tiny_model, "1+1", "--strategy", "majority_vote", "--max-samples", "3")["samples"]) == 3


def test_a_random_seed_is_shown_and_repeats_the_answer(tiny_model: str) -> None:
    first, other = (asked(tiny_model, "1+1", "--seed", "random", "--max-samples", "2") for _ in range(2))
    assert first["seed"] != other["seed"]
    again = asked(tiny_model, "1+1", "--seed", str(first["seed"]), "--max-samples", "2")
    for result in (first, again):
        result["usage"].pop("seconds")
    assert again == first
    said = ask(tiny_model, "1+1", "--seed", "12345", "--max-samples", "2")
    assert "seed        12345" in said.stdout
    refused = ask(tiny_model, "1+1", "--seed", "lucky")
    assert refused.exit_code == 2
    assert "'lucky' is no seed" in refused.stderr


def test_the_budget_is_held(tiny_model: str) -> None:
    result = asked(tiny_model, "1+1", "--budget", "7", "--strategy", "best_of_n", "--max-samples", "4")
    assert result["usage"]["generated_tokens"] == 7
    assert result["stop_reason"] == "budget"


def test_people_see_the_answer_the_cost_the_samples_and_why_it_stopped(tiny_model: str) -> None:
    result = ask(tiny_model, "1+1", "--strategy", "best_of_n", "--max-samples", "2")
    assert result.exit_code == 0, result.stderr
    for heading in ("answer", "confidence", "tokens", "started   0, 1", "paused", "dropped", "finished", "stopped"):
        assert heading in result.stdout
    assert "\x1b" not in result.stdout, "no colours and no cursor movement where there is no terminal"


def test_a_dash_reads_the_question_from_stdin(tiny_model: str) -> None:
    result = ask(tiny_model, "-", "--json", stdin="1+1\n")
    assert json.loads(result.stdout)["usage"] | {"seconds": 0} == asked(tiny_model, "1+1")["usage"] | {"seconds": 0}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((" ",), "the prompt is ' '"),
        (("1", "--temperature", "-1"), "temperature is -1.0"),
        (("1", "--budget", "0"), "max_tokens is 0"),
        (("1", "--strategy", "hope"), "strategy is 'hope'"),
        (("1", "--backend", "abacus"), "backend 'abacus' is unknown"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_exit_code_1(
    tiny_model: str, arguments: tuple[str, ...], expected: str
) -> None:
    result = ask(tiny_model, *arguments, "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr


def test_debug_shows_the_traceback(tiny_model: str) -> None:
    assert isinstance(ask(tiny_model, " ", "--debug").exception, PromptError)


def test_options_reach_the_chat_template(thinking_model: str) -> None:
    def prompt_tokens(*arguments: str) -> int:
        count: int = asked(thinking_model, "1+1", *arguments)["usage"]["prompt_tokens"]
        return count

    with IntrospectiveLLM.from_pretrained(thinking_model) as llm:
        for options, arguments in (
            ({}, []),
            ({"enable_thinking": True}, ["enable_thinking=true"]),
            ({"enable_thinking": False}, ["enable_thinking=false"]),
            ({"enable_thinking": "no"}, ["enable_thinking=no"]),
            ({"date": "1 = 1", "enable_thinking": False}, ["date=1 = 1", "enable_thinking=false"]),
            ({"date": "2024"}, ['date="2024"']),
        ):
            given = [part for argument in arguments for part in ("--template-option", argument)]
            assert prompt_tokens(*given) == len(llm.backend.encode("1+1", chat_template_kwargs=options))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["enable_thinking"], "--template-option is 'enable_thinking'; expected NAME=VALUE"),
        (["=1"], "expected NAME=VALUE"),
        (["messages=[]"], "'messages' is no option of a chat template"),
        (["a=1", "a=2"], "gives 'a' twice"),
        (["a=NaN"], "'a' is not JSON"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_a_model_is_opened(options: list[str], reason: str) -> None:
    given = [part for option in options for part in ("--template-option", option)]
    result = ask("no-such-model", "1+1", *given)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


def test_thinking_is_budgeted(tiny_model: str) -> None:
    options = ("--think-open", "", "--think-close", "a", "--seed", "3", "--max-samples", "2")
    for sample in asked(tiny_model, "1+1", *options, "--thinking-budget", "4", "--answer-budget", "3")["samples"]:
        assert sample["thought"]["closed"] in ("itself", "count")
        assert sample["thought"]["tokens"] <= 5
    shown = ask(tiny_model, "1+1", *options, "--thinking-budget", "4", "--answer-budget", "3")
    assert "thought" in shown.stdout
    assert "by its budget" in shown.stdout or "by itself" in shown.stdout
    for wrong, said in (
        (("--think-by", "luck"), "by is 'luck'"),
        (("--thinking-budget", "0"), "budget is 0"),
        (("--answer-budget", "12"), "less than max_new_tokens=12"),
    ):
        refused = ask(tiny_model, "1+1", *wrong)
        assert refused.exit_code == 1
        assert said in " ".join(refused.stderr.split())
