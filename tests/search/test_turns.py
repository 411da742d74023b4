"""Turns on one model: who leaves does not wait, what was left is closed, and who is cancelled gives up its place."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from zip_introspect.errors import BackendError
from zip_introspect.search.turns import Turns


def search(closed: list[int], number: int) -> Generator[int, None, None]:
    try:
        yield number
    finally:
        closed.append(number)


def begun(closed: list[int], number: int) -> Generator[int, None, None]:
    made = search(closed, number)
    next(made)
    return made


def test_a_search_that_is_left_is_closed_at_once_where_nobody_works() -> None:
    closed: list[int] = []
    Turns().leave(begun(closed, 1))
    assert closed == [1]


def test_a_search_that_is_left_during_a_turn_is_closed_at_its_end() -> None:
    turns, closed = Turns(), list[int]()
    with turns.hold():
        leaver = threading.Thread(target=lambda: turns.leave(begun(closed, 1)))
        leaver.start()
        leaver.join(5)
        assert not leaver.is_alive(), "leaving waited for the turn"
        assert closed == []
    assert closed == [1]


def test_a_cancelled_waiter_gives_up_its_place() -> None:
    turns, stop, errors = Turns(), threading.Event(), list[BackendError]()

    def wait() -> None:
        try:
            with turns.hold(stop):
                pass
        except BackendError as error:
            errors.append(error)

    with turns.hold():
        waiter = threading.Thread(target=wait)
        waiter.start()
        stop.set()
        waiter.join(5)
        assert not waiter.is_alive()
    assert "before its turn came" in str(errors[0])


def test_an_error_in_a_turn_passes_it_on() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.hold():
        raise ZeroDivisionError
    other = threading.Thread(target=lambda: turns.hold().__enter__())
    other.start()
    other.join(5)
    assert not other.is_alive()
