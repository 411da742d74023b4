"""Numbers as people and models write them, read exactly or not at all.

Digits may be grouped (`12,000`, `12\\,000`, `12{,}000`, `12'000`, `12_000`, or by a thin or unbreakable space), and a
number may be a decimal, a fraction (`3/4`, `\\frac34`), a mixed number (`1 1/2`), a power (`10^{5}`) or scientific
(`6.6\\times 10^{-34}`, `1e5`). A plain space does not group: `2 300` are two numbers.
A comma between digits groups thousands and is never a decimal point: `5,1` is no number. What would have more than a
thousand digits is no number either, so that no text makes its reader work or wait. All patterns are linear.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MOST_DIGITS = 1000
"""Of a number, and the largest power of ten in it."""

THIN = "\u2009"
"""Stands for every space that may stand within a number: narrow, unbreakable, or LaTeX's."""

_MOST_ZEROS = 15  # a number with more of them beside its digits is written with an exponent

_CHARACTERS = {
    **{ord(mark): "-" for mark in "−–‐‑‒﹣"},
    **{ord(mark): THIN for mark in "\u00a0\u2002\u2003\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"},
    **{ord(mark): None for mark in "\u200b\u2060\ufeff"},
    **{ord(mark): "×" for mark in "·⋅∙✕✖"},
    **{ord(mark): "'" for mark in "’ʼ"},
    **{ord(mark): "°" for mark in "º˚"},
    **{ord(mark): "/" for mark in "⁄∕"},
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # fullwidth
    **{ord(mark): " " + unicodedata.normalize("NFKC", mark).replace("⁄", "/") + " " for mark in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
    ord("٫"): ".",
    ord("٬"): ",",
    ord("٪"): "%",
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_LATEX = re.compile(
    r"\\[!]|(?P<comma>\{,\})|(?P<space>\\[,;: ]|(?<=[\w{}])~(?=[\w\\])|\\thinspace\b|\\q?quad\b)|(?P<sign>\\[$%#])"
    r"|(?P<times>\\(?:times|cdot|ast)(?![A-Za-z]))|\\(?:left|right|displaystyle)(?![A-Za-z])"
    r"|(?P<frac>\\[dtc]frac(?![A-Za-z]))|(?P<degree>\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z]))"
)

_TEXTUAL_SCALE = re.compile(
    r"\\(?:text|textrm|mathrm|mbox)\s*\{\s*(hundred|thousand|million|billion|trillion)\b([^{}]*)\}", re.IGNORECASE
)
_CALCULATION = re.compile(r"<<[^<>]*+>>")  # GSM8K's notes within a solution


def plain(text: str) -> str:
    """The text with one sign for what has many: digits, minus signs, spaces, times, `\\frac`, escaped `$` and `%`."""
    if not text.isascii():
        text = re.sub("[⁰¹²³⁴-⁹⁻⁺]+", lambda found: "^{" + found[0].translate(_SUPERSCRIPTS) + "}", text)
        text = text.translate(_CHARACTERS)
        text = "".join(str(unicodedata.decimal(mark)) if mark.isdecimal() else mark for mark in text)
    if "<<" in text:
        text = _CALCULATION.sub("", text)
    if "\\" in text:
        text = _TEXTUAL_SCALE.sub(r" \1 \\text{\2}", text)
    return _LATEX.sub(_simpler, text) if "\\" in text or "{" in text or "~" in text else text


def _simpler(match: re.Match[str]) -> str:
    to = {"comma": ",", "space": THIN, "times": "×", "frac": "\\frac", "degree": "°"}
    return match[0][1:] if match.lastgroup == "sign" else to.get(match.lastgroup or "", "")


def _pattern() -> str:
    whole = rf"(?:[1-9]\d{{0,2}}(?:(?:,\d{{3}})++|(?:{THIN}\d{{3}})++|(?:['_]\d{{3}})++)(?!\d)|\d++)"
    decimal = rf"(?:{whole}(?:\.\d++)?|\.\d++)"
    return (
        rf"(?P<number>(?:(?P<factor>{decimal})\s*[×*x]\s*(?=10\s*[\^*]))?(?P<base>\d++)\s*(?:\^|\*\*)\s*"
        rf"(?:\{{\s*(?P<braced>[-+]?\s*\d{{1,9}})\s*\}}|\((?P<within>[-+]?\d{{1,9}})\)|(?P<bare>[-+]?\d{{1,9}}(?!\d)))"
        rf"|(?:(?P<before>\d++)\s*)?\\frac\s*(?:\{{\s*(?P<top>-?{decimal})\s*\}}|(?P<top1>\d))"
        rf"\s*(?:\{{\s*(?P<bottom>-?{decimal})\s*\}}|(?P<bottom1>\d))"
        rf"|(?:(?P<units>\d++)\s++)?(?P<above>{decimal})\s*/\s*(?P<below>-?{decimal})"
        rf"|(?P<decimal>{decimal})(?:[eE](?P<exponent>[-+]?\d{{1,9}})(?!\w|\.\d))?)"
        rf"(?:\s*(?P<scale>(?i:hundred|thousand|million|billion|trillion))\b)?"
    )


PATTERN = _pattern()
"""What a number without its sign looks like in plain text."""

_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def value(match: re.Match[str]) -> Fraction | None:
    """The number that `PATTERN` found, or None where it is too long or none: `1/0`, `1 3/2`."""
    if len(match[0]) > MOST_DIGITS:
        return None
    found = _unscaled(match)
    scale = match["scale"]
    return found if found is None or scale is None else found * _SCALES[scale.lower()]


def _unscaled(match: re.Match[str]) -> Fraction | None:
    if match["base"] is not None:
        exponent = int(re.sub(r"\s", "", match["braced"] or match["within"] or match["bare"]))
        base = int(match["base"])
        if abs(exponent) * len(match["base"]) > MOST_DIGITS or (base == 0 and exponent <= 0):
            return None
        return (_decimal(match["factor"]) if match["factor"] else 1) * Fraction(base) ** exponent
    if match["decimal"] is not None:
        exponent = int(match["exponent"] or 0)
        return None if abs(exponent) > MOST_DIGITS else _decimal(match["decimal"]) * Fraction(10) ** exponent
    above = match["top"] or match["top1"] or match["above"]
    below = _decimal(match["bottom"] or match["bottom1"] or match["below"])
    whole = match["before"] or match["units"]
    if below == 0:
        return None
    part = _decimal(above) / below
    if whole is None:
        return part
    mixed = 0 < part < 1 and not above.startswith("0")
    return int(whole) + part if mixed else None


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[,\s'_]", "", text))


def written(number: Fraction) -> str:
    """The one way in which a number is shown: `12000`, `0.75`, `1/3`, `6.6e-34`. Never rounded."""
    sign, above, below = "-" * (number < 0), abs(number.numerator), number.denominator
    places, rest = 0, below
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        places = max(places, count)
    if rest != 1:
        return f"{sign}{above}/{below}"
    digits = str(above * 10**places // below)
    stripped = digits.rstrip("0")
    if stripped and (len(digits) - len(stripped) > _MOST_ZEROS or places - len(digits) > _MOST_ZEROS):
        mantissa = stripped[0] + ("." + stripped[1:] if stripped[1:] else "")
        return f"{sign}{mantissa}e{len(digits) - 1 - places}"
    if places:
        digits = digits.zfill(places + 1)
        return f"{sign}{digits[:-places]}.{digits[-places:]}"
    return sign + digits
