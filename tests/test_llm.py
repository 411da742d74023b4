from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.scripted import FaultyBackend, OlderBackend, TemplatedBackend, freed, nan_in_the_last, unchanged
from zip_introspect import (
    BackendError,
    BackendNotInstalledError,
    Budget,
    BudgetError,
    ConfigError,
    GenerationConfig,
    GenerationResult,
    IntrospectiveLLM,
    ModelLoadError,
    NonFiniteLogitsError,
    PromptError,
    SearchFinished,
)
from zip_introspect.demo import embedded
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05)


@pytest.fixture
def backend() -> SimulatedBackend:
    return SimulatedBackend()


@pytest.fixture
def llm(backend: SimulatedBackend) -> IntrospectiveLLM:
    return IntrospectiveLLM(backend, CONFIG)


def test_generate_answers_with_confidence_and_json(llm: IntrospectiveLLM, backend: SimulatedBackend) -> None:
    out = llm.generate("what is it?", budget=Budget(max_samples=4, max_tokens=400))
    assert float(out.answer or "nan") == pytest.approx(out.confidence)
    assert out.samples[out.chosen or 0].text == out.text
    data = json.loads(out.to_json())
    assert data["usage"]["generated_tokens"] == out.usage.generated_tokens
    assert data["escalation"] is None
    assert backend.held == 0


def test_overrides_last_for_one_call(llm: IntrospectiveLLM) -> None:
    out = llm.generate("q", strategy="best_of_n", max_samples=3, seed=9)
    assert (out.strategy, len(out.samples), out.seed) == ("best_of_n", 3, 9)
    assert llm.generate("q").strategy == "zip_rc"


def test_majority_votes_over_extracted_answers(llm: IntrospectiveLLM) -> None:
    out = llm.generate("some question", strategy="majority_vote")
    answers = [sample.answer for sample in out.samples]
    assert answers.count(out.answer) == max(map(answers.count, answers))
    assert out.selection == "majority"


def test_messages_are_prompts_too(llm: IntrospectiveLLM) -> None:
    assert llm.generate([{"role": "user", "content": "q"}]).text == llm.generate("q").text


@pytest.mark.parametrize(
    "prompt", ["", "  \n\t", [], b"q", 7, ["q"], [{"role": "user"}], [{"role": "u", "content": " "}]]
)
def test_prompts_without_a_question_are_refused(llm: IntrospectiveLLM, prompt: object) -> None:
    with pytest.raises(PromptError, match="expected"):
        llm.generate(prompt)  # type: ignore[arg-type]


def test_bad_settings_are_refused_with_the_field_named(llm: IntrospectiveLLM) -> None:
    with pytest.raises(ConfigError, match="temperature is -1: "):
        llm.generate("q", temperature=-1)
    with pytest.raises(ConfigError, match="alhpa is 1"):
        llm.generate("q", alhpa=1)  # type: ignore[call-arg]
    with pytest.raises(BudgetError, match="max_tokens is 0"):
        llm.generate("q", budget=0)


def test_bad_input_to_stream_is_refused_at_once(llm: IntrospectiveLLM) -> None:
    with pytest.raises(PromptError):
        llm.stream("")


def test_stream_ends_with_the_result_of_generate(llm: IntrospectiveLLM, backend: SimulatedBackend) -> None:
    events = list(llm.stream("q"))
    assert isinstance(events[-1], SearchFinished)
    assert events[-1].result.text == llm.generate("q").text
    advanced = [event for event in events if event.kind == "advanced"]
    assert advanced
    for event in llm.stream("q"):
        if event.kind == "advanced":
            break
    del event
    assert freed(backend)


def test_a_call_within_a_stream_does_not_wait_for_it(llm: IntrospectiveLLM) -> None:
    alone = [event.kind for event in llm.stream("q")]
    seen = []
    for event in llm.stream("q"):
        seen.append(event.kind)
        assert llm.introspect("other").confidence >= 0.0
    assert seen == alone


