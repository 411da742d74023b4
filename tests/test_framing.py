"""How a question is put: messages, the file of examples, and what a head's own framing does to a call."""

from __future__ import annotations

from pathlib import Path

import pytest

from zip_introspect import ConfigError, Framing, WorkedExample
from zip_introspect.framing import NO_FRAMING

FRAMING = Framing(
    system="Be brief.", examples=(WorkedExample(question="1+1?", answer="2"),), instruction="End with ####."
)


def test_a_question_is_put_as_its_examples_are() -> None:
    assert FRAMING.put("2+2?") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?\n\nEnd with ####."},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2?\n\nEnd with ####."},
    ]
    assert NO_FRAMING.put("2+2?") == "2+2?"
    assert Framing(instruction="Now.").put("2+2?") == [{"role": "user", "content": "2+2?\n\nNow."}]


def test_it_is_known_again() -> None:
    for framing in (FRAMING, Framing(system="Be brief."), Framing(instruction="Now.")):
        put = framing.put("2+2?")
        assert not isinstance(put, str)
        assert framing.frames(put)
        assert not framing.frames([{"role": "user", "content": "2+2?"}]) or framing == NO_FRAMING
        assert not framing.frames([*put[:-1], {"role": "user", "content": ""}]) or not framing.instruction
    assert not FRAMING.frames([])


def test_examples_come_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text('{"question": "1+1?", "answer": "2"}\n\n', encoding="utf-8")
    assert Framing.of("Be brief.", file, "End with ####.") == FRAMING
    assert Framing.of(None, None, None) == NO_FRAMING


@pytest.mark.parametrize("content", ["", "[]", '{"question": "1+1?"}', '{"question": 1, "answer": "2"}', "{"])
def test_files_of_something_else_are_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"examples\.jsonl"):
        Framing.of(None, file, None)
    with pytest.raises(ConfigError, match="cannot be read"):
        Framing.of(None, tmp_path / "none", None)
