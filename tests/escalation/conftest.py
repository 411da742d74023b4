from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.escalation.asked import CONFIG
from zip_introspect import IntrospectiveLLM
from zip_introspect.testing.simulator import SimulatedBackend


@pytest.fixture
def llm() -> IntrospectiveLLM:
    return IntrospectiveLLM(SimulatedBackend(), CONFIG)


@pytest.fixture(scope="module")
def demo() -> Iterator[IntrospectiveLLM]:
    with IntrospectiveLLM.demo() as model:
        yield model
