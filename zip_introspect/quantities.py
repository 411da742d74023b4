"""What an answer says as a quantity: one exact number, the unit it is of, and the name it is given.

Three ways to read, from strict to lenient: a whole answer (`read`), the first number of a sentence (`first`), and the
last number of a text (`last`). What may mean something else is no quantity in any of them: `5,1`, `2\\sqrt{3}`,
`3x`, `5 or 6`, `2 hours 30 minutes`.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, replace
from fractions import Fraction

from zip_introspect import numerals, units
from zip_introspect.numerals import THIN, plain

LONGEST = 1000
"""Characters of an answer that may be a quantity."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, and what is said beside it."""

    value: Fraction
    unit: str = ""
    """As written: `%`, `cm^2`, `apples`, `_8` for a base; `$` for every spelling of dollars."""
    name: str = ""
    """`x` of `x = 3`."""

    def __str__(self) -> str:
        """The one way in which it is shown. A dollar sign is left out: LaTeX writes plain numbers between them too."""
        number = numerals.written(self.value)
        if self.unit in units.SIGNS:
            number = self.unit + number if self.value >= 0 else f"-{self.unit}{number[1:]}"
        elif self.unit and self.unit != "$":
            number += self.unit if self.unit[0] in "%°¢_" else f" {self.unit}"
        return f"{self.name} = {number}" if self.name else number

    def conflicts(self, other: Quantity) -> bool:
        """Whether both say a unit, or a name, and not the same."""
        named_apart = bool(self.name and other.name) and self.name != other.name
        return named_apart or units.conflict(self.unit, other.unit)


_SIGN = r"(?:(?P<sign>[-+]|(?:minus|negative)\b)\s*)?(?P<money>(?:US)?\$|[€£¥₹])?\s*(?P<inner>[-+])?\s*"
_WHOLE = re.compile(rf"(?i:{_SIGN})" + numerals.pattern(f" {THIN}"))
_WITHIN = re.compile(
    r"(?P<sign>(?<![\w.])[-+])?(?P<money>[$€£¥₹])?(?P<inner>(?<=[$€£¥₹])[-+])?(?<![\w.])"
    rf"{numerals.pattern(THIN)}(?P<percent>\s*(?:%|percent\b))?"
)

_TEXTUAL = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathit|mbox|operatorname|rm)\s*\{([^{}]*)\}")
_EXPONENT = re.compile(r"\s*\^\s*(?:\{\s*(-?\d)\s*\}|(-?\d)(?!\d))")
_BASE = re.compile(r"_(?:\{(\d{1,2})\}|(\d{1,2}))(?!\d)")
_WORD = re.compile(
    r"[^\W\d_]+(?:[-'][^\W\d_]+)*(?:\^-?\d)?(?:[ ]?[/×][ ]?[^\W\d_]+(?:\^-?\d)?)*|°(?:[CF]\b)?|[%$¢€£¥₹]",
)
_ARITHMETIC = re.compile(r"(?=[^\d]*\d[^-+*/×÷^]*[-+*/×÷^])[-+*/×÷^().,$%{}\d\s]+")
_NAME = re.compile(r"\s*(\\?[A-Za-z]\w*(?:_\{\w+\})?)\s*")
_LEAD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*(?:[\s,:=*]+|\Z)")

# After these words nothing says another answer any more, only why or of what this is one.
_COMMENT = units.words(
    "in for because since so as when after if which that thus therefore hence total altogether overall every each at "
    "on with from is was are were of this these those he she it they we you his her its their the a an where while "
    "then making meaning given using per"
)
_ENDING = units.words("total altogether overall every each")
_REASONS = units.words("because since so as when after if which that thus therefore hence making meaning given")
# A number beside one of these is not the number that is meant.
_ALTERING = units.words(
    "or and to through thru plus minus x by over under below more less fewer most least out mod modulo squared "
    "cubed factorial dozen dozens half halves third thirds quarter fourth fourths fifth fifths sixth sixths "
    "seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths millionth "
    "millionths hundreds thousands millions billions trillions pi sqrt root point not than k bn"
)
_ALTERING_BEFORE = _ALTERING - {"to", "and"} | units.words(
    "no either neither nor between from double triple twice thrice log ln sin cos tan per two three four five six "
    "seven eight nine ten eleven twelve hundred thousand million billion negative"
)
_ALTERING_LAST = _ALTERING - units.words("or and to more less fewer by over under below out not than point")
_ANOTHER = re.compile(r"\b(?:(?:or|and)\b\W*\d|(?:morning|afternoon|evening|noon|midnight)\b)", re.IGNORECASE)
_TIMES = re.compile(r"\s*(?:the|as|that|what|more|of|\W*\d)")
_FIRST_IDEOGRAPH = 0x2E80


