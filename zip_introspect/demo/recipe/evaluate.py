"""Step 6: the figures of the embedded model on problems held out from all training, written to a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel

from zip_introspect import IntrospectiveLLM
from zip_introspect.backend.contract import Backend, joint_grid
from zip_introspect.config import SamplingParams
from zip_introspect.demo.equations import TIERS
from zip_introspect.demo.problems import Problem, held_out
from zip_introspect.demo.recipe.base_rollouts import MAX_NEW_TOKENS
from zip_introspect.evaluation.measures.cost import Interval, generation_cost, paired_difference
from zip_introspect.evaluation.measures.metrics import (
    auroc,
    auroc_within,
    classification,
    expected_calibration_error,
    measured_joint,
    total_variation,
)
from zip_introspect.evaluation.replay.voting import Scored, best_of_n, majority_vote, mean_over_windows
from zip_introspect.introspection import joint
from zip_introspect.training.dataset import JointCollator, row
from zip_introspect.training.on_policy import Rollout, collect
from zip_introspect.training.trainer import policy_kl

ALPHA = 0.1
BETAS = (0.01, 0.05, 0.2)
SAMPLES = 8  # at most, for zip_rc
RIVAL_SAMPLES = 16  # the rivals' curves go on beyond that, so that there is a rival at every cost


@dataclass(frozen=True)
class Curve:
    """Accuracy and generation cost of each setting of a strategy on each problem: shape (settings, problems)."""

    right: NDArray[np.float64]
    cost: NDArray[np.float64]


def evaluate(model: Path, base: Path, *, seed: int, problems: int, measured: int, rollouts: int) -> dict[str, Any]:
    """All figures of the results page.

    Args:
        model, base: directories of the final model and of the base policy it was trained from.
        problems: how many held-out problems, tiers in equal parts.
        measured: on how many of them the joint at the prompt is measured, with `rollouts` rollouts each.
    """
    llm = IntrospectiveLLM.from_pretrained(model)
    questions = held_out(seed, problems)
    prompts = [llm.backend.encode(question.prompt) for question in questions]
    samples = _collect(llm.backend, prompts, RIVAL_SAMPLES, seed + 1)
    scored = [
        [_score(llm.backend, question, item) for item in group]
        for question, group in zip(questions, samples, strict=True)
    ]
    tiers = np.array([question.tier for question in questions])
    sizes = np.array([len(prompt) for prompt in prompts])
    return {
        "seed": seed,
        "problems": problems,
        "prediction": _prediction(scored, tiers),
        "total_variation": _start(llm.backend, questions[:measured], prompts[:measured], rollouts, seed + 2),
        "kl": _kl(model, base, [item for group in samples for item in group[:2]]),
        "search": _search(llm, questions, scored, tiers, sizes, seed + 3),
    }


def _collect(backend: Backend, prompts: Sequence[Sequence[int]], samples: int, seed: int) -> list[list[Rollout]]:
    groups: list[list[Rollout]] = [[] for _ in prompts]
    found = collect(
        backend, prompts, samples, SamplingParams(seed=seed), max_new_tokens=MAX_NEW_TOKENS, concurrency=256
    )
    for rollout in tqdm(found, total=len(prompts) * samples, desc="rollouts", mininterval=5):
        groups[rollout.prompt].append(rollout)
    return [sorted(group, key=lambda rollout: rollout.sample) for group in groups]


def _value(backend: Backend, rollout: Rollout) -> float:
    """The predicted reward at the last prefix; a cut rollout has no answer, and the lowest reward."""
    if not rollout.finished:
        return float(joint_grid(backend).reward_values[0])
    final = joint.from_logits(rollout.joint_logits[-1], joint_grid(backend))
    return float(joint.expected_value(final, joint_grid(backend)))


def _score(backend: Backend, question: Problem, rollout: Rollout) -> Scored:
    text = backend.decode(rollout.tokens.tolist())
    answer = text.rsplit("\n", 1)[-1] if rollout.finished else None
    right = rollout.finished and question.grade(text)
    return Scored(answer, right, _value(backend, rollout), len(rollout.tokens))


def _prediction(scored: list[list[Scored]], tiers: NDArray[np.int64]) -> dict[str, Any]:
    """Table 1's right half and more, on all samples together."""
    owner = np.repeat(np.arange(len(scored)), RIVAL_SAMPLES)
    right = np.array([sample.right for group in scored for sample in group])
    values = np.array([sample.value for group in scored for sample in group])
    within, pairs = auroc_within(owner, right, values)
    return {
        "accuracy": {str(tier): float(right[tiers[owner] == tier].mean()) for tier in TIERS},
        "auroc": auroc(right, values),
        "auroc_within": within,
        "problems_with_both": pairs,
        "ece": expected_calibration_error(right, values),
        "classification": classification(right, values),
    }


def _start(
    backend: Backend, questions: Sequence[Problem], prompts: Sequence[Sequence[int]], rollouts: int, seed: int
) -> dict[str, Any]:
    """Total variation between the joint at the prompt and that of rollouts (table 1's left half)."""
    distances = []
    for group in _collect(backend, prompts, rollouts, seed):
        predicted = joint.from_logits(group[0].joint_logits[0], joint_grid(backend))
        values = [_value(backend, rollout) for rollout in group]
        found = measured_joint(joint_grid(backend), values, [len(rollout.tokens) for rollout in group])
        distances.append(float(total_variation(predicted, found)))
    tiers = np.array([question.tier for question in questions])
    return {
        "problems": len(questions),
        "rollouts": rollouts,
        "mean": float(np.mean(distances)),
        **{str(tier): float(np.mean(np.array(distances)[tiers == tier])) for tier in TIERS},
    }


