"""Probes of any target from rollouts with hidden states: what is to be foretold is a function of a sample.

It says of each prefix what became of it, and None or NaN where nobody knows, as of a sample that was cut too early:
`passes(200)`, or `lambda sample, positions: "I cannot" in sample.text`, whose one outcome holds for the whole sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from zip_introspect.errors import TrainingDataError
from zip_introspect.evaluation.store.rollout_file import Rollouts, StoredRollout
from zip_introspect.fitting.states import States, features
from zip_introspect.fitting.training import CANDIDATES, CrossFitted, HeadShape, cross_fit, train
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect.heads.network import Input
from zip_introspect.heads.probe import AboutProbe, Probe
from zip_introspect.heads.targets import IGNORED, AnyTarget, Outcomes

Outcome = Callable[[StoredRollout, NDArray[np.int64]], Outcomes]
"""What became of a sample, as seen from its prefixes: given how many tokens each has, one outcome a prefix, or one for
all."""

_FEWEST = 20
"""Questions, and prefixes of any class but the most frequent."""


def passes(tokens: int) -> Outcome:
    """Whether an answer will be longer than so many tokens, its end of sequence included; for `Bernoulli`.

    Unknown of prefixes that are as long already, where nothing is left to foretell, and of samples that were cut
    before.
    """

    def outcome(sample: StoredRollout, positions: NDArray[np.int64]) -> Outcomes:
        least = len(sample.tokens) + (not sample.finished)  # one that was cut would have had a token more
        known = (positions < tokens) & (sample.finished | (least > tokens))
        return np.where(known, float(least > tokens), np.nan)

    return outcome


@dataclass(frozen=True)
class Labelled:
    """Prefixes whose outcomes are known, a row for each."""

    last: NDArray[np.float16]
    """Shape (rows, hidden size)."""
    mean: NDArray[np.float16]
    labels: NDArray[np.int64]
    """Shape (rows,), as the next ones: classes of the target."""
    question: NDArray[np.int64]
    position: NDArray[np.int64]
    """Generated tokens of the prefix."""

    @classmethod
    def of(cls, rollouts: Rollouts, target: AnyTarget, outcome: Outcome) -> Labelled:
        """Ask of every prefix that was kept what became of it.

        Raises:
            TrainingDataError: no hidden states were kept, or outcomes that the target does not have.
        """
        states = States.of(rollouts)
        samples = [item for problem in rollouts.problems for item in problem.rollouts]
        bounds = np.searchsorted(states.rollout, np.arange(len(samples) + 1))
        labels = np.empty(len(states.rollout), np.int64)
        for sample, begin, end in zip(samples, bounds[:-1], bounds[1:], strict=True):
            positions = states.position[begin:end]
            found = target.labels(outcome(sample, positions))
            if found.shape not in ((), positions.shape):
                raise TrainingDataError(
                    f"outcomes of shape {found.shape} of {len(positions)} prefixes; expected one of each, or one of all"
                )
            labels[begin:end] = found
        return cls(states.last, states.mean, labels, states.groups, states.position).where(labels != IGNORED)

    def where(self, which: NDArray[np.bool_]) -> Labelled:
        """Some of the rows: shape (rows,), true for those that are kept."""
        return Labelled(*(getattr(self, field.name)[which] for field in fields(self)))

    def loss(self, probabilities: NDArray[np.floating]) -> float:
        """Nats a row that predictions cost: the mean of -log p of what became true.

        Args:
            probabilities: shape (rows, classes), or (classes,) for the same of all.
        """
        classes = probabilities.shape[-1]
        rows = np.broadcast_to(probabilities, (len(self.labels), classes))
        return float(log_loss(self.labels, rows, labels=range(classes)))

    def frequencies(self, classes: int) -> NDArray[np.float64]:
        """Of the classes, none of them 0 (Laplace): what one says who knows nothing else. Shape (classes,)."""
        counts = np.bincount(self.labels, minlength=classes) + 0.5
        return np.asarray(counts / counts.sum())


@dataclass(frozen=True)
class FittedProbe:
    """A probe, and what cross-fitting said of it."""

    probe: Probe
    trained: CrossFitted
    """With predictions for each row of `rows`, by a model that has not seen its question."""
    rows: Labelled


def fit(
    rollouts: Rollouts,
    target: AnyTarget,
    outcome: Outcome,
    *,
    fingerprint: Fingerprint | None = None,
    inputs: tuple[Input, ...] = ("last", "mean"),
    candidates: Sequence[HeadShape] = CANDIDATES,
    seed: int = 0,
    note: dict[str, Any] | None = None,
) -> FittedProbe:
    """Make a probe of rollouts whose hidden states were kept, as `fit.fit` makes a head: every prefix counts alike.

    Args:
        fingerprint: of the model.
        note: what its card should say of the data and of what is foretold.

    Raises:
        TrainingDataError: no hidden states, too few questions, or hardly any that became other than most.
    """
    rows = Labelled.of(rollouts, target, outcome)
    questions, counts = len(np.unique(rows.question)), np.bincount(rows.labels, minlength=target.num_classes)
    if questions < _FEWEST or counts.sum() - counts.max() < _FEWEST:
        raise TrainingDataError(
            f"{len(rows.labels)} prefixes of {questions} questions have known outcomes, {counts.max()} of them the "
            f"same; expected {_FEWEST} questions or more and as many other outcomes. Collect more, or foretell what is "
            f"less sure"
        )
    read, classes = features(rows, inputs), target.num_classes
    trained = cross_fit(read, rows.labels, rows.question, classes, candidates=candidates, seed=seed)
    weights = train(read, rows.labels, classes, trained.candidate, trained.epochs, seed=seed)
    card = {
        "model": rollouts.model,
        "kind": trained.candidate.kind,
        "weight_decay": trained.candidate.decay,
        "epochs": trained.epochs,
        "nats": trained.loss,
        "nats_of_frequencies": trained.prior,
        "questions": questions,
        "seed": seed,
        "zip_introspect": version("zip-introspect"),
        **(note or {}),
    }
    about = AboutProbe(target=target, inputs=inputs, hidden_size=rows.last.shape[1], card=card)
    return FittedProbe(Probe(about, weights, fingerprint), trained, rows)