def read(text: str) -> Quantity | None:
    """The quantity that a whole answer is, for sure; what follows it may say why (`29, in total, so she pays that`)."""
    return _read(plain(text)) if len(text) <= LONGEST else None


def begins_with_number(text: str) -> bool:
    """Whether a number is the first thing that a text says."""
    return len(text) <= LONGEST and _WHOLE.match(plain(text).lstrip()) is not None


def first(text: str) -> Quantity | None:
    """The first number of a sentence that says its conclusion, where no other can be meant (`She makes $18 a day`)."""
    if len(text) > LONGEST:
        return None
    text = plain(text)
    found = _read(text)
    if found is None:
        found = _number(text, lenient=True)
    if found is not None:
        return found
    place, words = 0, 0
    while match := _LEAD.match(text, place):
        if match[0].rstrip(" ,:=*\t\n").lower() in _ALTERING_BEFORE:
            return None
        place, words = match.end(), words + 1
    rest = text[place:]
    alone = len(re.findall(r"(?<![\w.^{,])\d", rest)) == 1 or len(_WITHIN.findall(rest)) == 1
    return _number(rest, lenient=True) if words and alone else None


def pair(one: str, other: str) -> tuple[Quantity, Quantity] | None:
    """Two conclusions as quantities, where both are and at least one is nothing else: `March 5` is not `April 5`."""
    found = first(one), first(other)
    if found[0] is None or found[1] is None or (read(one) is None and read(other) is None):
        return None
    return found[0], found[1]


def last(text: str) -> str | None:
    """The last number of a text, as written there; None where there is none, or where it may be part of another."""
    text = plain(text)
    matches = deque(_WITHIN.finditer(text), maxlen=_NEAR_THE_END)
    while matches:
        match = matches.pop()
        before, behind = _around(text, match)
        if _ORDINAL.match(behind):
            continue  # `3rd` and `24-hour` are no quantities
        if matches and _UNIT_POWER.fullmatch(text[matches[-1].end() : match.start()][:_NEAR]):
            match = matches.pop()
            before, behind = _around(text, match)
        if _stands_alone(before, behind, match):
            return re.sub(rf"[$€£¥₹]|(?<=\d){THIN}(?=\d{{3}}(?!\d))", "", match[0])
        return None
    return None


_NEAR, _NEAR_THE_END = 60, 64
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b|-[A-Za-z]")
_UNIT_POWER = re.compile(
    rf"\s*(?:\\(?:text|mathrm|mbox)\s*\{{[A-Za-z {THIN}/]{{1,30}}\}}|[A-Za-z]{{2,12}}|m)\s*\^\s*\{{?\s*"
)
_OPEN = re.compile(
    r"(?:[\^_√±]|(?<!\\text)(?<!\\boxed)(?<!\\mbox)\{|\\[A-Za-z]+|[\w)\]}%]\s*[-+*/×÷]|[=(]\s*[-+]|\d\s*[,;:]|\d\s)\s*\Z"
)
_GOES_ON = re.compile(
    r"\s*(?:[×*÷^_!√±]|/(?![A-Za-z]{2})|\+\s*[\w(\\]|-\s*(?:[\d(\\]|[A-Za-z]\b)|\\(?!text|mathrm|mbox|[)\]])|\{)|[,:]\d|\("
)


def _around(text: str, match: re.Match[str]) -> tuple[str, str]:
    return text[max(0, match.start() - _NEAR) : match.start()], text[match.end() : match.end() + _NEAR]


def _stands_alone(before: str, behind: str, match: re.Match[str]) -> bool:
    """Whether a number within a text is no part of an expression, a list or a range."""
    if _OPEN.search(before) or numerals.value(match) is None:
        return False
    if match["percent"]:
        return True
    word = _WORD.match(behind)
    if word is not None and not _may_be_unit(word[0], glued=True):
        return False
    power = _UNIT_POWER.match(behind)
    word = _WORD.match(behind.lstrip())
    altered = word is not None and (word[0].lower() in _ALTERING_LAST or not _may_be_word(word[0]))
    return power is not None or not (altered or _GOES_ON.match(behind))


def _may_be_word(word: str) -> bool:
    return (
        len(re.split(r"[\^/]", word)[0]) > 1 or word[0] in units.LETTERS or word in ("a", "I") or not word[0].isalpha()
    )