def test_batch_equals_one_by_one(llm: IntrospectiveLLM) -> None:
    prompts = ["a", "b", "c"]
    assert [out.text for out in llm.batch(prompts, seed=3)] == [llm.generate(p, seed=3).text for p in prompts]
    assert llm.batch([]) == []


def test_batch_refuses_before_it_runs_or_returns_errors_in_place(llm: IntrospectiveLLM) -> None:
    with pytest.raises(PromptError, match="prompt 1: "):
        llm.batch(["a", "", "c"])
    with pytest.raises(PromptError, match="batch was given one string"):
        llm.batch("abc")
    first, error, last = llm.batch(["a", "", "c"], return_exceptions=True)
    assert isinstance(error, PromptError)
    assert isinstance(first, GenerationResult)
    assert isinstance(last, GenerationResult)


def test_nan_in_a_batch_keeps_one_result_a_prompt() -> None:
    backend = FaultyBackend(nan_in_the_last)
    with IntrospectiveLLM(backend, CONFIG.replace(strategy="best_of_n")) as llm:
        with pytest.raises(NonFiniteLogitsError, match=r"samples 0 .* tokens") as caught:
            llm.batch(["a", "b"])
        assert [part.finish_reason for part in caught.value.partial] == ["stop", "error"]
        backend.calls = 0
        first, second = llm.batch(["a", "b"], return_exceptions=True)
    assert isinstance(first, GenerationResult)
    assert isinstance(second, NonFiniteLogitsError)
    assert backend.held == 0


def test_introspect_agrees_with_what_generate_expects(llm: IntrospectiveLLM, backend: SimulatedBackend) -> None:
    seen = llm.introspect("q")
    expected = llm.generate("q").expected
    assert expected is not None
    assert seen.confidence == pytest.approx(expected.value, abs=1e-6)
    assert seen.expected_tokens == pytest.approx(expected.remaining, rel=1e-6)
    assert sum(map(sum, seen.joint)) == pytest.approx(1.0)
    assert sum(seen.value_marginal) == pytest.approx(1.0)
    assert seen.usage.generated_tokens == 0
    assert backend.held == 0


def test_a_closed_model_says_so(llm: IntrospectiveLLM) -> None:
    llm.close()
    llm.close()
    with pytest.raises(BackendError, match="closed; open it again"):
        llm.generate("q")


def test_opening_what_no_backend_knows() -> None:
    with pytest.raises(BackendNotInstalledError, match="pip install"):
        IntrospectiveLLM.from_pretrained("anything", backend="no-such-backend")
    assert IntrospectiveLLM.from_pretrained("7", backend=SimulatedBackend).info.backend == "simulated"


def test_a_demo_without_its_files_says_where_they_should_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded, "DEMO_MODEL", tmp_path / "abacus")
    with pytest.raises(ModelLoadError, match=r"expected .*abacus/config\.json"):
        IntrospectiveLLM.demo()


def test_the_embedded_models_answers_are_found_and_its_declines_have_none() -> None:
    assert embedded.DEMO_EXTRACTOR("try 10: 3*10=30. 30+5=35 ok. ans 10") == "10"
    assert embedded.DEMO_EXTRACTOR("I only find a whole x from 0 to 40, as in 3*x+5=35.") is None


async def test_async_calls_agree_with_the_others(llm: IntrospectiveLLM) -> None:
    plain = llm.generate("q")
    assert (await llm.agenerate("q")).text == plain.text
    events = [event async for event in llm.astream("q")]
    assert isinstance(events[-1], SearchFinished)
    assert events[-1].result.text == plain.text
    assert [out.text for out in await llm.abatch(["q", "r"])] == [out.text for out in llm.batch(["q", "r"])]
    both = await asyncio.gather(llm.agenerate("q"), llm.agenerate("q"))
    assert [out.text for out in both] == [plain.text] * 2


