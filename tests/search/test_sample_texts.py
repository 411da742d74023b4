"""Texts of samples while they grow: never half a character, never decoded again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.searches import request, results
from zip_introspect.backend.detokenization import text_of
from zip_introspect.events import SampleAdvanced, SearchFinished
from zip_introspect.search import continuous_batch
from zip_introspect.testing.simulator import SimulatedBackend


class Halves(SimulatedBackend):
    """Its tokens are parts of characters as well as whole ones, and texts are read with the default stream."""

    pieces = (b"\xe2\x82", b"\xac", "\N{EURO SIGN}".encode(), b"d")

    def decode(self, tokens: Sequence[int]) -> str:
        return text_of(lambda token: self.pieces[token] if token < len(self.pieces) else b"", tokens)


@pytest.mark.parametrize("strategy", ["zip_rc", "beam_search"])
@pytest.mark.parametrize("stop", [(), ("\N{EURO SIGN}d",)])
def test_growing_texts_are_the_beginnings_of_what_samples_say_in_the_end(strategy: str, stop: tuple[str, ...]) -> None:
    backend, forked = Halves(), 0
    for place in range(6):
        texts: dict[int, list[str]] = {}
        asked = request(str(place), strategy=strategy, interval=3, stop=stop)
        for event in continuous_batch.run(backend, [asked], live=True):
            if isinstance(event, SampleAdvanced):
                texts.setdefault(event.sample, []).append(event.text)
            if isinstance(event, SearchFinished):
                result = event.result
        forked += sum(sample.parent is not None for sample in result.samples)
        assert texts
        for sample in result.samples:
            whole = backend.decode(sample.token_ids)
            assert sample.text == (whole.split(stop[0])[0] if stop and sample.finish == "stop_string" else whole)
            assert all(whole.startswith(text) for text in texts.get(sample.number, []))
    assert (forked > 0) == (strategy == "beam_search")


def test_a_sample_that_is_not_watched_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SimulatedBackend()
    decoded: list[int] = []
    real = backend.decode
    monkeypatch.setattr(backend, "decode", lambda tokens: (decoded.append(len(tokens)), real(tokens))[1])  # type: ignore[func-returns-value]
    (result,) = results(backend, [request(strategy="single", interval=1)])
    assert decoded == [result.samples[0].tokens]
    decoded.clear()
    list(continuous_batch.run(backend, [request(strategy="single", interval=1, stop=("never",))], live=True))
    assert max(decoded) <= 2, "the last token and the new one"
