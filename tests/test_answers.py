from __future__ import annotations

import pytest

from zip_introspect.answers import after_marker, boxed, default_extractor, first_of, hashes, last_number, marked


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so x is 12, no, 10.", "10"),
        ("costs $1,234.50 in all", "1234.50"),
        ("3-5 gives -2", "-2"),
        ("half, that is 1/2", "1/2"),
        ("no number here", None),
        ("see v2beta or x3", None),
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
        ("Final answer: +5", "5"),
        ("the fans 7 were", None),
        ("To get the answer we add 3 and 4, which gives 7", None),
        ("answer:", None),
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