def last_unit(text: str) -> str:
    """The unit that an expression ends with, set as text (`5\\sqrt{2}\\text{ cm}`); "" for none."""
    found = _UNIT_AT_END.search(plain(text)[-_NEAR:])
    return "" if found is None else (_unit(found[0], lenient=False) or "")


_UNIT_AT_END = re.compile(rf"(?<=[\w)}}])\s*{_TEXTUAL.pattern}(?:{_EXPONENT.pattern})?\s*\Z")


def _read(text: str) -> Quantity | None:
    text = text.strip()
    if re.fullmatch(r"\([^()$]*\)", text):
        text = text[1:-1].strip()
    spellings = re.split(r"=|\bor\b", text)
    if len(spellings) > 1 and len(found := {_number(spelling) for spelling in spellings}) == 1:
        return found.pop()
    *sides, said = text.split("=")
    if sides:
        named = _NAME.fullmatch(sides[0])
        arithmetic = sides[1:] if named else sides
        if all(_ARITHMETIC.fullmatch(side) for side in arithmetic) and (result := _number(said)):
            return replace(result, name=named[1]) if named else result
    return _number(text)


def _number(text: str, *, lenient: bool = False) -> Quantity | None:
    """The quantity that a text begins with."""
    text = text.lstrip()
    match = _WHOLE.match(text)
    if match is None or (match["sign"] and match["inner"]):
        return None
    number, tail = numerals.value(match), _unit(text[match.end() :], lenient)
    if number is None or tail is None:
        return None
    unit, money = tail, match["money"]
    if money:
        money = units.unit([money])
        if unit not in ("", money):
            return None
        unit = money
    sign = (match["sign"] or match["inner"] or "").lower()
    return Quantity(-number if sign not in ("", "+") else number, unit)


def _unit(tail: str, lenient: bool) -> str | None:
    """The unit that a number's tail begins with, "" for none; None where the tail may change the number."""
    base = _BASE.match(tail)
    if base:
        return f"_{base[1] or base[2]}" if not tail[base.end() :].strip(" .") else None
    textual = _TEXTUAL.match(tail.lstrip()) is not None
    tail = re.sub(r"^\s*/(?=[A-Za-z]{2})", " per ", tail)  # `$90/hour`
    tail = _EXPONENT.sub(lambda found: f"^{found[1] or found[2]}", _TEXTUAL.sub(r" \1 ", tail))
    tail = re.sub(r"\s+", " ", re.sub(r"\s+(?=[\^/])|(?<=/)\s+|(?<=°)\s+(?=[CF]\b)", "", tail))
    glued, tail = not tail.startswith(" ") and not textual, tail.lstrip()
    words: list[str] = []
    while match := _WORD.match(tail):
        word = match[0].lower()
        if word in _COMMENT and not textual and not (words and word == "per"):
            break
        if word in _ALTERING or len(words) == 3 or (word == "times" and _TIMES.match(tail[match.end() :])):
            return None
        if not words and not textual and not _may_be_unit(match[0], glued):
            return None
        words.append(match[0])
        tail = tail[match.end() :].lstrip()
        textual = False
    if glued and not words and tail[:1].isalpha():
        return None
    if tail.rstrip(" .").lower() == "in" and not words:
        return "inch"
    return units.unit(words) if _ends(tail, bool(words), lenient) else None


def _may_be_unit(word: str, glued: bool) -> bool:
    if glued and word[0].isalpha():
        return units.may_be_glued(re.split(r"[\^/]", word)[0]) or all(ord(mark) >= _FIRST_IDEOGRAPH for mark in word)
    return _may_be_word(word) and word not in ("a", "I")


def _ends(rest: str, has_unit: bool, lenient: bool) -> bool:
    """Whether what follows a number and its unit is nothing, or a comment on it."""
    if _ANOTHER.search(rest):
        return False
    mark = re.match(r"[\s,;:.)。，;*$]*\(?\s*", rest)
    assert mark is not None
    behind = rest[mark.end() :]
    if not behind:
        return "(" not in mark[0]
    word = re.match(r"[^\W\d_]+", behind)
    if word is None:
        return False
    said = word[0].lower()
    if said in _COMMENT:
        more = behind[word.end() :]
        if re.match(r"\W*\d", more):
            return said in _REASONS or (said != "of" and (has_unit or bool(mark[0].strip())))
        return said in _ENDING or re.search(r"[^\W\d_]{2}", more) is not None
    plain_words = not re.search(r"[=<>+*^\\/]", behind)
    return lenient and bool(mark[0].strip()) and len(said) > 1 and said not in _ALTERING and plain_words
