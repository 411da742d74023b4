"""Graders tell right from wrong, and no text makes one raise or wait."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("math_verify", reason="the extra eval is not installed")
pytest.importorskip("pyarrow", reason="the extra eval is not installed")
pytest.importorskip("regex", reason="the extra eval is not installed")

from tests.spellings import SPELLINGS, Spelling, numbers
from zip_introspect.demo.problems import held_out
from zip_introspect.errors import ConfigError
from zip_introspect.evaluation.measures import graders

get = functools.cache(graders.get)  # the process of math takes seconds to start


@pytest.mark.parametrize(
    ("spec", "text", "expected", "right"),
    [
        ("exact", "It is \\boxed{1,000}.", "1000", True),
        ("exact", "so 7\n#### 7", "7", True),
        ("exact", "yes.", "yes", True),
        ("exact", "In 1990", "In 1990", True),
        ("exact", "7.0", "7", True),
        ("exact", "7.1", "7", False),
        ("exact", "", "7", False),
        ("numeric", "She pays $1,000.00 in total.", "1000", True),
        ("numeric", "The answer is 18 dollars.", "18", True),
        ("numeric", "\\boxed{12,\\!345}", "12345", True),
        ("numeric", "\\boxed{\\frac{3}{4}}", "0.75", True),
        ("numeric", "x = -\\dfrac{1}{3}", "-0.3333333", True),
        ("numeric", "1 1/2", "1.5", True),
        ("numeric", "1\\frac12 or 1\\frac{1}{2}", "1.5", True),
        ("numeric", "1.5e3", "1500", True),
        ("numeric", "−5", "-5", True),
        ("numeric", "75%", "0.75", True),
        ("numeric", "75%", "75", True),
        ("numeric", "75", "75%", True),
        ("numeric", "0.75", "75\\%", True),
        ("numeric", "7,500%", "75%", False),
        ("numeric", "10000001", "10000000", False),
        ("numeric", "1/0", "1", False),
        ("numeric", "none", "1", False),
        ("numeric", r"49\text{ cm}^2", r"36\text{ cm}^2", False),
        ("numeric", r"\boxed{49\text{ cm}^2}", r"36\text{ cm}^2", False),
        ("numeric", r"\boxed{18\text{ cm}^2}", "18", True),
        ("numeric", r"\boxed{18\text{ cm}^2}", "18 square centimeters", True),
        ("numeric", r"\boxed{18\text{ cm}^2}", r"18\text{ m}^2", False),
        ("numeric", r"\boxed{10^{5}}", "5", False),
        ("numeric", r"\boxed{10^{5}}", "100000", True),
        ("exact", "The answer is B. I hope it is correct.", "B", True),
        ("exact", "The answer is Paris. It is the capital.", "Paris", True),
        ("numeric", r"\boxed{12\,000}", "0", False),
        ("numeric", r"\boxed{12\,000}", "12000", True),
        ("numeric", r"\boxed{2\sqrt{3}}", "3", False),
        ("numeric", r"the area is $2\sqrt{3}$", "3", False),
        ("numeric", "5,1", "0,1", False),
        ("numeric", "#### 5,1", "1", False),
        ("numeric", "#### 18 dollars for 9 eggs", "18", True),
        ("numeric", "18 dollars for 9 eggs", "18", True),
        ("numeric", "#### 18 dollars for 9 eggs", "9", False),
        ("numeric", "- 3", "-3", True),
        ("numeric", "- 3", "3", False),
        ("numeric", r"\frac12", "0.5", True),
        ("numeric", "The answer is (-3)", "-3", True),
        ("numeric", "<think>Answer: 5? no.</think> The answer is 72.", "72", True),
        ("numeric", "<think>Answer: 72", "72", False),
        ("numeric", "Answer: She makes $18 every day at the market.", "18", True),
        ("numeric", "Answer: The 3 friends each pay $12", "3", False),
        ("numeric", "The answer is 5 or 6", "5", False),
        ("numeric", "The answer is not 5", "5", False),
        ("numeric", "The answer is 2 hours 30 minutes", "2", False),
        ("numeric", "The answer is 3x", "3", False),
        ("numeric", "The answer is 5 dozen", "5", False),
        ("numeric", "#### March 5", "April 5", False),
        ("numeric", "x = 3", "3", True),
        ("numeric", "x = 3", "y = 3", False),
        ("numeric", "1000000.5", "1000000", False),
        ("numeric", "123456789.12", "123456789.13", False),
        ("numeric", "10^{999999999}", "10^{999999998}", False),
        ("exact", "The answer is: 29, in total, so she pays that much", "$29.00", True),
        ("exact", "The capital is Paris. Answer: paris.", "Paris", True),
        ("exact", r"\boxed{\text{(B)}}", "B", True),
        ("exact", "#### 5,1", "5.1", False),
        ("exact", "<think>#### 7", "7", False),
        ("exact", "x<think>8</think>#### 7", "7", True),
        ("numeric:0.1", "109", "100", True),
        ("numeric:0.1", "120", "100", False),
        ("numeric:0", "0.5000001", "0.5", False),
        ("math", "$1+x$", "x+1", True),
        ("math", "\\boxed{0.5}", "\\frac{1}{2}", True),
        ("math", "so it is 72", "$72$", True),
        ("math", "2+3 = $<<2+3=5>>5\n#### 1,005", "1005", True),
        ("math", "\\boxed{(1, 2)}", "(2, 1)", False),
        ("math", "", "1", False),
        ("math", r"\boxed{6.6\times 10^{-34}}", r"1.6\times 10^{-19}", False),
        ("math", r"\boxed{(6.6\times 10^{-34}, 2)}", r"(1.6\times 10^{-19}, 2)", False),
        ("math", r"\boxed{10^{-20}x}", "10^{-21}x", False),
        ("math", r"so it is 6.6\times 10^{-34}", r"1.6\times 10^{-19}", False),
        ("math", "<think>Answer: 5? no.</think> The answer is 72.", "72", True),
        ("math", "<think>Answer: 72", "72", False),
        ("math", "The answer is (-3)", "-3", True),
        ("math", r"The answer is $2\sqrt{3}$ meters.", r"\sqrt{12}", True),
        ("math", "The answer is:\n\\[\n\\frac{\\sqrt{3}}{2}\n\\]", r"\frac{\sqrt{12}}{4}", True),
        ("math", r"\frac{\sqrt{3}}{2}", r"\frac{\sqrt{12}}{4}", True),
        ("math", r"2\sqrt{3}", "3", False),
        ("math", r"\boxed{12\,000\pi}", r"12000\pi", True),
        ("math", r"\boxed{12\,000\pi}", "0", False),
        ("math", r"\boxed{\frac{1}{3}}", "0.333333", True),
        ("math", r"\boxed{\sqrt{2}}", "1.414214", True),
        ("math", r"\boxed{\sqrt{2}}", "1.4142", False),
        ("math", "The answer is 29 dollars in total", "29", True),
        (r"regex:answer=(\w+)", "answer=a answer=b", "b", True),
        (r"regex:answer=(\w+)", "answer=a answer=b", "a", False),
        (r"regex:\d+", "1, then 22", "22", True),
        (r"regex:a|(b)", "a", "a", False),
        ("regex:x", "", "x", False),
        (r"regex:\S+$", "it is $29.00", "29", True),
        (r"regex:\d+", "<think>22", "22", False),
        ("abacus", "2x=20\nans 10", "10", True),
        ("abacus", "ans 10\n2x=20", "10", False),
        ("operator:eq", "a", "a", True),
        ("operator:eq", "a", "b", False),
    ],
)
def test_right_is_told_from_wrong(spec: str, text: str, expected: str, right: bool) -> None:
    assert get(spec)(text, expected) is right


def test_abacus_grades_as_its_task_does() -> None:
    grade = graders.get("abacus")
    for problem in held_out(0, 20):
        for text in (f"work\nans {problem.answer}", f"work\nans {problem.answer}1", f"ans {problem.answer}\n"):
            assert grade(text, problem.answer) == problem.grade(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Final Answer: The final answer is $5$. I hope it is correct.", "5"),
        ("The answer is 18! Great.", "18"),
        ("The answer is 7. I hope it is 100% correct.", "7"),
        ("The answer is x = 5. We check: 2*5=10.", "5"),
        ("18 dollars for 9 eggs", "18"),
        ("The answer is 5 (in Paris)", "5"),
        ("The answer is 5 pages a day", "5"),
        ("Answer: Janet makes $18 every day.", "18"),
        ("Answer: therefore the total cost is 5 dollars", "5"),
        (r"\boxed{5\text{ million}}", "5000000"),
        ("So it adds up to 5", "5"),
        ("For a total of $5.", "5"),
        ("So they have 5 in total.", "5"),
        ("So she has **5** apples.", "5"),
        ("Answer: **5** apples", "5"),
        ("Answer: The number of red apples is 5", "5"),
        ("So they sold 5 pairs of shoes.", "5"),
        ("So 5 incorrect answers.", "5"),
    ],
)
def test_a_comment_on_a_number_leaves_it(text: str, number: str) -> None:
    assert get("numeric")(text, number) is True


WRONG = [
    *[(text, "5") for text in (
        "5 is wrong", "5 is not the answer", "5, wait, it is 6", "5. Actually it is 6", "5 at least",
        *(rf"\boxed{{5\text{{{word}}}}}" for word in ("th", "st", "nd", "rd", "k", "e", "i", " million", "x")),
        *(f"The answer is 5 {words}" for words in (
            "mil", "mln", "bil", "lakh", "crore", "grand", "gross", "score", "doz", "tens", "doubled", "tripled",
            "choose two", "times six", "hours thirty minutes", "feet six inches", "is wrong", "is not right", "or 6",
        )),
        *(f"{begin} {words} 5" for begin in ("The answer is", "So it is") for words in (
            "the square of", "the cube of", "the reciprocal of", "the opposite of", "the absolute value of", "all but",
            "never", "not", "up to", "the first prime after", "10 choose", "undefined at", "the loss of", "twenty",
            "less than", "impossible since she has",
        )),
        *(f"Answer: it {words} 5" for words in ("isn't", "exceeds", "never is")),
        *(f"So x {words} 5" for words in ("isn't", "exceeds", "never is")),
        "The answer is March 5", "The answer is Apollo 5", "So it is |-5|.", "It is -(-5)",
    )],
    ("12 so 13", "12"), ("101 in binary", "101"), ("20 in base 3", "20"), (r"\boxed{3\mathrm{i}}", "3"),
    ("So it is 1.500.000.", "1.5"), ("The value is 10^3.5.", "1000"), ("On 5.12.2020", "5.12"),
    ("192.168.1.1", "192.168"), ("version is 3.10.2", "3.1"), ("It is |-5|", "-5"), ("It is -(-5)", "-5"),
    ("It is (3,500)", "3500"), (r"\boxed{(3,500)}", "3500"), ("5 mg", "5 Mg"), ("5 ms", "5 Ms"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "number"), WRONG)
def test_what_may_be_another_number_is_wrong(text: str, number: str) -> None:
    assert get("numeric")(text, number) is False
    assert get("exact")(text, number) is False


@pytest.mark.parametrize("spec", ["exact", "numeric", "math"])
@given(
    numbers(), st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS), st.sampled_from(["{}", "#### {}", "Answer: {}"])
)
def test_every_spelling_of_a_number_is_right_and_its_neighbours_are_wrong(
    spec: str, number: Decimal, spelt: Spelling, otherwise: Spelling, sentence: str
) -> None:
    grade = get(spec)
    assert grade(sentence.format(spelt(number)), otherwise(number))
    for neighbour in (number + 1, number * 10, -number, number / 10):
        if neighbour != number:
            assert not grade(sentence.format(spelt(number)), otherwise(neighbour))
            assert not grade(sentence.format(otherwise(neighbour)), spelt(number))


CONCLUSIONS = (
    r"29 29% 0.29 5,1 5.1 2\sqrt{3} 3 \sqrt{12} 18\text{cm}^2 18\text{m}^2 18 10^{5} x=3 y=3 (1,2) \{1,2\} x+1 1+x "
    r"1<x<2 \frac12 0.5 6.6\times10^{-34} 1.6\times10^{-19} \text{Paris} paris (B) 3x 2x+z=1 1 \frac{1}{0} "
    r"2516_8 0.333333 1/3"
)


@pytest.mark.parametrize("spec", ["exact", "numeric", "numeric:0.01", "math"])
def test_graders_are_symmetric_on_conclusions(spec: str) -> None:
    grade, conclusions = get(spec), CONCLUSIONS.split()
    right = {(a, b): grade(f"\\boxed{{{a}}}", b) for a in conclusions for b in conclusions}
    assert [pair for pair, verdict in right.items() if verdict != right[pair[::-1]]] == []
    assert all(right[a, a] for a in conclusions if a != r"\frac{1}{0}")


@given(st.text(max_size=12), st.text(max_size=12))
def test_exact_and_numeric_are_symmetric_on_any_conclusions(one: str, other: str) -> None:
    for spec in ("exact", "numeric"):
        verdicts = [get(spec)(f"#### {a}", f"#### {b}") for a, b in ((one, other), (other, one))]
        assert verdicts[0] == verdicts[1]


@given(st.integers(), st.integers(1, 999), st.sampled_from(["{}", "So it is ${}.", "\\boxed{{{}}}", "3 of 4\n#### {}"]))
def test_a_number_is_equal_to_itself_however_it_is_written(above: int, below: int, sentence: str) -> None:
    value = Fraction(above, below)
    for written in (str(value), f"{above}/{below}", *([f"{above:,}"] if below == 1 else [])):
        assert get("numeric")(sentence.format(written), str(value))
    assert not get("numeric")(sentence.format(value + 1), str(value)) or abs(value) > 10**5


HOSTILE = [
    "{" * 50_000,
    "\\boxed{" * 5_000,
    "\\boxed{" + "{" * 5_000 + "}" * 5_000 + "}",
    "\\frac{" * 5_000,
    "1" * 100_000,
    "1 " * 100_000,
    "1," * 100_000,
    "-" * 100_000,
    "#### " * 50_000,
    "the " * 50_000 + "answer" + "*" * 50_000,
    " " * 200_000,
    "1" + " " * 200_000 + "x",
    "<think>" * 50_000,
    "#### 1e999999999",
    "\\boxed{9^{9^{9^{9}}}}",
    "\\boxed{(10^9)!}",
    "\ud800\x00",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12].encode("ascii", "replace"))
@pytest.mark.parametrize("spec", ["exact", "numeric", r"regex:(a|a)*(\d+)$", "abacus"])
def test_a_hostile_text_is_wrong_and_soon(spec: str, text: str) -> None:
    began = time.monotonic()
    assert graders.get(spec)(text, "72") is False
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "text",
    ["\\boxed{(10^9)!}", "\\boxed{" + "{" * 5_000 + "}" * 5_000 + "}", "\ud800\x00"],
    ids=["factorial", "braces", "surrogate"],
)
def test_mathematics_without_end_is_wrong_and_the_next_text_is_graded(text: str) -> None:
    assert get("math")(text, "72") is False
    assert get("math")("\\boxed{72}", "72") is True


@given(st.text(), st.text())
def test_no_text_raises(text: str, expected: str) -> None:
    for spec in ("exact", "numeric", r"regex:(\S+)\s*$", "abacus"):
        assert graders.get(spec)(text, expected) in (True, False)


def test_a_pattern_that_backtracks_without_end_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    grade = graders.get(r"regex:^(\w+\s?)*$")
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert grade("a" * 60 + "!", "a") is False
        assert grade("b" * 60 + "!", "a") is False
    assert time.monotonic() - began < 10
    assert caplog.text.count("such texts count as wrong") <= 1


@pytest.mark.parametrize("function", ["operator:truediv", "operator:add", "builtins:print"])
def test_a_function_that_fails_is_wrong_and_said_once(function: str, caplog: pytest.LogCaptureFixture) -> None:
    grade = graders.get(function)
    with caplog.at_level(logging.WARNING):
        assert [grade("a", "b"), grade("a", "b")] == [False, False]
    assert caplog.text.count(f"the grader {function} failed") == 1


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "no grader ''; expected exact, numeric"),
        ("exactly", "no grader 'exactly'"),
        ("numeric:much", "tolerance of numeric is 'much'"),
        ("numeric:nan", "tolerance of numeric is 'nan'"),
        ("regex:(", "does not compile"),
        ("no.such.module:grade", "cannot be imported.*ModuleNotFoundError"),
        ("operator:nothing", "cannot be imported.*AttributeError"),
        (":grade", "cannot be imported"),
        ("math:pi", "is a float; expected a function"),
        ("operator:neg", "does not take a text and the expected answer"),
    ],
)
def test_what_is_no_grader_is_refused(spec: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        graders.get(spec)


def test_math_ends_its_process() -> None:
    grade: Callable[[str, str], bool] = graders.get("math")
    process = grade.grade._process  # type: ignore[attr-defined]
    assert process.poll() is None
    del grade
    assert process.poll() is not None
