"""The simulated world is what it says, and in it the method is worth what Theorem 5.1 says."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from zip_introspect.backend.contract import joint_grid
from zip_introspect.config import GenerationConfig, SamplingParams
from zip_introspect.errors import BackendError, ConfigError
from zip_introspect.events import SearchFinished
from zip_introspect.introspection import joint
from zip_introspect.result import GenerationResult
from zip_introspect.search import continuous_batch
from zip_introspect.search.request import Request
from zip_introspect.testing.appending import AppendConformance
from zip_introspect.testing.confidences import ConfidenceConformance
from zip_introspect.testing.room import RoomConformance
from zip_introspect.testing.simulator import HURRY, REWARDS, SYMBOLS, SimulatedBackend
from zip_introspect.testing.texts import TextConformance

PROMPTS = 2_000
MAX_LENGTH = 24
INTERVAL = 4


def outcomes(backend: SimulatedBackend, sequence: int, count: int, first: int = 0) -> np.ndarray:
    """Frequencies of (reward, remaining length) over rollouts from a sequence: shape (B_V, B_T)."""
    forks = backend.fork(sequence, range(first, first + count), SamplingParams(seed=5))  # type: ignore[arg-type]
    seen = np.zeros(joint_grid(backend).shape)
    for advanced in backend.advance(forks, [backend.max_length] * count):
        assert advanced.finished
        assert advanced.tokens[-1] in backend.info.eos_token_ids
        seen[advanced.tokens[-2] - SYMBOLS, len(advanced.tokens) - 1] += 1
    backend.release(forks)
    return seen / count


@pytest.mark.parametrize("prompt", ["a", "b", "c", "d"])
def test_the_joint_at_a_prompt_is_the_distribution_of_its_rollouts(prompt: str) -> None:
    backend = SimulatedBackend(max_length=12)
    (prefilled,) = backend.prefill([backend.encode(prompt)])
    exact = joint.from_logits(prefilled.joint_logits, joint_grid(backend))
    seen = outcomes(backend, prefilled.sequence, 4_000)
    # The expected total variation of 4,000 draws: half the sum of the cells' mean absolute deviations.
    noise = 0.5 * np.sqrt(2 / np.pi * exact * (1 - exact) / 4_000).sum()
    assert 0.5 * np.abs(seen - exact).sum() < 2 * noise


def test_the_joint_in_mid_run_is_that_of_the_rollouts_from_there() -> None:
    backend = SimulatedBackend(max_length=12)
    (prefilled,) = backend.prefill([backend.encode("e")])
    (sequence,) = backend.fork(prefilled.sequence, [0], SamplingParams())
    (advanced,) = backend.advance([sequence], [2])
    assert not advanced.finished
    exact = joint.from_logits(advanced.joint_logits[-1], joint_grid(backend))
    seen = outcomes(backend, sequence, 4_000, first=10)
    noise = 0.5 * np.sqrt(2 / np.pi * exact * (1 - exact) / 4_000).sum()
    assert 0.5 * np.abs(seen - exact).sum() < 2 * noise
    assert joint.expected_length(exact, joint_grid(backend)) == pytest.approx(
        float((seen.sum(axis=0) * joint_grid(backend).length_values).sum()), abs=0.2
    )


def test_the_reveal_settles_the_reward_exactly() -> None:
    backend = SimulatedBackend()
    (prefilled,) = backend.prefill([backend.encode("f")])
    (sequence,) = backend.fork(prefilled.sequence, [3], SamplingParams())
    (advanced,) = backend.advance([sequence], [100])
    last = joint.from_logits(advanced.joint_logits[-1], joint_grid(backend))
    assert len(advanced.joint_logits) == len(advanced.tokens) - 1
    assert joint.expected_value(last, joint_grid(backend)) == pytest.approx(REWARDS[advanced.tokens[-2] - SYMBOLS])
    assert joint.expected_length(last, joint_grid(backend)) == pytest.approx(1.0)


@pytest.mark.parametrize("temperature", [0.0, 1e-46])
def test_greedy_samples_are_all_the_likeliest(temperature: float) -> None:
    backend = SimulatedBackend()
    (prefilled,) = backend.prefill([backend.encode("g")])
    forks = backend.fork(prefilled.sequence, range(3), SamplingParams(temperature=temperature, seed=4))
    first, *others = [run.tokens.tolist() for run in backend.advance(forks, [backend.max_length] * 3)]
    assert first[-1] in backend.info.eos_token_ids
    assert all(other == first for other in others)


def test_released_sequences_and_full_backends_say_so() -> None:
    backend = SimulatedBackend(max_sequences=2)
    (prefilled,) = backend.prefill([[1]])
    with pytest.raises(BackendError, match="over max_sequences=2"):
        backend.fork(prefilled.sequence, [0, 1], SamplingParams())
    backend.release([prefilled.sequence])
    with pytest.raises(BackendError, match="was released"):
        backend.fork(prefilled.sequence, [0], SamplingParams())


class TestText(TextConformance):
    @pytest.fixture
    def backend(self) -> SimulatedBackend:
        return SimulatedBackend()


class TestAppending(AppendConformance):
    said = ("abca", "\nans", "d\nans 0.25", "ab\nans")

    @pytest.fixture(params=[True, False], ids=["head", "headless"])
    def backend(self, request: pytest.FixtureRequest) -> SimulatedBackend:
        return SimulatedBackend(head=request.param)


def test_what_is_hurried_is_what_the_joint_says() -> None:
    """After `HURRY` comes the reveal, as likely as the posterior over rewards then, and the end."""
    backend = SimulatedBackend(max_length=MAX_LENGTH)
    (prompt,) = backend.prefill([backend.encode("a problem")])
    (sequence,) = backend.fork(prompt.sequence, [0], SamplingParams(seed=1))
    (begun,) = backend.advance([sequence], [3])
    assert (begun.tokens < SYMBOLS).all(), "choose another seed: the sample was revealed before it could be hurried"
    before = joint.from_logits(begun.joint_logits[-1], joint_grid(backend))
    (hurried,) = backend.append([sequence], [[HURRY]])
    expected = joint.from_logits(hurried.joint_logits[0], joint_grid(backend))
    np.testing.assert_allclose(joint.value_marginal(expected), joint.value_marginal(before), atol=1e-5)
    np.testing.assert_allclose(outcomes(backend, sequence, 20_000), expected, atol=0.015)


def test_what_this_world_never_says_is_refused() -> None:
    backend = SimulatedBackend()
    (prompt,) = backend.prefill([backend.encode("a problem")])
    (sequence,) = backend.fork(prompt.sequence, [0], SamplingParams())
    for tokens in ([HURRY, 0], [HURRY, HURRY], [SYMBOLS, 0]):
        with pytest.raises(BackendError, match="no sample of this world"):
            backend.append([sequence], [tokens])
    (given,) = backend.append([sequence], [[0, HURRY]])
    assert given.tokens.tolist() == [0, HURRY]
    with pytest.raises(ConfigError, match="letters a to d"):
        backend.spell("answer")


class TestConfidences(ConfidenceConformance):
    @pytest.fixture
    def backend(self) -> SimulatedBackend:
        return SimulatedBackend()


class TestRoom(RoomConformance):
    @pytest.fixture
    def backend(self) -> SimulatedBackend:
        return SimulatedBackend(max_sequences=8)


def run(count: int = PROMPTS, **settings: Any) -> list[GenerationResult]:
    backend = SimulatedBackend(max_length=MAX_LENGTH)
    config = GenerationConfig(**{"interval": INTERVAL, **settings})
    requests = [Request(tuple(backend.encode(str(place))), config.replace(seed=place)) for place in range(count)]
    found = {
        event.prompt: event.result
        for event in continuous_batch.run(backend, requests)
        if isinstance(event, SearchFinished)
    }
    return [found[place] for place in range(count)]


def returns(results: list[GenerationResult], alpha: float, beta: float) -> np.ndarray:
    """Reward of the chosen sample less the cost of eq. 17, beta over the expected length at the prompt (eq. 28)."""
    return np.array(
        [
            result.confidence
            - beta
            / result.expected.remaining
            * (alpha * result.usage.generated_tokens + (1 - alpha) * result.usage.depth)
            for result in results
            if result.expected
        ]
    )


@cache
def best_of_eight() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and lengths of 8 samples of each prompt, shape (PROMPTS, 8), and expected lengths, shape (PROMPTS,)."""
    results = run(strategy="best_of_n", max_samples=8)
    values = np.array([[sample.value for sample in result.samples] for result in results])
    lengths = np.array([[sample.tokens for sample in result.samples] for result in results])
    return values, lengths, np.array([result.expected.remaining for result in results if result.expected])


