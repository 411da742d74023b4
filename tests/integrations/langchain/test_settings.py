"""One set of settings: given when the model is made, bound, configured, or given to a call."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps, loads
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda

from langchain_zip_introspect import ChatIntrospective, IntrospectiveRunnable, TextIntrospective
from tests.backend.test_counting import ANY
from tests.scripted import FaultyBackend, out_of_memory
from zip_introspect import Budget, BudgetError, ConfigError, GenerationConfig, IntrospectiveLLM, ModelLoadError
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.testing.simulator import SimulatedBackend

KINDS: list[type[Any]] = [ChatIntrospective, TextIntrospective, IntrospectiveRunnable]


def told(message: Any) -> dict[str, Any]:
    data: dict[str, Any] = message.response_metadata["introspection"]
    return data


def test_every_setting_reaches_the_model(llm: IntrospectiveLLM) -> None:
    given: dict[str, Any] = {
        "strategy": "deep_conf",
        "strategy_options": {"warmup": 2},
        "max_samples": 3,
        "max_tokens": 50,
        "alpha": 0.5,
        "beta": 0.2,
        "interval": 7,
        "smoothing": 2,
        "horizon": "none",
        "search": "exact",
        "count_prompt": True,
        "selection": "majority",
        "confidence_source": "agreement",
        "confidence_window": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "seed": 4,
        "stop": ["x"],
        "chat_template_kwargs": {"enable_thinking": False},
        "thinking": {"budget": 9, "answer_budget": 8},
    }
    expected = GenerationConfig(**{("max_new_tokens" if n == "max_tokens" else n): v for n, v in given.items()})
    assert ChatIntrospective(llm=llm, **given).call(None, {}).config == expected
    assert ChatIntrospective(llm=llm).call(None, given).config == expected
    assert ChatIntrospective(llm=llm).call(None, {}).config == llm.config
    assert set(given) - {"max_tokens"} == set(GenerationConfig.model_fields) - {"max_new_tokens"}


def test_a_call_goes_before_the_instance_and_that_before_the_model(llm: IntrospectiveLLM) -> None:
    chat = ChatIntrospective(llm=llm, seed=1, stop=["x"], budget=100)
    call = chat.call(["y"], {"seed": 2})
    assert (call.config.seed, call.config.stop, call.config.interval) == (2, ("y",), llm.config.interval)
    assert chat.call([], {}).config.stop == ()
    assert chat.call(None, {}).budget == Budget(max_tokens=100)
    assert chat.call(None, {"budget": {"max_samples": 2}}).budget == Budget(max_samples=2)


def test_a_timeout_is_a_budget_of_seconds(llm: IntrospectiveLLM) -> None:
    chat = ChatIntrospective(llm=llm, timeout=60, budget=Budget(max_tokens=7))
    assert chat.call(None, {}).budget == Budget(max_tokens=7, max_seconds=60)
    assert chat.call(None, {"timeout": 5}).budget.max_seconds == 5
    assert chat.call(None, {"budget": Budget(max_seconds=1)}).budget.max_seconds == 1
    assert chat.call(None, {"budget": Budget(max_samples=1)}).budget == Budget(max_samples=1, max_seconds=60)
    patient = ChatIntrospective(llm=llm, budget=Budget(max_tokens=7, max_seconds=90))
    assert patient.call(None, {"timeout": 5}).budget == Budget(max_tokens=7, max_seconds=5)
    assert patient.call(None, {"timeout": 5, "budget": Budget(max_seconds=1)}).budget == Budget(max_seconds=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"alhpa": 1}, ConfigError, "alhpa: unknown; expected alpha, "),
        ({"tools": []}, ConfigError, "tools: this model calls no tools"),
        ({"tool_choice": "any"}, ConfigError, "tool_choice: this model calls no tools"),
        ({"functions": []}, ConfigError, "functions: this model"),
        ({"response_format": {}}, ConfigError, "response_format: .* follows no schema"),
        ({"temperature": -1}, ConfigError, "temperature is -1"),
        ({"stop": [""]}, ConfigError, "empty string"),
        ({"budget": 0}, BudgetError, "max_tokens is 0"),
        ({"budget": {"max_tokens": -1}}, BudgetError, "max_tokens is -1"),
        ({"timeout": -1}, BudgetError, "max_seconds is -1"),
        ({"stream_interval": 0}, ValueError, "greater than or equal to 1"),
    ],
)
def test_bad_settings_are_refused_when_they_are_given(
    kind: type[Any], llm: IntrospectiveLLM, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(llm=llm, **given)
    with pytest.raises(error, match=message):
        kind(llm=llm).invoke("q", **given)


def test_what_only_hosted_models_need_is_passed_over(llm: IntrospectiveLLM) -> None:
    chat = ChatIntrospective(llm=llm, api_key="secret", max_retries=2)
    assert "secret" not in dumps(chat)
    assert chat.invoke("q", max_retries=1).text == llm.generate("q").text


def test_tools_are_refused_with_what_to_do_instead(llm: IntrospectiveLLM) -> None:
    chat = ChatIntrospective(llm=llm)
    with pytest.raises(NotImplementedError, match=r"calls no tools\. Give the tools to a stronger model"):
        chat.bind_tools([])
    with pytest.raises(NotImplementedError, match="calls no tools"):
        chat.with_structured_output({"title": "answer", "type": "object", "properties": {}})
    with pytest.raises(ConfigError, match="tools: this model calls no tools"):
        chat.bind(tools=[]).invoke("q")


def test_a_model_is_named_or_given(llm: IntrospectiveLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZIP_INTROSPECT_MODEL", raising=False)
    with pytest.raises(ConfigError, match="no model was given"):
        ChatIntrospective()
    with pytest.raises(ConfigError, match="give one of the two"):
        ChatIntrospective(llm=llm, model="demo")
    with pytest.raises(ModelLoadError, match="no backend opens"):
        ChatIntrospective(model="./no/such/model")
    monkeypatch.setenv("ZIP_INTROSPECT_MODEL", "demo")
    assert ChatIntrospective().model == "demo"
    assert ChatIntrospective(llm=llm).model == "simulated world"


def test_models_on_one_path_share_one_model() -> None:
    first = ChatIntrospective(model=str(DEMO_MODEL), backend="transformers")
    second = TextIntrospective(model=f"{DEMO_MODEL}/../abacus", backend="transformers")
    third = ChatIntrospective(model=str(DEMO_MODEL), backend="transformers", backend_options={"dtype": "float32"})
    assert first.call(None, {}).llm is second.call(None, {}).llm
    assert first.call(None, {}).llm is not third.call(None, {}).llm
    held = weakref.ref(first.call(None, {}).llm)
    del first, second
    gc.collect()
    assert held() is None


def test_another_model_for_one_call(llm: IntrospectiveLLM, abacus: ChatIntrospective) -> None:
    chat = ChatIntrospective(llm=llm)
    message = chat.invoke("Solve 3*x+16=31", model="demo", backend="transformers")
    assert told(message)["answer"] == "5"
    assert message.response_metadata["model_name"] == "demo"
    assert chat.call(None, {"model": "demo", "backend": "transformers"}).llm is abacus.call(None, {}).llm
    assert chat.invoke("q").response_metadata["model_name"] == "simulated world"


def test_configurable_fields(llm: IntrospectiveLLM) -> None:
    chat = ChatIntrospective(llm=llm)
    configurable = chat.configurable_fields(
        alpha=ConfigurableField(id="alpha"),
        beta=ConfigurableField(id="beta"),
        budget=ConfigurableField(id="budget"),
        strategy=ConfigurableField(id="strategy"),
    )
    settings: dict[str, Any] = {"alpha": 1.0, "beta": 0.9, "budget": {"max_samples": 1}, "strategy": "best_of_n"}
    for name, value in settings.items():
        configured = configurable.with_config(configurable={name: value}).invoke("q")
        expected = {**told(chat.invoke("q", **{name: value})), "seconds": 0}
        assert {**told(configured), "seconds": 0} == expected
        assert expected != {**told(chat.invoke("q")), "seconds": 0}
    chunks = list(configurable.with_config(configurable={"strategy": "single"}).stream("q"))
    assert len(chunks) > 3
    with pytest.raises(ConfigError, match="alpha is 7"):
        configurable.invoke("q", {"configurable": {"alpha": 7}})


def test_a_configurable_model() -> None:
    chat = ChatIntrospective(model="demo", backend="transformers").configurable_fields(model=ConfigurableField("name"))
    message = chat.invoke("Solve 3*x+16=31", {"configurable": {"name": str(DEMO_MODEL)}}, max_tokens=5)
    assert message.response_metadata["model_name"] == str(DEMO_MODEL)


def test_bind_config_retry_and_fallbacks(llm: IntrospectiveLLM) -> None:
    chat = ChatIntrospective(llm=llm)
    assert told(chat.bind(seed=5).invoke("q"))["seed"] == 5
    assert chat.with_config(tags=["t"]).invoke("q").text == chat.invoke("q").text
    broken = FaultyBackend(out_of_memory, at=1)
    failing = ChatIntrospective(llm=IntrospectiveLLM(broken, GenerationConfig(interval=4, beta=0.05, seed=0)))
    assert failing.with_retry(stop_after_attempt=2).invoke("q").text == chat.invoke("q").text
    broken.calls = 0
    assert failing.with_fallbacks([chat]).invoke("q").text == chat.invoke("q").text
    with pytest.raises(ConfigError):
        chat.bind(seed="x").invoke("q")


@pytest.mark.parametrize("kind", KINDS)
def test_pickling(kind: type[Any]) -> None:
    model = kind(model="demo", backend="transformers", budget=Budget(max_tokens=300), seed=2)
    again = pickle.loads(pickle.dumps(model))
    assert json.loads(dumps(again)) == json.loads(dumps(model))
    assert again.call(None, {}).llm is model.call(None, {}).llm
    given = kind(llm=IntrospectiveLLM.demo(GenerationConfig(max_new_tokens=20), backend="transformers"))
    assert pickle.loads(pickle.dumps(given)).call(None, {}).config == given.call(None, {}).config
    if kind is ChatIntrospective:
        assert again.invoke("Solve 3*x+16=31").text == model.invoke("Solve 3*x+16=31").text


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
@pytest.mark.parametrize("kind", KINDS)
def test_dumps_and_loads(kind: type[Any]) -> None:
    config = GenerationConfig(seed=7, beta=0.3, selection="majority")
    model = kind(llm=IntrospectiveLLM.demo(config, backend="transformers"), budget=Budget(max_tokens=300), alpha=0.9)
    written = dumps(model)
    again = loads(written, allowed_objects=[kind], valid_namespaces=["langchain_zip_introspect"])
    assert "not_implemented" not in written
    assert again.call(None, {}).config == config.replace(alpha=0.9)
    assert again.call(None, {}).budget == Budget(max_tokens=300)
    assert json.loads(written)["kwargs"]["model"] == "demo"


def test_traces_name_provider_model_and_settings(llm: IntrospectiveLLM) -> None:
    params = ChatIntrospective(llm=llm, max_tokens=9, stop=["x"])._get_ls_params()
    assert params == {
        "ls_provider": "zip-introspect",
        "ls_model_name": "simulated world",
        "ls_model_type": "chat",
        "ls_temperature": 1.0,
        "ls_max_tokens": 9,
        "ls_stop": ["x"],
    }
    params = TextIntrospective(llm=llm)._get_ls_params(stop=["y"], temperature=0.5)
    assert (params["ls_model_type"], params["ls_stop"], params["ls_temperature"]) == ("llm", ["y"], 0.5)


def test_a_model_of_unknown_origin_works_and_refuses_to_be_pickled() -> None:
    chat = ChatIntrospective(llm=IntrospectiveLLM(SimulatedBackend()))
    with pytest.raises(TypeError, match="from_pretrained"):
        pickle.dumps(chat)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_asks_the_same_open_model(kind: type[Any], llm: IntrospectiveLLM) -> None:
    model = kind(llm=llm)
    for copied in (
        copy.copy(model),
        copy.deepcopy(model),
        model.model_copy(deep=True),
        copy.deepcopy(model.bind()).bound,
    ):
        assert copied.call(None, {}).llm is llm
    escalating = ChatIntrospective(llm=llm).with_escalation(llm, min_confidence=0.5)
    assert copy.deepcopy(escalating).invoke("q").text == escalating.invoke("q").text


def test_they_are_runnables_of_any_chain(llm: IntrospectiveLLM) -> None:
    results = RunnableLambda(str.lower) | IntrospectiveRunnable(llm=llm) | (lambda result: result.confidence)
    assert results.invoke("Q") == llm.generate("q").confidence


def test_a_model_that_was_closed_is_opened_again() -> None:
    first = ChatIntrospective(model="demo", backend="transformers", backend_options={"max_sequences": 33})
    llm = first.call(None, {}).llm
    llm.close()
    again = ChatIntrospective(model="demo", backend="transformers", backend_options={"max_sequences": 33})
    assert again.call(None, {}).llm is not llm
    assert again.invoke("Solve 3*x+16=31", max_samples=1).text


@pytest.mark.parametrize("kind", KINDS)
async def test_options_of_the_chat_template_reach_it_through_every_door(kind: type[Any]) -> None:
    options = {"think": False}
    llm = IntrospectiveLLM(ANY.backend, GenerationConfig(seed=0, interval=4))
    chat: dict[str, Any] = {"chat": True} if kind is TextIntrospective else {}
    model = kind(llm=llm, chat_template_kwargs=options, **chat)
    expected = llm.generate("q", chat_template_kwargs=options).text
    assert expected != llm.generate("q").text
    bound = kind(llm=llm, **chat).bind(chat_template_kwargs=options)
    for asked in (model, bound):
        outputs = [asked.invoke("q"), await asked.ainvoke("q"), asked.batch(["q"])[0], (await asked.abatch(["q"]))[0]]
        assert {output if isinstance(output, str) else output.text for output in outputs} == {expected}
    given = IntrospectiveLLM(llm.backend, llm.config.replace(chat_template_kwargs=options))
    assert kind(llm=given).call(None, {}).config.chat_template_kwargs == options
    assert kind(llm=given).call(None, {"chat_template_kwargs": {}}).config.chat_template_kwargs == {}
    with pytest.raises(ConfigError, match="messages"):
        kind(llm=llm, chat_template_kwargs={"messages": []})


def test_options_of_the_chat_template_are_counted_cached_and_written_with_the_other_settings() -> None:
    llm = IntrospectiveLLM(ANY.backend, GenerationConfig(interval=4))
    chat = ChatIntrospective(llm=llm, cache=InMemoryCache(), chat_template_kwargs={"think": True})
    assert chat.identity["chat_template_kwargs"] == {"think": True}
    assert chat._get_invocation_params(chat_template_kwargs={"think": 1})["chat_template_kwargs"] == {"think": 1}
    asked = chat.get_num_tokens_from_messages([HumanMessage("q")])
    used = chat.invoke("q").usage_metadata
    assert used is not None
    assert used["input_tokens"] == asked == len(llm.backend.encode("q")) + len("think=True")
    other = chat.invoke("q", chat_template_kwargs={"think": False}).usage_metadata
    assert other is not None
    assert other["input_tokens"] == used["input_tokens"] + 1
    escalating = chat.with_escalation(lambda _: "ans 42", min_confidence=0.0)
    told_of = escalating.invoke("q", chat_template_kwargs={"think": False}).usage_metadata
    assert told_of is not None
    assert told_of["input_tokens"] == other["input_tokens"]


def test_a_real_template_hears_of_its_options(tmp_path: Path) -> None:
    model = shutil.copytree(DEMO_MODEL, tmp_path / "told")
    file = model / "chat_template.jinja"
    file.write_text(file.read_text() + "{% if enable_thinking is defined and not enable_thinking %}ok{% endif %}")
    chat = ChatIntrospective(model=str(model), backend="transformers", max_samples=1, max_tokens=5)
    quiet = chat.bind(chat_template_kwargs={"enable_thinking": False})
    used, told_used = chat.invoke("Solve 3*x+16=31").usage_metadata, quiet.invoke("Solve 3*x+16=31").usage_metadata
    assert used is not None
    assert told_used is not None
    assert told_used["input_tokens"] > used["input_tokens"]
    asked = [HumanMessage("Solve 3*x+16=31")]
    other = ChatIntrospective(model=str(model), backend="transformers", chat_template_kwargs={"enable_thinking": False})
    assert other.get_num_tokens_from_messages(asked) == told_used["input_tokens"]  # type: ignore[arg-type]
    assert chat.get_num_tokens_from_messages(asked) == used["input_tokens"]  # type: ignore[arg-type]
