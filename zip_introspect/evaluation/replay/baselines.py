"""The settings of the paper's comparison, as data: each curve's points, with what makes it cheap or dear varied.

`zip_rc` varies beta, `opt_scale` its confidence, early stopping its window, everything else its number of samples;
reward pruning varies its threshold too (section 6.1, figure 3, table 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zip_introspect.config import GenerationConfig
from zip_introspect.evaluation.replay.trials import Scorer, Setting
from zip_introspect.evaluation.store.rollout_file import Rollouts

ZIP_RC, POSTERIOR, LITE, BOUND = "zip_rc", "answer_posterior", "zip_rc_lite", "pass_at_k"
OURS = (ZIP_RC, POSTERIOR)
"""What the others are held against."""
WEIGHED = (*OURS, LITE)
"""Curves whose points are betas, and differ with alpha."""
GUESSES = "best_of_majority_2"
"""Gives two answers, and is right where one of them is."""
_WITH_HEAD = {
    ZIP_RC: "ZIP-RC",
    POSTERIOR: "answer posterior",
    LITE: "ZIP-RC-Lite",
    "best_of_n": "best of N, by value",
    "weighted_best_of_n": "weighted best of N, by value",
    "weighted_best_of_n_external": "weighted best of N, external model",
    "weighted_best_of_n_self": "weighted best of N, self-evaluation",
    "best_of_majority": "best of majority",
    GUESSES: "best of majority, 2 answers (pass@2)",
    "opt_scale": "OptScale",
    "zip_rc_reward_pruning": "reward pruning, over N",
    "zip_rc_reward_pruning_thresholds": "reward pruning, over thresholds",
    "deep_conf": "DeepConf",
    "step_prune": "STEP pruning",
}
_WITHOUT_HEAD = {
    "majority_vote": "majority vote",
    "majority_vote_pruned": "majority vote, length-pruned",
    "adaptive_consistency": "adaptive consistency",
    "adaptive_consistency_dirichlet": "adaptive consistency, Dirichlet",
    "early_stopping_consistency": "early-stopping consistency",
    "deep_conf_tokens": "DeepConf, by tokens",
    "deep_conf_likelihood": "DeepConf, by likelihood",
    BOUND: "pass@k (oracle)",
}
TITLES = _WITH_HEAD | _WITHOUT_HEAD
"""Curves by their names, as a reader is told of them: those that need a head, then those that need none."""

ALPHAS = (0.1, 1.0)
BETAS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
THRESHOLDS = (0.1, 0.2, 0.4, 0.6, 0.8)
CONFIDENCES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
WINDOWS = range(2, 9)
MATCHED_BETA = 0.01
"""The beta of the paper's comparison at matched cost (table 2)."""
_ADAPTIVE_SAMPLES = 8  # of zip_rc and reward pruning, at most, as in the paper
_LONG = 0.9  # share of the rollouts that pruning by length keeps
_HELD = 4  # rollouts of the mean length that memory holds, where it runs short


def settings(
    config: GenerationConfig,
    stored: int,
    *,
    alphas: Sequence[float] = ALPHAS,
    betas: Sequence[float] = BETAS,
    max_length: int | None = None,
    max_tokens_held: int | None = None,
    scorers: Sequence[Scorer] = ("value",),
    confidences: bool = False,
) -> list[Setting]:
    """Every point of every curve.

    Args:
        config: what all have in common, such as the interval and `max_new_tokens`.
        stored: rollouts of a question, at least.
        max_length: at which pruning by length cuts; None leaves that curve out.
        max_tokens_held: that memory holds where samples are pruned for it; None leaves that curve out.
        scorers: whose scores weigh votes.
        confidences: whether the confidences of tokens are stored.
    """
    sizes = range(1, stored + 1)
    adaptive = min(_ADAPTIVE_SAMPLES, stored)

    def setting(name: str, strategy: str, scorer: Scorer = "value", /, **changes: Any) -> Setting:
        return Setting(name, config.replace(strategy=strategy, **changes), scorer)

    found = [
        item for curve in OURS for item in adaptive_settings(config, stored, alphas=alphas, betas=betas, curve=curve)
    ]
    # Where every sample runs to its end, decisions change nothing: one is enough.
    once = {"interval": config.max_new_tokens}
    for name in ("majority_vote", "best_of_n", "best_of_majority", BOUND):
        found += [setting(name, name, max_samples=size, **once) for size in sizes]
    two = {"answers": 2}
    found += [
        setting(GUESSES, "best_of_majority", max_samples=size, strategy_options=two, **once) for size in sizes[1:]
    ]
    found += [setting(name, name, max_samples=size) for name in ("adaptive_consistency", "deep_conf") for size in sizes]
    name, dirichlet = "adaptive_consistency", {"criterion": "dirichlet"}
    found += [setting(f"{name}_dirichlet", name, max_samples=size, strategy_options=dirichlet) for size in sizes]
    name = "early_stopping_consistency"
    found += [setting(name, name, max_samples=1)]
    found += [
        setting(name, name, max_samples=stored, strategy_options={"window": window})
        for window in WINDOWS
        if window <= stored
    ]
    found += [
        setting("opt_scale", "opt_scale", max_samples=adaptive, strategy_options={"confidence": confidence})
        for confidence in CONFIDENCES
    ]
    if max_tokens_held is not None:
        held = {"max_tokens_held": max_tokens_held}
        found += [setting("step_prune", "step_prune", max_samples=size, strategy_options=held) for size in sizes]
    if confidences:
        found += [
            setting(f"deep_conf_{signal}", "deep_conf", max_samples=size, strategy_options={"signal": signal})
            for signal in ("tokens", "likelihood")
            for size in sizes
        ]
    if max_length is not None:
        pruned = {"max_length": max_length}
        found += [
            setting("majority_vote_pruned", "majority_vote", max_samples=size, strategy_options=pruned)
            for size in sizes
        ]
    for scorer in scorers:
        name = "weighted_best_of_n" + ("" if scorer == "value" else f"_{scorer}")
        found += [setting(name, "weighted_best_of_n", scorer, max_samples=size, **once) for size in sizes]
    pruning = "zip_rc_reward_pruning"
    found += [setting(pruning, pruning, max_samples=size) for size in range(1, adaptive + 1)]
    found += [
        setting(f"{pruning}_thresholds", pruning, max_samples=adaptive, strategy_options={"threshold": threshold})
        for threshold in THRESHOLDS
    ]
    return found