def best_of_n_returns(n: int, alpha: float, beta: float) -> np.ndarray:
    """Of the first n of the eight: sample j draws from its own stream, so best-of-n runs these very samples."""
    values, lengths, expected = best_of_eight()
    tokens, depth = lengths[:, :n].sum(axis=1), lengths[:, :n].max(axis=1)
    cost = beta / expected * (alpha * tokens + (1 - alpha) * depth)
    return np.asarray(values[:, :n].max(axis=1) - cost)


@pytest.mark.parametrize(("strategy", "n"), [("single", 1), ("best_of_n", 3)])
def test_a_run_of_fewer_samples_has_the_returns_of_the_first_of_eight(strategy: str, n: int) -> None:
    some = returns(run(30, strategy=strategy, max_samples=n), 0.3, 0.2)
    np.testing.assert_allclose(some, best_of_n_returns(n, 0.3, 0.2)[:30])


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.1), (1.0, 0.05)])
def test_zip_rc_returns_no_less_than_best_of_any_n(
    alpha: float, beta: float, record_property: Callable[[str, object], None]
) -> None:
    """Theorem 5.1 in practice: 2,000 prompts, exact joints, each method on the same problems and random streams.

    The whole 95% interval of the paired difference has to lie above zero, for every N from 1 (single) to 8.
    """
    method = returns(run(strategy="zip_rc", alpha=alpha, beta=beta), alpha, beta)
    for n in range(1, 9):
        difference = method - best_of_n_returns(n, alpha, beta)
        mean = difference.mean()
        half = 1.96 * difference.std(ddof=1) / np.sqrt(PROMPTS)
        record_property(f"gain over best of {n}", f"{mean:.4f} +- {half:.4f}")
        print(f"alpha {alpha}, beta {beta}: gain over best of {n}: {mean:.4f} +- {half:.4f} (95%)")
        assert mean - half > 0
