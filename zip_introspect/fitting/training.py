"""Training small heads over fixed features: several candidates, early stopping, all judged on questions held out.

With some hundred questions a single split wastes what there is, so every candidate is cross-fitted: the questions are
parted into folds, a model for each fold is trained on the others, and what it predicts of its own is what counts. The
models of a candidate train in step, so that one number of epochs is the best for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.nn import functional

_BATCH, _SMALLEST_BATCH, _STEPS = 256, 16, 16
"""Rows of a step, at most and at least, and steps of an epoch, at least, where there are rows for them."""
_RATE = 1e-3
_SMALLEST = 1e-6
FOLDS = 5
_RIDGE = 1e-4


@dataclass(frozen=True)
class HeadShape:
    """A shape of a head, and how strongly it is held back."""

    hidden: int
    """Units of its hidden layer; 0 is linear."""
    decay: float
    """Decoupled weight decay (Loshchilov and Hutter, 2019)."""
    biased: bool = True
    """Without a bias of its own, a linear head can be written into an output head. What a bias would add is then added
    by the direction that is nearly constant over all states."""

    @property
    def kind(self) -> str:
        """For people."""
        return f"mlp of {self.hidden}" if self.hidden else "linear"


CANDIDATES = (
    *(HeadShape(0, decay) for decay in (0.1, 1.0, 10.0, 30.0)),
    *(HeadShape(hidden, decay) for hidden in (16, 64) for decay in (0.1, 1.0, 10.0)),
)


ATTACHABLE = tuple(HeadShape(0, decay, biased=False) for decay in (0.1, 1.0, 10.0, 30.0))
"""Linear ones without a bias."""


@dataclass(frozen=True)
class CrossFitted:
    """What cross-fitting found."""

    candidate: HeadShape
    epochs: int
    loss: float
    """Nats a row, on held-out questions."""
    losses: dict[HeadShape, float]
    """Of all candidates."""
    prior: float
    """Of the classes' frequencies alone: what a head that knows nothing would have."""
    probabilities: NDArray[np.float32]
    """Shape (rows, classes): what each row's fold predicts of it, having never seen its question."""


