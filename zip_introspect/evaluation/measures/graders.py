"""Graders: whether the text of a sample gives the expected answer.

Each is given the whole text. Ours leave its thinking out and read one and the same conclusion, `answers.conclusion`; of
a text that has none, the last number counts. What a grader cannot decide, such as a text that takes it too long, is
wrong.
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

from zip_introspect.answers import units
from zip_introspect.answers.extraction import conclusion, last_number, same, without_thinking
from zip_introspect.answers.quantities import Quantity, last_unit
from zip_introspect.answers.sentences import pair
from zip_introspect.errors import BackendNotInstalledError, ConfigError
from zip_introspect.evaluation.store.collecting import Grader

SPECIFICATIONS = "exact, numeric, numeric:TOLERANCE, math, regex:PATTERN, abacus, or package.module:function"

_REGEX_SECONDS = 1.0
_MATH_SECONDS = 5.0
_TOLERANCE = Fraction(1, 10**6)

_log = logging.getLogger(__name__)


def get(spec: str) -> Grader:
    r"""The grader of a name.

    - `exact`: the conclusion, or a text without one, is the expected answer in some spelling (`answers.key`);
    - `numeric`: the first number of the conclusion equals the expected one: whole numbers exactly, others within 1e-6
      (below 1, of the larger); `numeric:0.01` allows that share of the larger. A percentage equals a number with or
      without the hundredth. Two different units, or what cannot be read as one number for sure, are wrong;
    - `math`: the same number, or else the same mathematics, by the math-verify package, in 5 seconds;
    - `regex:PATTERN`: the first group, or all, of the pattern's last match is the expected answer in some spelling;
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
    given, wanted = conclusion(text), _wanted(expected)
    if given is not None:
        return same(given, wanted)
    return same(without_thinking(text), wanted) or same(last_number(text), wanted)


def _wanted(expected: str) -> str:
    """The conclusion of what is expected, where that is a whole solution."""
    return conclusion(expected) or expected


def _abacus(text: str, expected: str) -> bool:
    return text.rsplit("\n", 1)[-1].strip() == f"ans {expected}"


@dataclass(frozen=True)
class _Numeric:
    tolerance: Fraction | None = None

    def __call__(self, text: str, expected: str) -> bool:
        given, wanted = conclusion(text), _wanted(expected)
        if same(given, wanted):
            return True
        read = pair(given if given is not None else last_number(text) or "", wanted)
        return read is not None and self.equal(*read)

    def equal(self, found: Quantity, right: Quantity) -> bool:
        """Whether two quantities are one, as far as both say what they are."""
        shares = (found.unit == "%") + (right.unit == "%")
        if shares == 1:
            found, right = (found, right) if found.unit else (right, found)
            return not right.unit and any(self._equal(found.value * scale, right.value) for scale in _SCALES)
        return not found.conflicts(right) and self._equal(found.value, right.value)

    def _equal(self, a: Fraction, b: Fraction) -> bool:
        larger = max(abs(a), abs(b))
        if self.tolerance is not None:
            return abs(a - b) <= self.tolerance * larger
        return a == b or (
            not a.denominator == b.denominator == 1 and abs(a - b) <= _TOLERANCE * min(Fraction(1), larger)
        )


_SCALES = (Fraction(1), Fraction(1, 100))


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
        for match in self.pattern.finditer(without_thinking(text), timeout=_REGEX_SECONDS):  # noqa: B007 - the last one is wanted
            pass
        if match is None:
            return False
        found = match[1] if self.pattern.groups else match[0]
        return same(found, _wanted(expected))


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
        given, wanted = conclusion(text), _wanted(expected)
        if given is None:
            if (read := pair(last_number(text) or "", wanted)) and _NUMERIC.equal(*read):
                return True
            told = without_thinking(text).strip()
            return bool(told) and self._ask(_formula(told) if _BARE.fullmatch(told) else told, _formula(wanted))
        if same(given, wanted):
            return True
        if read := pair(given, wanted):
            return _NUMERIC.equal(*read)
        if units.conflict(last_unit(given), last_unit(wanted)):
            return False  # math-verify drops them
        return self._ask(_formula(given), _formula(wanted))

    def _ask(self, given: str, wanted: str) -> bool:
        with self._lock:
            if self._process.poll() is not None:
                self._process = self._start()
            late = threading.Timer(_MATH_SECONDS, _end, [self._process])
            late.start()
            try:
                self._process.stdin.write(json.dumps([given, wanted]) + "\n")
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
            [sys.executable, "-P", "-m", "zip_introspect.evaluation.measures.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        weakref.finalize(self, _close, process)
        if not process.stdout.readline():  # type: ignore[union-attr]
            raise ConfigError(f"math-verify does not start; see: {sys.executable} -c 'import math_verify'")
        return process


_NUMERIC = _Numeric()


_BARE = re.compile(r"(?:\\[A-Za-z]++|[^A-Za-z\\\n]|\\[^A-Za-z]|[A-Za-z](?![A-Za-z]))++")
"""A formula without a word of prose."""
_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,;:! ]|\{,\}|~)(?=\d{3}(?!\d))")


def _formula(answer: str) -> str:
    """An answer as math-verify finds it, thousands together: it reads `12\\,000` as 12 times 0."""
    answer = _THOUSANDS.sub("", answer)
    return answer if re.search(r"\$.*\$|\\\(|\\\[|\\boxed", answer) else f"\\boxed{{{answer}}}"


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def _close(process: subprocess.Popen[str]) -> None:
    _end(process)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # of a line that was never read
                pipe.close()
