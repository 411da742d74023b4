"""What a strategy is: a meta-policy, from the meta-state to the next meta-action (section 5.1).

A strategy sees what the search knows of one prompt and proposes; the search holds the proposal to the
budget, moves the samples and asks again. Strategies keep no backend state and no tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from zip_introspect.config import GenerationConfig, Settings
from zip_introspect.errors import ConfigError, HeadError
from zip_introspect.introspection import demand
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.result import ConfidenceSource, StopReason, TokenConfidence, UtilityReport
from zip_introspect.strategies.selection import Selection


@dataclass(frozen=True, slots=True)
class Leaf:
    """An unfinished sample."""

    sample: int
    length: int
    """Generated tokens."""
    joint: NDArray[np.float64]
    """Shape (B_V, B_T), smoothed (eq. 27); of no cells where the model gives no joints, and what follows is NaN."""
    value: float
    remaining: float
    """Expected tokens to come, uncapped (eq. 8)."""
    limit: int
    """Tokens that it may still take: max_new_tokens, context, budget."""
    running: bool
    """Whether it was in the meta-action before; if not, it is paused."""
    token_confidence: TokenConfidence | None = None
    """How sure the model is of its tokens so far; None where nobody asked, and before the first token."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished sample."""

    sample: int
    length: int
    value: float
    """Final value; the grid's lowest reward where the sample was cut. NaN where the model gives no joints."""
    complete: bool
    answer: str | None = None
    """In canonical form, where its text has one."""
    token_confidence: TokenConfidence | None = None
    """How sure the model was of its tokens; None where nobody asked."""


@dataclass(frozen=True, slots=True)
class MetaState:
    """What is known of one prompt's search when a decision is due."""

    decision: int
    bins: JointGrid | None
    """The grid of its joints; None where the model gives none."""
    config: GenerationConfig
    prompt_tokens: int
    root_joint: NDArray[np.float64]
    """Shape (B_V, B_T)."""
    root_value: float
    root_remaining: float
    leaves: tuple[Leaf, ...]
    """Unfinished samples, in order of their numbers."""
    finished: tuple[Finished, ...]
    started: int
    """Samples started so far, finished and dropped ones among them."""
    room: int
    """Samples that may be started now, under max_samples, the budget and the backend."""
    limit: int
    """Tokens that a new sample may take."""
    tokens_left: int | None = None
    """Tokens that the budget leaves to all samples together; None is no limit."""
    hand_on: float | None = None
    """What handing the question on to a stronger model is worth, its cost taken off; None where there is none."""
    price: float = 0.0
    """Reward that a token costs beside what beta says, since other questions of a shared budget want it. Above 0, a
    question may be left without an answer."""

    @property
    def grid(self) -> JointGrid:
        """The grid of its joints.

        Raises:
            HeadError: the model gives none.
        """
        if self.bins is None:
            raise HeadError("the model gives no joints; a strategy that works without says so by needs_joints = False")
        return self.bins


@dataclass(frozen=True, slots=True)
class MetaAction:
    """The prefixes to move next. Unfinished samples that are not named are paused."""

    run: tuple[int, ...] = ()
    """Samples to continue, those that matter most first: they are served first when the budget runs short."""
    new: int = 0
    """Samples to start at the root."""
    forks: tuple[tuple[int, int], ...] = ()
    """(sample, copies): branch a sample at its end; the copies run, the sample itself only if it is in `run`."""
    drop: tuple[int, ...] = ()
    """Samples that will never be continued: their states are released."""
    reason: str = ""
    """One sentence for people."""
    utility: UtilityReport | None = None
    stop: StopReason | None = None
    """Why the search should end, or None. With a reason to stop, nothing is run."""
    tokens_saved: float | None = None
    """Where it stops with the question handed on, or not begun: the tokens that going on was expected to take."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finished sample that a strategy chooses by its own rule."""

    number: int
    confidence: float
    source: ConfidenceSource
    others: tuple[int, ...] = ()
    """Further samples whose answers are given beside it, the best first."""


class NoOptions(Settings):
    """Nothing but the config's own fields."""