def folds_of(groups: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for each row; the rows of a question share theirs."""
    names, place = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray((order % folds)[place], dtype=np.int64)


def cross_fit(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    classes: int,
    *,
    weights: NDArray[np.floating] | None = None,
    candidates: Sequence[HeadShape] = CANDIDATES,
    folds: int = FOLDS,
    epochs: int = 40,
    patience: int = 4,
    seed: int = 0,
    say: Callable[[HeadShape, float], None] = lambda candidate, loss: None,
) -> CrossFitted:
    """The candidate with the highest likelihood on held-out questions.

    Args:
        features: shape (rows, width).
        labels: shape (rows,), from 0; or (folds, rows), where labels are learnt too: those of a fold, which must not
            have been learnt from its questions, teach and judge its model.
        groups: shape (rows,): rows of one group, such as a question, are held out together.
        weights: shape (rows,): what each row counts for, in training and in judging; None is the same for all.
        patience: epochs without a better one, after which a candidate is left.
        say: is told the loss of each candidate.
    """
    fold = folds_of(groups, folds, seed)
    scaled = {
        biased: torch.from_numpy(_standardised(features, biased).rows) for biased in {c.biased for c in candidates}
    }
    taught = np.broadcast_to(labels, (folds, len(fold)))
    own = taught[fold, np.arange(len(fold))]
    y, w = torch.from_numpy(own), _weights(weights, len(fold))
    priors = np.stack([_prior(taught[number][fold != number], classes) for number in range(folds)])
    losses: dict[HeadShape, float] = {}
    best: tuple[float, HeadShape, int, Tensor] | None = None
    for candidate in candidates:
        x = scaled[candidate.biased]
        learners = [
            _Learner(candidate, x, torch.from_numpy(taught[number].copy()), w, fold != number, priors[number], seed)
            for number in range(folds)
        ]
        found, since = (np.inf, 0, torch.empty(0)), 0
        for epoch in range(1, epochs + 1):
            predicted = torch.zeros(len(y), classes)
            for number, learner in enumerate(learners):
                learner.epoch()
                held_out = torch.from_numpy(fold == number)
                predicted[held_out] = learner.predict(x[held_out])
            loss = float((functional.nll_loss(predicted, y, reduction="none") * w).mean())
            since += 1
            if loss < found[0]:
                found, since = (loss, epoch, predicted), 0
            if since >= patience:
                break
        losses[candidate] = found[0]
        say(candidate, found[0])
        if best is None or found[0] < best[0]:
            best = found[0], candidate, found[1], found[2]
    assert best is not None, "no candidates"
    loss, candidate, count, predicted = best
    frequencies = float((-np.log(_prior(own, classes))[own] * w.numpy()).mean())
    return CrossFitted(candidate, count, loss, losses, frequencies, predicted.exp().numpy())


def train(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    candidate: HeadShape,
    epochs: int,
    *,
    weights: NDArray[np.floating] | None = None,
    seed: int = 0,
) -> dict[str, NDArray[np.floating]]:
    """Train on all rows; the weights as `heads.Head` takes them, the standardisation folded in."""
    scaled = _standardised(features, candidate.biased)
    learner = _Learner(
        candidate,
        torch.from_numpy(scaled.rows),
        torch.from_numpy(labels),
        _weights(weights, len(labels)),
        np.ones(len(labels), np.bool_),
        _prior(labels, classes),
        seed,
    )
    for _ in range(epochs):
        learner.epoch()
    made: dict[str, NDArray[np.floating]] = {}
    for place, layer in enumerate(learner.layers):
        weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        if not place:
            weight = weight / scaled.scale
            bias = bias - weight @ scaled.mean
        if not candidate.biased:
            weight, bias = weight + np.outer(bias, scaled.constant), np.zeros_like(bias)
        made |= {f"{place}.weight": weight.astype(np.float32), f"{place}.bias": bias.astype(np.float32)}
    return made


class _Learner:
    """One model and the rows that it learns from."""

    def __init__(
        self,
        candidate: HeadShape,
        x: Tensor,
        y: Tensor,
        weights: Tensor,
        rows: NDArray[np.bool_],
        prior: NDArray[np.float64],
        seed: int,
    ) -> None:
        self._x, self._y, self._weights, self._rows = x, y, weights, torch.from_numpy(np.flatnonzero(rows))
        self._draws = torch.Generator().manual_seed(seed)
        sizes = [x.shape[1] - 1, *([candidate.hidden] if candidate.hidden else []), len(prior)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = [nn.Linear(width, out) for width, out in pairwise(sizes)]
        with torch.no_grad():
            self.layers[-1].weight.mul_(0.1 if candidate.hidden else 0.0)  # it begins with the classes' frequencies
            self.layers[-1].bias.copy_(torch.from_numpy(np.log(prior)))
        held_back: list[dict[str, Any]] = [
            {"params": [layer.weight for layer in self.layers], "weight_decay": candidate.decay},
            {"params": [layer.bias for layer in self.layers], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(held_back, lr=_RATE)

    def epoch(self) -> None:
        """See every row once."""
        order = self._rows[torch.randperm(len(self._rows), generator=self._draws)]
        for some in order.split(max(_SMALLEST_BATCH, min(_BATCH, len(order) // _STEPS))):
            losses = functional.nll_loss(self._logs(self._x[some]), self._y[some], reduction="none")
            loss = (losses * self._weights[some]).mean()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Log-probabilities (rows, classes)."""
        return self._logs(x)

    def _logs(self, x: Tensor) -> Tensor:
        first, *others = self.layers
        x = functional.linear(x[:, :-1], first.weight) + x[:, -1:] * first.bias
        for layer in others:
            x = layer(functional.silu(x))
        return functional.log_softmax(x, -1)


@dataclass(frozen=True)
class _Standardised:
    """Features of mean 0 and deviation 1, and behind them what multiplies the first layer's bias."""

    rows: NDArray[np.float32]
    """Shape (rows, width + 1)."""
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    constant: NDArray[np.float64]
    """Shape (width,): the direction whose product with a row is that last column."""


def _standardised(features: NDArray[np.float32], biased: bool) -> _Standardised:
    mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64) + _SMALLEST
    constant, ones = np.zeros(features.shape[1]), np.ones(len(features))
    if not biased:
        # Ridge regression of 1: states have directions in which they hardly differ.
        constant = np.asarray(
            Ridge(alpha=_RIDGE * len(features), fit_intercept=False).fit(features / scale, ones).coef_
        )
        constant = constant / scale
        ones = features @ constant
    rows = (features - ones[:, None] * mean) / scale
    return _Standardised(np.concatenate([rows, ones[:, None]], axis=1).astype(np.float32), mean, scale, constant)


def _weights(weights: NDArray[np.floating] | None, count: int) -> Tensor:
    """Of mean 1."""
    return torch.ones(count) if weights is None else torch.from_numpy((weights / weights.mean()).astype(np.float32))


def _prior(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Frequencies, none of them 0 (Laplace)."""
    counts = np.bincount(labels, minlength=classes) + 0.5
    return np.asarray(counts / counts.sum())
