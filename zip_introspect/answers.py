"""Answer extractors: from the text of a sample to the short answer that votes and results compare.

An extractor is any function `str -> str | None`. The default tries the conventions of the field in order of how
deliberate they are: `\\boxed{}`, `####`, a last `ans ...` or `answer: ...`, then the last number. Ours are plain
data, so that models which hold them can be pickled.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

AnswerExtractor = Callable[[str], str | None]

_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?|(?<![\w.])[-+−]?\.\d+")
_MARKER = (
    r"(?im)(?:^|(?<=[\s.;,*]))(?:the\s+)?(?:final\s+)?(?:ans\b\**\s*(?:is\b|:|=)?|answer\b\**\s*(?:is\b|:|=))\s*\**"
)


def last_number(text: str) -> str | None:
    """The last number of a text, without thousands separators; None where there is none."""
    numbers = _NUMBER.findall(text)
    return normalize(numbers[-1]) if numbers else None


@dataclass(frozen=True)
class _AfterMarker:
    pattern: str

    def __call__(self, text: str) -> str | None:
        match = None
        for match in re.finditer(self.pattern, text):  # noqa: B007 - the last one is wanted
            pass
        if match is None:
            return None
        rest = text[match.end() :].split("\n", 1)[0]
        return normalize(rest) or None


@dataclass(frozen=True)
class _FirstOf:
    extractors: tuple[AnswerExtractor, ...]

    def __call__(self, text: str) -> str | None:
        return next((answer for extractor in self.extractors if (answer := extractor(text)) is not None), None)


def after_marker(pattern: str) -> AnswerExtractor:
    r"""An extractor of what follows the last match of a regular expression, up to the end of the line.

    Example: `after_marker(r"(?m)^ans\s+")` takes `10` from a last line `ans 10`.
    """
    re.compile(pattern)
    return _AfterMarker(pattern)


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` holds, braces balanced; None where there is none or it never closes."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    begin = start + len("\\boxed")
    for i in range(begin, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return normalize(text[begin + 1 : i]) or None
    return None


hashes = after_marker(r"####\s*")
"""What follows the last `####`, as GSM8K writes it."""

marked = after_marker(_MARKER)
"""What follows the last `ans`, `answer:`, `the answer is` and the like."""


def first_of(*extractors: AnswerExtractor) -> AnswerExtractor:
    """An extractor that gives the first answer any of these finds, in order."""
    return _FirstOf(extractors)


default_extractor = first_of(boxed, hashes, marked, last_number)


def normalize(answer: str) -> str:
    """Trim what does not change an answer: space, `$`, emphasis, a final period, thousands separators, leading `+`."""
    answer = answer.strip().lstrip("$*` ").rstrip("$*` .")
    if _NUMBER.fullmatch(answer):
        answer = answer.replace(",", "").replace("−", "-").removeprefix("+")
    return answer
