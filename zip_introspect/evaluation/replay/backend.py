"""A backend that plays stored rollouts: strategies run as they would with the model, and no model is needed.

A new sample is the next stored rollout, so every strategy that branches at the prompt alone can be evaluated. The
joints are those of the model, as they were stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.contract import Advanced, Backend, BackendInfo, Prefilled, SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, PromptError
from zip_introspect.evaluation.store.rollout_file import QuestionRollouts, Rollouts, StoredRollout
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.prompts import Message, check_no_template

_FLOOR = np.float32(1e-8)  # of a probability: below what float16 tells from nothing


@dataclass(slots=True)
class _Playing:
    problem: QuestionRollouts
    rollout: StoredRollout | None = None
    """None at the prompt."""
    position: int = 0
    confident: bool = False
    """Whether it was asked for the confidences of its tokens."""


class ReplayBackend(Backend):
    """Plays rollouts.

    Args:
        first: which stored rollout is sample 0; sample j is the one j places on, around the end if need be. Results
            over several of these use every rollout equally often.
    """

    def __init__(self, rollouts: Rollouts, first: int = 0) -> None:
        self.rollouts, self.first, self.grid, self.answers = rollouts, first, rollouts.grid, rollouts.answers
        self._problems = {problem.prompt_tokens: problem for problem in rollouts.problems}
        self._prompts = {problem.question.text: problem.prompt_tokens for problem in rollouts.problems}
        everything = [rollout for problem in rollouts.problems for rollout in problem.rollouts]
        self._texts = {rollout.tokens.tobytes(): rollout.text for rollout in everything}
        self._answers = {rollout.text: rollout.answer for rollout in everything}
        self._playing: dict[SequenceId, _Playing] = {}
        self._next = 0
        longest = max(len(prompt) for prompt in self._problems)
        self.info = BackendInfo(
            backend="replay",
            model=rollouts.model,
            architecture="stored rollouts",
            vocab_size=1 + max(int(max(rollout.tokens, default=0)) for rollout in everything),
            eos_token_ids=(),
            max_context=longest + rollouts.max_new_tokens,
            device="cpu",
            dtype="float16",
            parameters=0,
            confidences=rollouts.confidences,
        )

    @classmethod
    def open(cls, model: str | Path, *, grid: JointGrid | None = None, **options: Any) -> Self:
        """Play the rollouts of a file.

        Raises:
            EvaluationDataError: as `Rollouts.load`.
        """
        return cls(Rollouts.load(model), **options)

    @classmethod
    def accepts(cls, model: str | Path) -> bool:
        """Parquet files."""
        return Path(model).suffix == ".parquet"

    def encode(
        self,
        prompt: str | Sequence[Message],
        *,
        chat: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The stored tokens of a question that was stored.

        Raises:
            PromptError: it was not.
            ConfigError: options for a chat template.
        """
        check_no_template(chat_template_kwargs, "stored questions are tokens already")
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        if text not in self._prompts:
            raise PromptError(f"{text[:80]!r} is not among the {len(self._prompts)} stored questions")
        return list(self._prompts[text])

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a whole rollout, as it was stored; "" for a part of one."""
        return self._texts.get(np.asarray(tokens, dtype=np.int32).tobytes(), "")

    def answer(self, text: str) -> str | None:
        """The answer that was found in a text when it was stored: the extractor of replays."""
        return self._answers.get(text)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
        """Find the problems of prompts."""
        found = [self._problems[tuple(prompt)] for prompt in prompts]
        return [
            Prefilled(self._open(_Playing(problem)), _logits(problem.rollouts[0].joints[:1])[0]) for problem in found
        ]

    def fork(self, sequence: SequenceId, samples: Sequence[int], sampling: SamplingParams) -> list[SequenceId]:
        """Begin stored rollouts.

        Raises:
            BackendError: a branch within a sample, or more samples than are stored.
        """
        parent = self._of(sequence)
        stored = parent.problem.rollouts
        if parent.rollout is not None:
            raise BackendError("stored rollouts branch at the prompt only; evaluate this strategy with the model")
        if max(samples, default=0) >= len(stored):
            raise BackendError(f"sample {max(samples)} was asked for, and {len(stored)} are stored for each question")
        begun = (stored[(self.first + sample) % len(stored)] for sample in samples)
        return [self._open(_Playing(parent.problem, rollout, confident=sampling.confidences)) for rollout in begun]

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        """Go on with rollouts."""
        return [self._advance(self._of(sequence), count) for sequence, count in zip(sequences, steps, strict=True)]

    def spell(self, text: str) -> list[int]:
        """Stored rollouts come without a tokenizer.

        Raises:
            BackendError: always.
        """
        raise BackendError(f"stored rollouts cannot tell how {text[:80]!r} is spelt; give its token ids")

    def append(self, sequences: Sequence[SequenceId], tokens: Sequence[Sequence[int]]) -> list[Advanced]:
        """Go on with rollouts, where these are the tokens that come next.

        Raises:
            BackendError: a rollout goes on otherwise, and what the model would have said then is not stored.
        """
        for sequence, given in zip(sequences, tokens, strict=True):
            playing = self._of(sequence)
            stored = () if playing.rollout is None else playing.rollout.tokens[playing.position :][: len(given)]
            if not len(given) or list(stored) != list(given):
                raise BackendError(
                    "a stored rollout goes on with other tokens than those that are to be appended; evaluate this with "
                    "the model, or leave thinking as it is (by='never')"
                )
        moved = self.advance(sequences, [len(given) for given in tokens])
        return [replace(item, joint_logits=item.joint_logits[-1:], confidences=None) for item in moved]

    def pause(self, sequences: Sequence[SequenceId]) -> None:
        """Nothing to be done."""

    def release(self, sequences: Sequence[SequenceId]) -> None:
        """Forget sequences."""
        for sequence in sequences:
            self._playing.pop(sequence, None)

    def rollout_of(self, problem: QuestionRollouts, sample: int) -> StoredRollout:
        """The stored rollout that a sample of a result is."""
        return problem.rollouts[(self.first + sample) % len(problem.rollouts)]

    def _open(self, playing: _Playing) -> SequenceId:
        self._next += 1
        self._playing[cast(SequenceId, self._next)] = playing
        return cast(SequenceId, self._next)

    def _of(self, sequence: SequenceId) -> _Playing:
        if sequence not in self._playing:
            raise BackendError(f"sequence {sequence} was released")
        return self._playing[sequence]

    def _advance(self, playing: _Playing, steps: int) -> Advanced:
        rollout = playing.rollout
        if rollout is None:
            raise BackendError("the prompt itself cannot be advanced; fork it")
        begin, end = playing.position, min(playing.position + steps, len(rollout.tokens))
        playing.position = end
        # Row t of the joints describes t tokens, so those of tokens begin + 1 to end.
        rows = _logits(rollout.joints[begin + 1 : end + 1])
        told = None
        if playing.confident and rollout.confidences is not None:
            told = rollout.confidences[begin:end].astype(np.float32)
        return Advanced(
            rollout.tokens[begin:end], rows, rollout.finished and end == len(rollout.tokens), confidences=told
        )


def _logits(joints: NDArray[np.float16]) -> NDArray[np.float32]:
    return np.log(np.maximum(joints.astype(np.float32), _FLOOR))
