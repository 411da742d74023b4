"""Whoever asks again is answered anew, unless a seed says otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps, loads
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableField

from langchain_zip_introspect import ChatIntrospective, IntrospectiveRunnable, TextIntrospective
from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, strategy="best_of_n", max_samples=2)
TIMES = 5


@pytest.fixture
def fresh() -> IntrospectiveLLM:
    """A model whose settings name no seed."""
    return IntrospectiveLLM(SimulatedBackend(), CONFIG)


def told(output: Any) -> tuple[str, int]:
    """The text of an answer, and the seed that it reports."""
    if hasattr(output, "generation_info") and output.generation_info:
        return output.text, output.generation_info["introspection"]["seed"]
    if hasattr(output, "response_metadata"):
        return output.text, output.response_metadata["introspection"]["seed"]
    return output.text, output.seed


async def answers(model: Any, way: str, **kwargs: Any) -> list[tuple[str, int]]:
    """Answers to one question, asked some times."""
    texts = isinstance(model, TextIntrospective)
    if way == "batch":
        found = model.batch(["q"] * TIMES, **kwargs)
    elif way == "abatch":
        found = await model.abatch(["q"] * TIMES, **kwargs)
    elif way == "invoke":
        found = [model.invoke("q", **kwargs) for _ in range(TIMES)]
    elif way == "stream":
        found = [list(model.stream("q", **kwargs))[-1] for _ in range(TIMES)]
    else:
        given: Any = ["q"] * TIMES if texts else [[HumanMessage("q")]] * TIMES
        result = model.generate(given, **kwargs) if way == "generate" else await model.agenerate(given, **kwargs)
        found = [one if texts else one.message for (one,) in result.generations]
    return [told(output) for output in found]


WAYS = ["batch", "abatch", "invoke", "stream", "generate", "agenerate"]
DOORS = [
    *((ChatIntrospective, way) for way in WAYS),
    *((TextIntrospective, way) for way in ("generate", "agenerate")),  # what else it gives is a bare string
    *((IntrospectiveRunnable, way) for way in ("batch", "abatch", "invoke", "stream")),
]


@pytest.mark.parametrize(("kind", "way"), DOORS)
async def test_every_question_draws_a_seed_of_its_own_and_tells_it(
    kind: Any, way: str, fresh: IntrospectiveLLM
) -> None:
    model = kind(llm=fresh)
    found = await answers(model, way)
    assert len({seed for _, seed in found}) == TIMES
    assert len({text for text, _ in found}) > 1
    for text, seed in found:  # which then gives the same again
        assert set(await answers(model, way, seed=seed)) == {(text, seed)}


async def test_a_ladder_asks_anew_each_time(fresh: IntrospectiveLLM) -> None:
    escalating = ChatIntrospective(llm=fresh).with_escalation(fresh, min_confidence=0.0)
    for way in ("batch", "abatch", "invoke", "stream"):
        found = await answers(escalating, way)
        assert len({seed for _, seed in found}) == TIMES
    assert len({told(output) for output in escalating.batch(["q"] * TIMES, seed=3)}) == 1
    doubtful = ChatIntrospective(llm=fresh, seed=3).with_escalation(fresh, min_confidence=1.0)
    attempts = [doubtful.invoke("q").response_metadata["introspection"] for _ in range(TIMES)]
    assert {attempt["escalation"] is not None for attempt in attempts} == {True}


def seeds(model: Any, **kwargs: Any) -> set[int]:
    return {told(output)[1] for output in model.batch(["q"] * 3, **kwargs)}


def test_an_explicit_seed_holds_wherever_it_was_given(fresh: IntrospectiveLLM) -> None:
    assert seeds(ChatIntrospective(llm=fresh, seed=5)) == {5}
    assert seeds(ChatIntrospective(llm=fresh), seed=6) == {6}
    assert seeds(ChatIntrospective(llm=fresh, seed=5), seed=6) == {6}
    for config in (CONFIG.replace(seed=0), GenerationConfig(seed=0), CONFIG.replace(seed=0).replace(alpha=0.5)):
        assert seeds(ChatIntrospective(llm=IntrospectiveLLM(fresh.backend, config))) == {0}
    configurable = ChatIntrospective(llm=fresh).configurable_fields(seed=ConfigurableField("seed"))
    assert seeds(configurable.with_config(configurable={"seed": 7})) == {7}


def test_a_fresh_seed_can_be_asked_for(fresh: IntrospectiveLLM) -> None:
    assert len(seeds(ChatIntrospective(llm=fresh, seed=5), seed=None)) == 3
    seeded = ChatIntrospective(llm=IntrospectiveLLM(fresh.backend, CONFIG.replace(seed=5)))
    assert len(seeds(seeded, seed=None)) == 3
    assert len(seeds(ChatIntrospective(llm=IntrospectiveLLM(fresh.backend, CONFIG.replace(seed=None))))) == 3
    assert len(seeds(ChatIntrospective(llm=IntrospectiveLLM(fresh.backend, CONFIG.replace(alpha=0.5))))) == 3


def test_a_cache_gives_what_it_was_given_first(fresh: IntrospectiveLLM) -> None:
    cached = ChatIntrospective(llm=fresh, cache=InMemoryCache())
    first = told(cached.invoke("q"))
    assert told(cached.invoke("q")) == told(cached.batch(["q"])[0]) == first
    assert told(cached.invoke("q", seed=None))[1] != first[1]  # other arguments are another entry
    assert told(cached.invoke("q", seed=first[1])) == first
    assert told(ChatIntrospective(llm=fresh, cache=False).invoke("q"))[1] != first[1]


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_a_seed_that_nobody_gave_is_not_written_down() -> None:
    model = ChatIntrospective(llm=IntrospectiveLLM.demo(GenerationConfig(max_new_tokens=20), backend="transformers"))
    written = dumps(model)
    assert "seed" not in json.loads(written)["kwargs"]
    assert "seed" not in model.identity
    again = loads(written, allowed_objects=[ChatIntrospective], valid_namespaces=["langchain_zip_introspect"])
    assert again.call(None, {}).config.seed is None
    assert again.call(None, {}).config.max_new_tokens == 20
    model = ChatIntrospective(llm=IntrospectiveLLM(SimulatedBackend(), GenerationConfig(seed=0)))
    assert model.identity["seed"] == 0