def _kl(model: Path, base: Path, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """KL(pi_theta || pi) in nats a token, on the final policy's own rollouts."""
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in (model, base)
    )
    grid = IntrospectiveLLM.from_pretrained(model).grid
    total, count = 0.0, 0
    for start in tqdm(range(0, len(rollouts), 32), desc="kl"):
        batch = _batch(policy, grid, rollouts[start : start + 32])
        labelled = batch.pop("targets") >= 0
        with torch.inference_mode():
            divergence = policy_kl(policy(**batch).logits[labelled], reference(**batch).logits[labelled], grid)
        total, count = total + float(divergence.sum()), count + divergence.numel()
    return {"nats_per_token": total / count, "tokens": count}


def _batch(policy: PreTrainedModel, grid: Any, rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
    rows = [row(rollout.prompt_tokens.tolist(), rollout.tokens.tolist(), 0.0) for rollout in rollouts]
    return JointCollator(grid, policy.config.pad_token_id)(rows)


def _search(
    llm: IntrospectiveLLM,
    questions: Sequence[Problem],
    scored: list[list[Scored]],
    tiers: NDArray[np.int64],
    sizes: NDArray[np.int64],
    seed: int,
) -> dict[str, Any]:
    """zip_rc, live, against fixed-size strategies on the stored samples, at equal generation cost."""
    length = np.array([np.mean([sample.tokens for sample in group]) for group in scored])
    rivals = {
        "majority_vote": _fixed(scored, sizes, length, majority_vote),
        "best_of_n": _fixed(scored, sizes, length, best_of_n),
    }
    rows, differences = [], []
    for beta in BETAS:
        live = _live(llm, questions, sizes, length, beta, seed)
        rows.append({"strategy": "zip_rc", "setting": beta, **_summary(live.right[0], live.cost[0], tiers)})
        rows[-1]["samples"] = {str(tier): float(live.samples[tiers == tier].mean()) for tier in TIERS}
        for name, rival in rivals.items():
            covered = bool(live.cost.mean() <= rival.cost.mean(1).max())
            differences.append({"beta": beta, "rival": name, "covered": covered, **_differences(live, rival, tiers)})
    for name, rival in rivals.items():
        rows += [
            {"strategy": name, "setting": k + 1, **_summary(rival.right[k], rival.cost[k], tiers)}
            for k in range(RIVAL_SAMPLES)
        ]
    return {
        "alpha": ALPHA,
        "samples": SAMPLES,
        "rival_samples": RIVAL_SAMPLES,
        "rows": rows,
        "differences": differences,
    }


def _fixed(scored: list[list[Scored]], sizes: NDArray[np.int64], length: NDArray[np.float64], rule: Any) -> Curve:
    table = np.array(
        [
            [mean_over_windows(group, k, int(size), rule) for group, size in zip(scored, sizes, strict=True)]
            for k in range(1, RIVAL_SAMPLES + 1)
        ]
    )
    cost = generation_cost(table[..., 1], table[..., 2], sizes + length, length, ALPHA)
    return Curve(table[..., 0], cost)


@dataclass(frozen=True)
class Live(Curve):
    """A curve of one setting, with the samples that each problem got."""

    samples: NDArray[np.float64]


def _live(
    llm: IntrospectiveLLM,
    questions: Sequence[Problem],
    sizes: NDArray[np.int64],
    length: NDArray[np.float64],
    beta: float,
    seed: int,
) -> Live:
    results = []
    for start in tqdm(range(0, len(questions), 50), desc=f"zip_rc beta={beta}"):
        prompts = [question.prompt for question in questions[start : start + 50]]
        results += llm.batch(
            prompts, alpha=ALPHA, beta=beta, seed=seed, max_samples=SAMPLES, max_new_tokens=MAX_NEW_TOKENS
        )
    right = np.array(
        [question.grade(result.text) for question, result in zip(questions, results, strict=True)], dtype=np.float64
    )
    compute = sizes + np.array([result.usage.generated_tokens for result in results])
    depth = np.array([result.usage.depth for result in results])
    cost = generation_cost(compute, depth, sizes + length, length, ALPHA)
    return Live(right[None], cost[None], np.array([len(result.samples) for result in results], dtype=np.float64))


def _summary(right: NDArray[np.float64], cost: NDArray[np.float64], tiers: NDArray[np.int64]) -> dict[str, Any]:
    by_tier = {str(tier): float(right[tiers == tier].mean()) for tier in TIERS}
    return {"accuracy": float(right.mean()), "cost": float(cost.mean()), "by_tier": by_tier}


def _differences(live: Curve, rival: Curve, tiers: NDArray[np.int64]) -> dict[str, Any]:
    def at(inside: NDArray[np.bool_]) -> dict[str, float]:
        found: Interval = paired_difference(
            live.right[0][inside], live.cost[0][inside], rival.right[:, inside], rival.cost[:, inside]
        )
        return {"value": found.value, "low": found.low, "high": found.high}

    return {"mix": at(tiers > 0), "hardest": at(tiers == TIERS[-1])}
