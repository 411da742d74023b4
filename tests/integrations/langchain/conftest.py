from __future__ import annotations

import pytest

from langchain_zip_introspect import ChatIntrospective
from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05, seed=0)


@pytest.fixture
def backend() -> SimulatedBackend:
    return SimulatedBackend()


@pytest.fixture
def llm(backend: SimulatedBackend) -> IntrospectiveLLM:
    return IntrospectiveLLM(backend, CONFIG)


@pytest.fixture
def chat(llm: IntrospectiveLLM) -> ChatIntrospective:
    return ChatIntrospective(llm=llm)


@pytest.fixture(scope="session")
def abacus() -> ChatIntrospective:
    """The embedded model; held open, so that all who name it share it."""
    return ChatIntrospective(model="demo", backend="transformers", seed=0)
