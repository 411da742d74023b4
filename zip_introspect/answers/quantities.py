"""What an answer says as a quantity: one exact number, the unit it is of, and the name it is given.

A whole answer is read strictly (`read`): beside the number and its unit it may only say so again. What begins an answer
is read leniently (`begins`): a comment on the number may follow. What may mean something else is no quantity in either:
`5,1`, `2\\sqrt{3}`, `3x`, `5 or 6`, `2 hours 30 minutes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

from zip_introspect.answers import numerals, units
from zip_introspect.answers.numerals import THIN, plain

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
    shown: str = field(default="", compare=False)
    """The number as written, where its value shows less: `12/5` may be a date, and `5.30` a time."""

    def __str__(self) -> str:
        """As it is shown. A dollar sign is left out: LaTeX writes plain numbers between them too."""
        return self._said(self.shown or numerals.written(self.value))

    def exactly(self) -> str:
        """The one way to write all that is equal to it."""
        return self._said(numerals.written(self.value))

    def _said(self, number: str) -> str:
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
_WHOLE = re.compile(rf"(?i:{_SIGN}){numerals.PATTERN}")
UNIT_POWER = re.compile(
    rf"\s*(?:\\(?:text|mathrm|mbox)\s*\{{[A-Za-z {THIN}/]{{1,30}}\}}|[A-Za-z]{{2,12}}|m)\s*\^\s*\{{?\s*"
)
"""A unit up to its power: `cm^`."""
_TEXTUAL = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathit|mbox|operatorname|rm)\s*\{([^{}]*)\}")
_EXPONENT = re.compile(r"\s*\^\s*(?:\{\s*(-?\d)\s*\}|(-?\d)(?!\d))")
_BASE = re.compile(r"_(?:\{(\d{1,2})\}|(\d{1,2}))(?!\d)")
WORD = re.compile(
    r"[^\W\d_]+(?:[-'][^\W\d_]+)*(?:\^-?\d)?(?:[ ]?[/×][ ]?[^\W\d_]+(?:\^-?\d)?)*|°(?:[CF]\b)?|[%$¢€£¥₹]",
)
_ARITHMETIC = re.compile(r"(?=[^\d]*\d[^-+*/×÷^]*[-+*/×÷^])[-+*/×÷^().,$%{}\d\s]+")
_NAME = re.compile(r"\s*(\\?[A-Za-z]\w*(?:_\{\w+\})?)\s*")

_COMMENT = units.words(
    "in for because since so as when after if which that thus therefore hence total altogether overall every each at "
    "on with from is was are were of this these those he she it they we you his her its their the a an where while "
    "then making meaning given using per has had will would can until before during within without among across into "
    "near upon via not isn't but only also again too"
)
"""Words that are no unit: they begin a comment."""
_REASONS = units.words("because since when after if which that making meaning given using")
ALTERING = units.words(
    "or and to through thru plus minus x by over under below above more less fewer most least out mod modulo squared "
    "cubed factorial dozen dozens half halves third thirds quarter fourth fourths fifth fifths sixth sixths "
    "seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths millionth "
    "millionths hundreds thousands millions billions trillions pi sqrt root point not than k bn mil mln bil mn tn "
    "lakh lakhs crore crores grand gross score scores doz tens ten doubled tripled quadrupled halved choose one two "
    "three four five six seven eight nine eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen "
    "twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion "
    "quadrillion zillion"
)
"""A number beside one of these is not the number that is meant."""
_ANOTHER = re.compile(
    r"\b(?:or|and)\b\W*\d|\b(?:so|thus|therefore|hence|then|but)\b[\W_]*\d|[$€£¥₹]\s*\d"
    r"|\b(?:morning|afternoon|evening|noon|midnight|binary|octal|hex(?:adecimal)?|decimal|base|wait|actually|wrong|false"
    r"|incorrect|invalid|impossible|never|not|cannot|no|least|most|correction|mistake|oops|sorry|rather|instead)\b|n't\b",
    re.IGNORECASE,
)
"""It says another number, or takes back the one that was said."""
_TIMES = re.compile(r"\s*(?:the|as|that|what|more|of|\W*\d)")
_FIRST_IDEOGRAPH = 0x2E80
_ALL = re.compile(r"[\s$)]*(?:,?\s*(?:in (?:total|all)|total|altogether|overall)\b)?[\s$)]*")
_WHY = re.compile(
    r"[,.;]?\s*because\b|(?:[,.;]\s*(?:since|so|thus|therefore|hence|making)"
    r"|\.\s+(?:She|He|They|We|I|Hope|So|Thus|Therefore|Hence|Because|Since|Thanks))\b(?!.*\d)"
)
_CODE = re.compile(r"\s*(?:0\d{4,}|\+\d{7,})(?![\d,.])")
_LITERAL = re.compile(r"\d+/\d+|(?:0|[1-9]\d*)\.\d*[1-9]0+")


def read(text: str) -> Quantity | None:
    """The quantity that a whole answer is, for sure; what follows it may say why (`29, in total, so she pays that`)."""
    return _read(plain(text)) if len(text) <= LONGEST and not _CODE.fullmatch(text) else None


def begins(text: str) -> Quantity | None:
    """The quantity that an answer begins with, where what follows comments on it (`18 dollars for 9 eggs`)."""
    if len(text) > LONGEST:
        return None
    return read(text) or _number(plain(text), lenient=True)


def begins_with_number(text: str) -> bool:
    """Whether a number is the first thing that a text says."""
    return len(text) <= LONGEST and _WHOLE.match(plain(text).lstrip()) is not None


def last_unit(text: str) -> str:
    """The unit that an expression ends with, set as text (`5\\sqrt{2}\\text{ cm}`); "" for none."""
    found = _UNIT_AT_END.search(plain(text)[-60:])
    return "" if found is None else (_unit(found[0], lenient=False) or "")


_UNIT_AT_END = re.compile(rf"(?<=[\w)}}])\s*{_TEXTUAL.pattern}(?:{_EXPONENT.pattern})?\s*\Z")


def _read(text: str) -> Quantity | None:
    text = text.strip()
    if re.fullmatch(r"\([^()$,]*\)", text):
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
    negative = sign not in ("", "+")
    shown = "-" * negative + match["number"] if _LITERAL.fullmatch(match["number"]) else ""
    return Quantity(-number if negative else number, unit, shown=shown)


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
    while match := WORD.match(tail):
        word = match[0].lower()
        if words and word == "$":
            break
        if word in _COMMENT and not textual and not (words and word == "per"):
            break
        if (
            (units.is_name(match[0]) and not lenient)
            or word in ALTERING
            or len(words) == 3
            or (word == "times" and _TIMES.match(tail[match.end() :]))
        ):
            return None
        if not words and not (units.may_be_text(match[0]) if textual else may_be_unit(match[0], glued)):
            return None
        words.append(match[0])
        tail = tail[match.end() :].lstrip()
        textual = False
    if glued and not words and tail[:1].isalpha():
        return None
    if tail.rstrip(" .").lower() == "in" and not words:
        return "inch"
    return units.unit(words) if _ends(tail, bool(words), lenient) else None


def may_be_unit(word: str, glued: bool) -> bool:
    """Whether it may stand behind a number as its unit; glued to it only some may."""
    if glued and word[0].isalpha():
        return units.may_be_glued(re.split(r"[\^/]", word)[0]) or all(ord(mark) >= _FIRST_IDEOGRAPH for mark in word)
    return may_be_word(word) and word not in ("a", "I")


def _ends(rest: str, has_unit: bool, lenient: bool) -> bool:
    """Whether what follows a number and its unit is nothing, says it again, or (leniently) comments on it."""
    behind = rest[_ALL.match(rest).end() :]  # type: ignore[union-attr]
    if re.fullmatch(r"[.,;:。，；]?[\s$)]*", behind):
        return True
    if _ANOTHER.search(rest):
        return False
    return _WHY.match(behind) is not None or (lenient and _comments(rest, has_unit))


def _comments(rest: str, has_unit: bool) -> bool:
    mark = re.match(r"[\s,;:.!)。，;*$]*\(?\s*", rest)
    assert mark is not None
    behind = rest[mark.end() :]
    word = re.match(r"[^\W\d_]+", behind)
    if word is None:
        return False
    said = word[0].lower()
    if said in _COMMENT:
        more = behind[word.end() :]
        if re.match(r"\W*\d", more):
            return said in _REASONS or (said != "of" and (has_unit or bool(mark[0].strip())))
        return said in ("every", "each") or re.search(r"[^\W\d_]{2}", more) is not None
    plain_words = not re.search(r"[=<>+*^\\/]", behind)
    return bool(mark[0].strip()) and len(said) > 1 and said not in ALTERING and plain_words


def may_be_word(word: str) -> bool:
    """Whether it is longer than a variable."""
    return (
        len(re.split(r"[\^/]", word)[0]) > 1 or word[0] in units.LETTERS or word in ("a", "I") or not word[0].isalpha()
    )
