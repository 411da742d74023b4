"""The number that a sentence says, and the last number of a text: for graders and for texts without a conclusion."""

from __future__ import annotations

import re
from collections import deque

from zip_introspect.answers import numerals, units
from zip_introspect.answers.numerals import THIN, plain
from zip_introspect.answers.quantities import (
    ALTERING,
    LONGEST,
    UNIT_POWER,
    WORD,
    Quantity,
    begins,
    may_be_unit,
    may_be_word,
    read,
)

_NEAR, _NEAR_THE_END = 60, 64
_WITHIN = re.compile(
    r"(?P<sign>(?<![\w.])[-+])?(?P<money>[$€£¥₹])?(?P<inner>(?<=[$€£¥₹])[-+])?(?<![\w.])"
    rf"{numerals.PATTERN}(?P<percent>\s*(?:%|percent\b))?"
)
_LEAD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*(?:[\s,:=*]+|\Z)")
_HARMLESS = units.words(
    "i you he she it they we this that there the a an his her its their our my your who "
    "is are was were be been has have had will would can could should must does did do "
    "makes make made gets get got earns earn earned costs cost pays pay paid needs need needed spends spend spent "
    "saves save saved sells sell sold buys buy bought eats eat ate gives gave received receives receive takes take "
    "took uses use used owes owe owed leaves leaving walked walks ran runs read reads collected collects charges "
    "charged weighs weighed contains contained holds held equals equal becomes became totals totaled remains "
    "total therefore thus so hence then now finally altogether overall answer final result amount number price sum "
    "profit people area perimeter volume length width height distance time age weight each all together "
    "exactly still just money only "
    "about approximately roughly"
)
"""They change nothing in a number behind them. Behind any other word it may be another: `the square of 5`."""
_COUNTED = re.compile(
    r"\b(number|amount|total|cost|price) of (?:the )?[a-z]+(?: [a-z]+)?(?= (?:is|are|was|were|equals)\b)"
)
_EMPHASIS = re.compile(r"(?<![\w*])(\*\*?)(?=[^\s*])([^*\n]*[^*\s])\1(?![\w*])")
_AGAIN = re.compile(r"(?<![\w.^{,])\d")


def first(text: str) -> Quantity | None:
    """The first number of a sentence that says its conclusion, where no other can be meant (`She makes $18 a day`)."""
    if len(text) > LONGEST:
        return None
    text = _EMPHASIS.sub(r"\2", text)
    if (found := begins(text)) is not None:
        return found
    text = _COUNTED.sub(r"\1", plain(text))
    place = words = 0
    while match := _LEAD.match(text, place):
        word = match[0].rstrip(" ,:=*\t\n")
        if word.lower() not in _HARMLESS and not (words == 0 and word[0].isupper()):
            return None
        place, words = match.end(), words + 1
    named = words == 1 and text.split()[0].strip(",:=*").lower() not in _HARMLESS  # `March 5`, `Apollo 11`
    rest = text[place:]
    alone = len(_AGAIN.findall(rest)) == 1 or len(_WITHIN.findall(rest)) == 1
    return begins(rest) if words and alone and not named else None


def pair(one: str, other: str) -> tuple[Quantity, Quantity] | None:
    """Two conclusions as quantities, where both are and at least one is nothing else: `March 5` is not `April 5`."""
    found = first(one), first(other)
    if found[0] is None or found[1] is None or (read(one) is None and read(other) is None):
        return None
    return found[0], found[1]


def last(text: str) -> str | None:
    """The last number of a text, as written there; None where there is none, or where it may be part of another."""
    text = _EMPHASIS.sub(r"\2", plain(text))
    matches = deque(_WITHIN.finditer(text), maxlen=_NEAR_THE_END)
    while matches:
        match = matches.pop()
        before, behind = _around(text, match)
        if _ORDINAL.match(behind):
            continue  # `3rd` and `24-hour` are no quantities
        if matches and UNIT_POWER.fullmatch(text[matches[-1].end() : match.start()][:_NEAR]):
            match = matches.pop()
            before, behind = _around(text, match)
        if _stands_alone(before, behind, match):
            return re.sub(rf"[$€£¥₹]|(?<=\d){THIN}(?=\d{{3}}(?!\d))", "", match[0])
        return None
    return None


