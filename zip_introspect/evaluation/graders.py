"""Graders: whether the text of a sample gives the expected answer. Each is given the whole text.

What a grader cannot decide, such as a text that takes it too long, is wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import logging
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import regex

from zip_introspect.answers import boxed, default_extractor, first_of, hashes, marked, normalize
from zip_introspect.errors import BackendNotInstalledError, ConfigError
from zip_introspect.evaluation.collecting import Grader

SPECIFICATIONS = "exact, numeric, numeric:TOLERANCE, math, regex:PATTERN, abacus, or package.module:function"

_REGEX_SECONDS = 1.0
_MATH_SECONDS = 5.0
_TOLERANCE = Fraction(1, 10**6)
_LONGEST_NUMBER = 1000

_NUMERAL = re.compile(
    r"(?<![\w.])(?P<sign>[-+−]?)\$?"
    r"(?:(?:(?P<whole>\d+)\s+)?(?P<above>\d+)\s*/\s*(?P<below>\d+)"
    r"|(?P<decimal>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d))?|\.\d+))"
    r"(?P<percent>\s*(?:\\?%|percent\b))?"
)
_conclusion = first_of(boxed, hashes, marked)
_log = logging.getLogger(__name__)


def get(spec: str) -> Grader:
    r"""The grader of a name.

    - `exact`: the answer that the default extractor finds, or the whole text, equals the expected one, both normalised;
    - `numeric`: the last number of the conclusion (or of the text, where there is none) equals the expected one: whole
      numbers exactly, others within 1e-6 of the larger; `numeric:0.01` holds all to that. It reads `1,000`, `3/4`,
      `1 1/2`, `\frac{3}{4}` and `75%`; a percentage equals a number with or without the hundredth;
    - `math`: the same mathematics, by the math-verify package, in 5 seconds;
    - `regex:PATTERN`: the first group, or all, of the pattern's last match equals the expected answer, both normalised;
    - `abacus`: the last line is `ans` and the expected answer;
    - `package.module:function`: yours; it takes the text and the expected answer and gives True or False.

    No grader raises: what fails is wrong, and the first failure of each is logged.

    Raises:
        ConfigError: none of these, a pattern that does not compile, or a function that cannot be imported or called.
        BackendNotInstalledError: math-verify is missing; the message holds the pip command.
    """
    name, _, detail = spec.partition(":")
    grade: Callable[[str, str], Any]
    if spec == "exact":
        grade = _exact
    elif spec == "numeric":
        grade = _Numeric()
    elif name == "numeric":
        grade = _Numeric(_tolerance(detail))
    elif spec == "math":
        grade = _Math()
    elif name == "regex":
        grade = _Pattern(_compiled(detail))
    elif spec == "abacus":
        grade = _abacus
    elif detail:
        grade = _imported(name, detail)
    else:
        raise ConfigError(f"there is no grader {spec!r}; expected {SPECIFICATIONS}")
    return _Lenient(spec, grade)


@dataclass
class _Lenient:
    """A grader whose failures are wrong answers; the first of them is logged."""

    name: str
    grade: Callable[[str, str], Any]
    failed: bool = False

    def __call__(self, text: str, expected: str) -> bool:
        try:
            verdict = self.grade(text, expected)
            if verdict not in (True, False):
                raise TypeError(f"it gave {repr(verdict)[:80]}; expected True or False")
        except Exception as error:  # noqa: BLE001 - whatever a text does to a grader, the run goes on
            if not self.failed:
                reason = f"{type(error).__name__}: {error}"
                _log.warning("the grader %s failed, and such texts count as wrong (%s)", self.name, reason[:200])
            self.failed = True
            return False
        return bool(verdict)


def _exact(text: str, expected: str) -> bool:
    return normalize(expected) in (normalize(default_extractor(text) or ""), normalize(text))


def _abacus(text: str, expected: str) -> bool:
    return text.rsplit("\n", 1)[-1].strip() == f"ans {expected}"


@dataclass(frozen=True)
class _Numeric:
    tolerance: Fraction | None = None

    def __call__(self, text: str, expected: str) -> bool:
        wanted, given = _number(expected), _number(text)
        if wanted is None or given is None:
            return False
        (right, right_percent), (found, found_percent) = wanted, given
        if right_percent == found_percent:
            return self._equal(found, right)
        scale = Fraction(1, 100) if found_percent else Fraction(100)
        return self._equal(found, right) or self._equal(found * scale, right)

    def _equal(self, a: Fraction, b: Fraction) -> bool:
        if self.tolerance is None and a.denominator == b.denominator == 1:
            return a == b
        tolerance = _TOLERANCE if self.tolerance is None else self.tolerance
        return abs(a - b) <= tolerance * max(abs(a), abs(b))


def _number(text: str) -> tuple[Fraction, bool] | None:
    """The last number of a text's conclusion, and whether it is a percentage."""
    plain = (_conclusion(text) or text).replace("\\!", "").replace("{,}", ",")
    plain = re.sub(r"(?<=\d)(?=\\[dt]?frac)", " ", plain)
    plain = re.sub(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", plain)
    match = None
    for match in _NUMERAL.finditer(plain):  # noqa: B007 - the last one is wanted
        pass
    if match is None or len(match[0]) > _LONGEST_NUMBER:
        return None
    if match["decimal"]:
        value = Fraction(match["decimal"].replace(",", ""))
    elif int(match["below"]):
        value = int(match["whole"] or 0) + Fraction(int(match["above"]), int(match["below"]))
    else:
        return None
    return (-value if match["sign"] in ("-", "−") else value), match["percent"] is not None


def _tolerance(text: str) -> Fraction:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise ConfigError(f"the tolerance of numeric is {text!r}; expected a number from 0 to 1, as in numeric:0.01")
    return Fraction(value)


@dataclass(frozen=True)
class _Pattern:
    pattern: regex.Pattern[str]

    def __call__(self, text: str, expected: str) -> bool:
        match = None
        for match in self.pattern.finditer(text, timeout=_REGEX_SECONDS):  # noqa: B007 - the last one is wanted
            pass
        if match is None:
            return False
        found = match[1] if self.pattern.groups else match[0]
        return found is not None and normalize(found) == normalize(expected)


def _compiled(pattern: str) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ConfigError(f"the pattern {pattern!r} does not compile: {error}") from error


def _imported(module: str, name: str) -> Callable[[str, str], Any]:
    spec = f"{module}:{name}"
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module's own code runs here
        raise ConfigError(
            f"the grader {spec!r} cannot be imported ({type(error).__name__}: {error}); expected {SPECIFICATIONS}"
        ) from error
    if not callable(found):
        raise ConfigError(f"the grader {spec!r} is a {type(found).__name__}; expected a function")
    try:
        inspect.signature(found).bind("", "")
    except TypeError as error:
        raise ConfigError(f"the grader {spec!r} does not take a text and the expected answer: {error}") from error
    return found  # type: ignore[no-any-return]


class _Math:
    """math-verify in a process, which is ended when a text takes it too long: sympy cannot be interrupted within."""

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise BackendNotInstalledError(
                "the grader math needs the module 'math_verify', which is not installed. "
                'Install it with: pip install "zip-introspect[eval]"'
            )
        self._lock = threading.Lock()
        self._process = self._start()

    def __call__(self, text: str, expected: str) -> bool:
        if "\\boxed" not in text and (found := hashes(text)):  # a convention that math-verify does not know
            text = f"\\boxed{{{found}}}"
        with self._lock:
            if self._process.poll() is not None:
                self._process = self._start()
            late = threading.Timer(_MATH_SECONDS, _end, [self._process])
            late.start()
            try:
                self._process.stdin.write(json.dumps([text, expected]) + "\n")
                self._process.stdin.flush()
                reply = self._process.stdout.readline()
            finally:
                late.cancel()
                late.join()
            if not reply:
                _end(self._process)
                raise TimeoutError(f"math-verify gave up, or took more than {_MATH_SECONDS:g} seconds")
            return bool(json.loads(reply))

    def _start(self) -> Any:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "zip_introspect.evaluation.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        weakref.finalize(self, _close, process)
        if not process.stdout.readline():  # type: ignore[union-attr]
            raise ConfigError(f"math-verify does not start; see: {sys.executable} -c 'import math_verify'")
        return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def _close(process: subprocess.Popen[str]) -> None:
    _end(process)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # of a line that was never read
                pipe.close()
