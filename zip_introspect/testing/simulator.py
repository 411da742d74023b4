"""A world whose joints are known exactly, behind the same contract as a model: for tests and for planning.

Each prompt is a problem: a distribution over the reward of a sample (one of the grid's reward values) and its length,
drawn from a family of easy, hard, hit-or-miss and hopeless kinds. A sample's tokens are noisy evidence of its reward,
then a reveal token that settles it, then the end of sequence. Tokens are drawn from their exact predictive
distribution, and the reserved logits are the log of the exact posterior over (reward, remaining length). Length bins
are one token wide, so nothing is lost to the grid: what a joint says is what happens.

The evidence is a sample's thought, closed by `ans`: a sample that is given `HURRY` says what it would have said of its
reward, as likely as it is by then, and ends.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.confidences import token_confidences
from zip_introspect.backend.contract import Advanced, Backend, BackendInfo, Prefilled, SequenceId
from zip_introspect.backend.sequences import Sample, Sequences
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, ConfigError, PromptError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.prompts import Message, check_no_template

REWARDS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
SYMBOLS = 4
"""Evidence tokens: the higher the symbol, the likelier a high reward."""
HURRY = SYMBOLS + len(REWARDS) + 1
"""A token that is never drawn. Given to a sample, it makes the next token its reveal."""
_SAID = [*"abcd", *(f"\nans {reward:g}" for reward in REWARDS), "", "\nans"]
"""What tokens say, by their ids; the end of sequence nothing."""

_FLOOR = 1e-30  # stands for log 0: finite, and nothing once it is normalised
_MAX_CONTEXT = 1 << 20


@dataclass(frozen=True, slots=True)
class SimulatedPrompt:
    """What the samples of one prompt are like."""

    prior: NDArray[np.float64]
    """Shape (B_V, max_length + 1): probability of (reward, length), length counted with the end of sequence."""
    likelihood: NDArray[np.float64]
    """Shape (B_V, SYMBOLS): probability of an evidence symbol given the reward."""

    @classmethod
    def draw(cls, seed: int, max_length: int) -> SimulatedPrompt:
        """A problem of one of the four kinds."""
        rng = np.random.default_rng(seed)
        kind = rng.integers(4)
        rewards = rng.dirichlet(
            (
                np.array([0.3, 0.3, 0.5, 1.0, 5.0]),  # easy
                np.array([4.0, 2.0, 1.0, 0.5, 0.5]),  # hard
                np.array([2.0, 0.1, 0.1, 0.1, 2.0]),  # hit or miss
                np.array([9.0, 0.5, 0.1, 0.05, 0.05]),  # hopeless
            )[kind]
        )
        lengths = np.arange(max_length + 1)
        # Good samples tend to be shorter, as in the paper; a heavy tail keeps pruning worthwhile.
        centre = rng.uniform(0.15, 0.5) * max_length * (1.0 + rng.uniform(0.0, 1.0) * (1.0 - REWARDS))
        spread = rng.uniform(0.2, 0.6)
        shape = np.exp(-0.5 * ((np.log(np.maximum(lengths, 1)) - np.log(centre)[:, None]) / spread) ** 2)
        shape[:, :2] = 0.0  # a reveal and an end of sequence at the least
        shape /= shape.sum(axis=1, keepdims=True)
        sharpness = rng.uniform(0.0, 1.2)
        likelihood = np.exp(sharpness * np.outer(REWARDS - 0.5, np.linspace(-1.0, 1.0, SYMBOLS)))
        likelihood /= likelihood.sum(axis=1, keepdims=True)
        return cls(rewards[:, None] * shape, likelihood)


@dataclass(eq=False, kw_only=True)
class _State(Sample):
    problem: SimulatedPrompt
    weights: NDArray[np.float64]
    """Shape (B_V,): likelihood of the evidence so far given each reward."""
    revealed: int | None = None
    hurried: bool = False
    """Whether the reveal is the next token, as after `HURRY`."""

    def copy(self, sampling: SamplingParams, number: int) -> _State:
        """One that goes on from here with the stream of its own number."""
        twin = _State([*self.tokens], sampling, number, self.step, problem=self.problem, weights=self.weights)
        twin.revealed, twin.hurried = self.revealed, self.hurried
        return twin

    def joint(self, max_length: int) -> NDArray[np.float64]:
        """The exact posterior over (reward, remaining length from 1 on), shape (B_V, max_length)."""
        exact = np.zeros((len(REWARDS), max_length))
        if self.revealed is not None:
            exact[self.revealed, 0] = 1.0
            return exact
        if self.hurried:
            exact[:, 1] = self.weights / self.weights.sum()
            return exact
        # Not revealed after t tokens: the length is t + 2 at the least.
        tail = self.weights[:, None] * self.problem.prior[:, self.step + 2 :]
        exact[:, 1 : 1 + tail.shape[1]] = tail / tail.sum()
        return exact

    def go_on(self, draw: float, greedy: bool) -> tuple[int, NDArray[np.float64]]:
        """Draw the next token from its exact predictive distribution, or take its most likely one.

        Returns:
            the token, and the probabilities of all that might have been drawn, end of sequence last.
        """
        self.step += 1
        if self.revealed is not None:
            self.ended = "has finished"
            return SYMBOLS + len(REWARDS), np.eye(SYMBOLS + len(REWARDS) + 1)[-1]
        chances = self._chances()
        cumulative = np.cumsum(chances)
        target = min(draw * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
        drawn = np.searchsorted(cumulative, target, side="right")
        token = int(chances.argmax() if greedy else drawn)
        self._take(token)
        return token, np.append(chances / cumulative[-1], 0.0)

    def read_on(self, token: int) -> bool:
        """Take in a token that was given, as if it had been drawn; false where it never is."""
        self.step += 1
        if token == HURRY and self.revealed is None and not self.hurried:
            self.hurried, self.weights = True, self.weights * self.problem.prior[:, self.step + 1 :].sum(axis=1)
            return True
        possible = self.revealed is None and token < len(chances := self._chances()) and bool(chances[token] > 0)
        if possible:
            self._take(token)
        return possible

    def _chances(self) -> NDArray[np.float64]:
        """Shape (SYMBOLS + B_V,), up to a factor: of the symbols and the reveals at its step."""
        if self.hurried:
            return np.concatenate([np.zeros(SYMBOLS), self.weights])
        reveal = self.weights * self.problem.prior[:, self.step + 1]
        onward = self.weights * self.problem.prior[:, self.step + 2 :].sum(axis=1)
        return np.concatenate([onward @ self.problem.likelihood, reveal])

    def _take(self, token: int) -> None:
        if token < SYMBOLS:
            self.weights = self.weights * self.problem.likelihood[:, token]
        else:
            self.revealed = token - SYMBOLS


class SimulatedBackend(Backend):
    """A backend over simulated problems. Any prompt text is a problem: its bytes and the world's seed choose which.

    Args:
        seed: of the world.
        max_length: the longest a sample can be, end of sequence included.
        max_sequences: how many sequences it holds at once.
        head: whether it gives joints.
    """

    def __init__(
        self, seed: int = 0, max_length: int = 40, max_sequences: int | None = None, *, head: bool = True
    ) -> None:
        self.seed, self.max_length = seed, max_length
        first = HURRY + 1
        middles = (REWARDS[:-1] + REWARDS[1:]) / 2
        grid = JointGrid(
            reward_edges=np.concatenate([[0.0], middles, [1.0]]),
            reward_values=REWARDS,
            length_edges=np.arange(1.0, max_length + 2),
            length_values=np.arange(1.0, max_length + 1),
            first_reserved=first,
        )
        self.grid = grid if head else None
        self.info = BackendInfo(
            backend="simulated",
            model="simulated world",
            architecture="exact posterior",
            vocab_size=first + grid.num_cells,
            eos_token_ids=(HURRY - 1,),
            max_context=_MAX_CONTEXT,
            device="cpu",
            dtype="float64",
            parameters=0,
            max_sequences=max_sequences,
            confidences=True,
        )
        self._states: Sequences[_State] = Sequences(max_sequences)

    @property
    def held(self) -> int:
        """Sequences that were not released."""
        return len(self._states)

    @classmethod
    def open(cls, model: str | Path, *, grid: JointGrid | None = None, **options: Any) -> Self:
        """A world; `model` is its seed. The grid is the world's own."""
        if grid is not None:
            raise BackendError("a simulated world has a grid of its own; leave grid out")
        return cls(int(str(model)), **options)

    @classmethod
    def accepts(cls, model: str | Path) -> bool:
        """A whole number."""
        return str(model).isdecimal()

    def problem(self, prompt: Sequence[int]) -> SimulatedPrompt:
        """The problem that a prompt's tokens stand for."""
        digest = zlib.crc32(",".join(map(str, prompt)).encode(), self.seed & 0xFFFFFFFF)
        return SimulatedPrompt.draw(digest, self.max_length)

    def encode(
        self,
        prompt: str | Sequence[Message],
        *,
        chat: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """One token for each byte."""
        check_no_template(chat_template_kwargs, "a simulated world has no chat template")
        text = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """Evidence as letters, a reveal as `ans` and its reward; the other ids, which are never drawn, say nothing."""
        return "".join(_SAID[token] if token < len(_SAID) else "" for token in tokens)

    def spell(self, text: str) -> list[int]:
        """Evidence, then `ans`, or an end of `ans` and a reward.

        Raises:
            ConfigError: another text.
        """
        for tail in (HURRY, *range(SYMBOLS, SYMBOLS + len(REWARDS)), None):
            words = "" if tail is None else _SAID[tail]
            evidence = text.removesuffix(words)
            if text and text.endswith(words) and set(evidence) <= set("abcd"):
                return [*map("abcd".index, evidence), *([] if tail is None else [tail])]
        raise ConfigError(f"a simulated world says no {text!r}; expected letters a to d, and a last line ans")

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
        """The prior of each prompt."""
        for prompt in prompts:
            if not 0 < len(prompt) < _MAX_CONTEXT:
                raise PromptError(f"a prompt has {len(prompt)} tokens; expected 1 to {_MAX_CONTEXT - 1}")
        self._states.check_room(len(prompts))
        states = [_State([*prompt], problem=self.problem(prompt), weights=np.ones(len(REWARDS))) for prompt in prompts]
        return [Prefilled(self._states.add(state), self._logits(state)) for state in states]

    def fork(self, sequence: SequenceId, samples: Sequence[int], sampling: SamplingParams) -> list[SequenceId]:
        """Copies that draw from the streams of their own sample numbers.

        Of `sampling` only the seed matters, and whether it is greedy: joints are exact at temperature 1 alone.
        """
        origin = self._states.forkable(sequence, len(samples))
        return [self._states.add(origin.copy(sampling, number)) for number in samples]

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        """Draw tokens one after another; each sequence on its own, since its stream is its own."""
        states = self._states.advanceable(sequences, steps)
        return [self._advance(state, count) for state, count in zip(states, steps, strict=True)]

    def append(self, sequences: Sequence[SequenceId], tokens: Sequence[Sequence[int]]) -> list[Advanced]:
        """Go on with tokens that could have been drawn, and with `HURRY`.

        Raises:
            BackendError: as the contract says, or a sample never goes on so.
        """
        states = self._states.appendable(sequences, tokens, self.info, self.reserved)
        twins = [copy.copy(state) for state in states]
        for twin, given in zip(twins, tokens, strict=True):
            if not all(map(twin.read_on, given)):
                raise BackendError(f"no sample of this world goes on with {list(given)}; append what it may say")
        for state, twin, given in zip(states, twins, tokens, strict=True):
            state.step, state.weights, state.revealed, state.hurried = (
                twin.step,
                twin.weights,
                twin.revealed,
                twin.hurried,
            )
            state.tokens += given
        return [
            Advanced(np.array(given, np.int32), self._logits(state)[None], finished=False)
            for state, given in zip(states, tokens, strict=True)
        ]

    def pause(self, sequences: Sequence[SequenceId]) -> None:
        """Nothing is evicted: states are small."""
        for state in [self._states[sequence] for sequence in sequences]:
            state.paused = True

    def release(self, sequences: Sequence[SequenceId]) -> None:
        """Forget sequences."""
        self._states.pop(sequences)

    def _advance(self, state: _State, steps: int) -> Advanced:
        tokens: list[int] = []
        rows: list[NDArray[np.float32]] = []
        confidences: list[NDArray[np.float32]] = []
        greedy = state.sampling is not None and state.sampling.greedy
        for draw in state.draws(steps).tolist():
            token, chances = state.go_on(draw, greedy)
            tokens.append(token)
            if state.confident:
                logs = np.log(np.maximum(chances, _FLOOR)).astype(np.float32)
                confidences.append(token_confidences(logs[None], [token])[0])
            if state.ended:
                break
            rows.append(self._logits(state))
        state.tokens += tokens
        logits = np.array(rows, dtype=np.float32).reshape(len(rows), self.num_cells)
        told = np.array(confidences, np.float32).reshape(len(tokens), 2) if state.confident else None
        return Advanced(np.array(tokens, dtype=np.int32), logits, bool(state.ended), confidences=told)

    def _logits(self, state: _State) -> NDArray[np.float32]:
        """Of the exact joint; none without a head."""
        if self.grid is None:
            return np.zeros(0, np.float32)
        return np.log(np.maximum(state.joint(self.max_length), _FLOOR)).astype(np.float32).ravel()