@pytest.mark.parametrize("call", ["agenerate", "astream", "abatch"])
async def test_cancelling_releases_every_sequence_at_the_next_interval(call: str) -> None:
    backend = FaultyBackend(unchanged, pace=0.05)
    llm = IntrospectiveLLM(backend, CONFIG.replace(interval=1, strategy="best_of_n"))

    async def work() -> None:
        if call == "astream":
            async for _ in llm.astream("q"):
                pass
        elif call == "abatch":
            await llm.abatch(["q", "r"])
        else:
            await llm.agenerate("q")

    task = asyncio.create_task(work())
    while backend.calls < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert freed(backend)
    calls = backend.calls
    assert calls < 10
    await asyncio.sleep(0.2)
    assert backend.calls == calls
    assert llm.generate("q").answer is not None


@pytest.mark.parametrize("way", ["agenerate", "astream", "abatch"])
async def test_a_cancelled_call_does_not_wait_for_its_turn(way: str) -> None:
    async def ask(text: str) -> None:
        if way == "astream":
            async for _ in llm.astream(text):  # type: ignore[attr-defined]
                pass
        else:
            await (llm.agenerate(text) if way == "agenerate" else llm.abatch([text]))  # type: ignore[attr-defined]

    backend = FaultyBackend(unchanged, pace=0.2)
    llm = IntrospectiveLLM(backend, CONFIG.replace(interval=1, strategy="best_of_n"))
    first = asyncio.create_task(llm.agenerate("q"))
    while not backend.calls:
        await asyncio.sleep(0.01)
    second = asyncio.create_task(ask("r"))
    await asyncio.sleep(0.1)
    begun = time.perf_counter()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert not first.done()
    assert time.perf_counter() - begun < 2.0
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert freed(backend)


def test_one_stop_string_needs_no_list(llm: IntrospectiveLLM) -> None:
    one, listed = (llm.generate("2", stop=stop, max_samples=1) for stop in ("7", ["7"]))
    assert one.samples == listed.samples
    with pytest.raises(ConfigError, match="stop holds an empty string"):
        llm.generate("2", stop="")


