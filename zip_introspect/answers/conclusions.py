"""Where the sentence that says an answer ends, in a line that goes on: `5. I hope it is correct.`"""

from __future__ import annotations

import re

_MARK = re.compile(
    r"\\\$|\$(?!\d)[^$]*+\$|\$(?:[^$.!?]|[.!?](?!\s+[A-Z]))*+\$|(?P<open>[(\[{])|(?P<close>[)\]}])"
    r"|(?P<end>[.!?](?P<closers>[*\"”’')\]$]{0,4})(?=\s+[\"“‘(*]{0,3}[A-Z]))"
)
_BEGINNING = re.compile(r"\W*")
_ABBREVIATED = re.compile(
    r"(?:(?:^|[\s(.])(?:Dr|Mr|Mrs|Ms|St|Ste|Prof|Jr|Sr|vs|Mt|Ft|Gen|Capt|Lt|Col|Sgt|Rev|Hon|Gov|Sen|Rep|Inc|Ltd|Co|Corp"
    r"|approx|etc|cf|Fig|Eq)|\w\.\w)\Z"
)
_INITIAL = re.compile(r"(?:^|[\s(.*])[A-Z]\Z")
_OPENER = re.compile(
    r"[\s\"“‘(*]+(?:I|It|The|This|That|These|Those|There|We|He|She|They|You|My|Our|Its|His|Her|Hope|Great|So|Thus|Therefore"
    r"|Hence|Because|Since|As|If|In|For|To|Let|Note|Thank|Thanks|Here|Please|Option|Options|Choice|Answer|Both|All|A|An)\b"
)
_RETRACTED = re.compile(
    r"[\s\"“‘(*]+(?:No|But|However|Hmm|Or|Not|Alternatively|Oops|Sorry|Nope|Rather|Instead)\b"
    r"|.*?\b(?i:wait|actually|correction|mistake|(?:that|this|it) (?:is|was) (?:wrong|incorrect|not))\b"
)


def first_sentence(line: str) -> str:
    """The first sentence of a line, without its mark; the whole line where the next takes it back, or none ends.

    A sentence ends at `.`, `!` or `?` before space and a capital, outside of brackets and of `$...$`, and not behind an
    abbreviation (`U.S.`, `Dr.`) or an initial (`J. K. Rowling`).
    """
    depth, begin = 0, _BEGINNING.match(line).end()  # type: ignore[union-attr]
    for mark in _MARK.finditer(line):
        if mark["open"]:
            depth += 1
        elif mark["close"]:
            depth = max(0, depth - 1)
        elif mark["end"] and depth == 0 and begin < mark.start() and _ends(line, mark.start(), mark.end()):
            return line if _RETRACTED.match(line, mark.end()) else line[: mark.start()] + mark["closers"]
    return line


def _ends(line: str, begin: int, end: int) -> bool:
    """Whether the mark between two places of a line ends a sentence."""
    before = line[max(0, begin - 20) : begin]
    if before.endswith(".") or _ABBREVIATED.search(before):
        return False
    return _INITIAL.search(before) is None or _OPENER.match(line, end) is not None
