"""How a question is put to a model: what stands around it in the conversation. It is part of what a head learns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field

from zip_introspect.config import Settings
from zip_introspect.errors import ConfigError
from zip_introspect.paths import expanded
from zip_introspect.prompts import Message, Prompt

_LONGEST_FILE = 1 << 20


class WorkedExample(Settings):
    """A worked example, as an earlier turn of the chat."""

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)


class Framing(Settings):
    """What stands around a question: a system message, worked examples before it, an instruction behind it."""

    system: str = Field("", description="A system message.")
    examples: tuple[WorkedExample, ...] = Field(
        (), description="Earlier turns: questions, put as this one, and answers."
    )
    instruction: str = Field("", description="Behind every question, after an empty line.")

    def put(self, question: str) -> Prompt:
        """A question as a prompt: messages, or where there is nothing around it, the text itself."""
        if self == NO_FRAMING:
            return question
        messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for example in self.examples:
            messages.append({"role": "user", "content": self._instructed(example.question)})
            messages.append({"role": "assistant", "content": example.answer})
        return [*messages, {"role": "user", "content": self._instructed(question)}]

    def frames(self, prompt: Sequence[Message]) -> bool:
        """Whether messages are a question that was put in this way."""
        last = prompt[-1].get("content") if prompt else None
        if not isinstance(last, str) or not last.endswith(self._instructed("")):
            return False
        question = last.removesuffix(self._instructed("")) if self.instruction else last
        framed = self.put(question)
        return not isinstance(framed, str) and list(prompt) == list(framed)

    @classmethod
    def of(cls, system: str | None, examples: Path | None, instruction: str | None) -> Self:
        """From what a command line gives; the examples are a JSONL file, a question and its answer a line.

        Raises:
            ConfigError: a file that is missing, too long, or holds something else.
        """
        found = () if examples is None else tuple(_examples(expanded(examples)))
        return cls(system=system or "", examples=found, instruction=instruction or "")

    def _instructed(self, question: str) -> str:
        return f"{question}\n\n{self.instruction}" if self.instruction else question


NO_FRAMING = Framing()


def _examples(file: Path) -> list[WorkedExample]:
    try:
        if file.stat().st_size > _LONGEST_FILE:
            raise ConfigError(f"{file} holds {file.stat().st_size} bytes; expected a few worked examples")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
            if row is not None:
                found.append(WorkedExample(question=row["question"], answer=row["answer"]))
        except (ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
            raise ConfigError(
                f'line {number} of {file} is {line[:80]!r}; expected {{"question": ..., "answer": ...}}, two texts'
            ) from error
    if not found:
        raise ConfigError(f"{file} holds no examples; expected a question and its answer a line, as JSON")
    return found