def test_threads_share_one_model(llm: IntrospectiveLLM, backend: SimulatedBackend) -> None:
    expected = {text: llm.generate(text).text for text in "abcdefgh"}
    found: dict[str, str] = {}

    def work(text: str) -> None:
        found[text] = llm.generate(text).text if text < "e" else list(llm.stream(text))[-1].result.text  # type: ignore[union-attr]

    threads = [threading.Thread(target=work, args=(text,)) for text in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
    assert backend.held == 0


def test_a_budget_of_seconds_ends_the_search() -> None:
    backend = FaultyBackend(unchanged, pace=0.03)
    llm = IntrospectiveLLM(backend, CONFIG.replace(interval=1, strategy="best_of_n"))
    out = llm.generate("a long one", budget=Budget(max_seconds=0.1))
    assert out.finish_reason == "budget"
    assert "seconds" in out.stop_detail
    assert backend.calls <= 3


def test_importing_the_core_pulls_in_no_model_library() -> None:
    code = (
        "import sys, zip_introspect; "
        "print([name for name in ('torch', 'transformers', 'typer', 'rich', 'scipy') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_pickled_model_opens_again_where_it_came_from() -> None:
    with IntrospectiveLLM.demo() as llm, pickle.loads(pickle.dumps(llm)) as again:
        assert again.origin == llm.origin
        assert again.config == llm.config
        assert again.extractor == llm.extractor
        assert again.generate("Solve 3*x+16=31", seed=1).samples == llm.generate("Solve 3*x+16=31", seed=1).samples


async def test_no_seed_is_a_fresh_one_in_every_call(llm: IntrospectiveLLM) -> None:
    fresh = IntrospectiveLLM(SimulatedBackend(), CONFIG.replace(seed=None))
    (*_, last) = fresh.stream("the same")
    assert isinstance(last, SearchFinished)
    (*_, streamed) = [event async for event in fresh.astream("the same")]
    assert isinstance(streamed, SearchFinished)
    found = [
        fresh.generate("the same"),
        await fresh.agenerate("the same"),
        *fresh.batch(["the same", "the same"]),
        *llm.batch(["the same"], seed=None),
        last.result,
        streamed.result,
    ]
    assert len({result.seed for result in found}) == len(found)
    assert len({tuple(sample.token_ids for sample in result.samples) for result in found}) > 1
    for result in found:
        again = llm.generate("the same", seed=result.seed)
        assert (again.samples, again.decisions, again.seed) == (result.samples, result.decisions, result.seed)
    assert llm.generate("the same").seed == llm.generate("the same").seed == 0
    assert json.loads(found[0].to_json())["seed"] == found[0].seed
    assert pickle.loads(pickle.dumps(fresh.config)).seed is None


def test_a_model_of_unknown_origin_refuses_to_be_pickled() -> None:
    with pytest.raises(TypeError, match="from_pretrained"):
        pickle.dumps(IntrospectiveLLM(SimulatedBackend()))


OPTIONS = {"enable_thinking": False, "tools": [{"name": "add"}]}


async def test_template_options_reach_every_kind_of_call() -> None:
    with IntrospectiveLLM(TemplatedBackend(), CONFIG) as llm:
        expected = len(llm.backend.encode("q", chat_template_kwargs=OPTIONS))
        assert expected != len(llm.backend.encode("q"))
        asked = [
            llm.generate("q", chat_template_kwargs=OPTIONS),
            llm.generate("q", config=CONFIG.replace(chat_template_kwargs=OPTIONS)),
            *llm.batch(["q", "q"], chat_template_kwargs=OPTIONS),
            await llm.agenerate("q", chat_template_kwargs=OPTIONS),
            *(await llm.abatch(["q"], chat_template_kwargs=OPTIONS)),
            llm.introspect("q", chat_template_kwargs=OPTIONS),
            llm.introspect("q", config=CONFIG.replace(chat_template_kwargs=OPTIONS)),
        ]
        for events in (
            list(llm.stream("q", chat_template_kwargs=OPTIONS)),
            [event async for event in llm.astream("q", chat_template_kwargs=OPTIONS)],
        ):
            assert isinstance(events[-1], SearchFinished)
            asked.append(events[-1].result)
        assert [found.usage.prompt_tokens for found in asked] == [expected] * len(asked)  # type: ignore[attr-defined]
    with IntrospectiveLLM(TemplatedBackend(), CONFIG.replace(chat_template_kwargs=OPTIONS)) as llm:
        assert llm.introspect("q").usage.prompt_tokens == llm.generate("q").usage.prompt_tokens == expected
        assert llm.generate("q", chat_template_kwargs={}).usage.prompt_tokens < expected


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "bos_token", "tokenize", "self", "", "a b"])
def test_template_options_of_names_that_are_not_free_are_refused(llm: IntrospectiveLLM, name: str) -> None:
    with pytest.raises(ConfigError, match=f"chat_template_kwargs is .*'{name}' is no option of a chat template"):
        llm.generate("q", chat_template_kwargs={name: 1})


def test_template_options_that_no_template_could_read_are_refused(llm: IntrospectiveLLM) -> None:
    for call in (llm.generate, llm.introspect, llm.stream):
        with pytest.raises(ConfigError, match="'enable_thinking', 'tools', but a simulated world has no chat template"):
            call("q", chat_template_kwargs=OPTIONS)
    with pytest.raises(ConfigError, match="'tools' is not JSON"):
        llm.generate("q", chat_template_kwargs={"tools": [len]})


def test_backends_that_know_no_template_options_go_on_working() -> None:
    with IntrospectiveLLM(OlderBackend(), CONFIG) as llm:
        assert llm.generate("q").text == IntrospectiveLLM(SimulatedBackend(), CONFIG).generate("q").text