class Strategy(ABC):
    """A meta-policy. One instance serves one prompt, so it may keep state between its decisions."""

    name: ClassVar[str]
    selection: ClassVar[Selection]
    """How the final sample is chosen unless the config says otherwise."""
    Options: ClassVar[type[Settings]] = NoOptions
    """What it takes in `GenerationConfig.strategy_options`."""
    needs_joints: ClassVar[bool] = True
    """Whether it reads joints or values, so that a model without a head cannot be searched by it."""
    needs_forks: ClassVar[bool] = False
    """Whether it branches within a sample, so that stored rollouts cannot be replayed by it."""
    priced: ClassVar[bool] = False
    """Whether it weighs `MetaState.price`; a shared budget is divided evenly among the searches of others."""
    oracle: ClassVar[bool] = False
    """Whether an evaluation counts it as right where any sample is: a bound, not a method."""
    options: Any

    def __init__(self, config: GenerationConfig) -> None:
        self.config = config
        self.options = self.Options(**config.strategy_options)

    @abstractmethod
    def decide(self, state: MetaState) -> MetaAction:
        """The next meta-action."""

    def verdict(self, finished: Sequence[Finished]) -> Verdict | None:
        """Its own choice among the samples that ended; None leaves it to `selection`, as one in the config does."""
        return None

    def reads_joints(self) -> bool:
        """Whether it reads joints with its options, so that it cannot do without a head."""
        return self.needs_joints

    def reads_confidences(self, joints: bool) -> bool:
        """Whether it reads the confidences of tokens, of a model that gives joints or of one that does not.

        The search asks the backend for them then, and refuses one that reports none.
        """
        return False

    def demand(self, state: MetaState) -> NDArray[np.float64]:
        """Tokens that the question is expected to take yet, at each of `demand.PRICES`; asked of those that are priced.

        Here, of one that draws samples one after another while another one is worth its price.
        """
        return demand.demand(
            state.root_joint,
            state.grid,
            state.room,
            running=[leaf.joint for leaf in state.leaves if leaf.running],
            finished_values=[sample.value for sample in state.finished if sample.complete],
            own_price=self.config.beta / max(1.0, state.root_remaining),
        )

    def samples_at_most(self) -> int:
        """How many samples it may ever start, branches included."""
        return self.config.max_samples

    def samples_at_once(self) -> int:
        """How many of them it may keep in the backend at once; sizes what the search asks of it."""
        return self.samples_at_most()


def all_finished(samples: int) -> MetaAction:
    """The end of a search with so many samples."""
    said = f"all {samples} samples are finished" if samples > 1 else "the only sample is finished"
    return MetaAction(stop="finished", reason=said)


def dropping(action: MetaAction, samples: tuple[int, ...], reason: str) -> MetaAction:
    """A meta-action that drops samples, where it would have continued them."""
    if not samples or action.stop is not None:
        return action
    run = tuple(sample for sample in action.run if sample not in samples)
    if not run and not action.new:
        return MetaAction(stop="finished", reason=f"every sample is finished, or dropped where {reason}")
    return replace(action, run=run, drop=(*action.drop, *samples), reason=f"{action.reason}; dropped where {reason}")


_REGISTRY: dict[str, type[Strategy]] = {}


def register(strategy: type[Strategy]) -> type[Strategy]:
    """Class decorator: make a strategy known by its `name`, for `GenerationConfig(strategy=...)`."""
    _REGISTRY[strategy.name] = strategy
    return strategy


def names() -> list[str]:
    """The names of all registered strategies, sorted."""
    return sorted(_REGISTRY)


Need = Literal["no head", "a head", "forks"]
"""What a strategy needs: nothing but samples; joints; or also to branch within a sample."""


def by_need() -> dict[Need, tuple[str, ...]]:
    """The names of all registered strategies, sorted, by the most that each needs."""
    found: dict[Need, tuple[str, ...]] = {"no head": (), "a head": (), "forks": ()}
    for name, strategy in sorted(_REGISTRY.items()):
        need: Need = "forks" if strategy.needs_forks else "a head" if strategy.needs_joints else "no head"
        found[need] += (name,)
    return found


def listed() -> str:
    """The registered strategies, for people."""
    return "; ".join(f"needing {need}: {', '.join(found)}" for need, found in by_need().items() if found)


WITH_HEAD, WITHOUT = "zip_rc", "adaptive_consistency"


def chosen(config: GenerationConfig, joints: bool) -> type[Strategy]:
    """The strategy of a config; where it names none, that of a model that gives joints, or of one that does not.

    Raises:
        ConfigError: no such strategy.
    """
    return get(config.strategy or (WITH_HEAD if joints else WITHOUT))


def get(name: str) -> type[Strategy]:
    """The strategy of a name.

    Raises:
        ConfigError: no such strategy.
    """
    if name not in _REGISTRY:
        raise ConfigError(f"strategy is {name!r}; expected one of those {listed()}")
    return _REGISTRY[name]