def adaptive_settings(
    config: GenerationConfig,
    stored: int,
    *,
    alphas: Sequence[float] = ALPHAS,
    betas: Sequence[float] = BETAS,
    curve: str = ZIP_RC,
) -> list[Setting]:
    """The points of a strategy that weighs cost; `curve` is `LITE` for zip_rc on rollouts with that head's joints."""
    strategy = ZIP_RC if curve == LITE else curve
    shared = {"strategy": strategy, "max_samples": min(_ADAPTIVE_SAMPLES, stored)}
    return [Setting(curve, config.replace(alpha=alpha, beta=beta, **shared)) for alpha in alphas for beta in betas]


def settings_for(
    rollouts: Rollouts, config: GenerationConfig, *, alphas: Sequence[float] = ALPHAS, betas: Sequence[float] = BETAS
) -> list[Setting]:
    """`settings` with what these rollouts allow: their number, their scores, a cut at their 90th percentile, and memory
    for four of them.
    """
    everything = [rollout for problem in rollouts.problems for rollout in problem.rollouts]
    lengths = [len(rollout.tokens) for rollout in everything]
    scorers: list[Scorer] = ["value"]
    if all(rollout.external_score is not None for rollout in everything):
        scorers.append("external")
    if all(rollout.self_score is not None for rollout in everything):
        scorers.append("self")
    return settings(
        config.replace(max_new_tokens=rollouts.max_new_tokens),
        min(len(problem.rollouts) for problem in rollouts.problems),
        alphas=alphas,
        betas=betas,
        max_length=int(np.quantile(lengths, _LONG)),
        max_tokens_held=max(1, int(_HELD * np.mean(lengths))),
        scorers=scorers,
        confidences=rollouts.confidences,
    )


def lite_settings_for(
    rollouts: Rollouts, config: GenerationConfig, *, alphas: Sequence[float] = ALPHAS, betas: Sequence[float] = BETAS
) -> list[Setting]:
    """The points of zip_rc on rollouts with the joints of ZIP-RC-Lite."""
    stored = min(len(problem.rollouts) for problem in rollouts.problems)
    config = config.replace(max_new_tokens=rollouts.max_new_tokens)
    return adaptive_settings(config, stored, alphas=alphas, betas=betas, curve=LITE)


def title(curve: str) -> str:
    """What a reader is told a curve is; its name where it is none of ours."""
    return TITLES.get(curve, curve)


def need(curve: str) -> str:
    """What the strategy of a curve needs, as in `strategies.by_need`; "" where it is none of ours."""
    return "no head" if curve in _WITHOUT_HEAD else "a head" if curve in _WITH_HEAD else ""


def label(setting: Setting) -> str:
    """What a point is within its curve."""
    config = setting.config
    if setting.name in WEIGHED:
        return f"beta {config.beta:g}"
    for varied in ("threshold", "confidence", "window"):
        if varied in config.strategy_options:
            return f"{varied} {config.strategy_options[varied]:g}"
    return "1 sample" if config.max_samples == 1 else f"{config.max_samples} samples"
