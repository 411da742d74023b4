"""LangChain's own standard tests of chat models, against the embedded model on both backends.

What a small local model cannot do is declared through the suites' properties: it calls no tools, fills no schema, and
reads text alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.load import load
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from langchain_tests.unit_tests import chat_models as unit_tests

from langchain_zip_introspect import ChatIntrospective
from zip_introspect.demo.embedded import DEMO_GGUF, DEMO_MODEL

needs_llama = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="the extra llama-cpp is not installed")


class Transformers:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatIntrospective

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "demo", "backend": "transformers", "max_samples": 2}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_tool_choice(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        others = {name: value for name, value in self.chat_model_params.items() if name != "model"}
        return {"ZIP_INTROSPECT_MODEL": "demo"}, others, {"model": "demo"}

    @property
    def model_override_value(self) -> str:
        return str(DEMO_MODEL)

    @property
    def enable_vcr_tests(self) -> bool:
        return True  # nothing to record: the model is here


class LlamaCpp(Transformers):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "demo", "backend": "llama-cpp", "backend_options": {"threads": 1}, "max_samples": 2}

    @property
    def model_override_value(self) -> str:
        return str(DEMO_GGUF)


class Short:
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"max_tokens": 40}


class TestUnitTransformers(Transformers, ChatModelUnitTests): ...


class TestIntegrationTransformers(Transformers, Short, ChatModelIntegrationTests): ...


@needs_llama
class TestUnitLlamaCpp(LlamaCpp, ChatModelUnitTests): ...


@needs_llama
class TestIntegrationLlamaCpp(LlamaCpp, Short, ChatModelIntegrationTests): ...


@pytest.fixture(autouse=True, scope="module")
def _opened() -> Iterator[None]:
    """Hold the models open: whoever names them again shares them, so that making another chat model is quick."""
    held = [Transformers(), *([LlamaCpp()] if find_spec("llama_cpp") else [])]
    models = [ChatIntrospective(**suite.chat_model_params) for suite in held]
    yield
    models.clear()


@pytest.fixture(autouse=True)
def _allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name our class to `load`: the suite allows "all", which are the packages that langchain-core itself lists."""
    path = tuple(ChatIntrospective.lc_id())
    monkeypatch.setattr(unit_tests, "load", partial(load, additional_import_mappings={path: path}))
