from __future__ import annotations

import random
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.answers.answer_groups import APART, ONE_ANSWER
from tests.spellings import SPELLINGS, Spelling, numbers
from zip_introspect.answers.extraction import (
    after_marker,
    boxed,
    canonical,
    conclusion,
    default_extractor,
    extract,
    first_of,
    hashes,
    key,
    last_number,
    marked,
    same,
    without_thinking,
)
from zip_introspect.demo.embedded import DEMO_EXTRACTOR
from zip_introspect.demo.equations import TIERS, sample
from zip_introspect.demo.solver import FallibleSolver
from zip_introspect.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so x is 12, no, 10.", "10"),
        ("costs $1,234.50 in all", "1234.50"),
        ("3-5 gives -2", "-2"),
        ("half, that is 1/2", "1/2"),
        ("no number here", None),
        ("see v2beta or x3", None),
        ("29 apples on the 3rd day", "29"),
        (r"the area is $49\text{ cm}^2$", "49"),
        (r"it is 2\sqrt{3}", None),
        (r"it is $10^{5}$", "10^{5}"),
        ("so 2 + 3", None),
        ("the roots are 2, 3", None),
        ("at 12:30", None),
        (r"12\,000 people", "12000"),
        ("75% of them", "75%"),
        ("<think>7</think>", None),
        ("", None),
    ],
)
def test_last_number(text: str, answer: str | None) -> None:
    assert last_number(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"\boxed{3} then \boxed{ 4 }", "4"),
        (r"\boxed{never closed", None),
        (r"\boxed{}", None),
        (r"\boxed {7}", "7"),
        (r"$\boxed 7$", "7"),
        (r"\fbox{7}", "7"),
        ("\\boxed{\n7\n}", "7"),
        (r"<think>\boxed{3}</think> none", None),
        ("none", None),
    ],
)
def test_boxed(text: str, answer: str | None) -> None:
    assert boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3*10=30. 30+5=35 ok. ans 10", "10"),
        ("ans 3\nans 7", "7"),
        ("The answer is **42**.", "42"),
        ("Answer: x = 3", "x = 3"),
        ("**Answer: x**", "x"),
        ("**Answer:** **x**", "x"),
        ("*The answer is 42.*", "42"),
        ("The answer is **kwargs", "**kwargs"),
        ("Final answer: +5", "5"),
        ("the fans 7 were", None),
        ("To get the answer we add 3 and 4, which gives 7", None),
        ("answer:", None),
        ("The answer is: 42", "42"),
        ("**Final Answer:** 42", "42"),
        ("The answer is:\n\\[\n\\frac{1}{2}\n\\]", r"\frac{1}{2}"),
        ("<think>Answer: 5? no.</think> The answer is 72.", "72"),
        ("<think>Answer: 5", None),
    ],
)
def test_marked(text: str, answer: str | None) -> None:
    assert marked(text) == answer


def test_a_marker_of_ones_own_takes_the_rest_of_its_last_line() -> None:
    extract = after_marker(r"(?m)^=> ")
    assert extract("=> a\n=> b c \nmore") == "b c"
    assert extract("nothing") is None


def test_the_default_prefers_what_was_marked_on_purpose() -> None:
    assert default_extractor(r"#### 3, or \boxed{4}, 5") == "4"
    assert default_extractor("#### 3\n5") == "3"
    assert default_extractor("ans 2, checked 9 times") == "2, checked 9 times"
    assert default_extractor("it is 9") == "9"
    assert default_extractor("no idea") is None
    assert first_of(hashes)("5") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>5</think> 72", " 72"),
        ("5, so</think>72", "72"),
        ("<THINKING>5</THINKING>72", "72"),
        ("<seed:think>5</seed:think>72", "72"),
        ("[THINK]5[/THINK]72", "72"),
        ("◁think▷5◁/think▷72", "72"),
        ("<think>I open <think> again</think>72", "72"),
        ("7<reasoning>5</reasoning>2", "7\n2"),
        ("72 <think>or", ""),
        ("I think 72", "I think 72"),
        ("<thinker>72", "<thinker>72"),
    ],
)
def test_thinking_is_left_out(text: str, said: str) -> None:
    assert without_thinking(text) == said
    assert without_thinking(said) == said


@pytest.mark.parametrize("spellings", ONE_ANSWER, ids=lambda group: group[0])
def test_equal_answers_are_one_answer(spellings: list[str]) -> None:
    assert {key(spelling) for spelling in spellings} == {key(spellings[0])}
    assert canonical(spellings[0]) == spellings[0]
    if re.match(r"[-€]?\d", spellings[0]):
        assert {canonical(s) for s in spellings if not re.fullmatch(r"\d+/\d+|½", s)} == {spellings[0]}


@pytest.mark.parametrize("answers", APART, ids=lambda group: group[0])
def test_answers_that_differ_stay_apart(answers: list[str]) -> None:
    assert len({key(answer) for answer in answers}) == len(answers)


