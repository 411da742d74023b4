"""From the text of a sample to its answer, and from the many spellings of an answer to one.

An extractor is any function `str -> str | None`. Ours leave thinking out (`without_thinking`) and give what they find
as it is written, space and emphasis aside; they are plain data, so that models which hold them can be pickled. The
default tries the conventions of the field in order of how deliberate they are: `\\boxed{}`, `####`, a last `ans ...` or
`answer: ...`, a text that is nothing but a number, then the last number.

`canonical` is the form of an answer that results show. `key` is what votes and graders compare: answers are equal
where their keys are. What cannot be read for sure stays as it is written, and distinct.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from zip_introspect.answers.conclusions import first_sentence
from zip_introspect.answers.quantities import LONGEST, begins_with_number, read
from zip_introspect.answers.units import words
from zip_introspect.errors import ConfigError

AnswerExtractor = Callable[[str], str | None]

_MARKER = (
    r"(?im)(?:^|(?<=[\s.;,*]))(?:the\s++)?(?:final\s++)?"
    r"(?:ans\b\**\s*(?:is\b\s*[:=]?|:|=)?|answer\b\**\s*(?:is\b\s*[:=]?|:|=))"
    r"(?:\*{1,3}(?=\s|\Z))?\s*"
)
_THINKING = re.compile(
    r"(?P<close></(?:seed:)?(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>)"
    r"|<(?:seed:)?(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷|<\|START_THINKING\|>",
    re.IGNORECASE,
)


def without_thinking(text: str) -> str:
    """What a text says outside of its reasoning tags.

    These are `<think>`, `<thinking>`, `<thought>` and `<reasoning>` (also with `seed:` before the name), `[THINK]`,
    `◁think▷` and `<|START_THINKING|>`, each with its closing tag, in capitals or not. What comes before a closing tag
    that nothing opened is thinking too, since many chat templates open it within the prompt. A text that ends in
    thinking says nothing: "".
    """
    if not any(mark in text for mark in "<[◁"):
        return text
    said: list[str] = []
    place, thinking = 0, False
    for tag in _THINKING.finditer(text):
        if tag["close"]:
            if not thinking:
                said.clear()
            place, thinking = tag.end(), False
        elif not thinking:
            said.append(text[place : tag.start()])
            thinking = True
    if thinking:
        return ""
    said.append(text[place:])
    return "\n".join(piece for piece in said if piece) if place else text


def last_number(text: str) -> str | None:
    r"""The last number of a text, without thousands separators; None where there is none, or none for sure.

    A part of an expression, a list or a range (`2\sqrt{3}`, `5,1`, `12:30`) is no number.
    """
    from zip_introspect.answers.sentences import (
        last,  # its patterns take long to compile, and answers are marked as a rule
    )

    found = last(without_thinking(text))
    return None if found is None else _trimmed(found)


@dataclass(frozen=True)
class _AfterMarker:
    pattern: str
    sentence: bool = False
    """Whether the end of a sentence ends the answer, as the end of a line does."""

    def __call__(self, text: str) -> str | None:
        text = without_thinking(text)
        match = None
        for match in re.finditer(self.pattern, text):  # noqa: B007 - the last one is wanted
            pass
        if match is None:
            return None
        rest = text[match.end() :]
        if formula := _DISPLAYED.match(rest):
            return _on_one_line(formula[0]) or None
        line = rest.split("\n", 1)[0]
        if self.sentence:
            line = _without_emphasis(text[: match.start()], first_sentence(line))
        return _trimmed(line) or None


def _without_emphasis(before: str, said: str) -> str:
    """What is said, without the end of emphasis that began before its marker: `**Answer: 42**`."""
    opened = before[len(before.rstrip("*")) :]
    said = said.rstrip(" .") if opened and said.rstrip(" .").endswith(opened) else said
    return said.removesuffix(opened) if opened and said.count(opened) % 2 == 1 else said


_DISPLAYED = re.compile(r"\$\$[^$]*+\$\$|\\\[(?:[^\\]|\\(?!\]))*+\\\]")


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
    r"""What the last `\boxed{...}` or `\fbox{...}` holds, braces balanced; None where none is, or it never closes."""
    text = without_thinking(text)
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    begin = start + len("\\boxed" if text.startswith("\\boxed", start) else "\\fbox")
    if bare := re.match(r" *(-?[\d.,]*\d)(?![\w\\{])", text[begin:]):  # as LaTeX writes one sign
        return bare[1]
    opening = re.match(r"\s*\{", text[begin:])
    if opening is None:
        return None
    begin += opening.end()
    end = _closing(text, begin)
    return None if end is None else _on_one_line(text[begin:end]) or None


def _closing(text: str, begin: int) -> int | None:
    depth = 1
    for mark in re.finditer(r"[{}]", text[begin:]):
        depth += 1 if mark[0] == "{" else -1
        if depth == 0:
            return begin + mark.start()
    return None


def bare(text: str) -> str | None:
    """A text that is itself the answer: one line that is a number, or begins with one, and tells no story."""
    said = without_thinking(text).strip()
    if len(said) > LONGEST or "\n" in said or _STORY.search(said):
        return None
    answer = _trimmed(said)
    return answer if begins_with_number(answer) or read(answer) is not None else None


_STORY = re.compile(r"\b(?:is|are|was|were|equals?|makes?|gives?|costs?|pays?|leaves?|has|have|had)\b|=.*=|[.,;] .*\d")

hashes = _AfterMarker(r"####\s*", sentence=True)
"""What follows the last `####`, as GSM8K writes it, up to the end of its sentence or line."""

marked = _AfterMarker(_MARKER, sentence=True)
"""What follows the last `ans`, `answer:`, `the answer is` and the like, up to the end of its sentence or line."""


def first_of(*extractors: AnswerExtractor) -> AnswerExtractor:
    """An extractor that gives the first answer any of these finds, in order."""
    return _FirstOf(extractors)


_concluded = first_of(boxed, hashes, marked, bare)


def conclusion(text: str) -> str | None:
    r"""What a text concludes on purpose; None where it only tells. Every grader reads this.

    A conclusion may hold another: of `\boxed{The answer is 29}` it is 29.
    """
    found = _concluded(text)
    while found is not None and (within := _concluded(found)) is not None and within != found:
        found = within
    return found


default_extractor = first_of(conclusion, last_number)


def extract(extractor: AnswerExtractor, text: str) -> str | None:
    """The answer that an extractor finds in a text, in canonical form; None where it finds none, or an empty one.

    Raises:
        ConfigError: it gave something else than a text or None.
    """
    found = extractor(text)
    if found is not None and not isinstance(found, str):
        raise ConfigError(
            f"the extractor gave {repr(found)[:80]}, a {type(found).__name__}; expected the answer as text, or None. "
            "Return str(answer)"
        )
    return None if found is None else canonical(found) or None


def canonical(answer: str) -> str:
    r"""The form in which an answer is shown: `29` for `029`, `$29.00`, `\text{29}` and `29, in total`.

    A quantity is written one way, its unit and name kept (`18 cm^2`, `75%`, `x = 3`), dollars aside; but `12/5` and
    `5.30`, which may be a date and a time, stay as they are. Any other answer is trimmed: space, emphasis, quotes and
    LaTeX around the whole of it, a final period, the brackets of `(B)`. An answer of several lines, or of more than
    1000 characters, is stripped of space alone. `canonical(canonical(a))` is `canonical(a)`.
    """
    answer = answer.strip()
    return answer if len(answer) > LONGEST or "\n" in answer else _form(answer)


@lru_cache(maxsize=4096)  # few answers, many votes
def _form(answer: str) -> str:
    answer = _trimmed(answer)
    quantity = read(answer)
    return answer if quantity is None else str(quantity)


def key(answer: str) -> str:
    r"""What two spellings of one answer have in common beyond the canonical form, for comparing.

    Equal numbers have one key (`12/5` and `2.4`). Space beside brackets, the commas within them, `=` and operators does
    not count, nor does LaTeX's spacing, `\dfrac` for `\frac`, `\left`, or the capital that begins a word of four
    letters or more, or `Yes`, `No`, `All`: `Paris` is `paris`, but `Co` is not `co`, and `A` is not `a`, in brackets or
    not. Units, code and what stands in quotes are compared letter for letter.
    """
    form = canonical(answer)
    return form if len(form) > LONGEST or "\n" in form else _key(form)


@lru_cache(maxsize=4096)
def _key(form: str) -> str:
    quantity = read(form)
    if quantity is not None:
        return quantity.exactly()
    return form if _QUOTED.search(form) else _folded(form)


def _folded(form: str) -> str:
    form = _SPACING.sub(" ", _FRACTION.sub(r"\\frac", form))
    within_brackets = "," if re.search(r"[(\[{]", form) else ""  # elsewhere `5,1` may be a number, and `5, 1` is two
    form = re.sub(rf" ?([{within_brackets};=+^_()\[\]{{}}]) ?", r"\1", re.sub(r"\s+", " ", form)).strip()
    form = _OPERATOR.sub(r"\1", form)
    if _CODE.search(form):
        return form
    return _CAPITAL.sub(lambda word: word[0].lower() if _is_prose(word[0]) else word[0], form)


def _is_prose(word: str) -> bool:
    return word[1:].islower() and (len(word) >= 4 or word.lower() in _SHORT_WORDS)


def same(one: str | None, other: str | None) -> bool:
    """Whether two answers are one; what is no answer equals none."""
    return one is not None and other is not None and key(one) == key(other)


_SPACING = re.compile(r"\\[!,;: ]|(?<=[\w{}])~(?=[\w\\])|\\(?:left|right|displaystyle)(?![A-Za-z])|\\q?quad\b")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_OPERATOR = re.compile(r"(?<=[\w)\]}])(?<![^\W\d_]{2}) ([-*]) (?=[\w(\[{\\])(?![^\W\d_]{2})")
_QUOTED = re.compile(r"[\"`]|(?<!\w)'[^']*'")
_CODE = re.compile(r"[^\W\d]\(|[A-Za-z]\.[A-Za-z]{2}|[^\W\d]{2,}_|_[^\W\d_]{2,}|[=<>*]")
_SHORT_WORDS = words("yes no all one two six ten the not and new")
_CAPITAL = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")

_AROUND = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("*", "*"),
    ("```", "```"),
    ("`", "`"),
    ('"', '"'),
    ("“", "”"),
    ("'", "'"),
)
_KEEPS_PERIOD = re.compile(r"(?:[^\W\d_]\.[^\W\d_]{1,3}|\.|\A[^\w]*)\.\Z")  # `U.S.`, `0.3...`
_WRAPPED = re.compile(r"(?:\\(?:boxed|fbox|text|textrm|textbf|textit|mathrm|mathbf|mathit|mbox)\s*)?\{")
_GROUPED = re.compile(r"[-−]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")


def _trimmed(answer: str) -> str:
    """The answer as it is written, without what stands around the whole of it."""
    answer = answer.strip()
    if len(answer) > LONGEST or "\n" in answer:
        return answer
    before = None
    while answer != before:
        before, answer = answer, _peeled(answer).strip()
    if re.fullmatch(r"\+(?!\d{7})[\d.,]+", answer):
        answer = answer[1:]
    return answer.replace(",", "") if _GROUPED.fullmatch(answer) else answer


def _on_one_line(answer: str) -> str:
    return _trimmed(" ".join(answer.split("\n")))


def _peeled(answer: str) -> str:
    if (marker := re.match(_MARKER, answer)) and answer[marker.end() :].strip():
        answer = answer[marker.end() :]
    answer = answer.strip().rstrip(",;:")
    if answer.endswith(".") and not _KEEPS_PERIOD.search(answer):
        answer = answer[:-1]
    for opening, closing in _AROUND:
        inner = answer[len(opening) : -len(closing)]
        if answer != opening + inner + closing or opening in inner or closing in inner:
            continue
        if inner or opening[0] not in "*`":  # `**` is an answer
            return inner
    if (wrapper := _WRAPPED.match(answer)) and _closing(answer, wrapper.end()) == len(answer) - 1:
        inner = answer[wrapper.end() : -1]
        if wrapper[0] != "{" or "," not in inner:  # `{1,234}` is a set
            return inner
    if re.fullmatch(r"\([A-Za-z]\)", answer):
        return answer[1:-1]
    if answer.endswith("$") and answer.count("$") == 1:
        return answer[:-1]
    if answer[-1:] in (")", "]", "}") and not re.search(r"[(\[{]", answer):
        return answer[:-1]
    return answer