_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b|-[A-Za-z]")
_OPEN = re.compile(
    r"(?:[\^_√±|~≈<>≤≥≠]|(?<!\\text)(?<!\\boxed)(?<!\\mbox)\{|\\[A-Za-z]+|[\w)\]}%]\s*[-+*/×÷]|[-=(]\s*[-+]|\d\s*[,;:]|\d\s"
    r"|[-+*/×÷^\w|]\()\s*\Z"
)
_GOES_ON = re.compile(
    r"\s*(?:[×*÷^_!√±]|/(?![A-Za-z]{2})|\+\s*[\w(\\]|-\s*(?:[\d(\\]|[A-Za-z]\b)|\\(?!text|mathrm|mbox|[)\]])|\{)"
    r"|[,:.]\d|\(|\||\.{2}|…|\\(?:text|mathrm|mbox)\s*\{\s*(?:st|nd|rd|th|[ikeMKBx])\s*\}"
)
_TURNED = re.compile(
    r"(?:\b(?:not|never|neither|nor|no|cannot|than|(?:divided|divisible|multiplied) by|over|under|below|above|exceeds?"
    r"|exceeding|except|but|choose|impossible|undefined|invalid|unless|until|since|before|after|minus|negative"
    r"|double|triple|twice|times|plus|version"
    r"|least|most|per|log|ln|sin|cos|tan|sqrt|mod|modulo|chapter|page|step|two|three|four|five|six|seven|eight|nine|ten"
    r"|eleven|twelve|[a-z]+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|billion)|n't)"
    r"(?:\s+(?:a|an|the|is|are|at|to|exactly|equal|be))*\s*[$€£]?\Z"
    r"|(?<!adds )(?<!add )(?<!comes )(?<!rounds )\bup\s+to\s*[$€£]?\Z"
    r"|\b(?!(?:total|price|cost|profit|amount|answer|result|length|width|height|distance|area|volume|weight|age|lifespan"
    r"|average|speed|score|number|balance|income)\b)\w+\s+of\s+(?:the\s+)?[$€£]?\Z"
    r"|\b(?:impossible|undefined)\b[^.]*\Z"
    r"|\b(?:square|cube|reciprocal|opposite|inverse|loss|undefined)\s+(?:of|at|is)?\s*[$€£]?\Z",
    re.IGNORECASE,
)
"""Words before a number that make it another, or none."""
_DENIED = re.compile(
    r"[\s,;.]*(?:(?:is|are|was|were|be)\s+(?:a\s+|an\s+|the\s+)?(?:wrong|false|incorrect|impossible|invalid|too|no|not|never)"
    r"|not|never|isn't|aren't|wasn't|cannot|can't|only\s+if|in\s+(?:binary|base|hex)|at\s+(?:least|most))\b",
    re.IGNORECASE,
)
_ALTERING_LAST = ALTERING - units.words("or and to more less fewer by over under below out not than point")


def _around(text: str, match: re.Match[str]) -> tuple[str, str]:
    return text[max(0, match.start() - _NEAR) : match.start()], text[match.end() : match.end() + _NEAR]


def _stands_alone(before: str, behind: str, match: re.Match[str]) -> bool:
    """Whether a number within a text is no part of an expression, a list or a range, and nothing takes it back."""
    if _OPEN.search(before) or _TURNED.search(before) or _DENIED.match(behind) or numerals.value(match) is None:
        return False
    if before.endswith(("(", "[")) and "," in match[0]:
        return False
    if match["percent"]:
        return True
    word = WORD.match(behind)
    if word is not None and not may_be_unit(word[0], glued=True):
        return False
    power = UNIT_POWER.match(behind)
    word = WORD.match(behind.lstrip())
    altered = word is not None and (word[0].lower() in _ALTERING_LAST or not may_be_word(word[0]))
    return power is not None or not (altered or _GOES_ON.match(behind))