@pytest.mark.parametrize(
    "answer",
    [
        "12 Years a Slave",
        "8 Mile",
        "5 Seconds of Summer",
        "50 Cent",
        "1984, a novel",
        "3/4 time",
        "02139",
        "+15551234",
        "1.10",
        "3.10",
        "5.30 pm",
        "12/5",
        "-12/5",
        "€3.50",
        "18 dollars for 9 eggs",
        "*",
        "**",
        ".*",
    ],
)
def test_a_name_a_date_and_a_code_are_shown_as_written(answer: str) -> None:
    assert canonical(answer) == answer
    assert extract(default_extractor, f"The answer is: {answer}") == answer


def test_what_is_shown_as_written_still_equals_its_number() -> None:
    assert same("12/5", "2.4")
    assert same("$3.50", "3.5")
    assert same("-12/5", r"-\frac{12}{5}")
    assert same("+15551234", "+15551234.")


def test_a_text_and_a_bare_number_give_the_same_answer() -> None:
    texts = ["29", "$29.00", "029", r"\text{29}", r"\boxed{29}", "The answer is 29, in total, so she pays that much"]
    assert {extract(default_extractor, text) for text in texts} == {"29"}


@given(numbers(), numbers(), st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS))
def test_a_number_has_one_form_however_it_is_spelt(
    one: Decimal, other: Decimal, spelt: Spelling, otherwise: Spelling
) -> None:
    assert (key(spelt(one)) == key(otherwise(other))) == (one == other)
    assert Fraction(canonical(spelt(one))) == Fraction(one)


PIECES = (
    "29 1 0 000 , . {,} \\, - − + % \\% / \\frac { } ( ) \\text{ \\boxed{ cm ^ ^2 x = 3* e5 10^ \\times or in answer "
    "is ans * ** \" ' A Paris ; m ° _8 € ½ ² ٣ dollars $ \\$ <think> </think> << >> [ ] ~ per hour million "
    "kwargs so because since . .. 12/5 3.10 A* ` ~ p - 1 Mile mg Mg on June overall altogether"
)


@given(st.lists(st.sampled_from([*PIECES.split(), " ", "\n", " in total"]), max_size=10).map("".join))
def test_the_form_of_a_form_is_itself(answer: str) -> None:
    form = canonical(answer)
    assert canonical(form) == form
    assert key(form) == key(answer)
    found = conclusion(answer)
    assert found is None or conclusion(found) in (None, found)


@given(st.text())
def test_any_text_has_a_form(answer: str) -> None:
    assert canonical(canonical(answer)) == canonical(answer)
    assert same(answer, canonical(answer))


def test_what_is_no_answer_equals_none() -> None:
    assert not same(None, None)
    assert not same("1", None)


def test_an_answer_of_several_lines_is_left_as_it_is() -> None:
    assert canonical("  def f():\n    return 1.0\n") == "def f():\n    return 1.0"


@pytest.mark.parametrize(
    "answer",
    [
        "10^{999999999}",
        "10^{99999999999999}",
        "1e999999999",
        "9" * 100_000,
        "9^{9^{9}}",
        "1" + ",000" * 50_000,
        "{" * 999,
    ],
    ids=lambda answer: answer[:16],
)
def test_a_number_without_end_stays_as_it_is_written(answer: str) -> None:
    assert canonical(answer) == answer


@pytest.mark.parametrize(
    "text",
    [
        " " * 200_000,
        "1" * 200_000,
        "1 " * 100_000,
        "1," * 100_000,
        "1" + " " * 200_000 + "x",
        "\\boxed{" * 50_000,
        "\\frac{" * 50_000,
        "<think>" * 50_000,
        "</think>" * 50_000,
        "the " * 50_000 + "answer" + "*" * 100_000,
        "answer" + " " * 200_000,
        "the" + " " * 200_000,
        "answer is \\[" + "\\" * 100_000,
        "<<" * 100_000,
        "^ " * 100_000 + "{",
        "3rd " * 50_000,
        "-" * 200_000,
        "{,}" * 70_000,
        "²" * 200_000,
    ],
    ids=lambda text: text[:12],
)
def test_no_long_text_takes_long(text: str) -> None:
    """What grows with the square of its length would take hours here."""
    found = extract(default_extractor, text)
    assert found is None or len(found) <= len(text)


@pytest.mark.parametrize("found", [29, 29.0, np.int64(29), ["29"], b"29"])
def test_an_extractor_that_gives_no_text_is_told_so(found: object) -> None:
    with pytest.raises(ConfigError, match=r"the extractor gave .*expected the answer as text"):
        extract(lambda text: found, "29")  # type: ignore[arg-type,return-value]


def test_an_extractor_that_finds_nothing_gives_no_answer() -> None:
    assert extract(lambda text: ' "" ', "29") is None
    assert extract(lambda text: None, "29") is None


def test_the_answers_of_the_embedded_model_are_as_it_writes_them() -> None:
    rng = random.Random(0)
    for place in range(300):
        equation = sample(rng, TIERS[place % len(TIERS)], held_out=False, solvable=place % 10 > 0)
        text = FallibleSolver(rng).solve(equation)
        answer = text.rsplit("ans ", 1)[1]
        assert extract(DEMO_EXTRACTOR, text) == key(answer) == answer
