from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.answers.conclusions import first_sentence
from zip_introspect.answers.extraction import after_marker, conclusion, extract, marked


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Final Answer: The final answer is $5$. I hope it is correct.", "5"),
        ("The final answer is 5. I hope it is correct.", "5"),
        ("The answer is 18! Great.", "18"),
        ("The answer is 5!", "5!"),
        ("The answer is B. I hope it is correct.", "B"),
        ("The answer is (B). Option C is wrong.", "B"),
        ("The answer is Paris. It is the capital.", "Paris"),
        ("The answer is 7. I hope it is 100% correct.", "7"),
        ("The answer is 18. Hope this helps!", "18"),
        ("The answer is x = 5. We check: 2*5=10.", "x = 5"),
        ("The answer is **42.** I hope so.", "42"),
        ("**The answer is 42.** I hope so.", "42"),
        ("The answer is $5. She had $3 more. So it is right.", "5"),
        ("#### 5. I hope it is correct.", "5"),
        ("The answer is J. K. Rowling", "J. K. Rowling"),
        ("The answer is J. K. Rowling. She wrote it.", "J. K. Rowling"),
        ("The answer is Dr. Watson. He said so.", "Dr. Watson"),
        ("The answer is the U.S. Senate. It is.", "the U.S. Senate"),
        ("The answer is (see Fig. 3. Then 4)", "(see Fig. 3. Then 4)"),
        ("The answer is $x. Y$", "x. Y"),
        ("The answer is 3.5 meters", "3.5 m"),
        ("#### . So 29", ". So 29"),
        ("The answer is 5... Maybe", "5... Maybe"),
        ("The answer is 5. Actually it is 6", "5. Actually it is 6"),
        ("The answer is 5. No, it is 6.", "5. No, it is 6"),
        ("The answer is 5. That was wrong.", "5. That was wrong"),
    ],
)
def test_the_end_of_a_sentence_ends_the_answer(text: str, answer: str) -> None:
    assert extract(conclusion, text) == answer


def test_a_marker_of_ones_own_takes_the_whole_line() -> None:
    assert after_marker("=> ")("=> Paris. It is") == "Paris. It is"
    assert marked("answer: Paris. It is") == "Paris"


@given(st.text(alphabet='aA5. !?$()*\\\\{}I"', max_size=30))
def test_a_first_sentence_is_its_own(line: str) -> None:
    said = first_sentence(line)
    assert len(said) <= len(line)
    assert first_sentence(said) == said


@pytest.mark.parametrize("line", ["$" * 100_000, "$a. A" * 40_000, "(" * 200_000, ". A" * 70_000, "J. " * 70_000])
def test_no_long_line_takes_long(line: str) -> None:
    assert len(first_sentence(line)) <= len(line)
