"""Units in one spelling: `cm^2` for `square centimeters` and `cm²`, `$` for dollars, `%` for percent."""

from __future__ import annotations

import re


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


SIGNS = "€£¥₹"
"""Of money, written before a number. The dollar's is apart: LaTeX writes plain numbers between them too."""

LETTERS = frozenset("mgshLl")
"""Units that stand as one letter; any other may be a variable."""

_GLUED = words(
    "cm mm km nm kg mg ml mL ft in yd mi lb lbs oz hr hrs min mins sec secs ms mph kmh kph am pm AM PM "
    "KB MB GB TB kB Hz kHz MHz GHz kW kWh"
)

_CAPITALISED = words("Hz Pa Wh Ah Wb Gy Sv Bq Celsius Fahrenheit Kelvin Joules Newtons Watts")
_SYMBOLS = LETTERS | frozenset("NWAVJC")

_PHRASES = {
    **dict.fromkeys(("$", "us$", "dollar", "dollars", "usd", "us dollar", "us dollars"), "$"),
    **dict.fromkeys(("cent", "cents", "¢"), "¢"),
    **dict.fromkeys(("euro", "euros", "eur"), "€"),
    **dict.fromkeys(("gbp",), "£"),
    **dict.fromkeys(("percent", "per cent"), "%"),
    **dict.fromkeys(("degree", "degrees"), "°"),
    **dict.fromkeys(("mph", "mi per h"), "mi/h"),
    **dict.fromkeys(("kmh", "kph", "km per h"), "km/h"),
    "m per s": "m/s",
}
_WORDS = {
    **{word + "s" * plural: unit for plural in (False, True) for word, unit in (
        ("millimeter", "mm"), ("centimeter", "cm"), ("meter", "m"), ("kilometer", "km"),
        ("millimetre", "mm"), ("centimetre", "cm"), ("metre", "m"), ("kilometre", "km"),
        ("milligram", "mg"), ("gram", "g"), ("kilogram", "kg"), ("ounce", "oz"), ("lb", "lb"),
        ("milliliter", "mL"), ("liter", "L"), ("millilitre", "mL"), ("litre", "L"),
        ("yard", "yd"), ("mile", "mi"), ("hour", "h"), ("hr", "h"), ("minute", "min"), ("min", "min"),
        ("second", "s"), ("sec", "s"),
    )},
    **dict.fromkeys(("in", "inch", "inches"), "inch"),
    **dict.fromkeys(("foot", "feet"), "ft"),
    "ml": "mL",
    "l": "L",
}  # fmt: skip
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}


def may_be_glued(word: str) -> bool:
    """Whether a unit may stand right behind a number: `5cm`. Other letters there are factors: `5ab`."""
    return word in _GLUED or (len(word) > 2 and word.lower() in _WORDS)


def is_name(word: str) -> bool:
    """Whether a capital makes a word part of a name and no unit: `12 Years`, `8 Mile`, `50 Cent`."""
    return word[:1].isupper() and word[1:2].islower() and word not in _GLUED and word not in _CAPITALISED


def may_be_text(word: str) -> bool:
    """Whether LaTeX's upright text behind a number may be a unit: `\\text{cm}` and `\\text{N}`, not `\\text{th}`."""
    return word in _SYMBOLS if len(word) == 1 and word.isalpha() else word not in _SUFFIXES


_SUFFIXES = words("st nd rd th")


def unit(phrase: list[str]) -> str:
    """One spelling of the words, `square` and `cubic` and powers included."""
    found: list[str] = []
    power = ""
    for word in phrase:
        if word.lower() in _POWERS and word != phrase[-1]:
            power = _POWERS[word.lower()]
            continue
        found.append(re.sub(r"[^\W\d_]+", _spelt, word) + power)
        power = ""
    said = " ".join(found)
    return _PHRASES.get(said.lower(), said)


def _spelt(part: re.Match[str]) -> str:
    """Long words in any case, symbols as they are: `ML` is not `ml`."""
    word = part[0] if len(part[0]) < 4 else part[0].lower()
    return _WORDS.get(word, part[0])


def conflict(one: str, other: str) -> bool:
    """Whether both are units, and not the same; `hour` is the same as `hours`."""
    return bool(one and other) and _singular(one) != _singular(other)


def _singular(phrase: str) -> str:
    phrase = re.sub(r"[^\W\d_]{4,}", lambda word: word[0].lower(), phrase)
    return re.sub(r"(?<=[^\W\d_]{3})s\b", "", phrase)
