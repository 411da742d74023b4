"""The texts that a tokenizer takes for special tokens, found in others, however many there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import Any


class Spellings:
    """What spells a special token."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._all = sorted({text for text in texts if text})
        self._pattern = _pattern(self._all)
        self.exact = re.compile(self._pattern)
        self._first = frozenset("".join(text[0].lower() + text[0].upper() for text in self._all))
        self._harmless = next(letter for letter in map(chr, range(ord("x"), 0x10FFFF)) if letter not in self._first)

    @cached_property
    def _any_case(self) -> re.Pattern[str]:
        return re.compile(self._pattern, re.IGNORECASE)

    def names(self, text: str) -> list[str]:
        """The special tokens that a text spells, in order."""
        return self.exact.findall(text)

    def begun(self, text: str) -> bool:
        """Whether a text holds a character with which a special token begins."""
        return not self._first.isdisjoint(text)

    def threatens(self, text: str) -> bool:
        """Whether a text spells a special token, in small or capital letters, or ends in the beginning of a mark."""
        if not self.begun(text):
            return False
        tails = [text[place:] for place, letter in enumerate(text) if letter in self._first and not letter.isalnum()]
        return bool(self._any_case.search(text)) or any(mark.startswith(tail) for tail in tails for mark in self._all)

    def without(self, text: str) -> str:
        """A text of the same length in which no special token begins."""
        return "".join(self._harmless if letter in self._first else letter for letter in text)

    def kinds(self, text: str) -> set[str]:
        """What a text spells, in small or capital letters, within others too; all in small ones."""
        return {match.group().casefold() for match in self._found(text)}

    def _found(self, text: str) -> Iterable[re.Match[str]]:
        start = 0
        while match := self._any_case.search(text, start):
            yield match
            start = match.start() + 1

    def halves(self, text: str) -> list[str]:
        """A text cut within every spelling."""
        ends = [0]
        while match := self.exact.search(text, ends[-1]):
            ends.append(match.start() + 1)
        return [text[start:end] for start, end in pairwise([*ends, len(text)]) if start < end]

    def broken(self, text: str, mark: str, kinds: set[str], *, late: bool) -> str:
        """A text with a mark within every spelling of these kinds: behind its first letter, or before its last."""
        found = [match for match in self._found(text) if match.group().casefold() in kinds] if kinds else []
        places = sorted({max(match.end() - 1, match.start() + 1) if late else match.start() + 1 for match in found})
        return mark.join(text[start:end] for start, end in pairwise([0, *places, len(text)]))


def _pattern(texts: Iterable[str]) -> str:
    """A regular expression of any of the texts, the longest first, that looks at every letter once."""
    trie: dict[str, Any] = {}
    for text in texts:
        node = trie
        for letter in text:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _branches(trie) if trie else r"(?!)"


def _branches(node: dict[str, Any]) -> str:
    leaves = [letter for letter, below in node.items() if letter and below.keys() == {""}]
    ways = [re.escape(letter) + _branches(below) for letter, below in node.items() if letter and letter not in leaves]
    if leaves:
        ways.append(re.escape(leaves[0]) if len(leaves) == 1 else f"[{''.join(map(re.escape, leaves))}]")
    if not ways:
        return ""
    pattern = ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways)})"
    return f"(?:{pattern})?" if "" in node else pattern
