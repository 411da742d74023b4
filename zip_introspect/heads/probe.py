"""A probe: a network over a model's hidden states that foretells something else than reward and cost.

It steers no search; it is read beside one, or beside a backend that is driven by hand, of a model that was opened with
`hidden_states=True`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from zip_introspect.backend.contract import Backend
from zip_introspect.config import SamplingParams
from zip_introspect.errors import ConfigError, HeadError, NonFiniteLogitsError
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect.heads.network import AboutNetwork, Network
from zip_introspect.heads.targets import AnyTarget


class AboutProbe(AboutNetwork):
    """All that a probe's file says beside its weights.

    Raises:
        HeadError: anything malformed.
    """

    what: ClassVar[str] = "probe"

    target: AnyTarget = Field(description="What its logits are of.")


class Probe(Network):
    """Weights over hidden states, and the target that they foretell.

    Args:
        weights: as of `Network`; the last layer's outputs are the target's classes.

    Raises:
        HeadError: weights that do not fit each other, the model or the target.
    """

    about: AboutProbe

    def __init__(
        self, about: AboutProbe, weights: Mapping[str, NDArray[np.floating]], fingerprint: Fingerprint | None = None
    ) -> None:
        super().__init__(about, weights, fingerprint)
        self.target = about.target
        if self.outputs != self.target.num_classes:
            raise HeadError(
                f"the probe gives {self.outputs} logits, and its target has {self.target.num_classes} classes; "
                f"expected as many"
            )

    def probabilities(self, last: NDArray[np.floating], mean: NDArray[np.floating]) -> NDArray[np.float64]:
        """The distribution over the target's classes, shape (..., classes).

        Args:
            last: hidden states, shape (..., hidden size).
            mean: their running means since the prompt, the same shape.
        """
        return self.target.probabilities(self.logits(last, mean))


class ProbeReader:
    """A probe on one sample: it is handed the hidden states as they come, and keeps their running mean.

    Args:
        probe: may read several samples at once, with a reader for each.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._sum, self._count = np.zeros(probe.about.hidden_size, np.float64), 0

    def read(self, hidden: NDArray[np.floating] | None) -> NDArray[np.float64]:
        """The distributions after further states, shape (n, classes).

        Args:
            hidden: of a backend, `Prefilled.hidden`, shape (hidden size,), first, and `Advanced.hidden`, shape (n,
                hidden size), from then on.

        Raises:
            HeadError: none, or of another width than the probe reads.
        """
        if hidden is None:
            raise HeadError("the model gives no hidden states; open it with hidden_states=True")
        rows = np.atleast_2d(np.asarray(hidden, np.float64))
        self._probe.check_fits(rows.shape[-1])
        sums = self._sum + rows.cumsum(0)
        means = sums / np.arange(self._count + 1, self._count + 1 + len(rows))[:, None]
        if len(rows):
            self._sum, self._count = sums[-1], self._count + len(rows)
        return self._probe.probabilities(rows, means)


class Foretold(NamedTuple):
    """What a sample said in one interval, and what the probe foretold."""

    tokens: NDArray[np.int32]
    """Shape (n,): none at the prompt."""
    probabilities: NDArray[np.float64]
    """Shape (m, classes): row i describes the prefix that ends in tokens[i]; there is none after an end of sequence.
    At the prompt, one row."""


def watch(
    probe: Probe,
    backend: Backend,
    prompt: Sequence[int],
    sampling: SamplingParams,
    *,
    max_new_tokens: int,
    interval: int = 16,
) -> Generator[Foretold, None, None]:
    """Sample one answer, and tell at every token what a probe foretells; closing it ends the sample.

    It drives the backend in the caller's thread. Of an `IntrospectiveLLM` give `llm.backend`, while nobody asks it.

    Args:
        prompt: token ids, as `backend.encode` gives them.
        interval: tokens between two reports.

    Raises:
        HeadError: the model gives no hidden states, or is not the probe's.
        ConfigError: counts below one.
        NonFiniteLogitsError, BackendError: from the backend.
    """
    if min(max_new_tokens, interval) < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens} and interval {interval}; expected 1 or more of each")
    probe.check_belongs(backend.fingerprint)
    (root,) = backend.prefill([prompt])
    held = [root.sequence]
    try:
        reader = ProbeReader(probe)
        yield Foretold(np.zeros(0, np.int32), reader.read(root.hidden))
        held += backend.fork(root.sequence, [0], sampling)
        length = 0
        while length < max_new_tokens:
            (step,) = backend.advance(held[1:], [min(interval, max_new_tokens - length)])
            length += len(step.tokens)
            yield Foretold(step.tokens, reader.read(step.hidden))
            if step.non_finite:
                raise NonFiniteLogitsError(
                    f"the logits became NaN or infinite after {length} tokens; expected finite numbers. Check the "
                    f"weights, or load the model in float32."
                )
            if step.finished or not len(step.tokens):
                return
    finally:
        backend.release(held)
