"""The live view follows a search's events, and the summary tells the same story as the decisions."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from zip_introspect import Decision, GenerationResult, IntrospectiveLLM, Outlook, SampleResult, Usage
from zip_introspect.cli.live import SearchView
from zip_introspect.cli.summary import Fates, print_summary
from zip_introspect.events import DecisionMade, SampleAdvanced, SearchFinished, SearchStarted


@pytest.fixture(scope="module")
def llm(tiny_model: str) -> Iterator[IntrospectiveLLM]:
    with IntrospectiveLLM.from_pretrained(tiny_model) as opened:
        yield opened


def drawn(view: SearchView, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=120, height=height, force_terminal=True, color_system=None)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_view_ends_where_the_search_ends(llm: IntrospectiveLLM) -> None:
    view = SearchView()
    for event in llm.stream("1+1", strategy="best_of_n", max_samples=3, max_new_tokens=40, interval=8, seed=1):
        if isinstance(event, SearchFinished):
            result = event.result
        else:
            view.update(event)
            drawn(view)
    assert {number: (row.status, row.tokens) for number, row in view.rows.items()} == {
        sample.number: (sample.status, sample.tokens) for sample in result.samples
    }
    seen = {number: row.outlook.value for number, row in view.rows.items() if row.outlook}
    assert seen == {sample.number: sample.value for sample in result.samples}


def decision(index: int, **changes: Any) -> Decision:
    nothing: dict[str, Any] = dict.fromkeys(("started", "continued", "paused", "resumed", "dropped", "finished"), ())
    fields = {"tokens": 0, "depth": 8 * index, "outlooks": (), "stop": None, "reason": "", **nothing, **changes}
    return Decision(index=index, **fields)


def test_each_status_of_a_sample_is_shown_with_its_numbers() -> None:
    view = SearchView()
    view.update(SearchStarted(0, 5, Outlook(0.61, 40.0), "zip_rc"))
    view.update(DecisionMade(0, decision(0, started=(0, 1, 2))))
    view.update(SampleAdvanced(0, 1, "try 3:\n3*3=9 \x1b[2Jlow", 8, Outlook(0.25, 80.0)))
    view.update(DecisionMade(0, decision(1, continued=(0,), paused=(1,), dropped=(2,))))
    lines = drawn(view).splitlines()
    assert "confidence 0.61" in lines[0]
    assert [("active" in lines[2], "0.61" in lines[2]), ("paused" in lines[3], "0.25" in lines[3])] == [
        (True, True)
    ] * 2
    assert "dropped" in lines[4]
    assert "3*3=9" in lines[3]
    assert "\x1b[2J" not in lines[3]
    assert view.longest == 80.0


def test_more_samples_than_lines_shows_those_that_run() -> None:
    view = SearchView()
    view.update(DecisionMade(0, decision(0, started=tuple(range(30)))))
    view.update(DecisionMade(0, decision(1, dropped=tuple(range(25)), continued=tuple(range(25, 30)))))
    shown = drawn(view, height=12)
    assert shown.count("active") == 5
    assert "and 24 more" in shown


def sample(number: int, status: str, **changes: Any) -> SampleResult:
    fields: dict[str, Any] = {"text": "", "tokens": 9, "token_ids": (), "finish": None, "value": 0.5, "answer": None}
    return SampleResult(number=number, status=status, trace=(), **{**fields, **changes})  # type: ignore[arg-type]


RESULT = GenerationResult(
    text="[red]ans 5[/red]",
    answer="5",
    confidence=0.93,
    finish_reason="stop",
    usage=Usage(prompt_tokens=7, generated_tokens=57, chosen_tokens=20, depth=24, seconds=0.5),
    decisions=(
        decision(0, started=(0, 1)),
        decision(1, continued=(0,), paused=(1,), started=(2,), forked=((0, 3),)),
        decision(2, resumed=(1,), finished=(0,)),
        decision(3, dropped=(1, 2, 3), stop="utility"),
    ),
    samples=(
        sample(0, "finished", finish="stop", value=0.93, answer="5"),
        *(sample(number, "dropped") for number in (1, 2, 3)),
    ),
    chosen=0,
    stop_reason="utility",
    stop_detail="nothing is worth more",
    expected=Outlook(0.7, 31.0),
    strategy="zip_rc",
    selection="value",
    seed=0,
    warnings=("a warning",),
)


def test_fates_are_read_off_all_decisions() -> None:
    fates = Fates.of(RESULT)
    assert (fates.started, fates.paused, fates.resumed) == ((0, 1, 2, 3), (1,), (1,))
    assert (fates.dropped, fates.finished) == ((1, 2, 3), (0,))


def test_the_summary_names_further_answers() -> None:
    console = Console(file=io.StringIO(), width=120)
    second = sample(1, "finished", finish="stop", answer="7")
    given = dataclasses.replace(RESULT, samples=(RESULT.samples[0], second, *RESULT.samples[2:]), submitted=(0, 1))
    print_summary(console, given)
    assert isinstance(console.file, io.StringIO)
    assert "or else     7" in console.file.getvalue()


def test_the_summary_says_all_of_it_and_takes_no_markup_from_the_model() -> None:
    console = Console(file=io.StringIO(), width=120)
    print_summary(console, RESULT)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for piece in (
        "[red]ans 5[/red]",
        "0.93",
        "expected 0.70",
        "57 used in 24 serial steps",
        "expected to take 31",
        "started   0, 1, 2, 3",
        "paused    1, resumed 1",
        "dropped   1, 2, 3",
        "finished  0 (5, 0.93); sample 0 was chosen",
        "nothing is worth more",
        "a warning",
    ):
        assert piece in shown
