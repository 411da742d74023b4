from __future__ import annotations

import pytest

from langchain_zip_introspect import ChatIntrospective
from tests.integrations.langchain.escalating.doubted import (
    CONFIG,
    CountedBackend,
)
from zip_introspect import (
    IntrospectiveLLM,
)


@pytest.fixture
def backend() -> CountedBackend:
    return CountedBackend()


@pytest.fixture
def chat(backend: CountedBackend) -> ChatIntrospective:
    return ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
