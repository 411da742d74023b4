"""One call from rollouts with hidden states to a head: labels, training, replays on held-out questions, calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from zip_introspect.config import GenerationConfig
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.fitting import believing, choosing, labels, laying, measuring, training
from zip_introspect.fitting.choosing import Tried
from zip_introspect.fitting.measuring import Quality
from zip_introspect.fitting.states import States, check_enough
from zip_introspect.fitting.training import CANDIDATES, CrossFitted, HeadShape
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect.heads.head import Head
from zip_introspect.heads.network import Input

_SETTLED = ("strategy", "strategy_options", "selection", "max_samples", "alpha", "beta", "interval", "max_new_tokens")
_DRAWN = ("temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True)
class Fitted:
    """A head, and all that was found on the way."""

    head: Head
    quality: Quality
    trained: CrossFitted
    played: list[Tried]
    recommended: dict[str, Tried]
    said: list[str]
    """For people, a sentence each."""
    rollouts: Rollouts
    """With the joints that were cross-fitted, for replays of one's own."""


def fit(
    rollouts: Rollouts,
    config: GenerationConfig,
    *,
    fingerprint: Fingerprint | None = None,
    inputs: tuple[Input, ...] = ("last", "mean"),
    candidates: Sequence[HeadShape] = CANDIDATES,
    seed: int = 0,
    note: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Fitted:
    """Make a head of rollouts whose hidden states were kept.

    Args:
        config: what the rollouts were drawn with; of its settings those of sampling, and the interval of replays.
        fingerprint: of the model.
        inputs: what the head reads.
        note: what its card should say of the data.
        say: is told, a line each, what is being done.

    Raises:
        TrainingDataError: no hidden states, too few questions, or hardly any right or wrong samples.
    """
    states = States.of(rollouts)
    check_enough(states)
    say(f"{len(states.rollout):,} states of {len(states.right):,} samples; values by an intermediate head")
    target = labels.made(states, seed=seed)
    grid, features = target.grid, states.features(inputs)
    trained = training.cross_fit(
        features,
        target.by_fold,
        states.groups,
        grid.num_cells,
        weights=states.weights(),
        candidates=candidates,
        seed=seed,
        say=lambda candidate, loss: say(f"{candidate.kind}, weight decay {candidate.decay:g}: {loss:.3f} nats"),
    )
    say(
        f"chosen: {trained.candidate.kind}, weight decay {trained.candidate.decay:g}, {trained.epochs} epochs, "
        f"{trained.loss:.3f} nats against {trained.prior:.3f} of frequencies alone"
    )
    found = measuring.quality(rollouts, states, grid, trained.probabilities)
    laid = laying.with_joints(rollouts, grid, trained.probabilities)
    say("replays of every strategy on the questions that each fold held out")
    # What is believed of a question's answers rests on the other half of the questions, as a new one's would.
    half, other = believing.halves(laid)
    beliefs = believing.fit(other), believing.fit(half)
    played = choosing.play(laid, config.replace(max_new_tokens=rollouts.max_new_tokens), beliefs)
    recommended = choosing.recommended(played)
    said = measuring.in_words(found, played, recommended)
    weights = training.train(
        features,
        target.cells,
        grid.num_cells,
        trained.candidate,
        trained.epochs,
        weights=states.weights(),
        seed=seed,
    )
    head = Head.of(
        grid,
        weights,
        hidden_size=states.last.shape[1],
        inputs=inputs,
        fingerprint=fingerprint,
        framing=rollouts.framing,
        recommended={name: _settings(item.config, config) for name, item in recommended.items()},
        searched=choosing.searched(played),
        answers=believing.fit(laid),
        card={
            "model": rollouts.model,
            "kind": trained.candidate.kind,
            "weight_decay": trained.candidate.decay,
            "epochs": trained.epochs,
            "nats": trained.loss,
            "nats_of_frequencies": trained.prior,
            "seed": seed,
            "quality": {name: None if np.isnan(value) else value for name, value in asdict(found).items()},
            "said": list(said),
            "zip_introspect": version("zip-introspect"),
            **(note or {}),
        },
    )
    return Fitted(head, found, trained, played, recommended, said, laid)


def _settings(config: GenerationConfig, drawn: GenerationConfig) -> dict[str, Any]:
    """What is recommended: how to search, and to sample as the rollouts were, for that is what the head knows."""
    return {
        **{name: getattr(config, name) for name in _SETTLED},
        **{name: getattr(drawn, name) for name in _DRAWN},
    }
