"""What holds for the thoughts of a prompt's samples: how they are marked, and how long they may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zip_introspect.backend.contract import Backend
from zip_introspect.backend.detokenization import TextStream
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import ConfigError, HeadError
from zip_introspect.search.thought_text import Marker, ThinkingText

_TAIL = 64  # tokens of a prompt in which its last marker is looked for


@dataclass(frozen=True, slots=True)
class ThoughtRules:
    """What holds for the thoughts of one prompt's samples."""

    by: Literal["count", "joint", "never"]
    opening: Marker | None
    """None where samples think from their first token: the prompt has opened their thought, or nothing does."""
    closing: Marker
    forced: tuple[int, ...]
    """What is written to close a thought."""
    budget: int | None
    """Tokens of a thought."""
    answer: int
    """Tokens that are kept for an answer."""
    latest: int
    """Length of a sample at which its thought is closed, so that its answer has room."""
    probe_interval: int

    def text(self, stream: TextStream, stops: Sequence[str] = ()) -> ThinkingText:
        """The text of a sample that begins."""
        return ThinkingText(stream, self.opening, self.closing, stops)

    def steps(self, text: ThinkingText | None, length: int) -> int | None:
        """Tokens that a sample may take before its thought has to be closed; None is no limit.

        Args:
            text: None of a sample that begins.
        """
        phase = text.phase if text else "thinking" if self.opening is None else "before"
        if self.by == "never" or phase == "answering":
            return None
        left = self.latest - length
        if phase == "before":  # it may begin to think with its next token, or never
            return self.budget if left <= 0 else left if self.budget is None else min(left, self.budget)
        if not self.closable(length):
            return None
        if self.budget is not None and text is not None:
            left = min(left, self.budget - (text.tokens - text.begun))
        return max(0, left if self.budget is None else min(left, self.budget))

    def closable(self, length: int) -> bool:
        """Whether a thought can be closed at a sample's length, with a token of an answer behind it at the least."""
        return length < self.latest + self.answer


def thought_rules(config: GenerationConfig, prompt: Sequence[int], backend: Backend) -> ThoughtRules | None:
    """The rules of a prompt's samples; None where thoughts are no matter.

    Raises:
        ConfigError: markers that the model does not know, something that closes no thought, or too little room.
        HeadError: by="joint" with a model that gives no joints.
        BackendError: the backend cannot spell markers.
    """
    thinking, info = config.thinking, backend.info
    if thinking is None:
        return None
    if thinking.by == "joint" and backend.grid is None:
        raise HeadError(
            f"thinking by='joint' reads what the head of a model expects, and {info.model} has none; use by='count', "
            f"or open it with head=FILE"
        )
    if thinking.by != "never" and type(backend).append is Backend.append:
        raise ConfigError(
            f"the backend {info.backend} appends no tokens, so no thought can be closed; use by='never', or open the "
            f"model with another backend"
        )
    opening = None if thinking.open is None else _marker(backend, thinking.open, "open")
    closing = _marker(backend, thinking.close, "close")
    if opening is not None and _opened(backend, prompt, opening):
        opening = None
    forced = closing.ids if thinking.forced is None else _ids(backend, thinking.forced, "forced")
    trial = ThinkingText(backend.decode_stream(), None, closing, config.stop)
    stopped = trial.grow(forced) is not None
    if trial.phase != "answering" or stopped:
        raise ConfigError(
            f"thinking.forced is {thinking.forced or thinking.close!r}, which "
            f"{'holds a stop string' if stopped else 'does not hold the marker that closes a thought'}; "
            f"expected a text with {thinking.close!r} in it, and no stop string behind that"
        )
    longest = min(config.max_new_tokens, info.max_context - len(prompt))
    answer = thinking.answer_budget or max(1, config.max_new_tokens // 4)
    latest = longest - answer - len(forced)
    if thinking.by != "never" and latest < 1:
        raise ConfigError(
            f"a sample may take {longest} tokens, and its answer ({answer}: thinking.answer_budget) with what closes "
            f"its thought ({len(forced)}) leaves none to think; raise max_new_tokens, lower answer_budget or shorten "
            f"the prompt"
        )
    return ThoughtRules(thinking.by, opening, closing, forced, thinking.budget, answer, latest, thinking.probe_interval)


def _marker(backend: Backend, given: str | tuple[int, ...], name: str) -> Marker:
    ids = _ids(backend, given, name)
    said = backend.decode(ids)
    if not isinstance(given, str) or not said:
        return Marker(ids, said, by_text=False)
    if given not in said:
        raise ConfigError(
            f"thinking.{name} is {given!r}, which the tokenizer writes as {said!r}; give what it writes, or token ids"
        )
    return Marker(ids, given, by_text=True)


def _ids(backend: Backend, given: str | tuple[int, ...], name: str) -> tuple[int, ...]:
    if isinstance(given, str):
        return tuple(backend.spell(given))
    for token in given:
        if not 0 <= token < backend.info.vocab_size or token in backend.reserved or token in backend.info.eos_token_ids:
            raise ConfigError(
                f"thinking.{name} holds token {token}; expected ids from 0 to {backend.info.vocab_size - 1} that are "
                f"neither reserved nor an end of sequence"
            )
    return given


def _opened(backend: Backend, prompt: Sequence[int], opening: Marker) -> bool:
    """Whether a prompt ends in what opens a thought, but for space."""
    tail = list(prompt[-_TAIL:])
    if opening.by_text:
        return backend.decode(tail).rstrip().endswith(opening.text.rstrip())
    size = len(opening.ids)
    ends = (end for end in range(len(tail), size - 1, -1) if tuple(tail[end - size : end]) == opening.ids)
    end = next(ends, None)
    return end is not None and not backend.decode(tail[end:]).strip()
