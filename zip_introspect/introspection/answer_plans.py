"""What running samples on is worth to the posterior of answers: the expected rise of its best one.

Before a sample ends, nobody knows what it will say. Its joint tells how probable its final values and lengths are; the
posterior so far (`introspection.posterior`) tells which answer is likely to be right, and so what a right sample would
say. The expectation of the best answer's posterior over all of that is an integral, which is taken over a fixed set of
scenarios, the same at every decision: no randomness, and what changes no choice is worth exactly nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zip_introspect.introspection.posterior import Belief, Floats, Standing

Integers = NDArray[np.intp]
Singles = NDArray[np.float32]
"""What is only averaged over scenarios: half as wide, and twice as fast."""

SCENARIOS = 128
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class _Draws:
    """M scenarios, each coordinate spread evenly over (0, 1): shape (M,), or (samples, M)."""

    answer: Singles
    rate: Singles
    right: Singles
    value: Singles
    length: Singles
    said: Singles
    alike: Integers
    """Which of the new wrong answers a sample gives, if it gives one."""


@lru_cache(maxsize=64)
def _draws(samples: int, variety: float) -> _Draws:
    rng = np.random.default_rng(0)

    def spread(rows: int) -> Singles:
        return np.asarray((np.argsort(rng.random((rows, SCENARIOS)), axis=1) + 0.5) / SCENARIOS, dtype=np.float32)

    # New wrong answers: guests of a restaurant who sit down beside one who is there, or at a table of their own.
    alike = np.zeros((samples, SCENARIOS), dtype=np.intp)
    for guest in range(1, samples):
        joins = rng.random(SCENARIOS) < guest / (guest + variety)
        beside = alike[rng.integers(guest, size=SCENARIOS), np.arange(SCENARIOS)]
        alike[guest] = np.where(joins, beside, guest)
    answer, rate = spread(2)
    right, value, length, said = (spread(samples) for _ in range(4))
    return _Draws(answer, rate, right, value, length, said, alike)


class Scenarios:
    """All of the scenarios that no joint changes: it holds from one complete sample to the next.

    Args:
        standing: what the complete samples have said.
        samples: how many more may run, one or more.
        values: shape (B_V,), the final values as probabilities.
    """

    # Arrays of scenarios have them last: what is summed and multiplied up lies before, in few long rows.

    def __init__(self, belief: Belief, standing: Standing, samples: int, values: Floats) -> None:
        model, rate = belief.model, belief.rate
        known, complete = len(standing.answers), standing.complete
        self.standing, self.samples = standing, samples
        self.draws = _draws(samples, model.variety)
        most = max(standing.counts, default=0) + samples
        self.weights = belief.weights(most, complete + 1, complete + samples).astype(np.float32)
        # Which answer is right; the last index is another one than those known.
        draws = self.draws
        truth = np.minimum(np.cumsum(standing.posterior).searchsorted(draws.answer), known)
        says = np.array([*standing.counts, 0])
        low, high, lower = _two_points(model.strength * rate + says, model.strength * (1.0 - rate) + complete - says)
        chance = np.where(draws.rate < lower[truth], low[truth], high[truth])
        self.truth = truth
        self.odds = (chance / (1.0 - chance) * ((1.0 - rate) / rate)).astype(np.float32)
        """Shape (M,): of a sample to be right, beside those at the prompt."""
        # What a final value says, and so how it is spread over right samples and over wrong ones.
        evidence = np.array([model.evidence(value, belief.at_prompt) for value in values.tolist()])
        odds_of = np.exp(evidence) * (rate / (1.0 - rate))
        self.evidence = evidence.astype(np.float32)
        self.spread = np.stack([np.ones(len(values)), odds_of]) / (1.0 + odds_of)
        """Shape (2, B_V): how probably a sample with a final value is wrong, and right."""
        # What a wrong sample says: an answer that is known, or a new one.
        self.wrong = known + 1 + draws.alike
        if known:
            others = np.tile(says[:-1], (known + 1, 1))
            np.fill_diagonal(others, 0)
            seats = (others.cumsum(axis=1) / (model.variety + complete - says)[:, None]).astype(np.float32)
            taken = (seats[truth].T[:, None] < draws.said).sum(axis=0)
            self.wrong = np.where(taken < known, taken, self.wrong)
        self.counts = np.array(standing.counts, dtype=np.intp)[:, None]
        self.said = np.array(standing.evidence, dtype=np.float32)[:, None]


class Prospects:
    """What samples may come to, in every scenario.

    Args:
        joints: shape (n, B_V, B_T), of as many samples as there are in the scenarios, in the order in which plans take
            them.
        otherwise: what is worth as much as an answer of this posterior, whatever comes.
        nothing: what it is worth where no sample is complete.
    """

    def __init__(
        self, scenarios: Scenarios, joints: Floats, *, otherwise: float = -np.inf, nothing: float = 0.0
    ) -> None:
        standing, draws = scenarios.standing, scenarios.draws
        self._scenarios, self._joints, self._otherwise = scenarios, joints, otherwise
        best = max(standing.posterior, default=nothing)
        self.best = max(best, otherwise)
        """What is kept if nothing runs."""
        self._leader = standing.posterior.index(best) if standing.complete and best >= otherwise else None
        over_values = (joints.sum(axis=2) * scenarios.spread[:, None]).cumsum(axis=2)  # of wrong samples, then of right
        sums = over_values[..., -1:] + _TINY
        odds = (sums[1] / sums[0]).astype(np.float32) * scenarios.odds
        right = draws.right * (1.0 + odds) < odds
        self._first = float(sums[1, 0, 0] / (sums[0, 0, 0] + sums[1, 0, 0]))
        """How probably the first sample is right, if none is complete."""
        wrongly, rightly = (over_values / sums).astype(np.float32)[..., :-1].transpose(0, 2, 1)[..., None]
        self._bins = (np.where(right, rightly, wrongly) < draws.value).sum(axis=0)
        self._evidence = scenarios.evidence[self._bins]
        self._says = np.where(right, scenarios.truth, scenarios.wrong)

    def by_size(self) -> Floats:
        """The expected posterior of the best answer, or what is worth more, once the first k samples have ended:
        shape (n + 1,), for every k from 0 on.
        """
        return self._means(self._kept_after(self._says, self._evidence))

    def by_size_and_horizon(self, size: int) -> tuple[Floats, Floats]:
        """`by_size`, and the same of the first `size` samples, pruned where they end beyond a length bin: shape (B_T,).

        Both in one go, as two times as many scenarios.
        """
        n, _, horizons = self._joints.shape
        over_lengths = self._joints.astype(np.float32).cumsum(axis=2).reshape(-1, horizons).T
        over_lengths = over_lengths.take(self._bins + np.arange(n)[:, None] * self._joints.shape[1], axis=1)
        lengths = (over_lengths[:-1] < self._scenarios.draws.length * over_lengths[-1]).sum(axis=0)
        lengths[size:] = horizons  # never
        order, at = lengths.argsort(axis=0, kind="stable"), np.arange(SCENARIOS)
        kept = self._kept_after(
            np.concatenate([self._says, self._says[order, at]], axis=1),
            np.concatenate([self._evidence, self._evidence[order, at]], axis=1),
        )
        ended = (lengths <= np.arange(horizons)[:, None, None]).sum(axis=1)
        return self._means(kept[:, :SCENARIOS]), self._means(kept[ended, SCENARIOS + at])

    def _means(self, kept: Singles) -> Floats:
        """Over scenarios; an estimate is no more than what it estimates can be."""
        return np.asarray(np.minimum(kept.mean(axis=1, dtype=np.float64), max(1.0, self._otherwise)))

    def _kept_after(self, says: Integers, evidence: Singles) -> Singles:
        """What is kept after each sample, from none on, in expectation as in these scenarios: shape (n + 1, X).

        The posterior of the answer that leads now is expected to stay as it is, so what it does in the scenarios is
        taken off: only what exceeds it is integrated. Where there is none, the same holds of the first sample's answer,
        in the first M of the scenarios, where that is always the same sample.

        Args:
            says: shape (n, X), the samples' answers, in the order in which they end.
            evidence: shape (n, X).
        """
        scenarios, n = self._scenarios, len(says)
        known = len(scenarios.counts)
        hits = says[:, None] == np.arange(known + 1 + n)[:, None]
        counts, logs = hits.astype(np.intp), hits * evidence[:, None]
        counts[0, :known] += scenarios.counts
        logs[0, :known] += scenarios.said
        for sample in range(1, n):  # as cumsum, which is slow along long rows
            counts[sample] += counts[sample - 1]
            logs[sample] += logs[sample - 1]
        counts *= n
        counts += np.arange(n)[:, None, None]
        logs += scenarios.weights.ravel().take(counts)
        highest = np.maximum(logs.max(axis=1), 0.0)
        logs -= highest[:, None]
        shares = np.exp(logs, out=logs)
        total = shares.sum(axis=1) + np.exp(-highest)
        kept = np.full((n + 1, says.shape[1]), self.best, dtype=np.float32)
        np.maximum(shares.max(axis=1) / total, self._otherwise, out=kept[1:])
        if self._leader is not None:
            kept[1:] += self.best - shares[:, self._leader] / total
        elif not known:
            same = shares[np.arange(n)[:, None], says[0, :SCENARIOS], np.arange(SCENARIOS)]
            kept[1:, :SCENARIOS] += self._first - same / total[:, :SCENARIOS]
        return kept


def _two_points(right: Floats, wrong: Floats) -> tuple[Floats, Floats, Floats]:
    """Two rates, and the probability of the lower one, with the first three moments of Beta(right, wrong)."""
    total = right + wrong
    mean = right / total
    deviation = np.sqrt(right * wrong / (total + 1.0)) / total
    skew = 2.0 * (wrong - right) * np.sqrt(total + 1.0) / ((total + 2.0) * np.sqrt(right * wrong))
    root = np.sqrt(skew**2 + 4.0)
    low, high = mean + deviation * (skew - root) / 2.0, mean + deviation * (skew + root) / 2.0
    return np.clip(low, 1e-6, 1.0 - 1e-6), np.clip(high, 1e-6, 1.0 - 1e-6), (1.0 + skew / root) / 2.0
