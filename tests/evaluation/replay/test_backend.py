"""Stored rollouts, replayed, are what the model itself would have done."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.evaluation.stored import CONFIG, simulated
from zip_introspect import BackendError, ConfigError, IntrospectiveLLM, PromptError
from zip_introspect.demo.problems import held_out
from zip_introspect.evaluation.replay.backend import ReplayBackend
from zip_introspect.evaluation.replay.baselines import settings_for
from zip_introspect.evaluation.replay.trials import Setting, evaluate, single, sweep
from zip_introspect.evaluation.replay.trials import replayed as replays
from zip_introspect.evaluation.store.collecting import collect_rollouts
from zip_introspect.evaluation.store.rollout_file import Question, StoredRollout

AT_THE_PROMPT = [
    "zip_rc",
    "best_of_n",
    "majority_vote",
    "zip_rc_reward_pruning",
    "adaptive_consistency",
    "deep_conf",
    "early_stopping_consistency",
    "best_of_majority",
    "opt_scale",
    "step_prune",
    "pass_at_k",
    "single",
]


def setting(strategy: str, **changes: Any) -> Setting:
    return Setting(strategy, CONFIG.replace(strategy=strategy, max_samples=4, **changes))


@pytest.mark.parametrize("strategy", AT_THE_PROMPT)
def test_a_replay_is_the_live_run(strategy: str) -> None:
    llm, rollouts = simulated(questions=24)
    questions = [problem.question.text for problem in rollouts.problems]
    live = llm.batch(questions, strategy=strategy, max_samples=4, beta=0.3)
    replayed = evaluate(rollouts, setting(strategy, beta=0.3))
    prompts = [len(problem.prompt_tokens) for problem in rollouts.problems]
    compute = [size + result.usage.generated_tokens for size, result in zip(prompts, live, strict=True)]
    # Joints are kept in half precision, so a close decision may fall the other way once in a while.
    same = np.isclose(replayed.compute, compute) & np.isclose(replayed.latency, [item.usage.depth for item in live])
    assert same.mean() >= 0.95
    if strategy != "pass_at_k":
        right = [result.text.endswith("ans 1") for result in live]
        assert (replayed.right == right).mean() >= 0.95
    assert np.array_equal(replayed.samples[same], np.array([len(item.samples) for item in live])[same])


@pytest.mark.parametrize("head", [True, False])
def test_token_confidences_are_replayed(head: bool) -> None:
    llm, rollouts = simulated(questions=24, confidences=True, head=head)
    options: dict[str, Any] = {
        "strategy": "deep_conf",
        "strategy_options": {"signal": "tokens"},
        "confidence_window": 6,
    }
    live = llm.batch([problem.question.text for problem in rollouts.problems], max_samples=4, **options)
    _, replayed = replays(rollouts, CONFIG.replace(max_samples=4, **options))
    same = [one.answer == other.answer for one, other in zip(live, replayed, strict=True)]
    assert np.mean(same) >= 0.95  # confidences too are kept in half precision
    for one, other in zip(live, replayed, strict=True):
        for ours, theirs in zip(one.samples, other.samples, strict=False):
            assert ours.token_confidence is not None
            assert theirs.token_confidence is not None
            if ours.token_ids == theirs.token_ids:
                assert theirs.token_confidence.lowest == pytest.approx(ours.token_confidence.lowest, rel=1e-3)


def test_rollouts_without_confidences_say_how_to_get_them() -> None:
    _, rollouts = simulated(questions=2)
    with pytest.raises(BackendError, match="collect rollouts with --confidences"):
        replays(rollouts, CONFIG.replace(strategy="deep_conf", strategy_options={"signal": "tokens"}, max_samples=4))


def test_the_curves_by_tokens_are_there_where_rollouts_have_them() -> None:
    names = {
        told: {item.name for item in settings_for(simulated(confidences=told)[1], CONFIG)} for told in (True, False)
    }
    assert names[True] - names[False] == {"deep_conf_tokens", "deep_conf_likelihood"}
    _, rollouts = simulated(questions=4, confidences=True)
    curve = [item for item in settings_for(rollouts, CONFIG) if item.name == "deep_conf_tokens"]
    assert [evaluate(rollouts, item).samples.max() <= item.config.max_samples for item in curve] == [True] * 4


def test_the_embedded_model_replayed_is_the_embedded_model() -> None:
    problems = held_out(11, 15)
    with IntrospectiveLLM.demo() as llm:
        asked = [Question(problem.prompt, problem.answer, str(problem.tier)) for problem in problems]
        rollouts = collect_rollouts(
            llm, asked, lambda text, expected: text.rsplit("\n", 1)[-1].strip() == f"ans {expected}", samples=4
        )
        live = llm.batch([problem.prompt for problem in problems], max_samples=4)
        replayed = evaluate(rollouts, Setting("zip_rc", llm.config.replace(max_samples=4)))
    assert replayed.tokens.sum() == pytest.approx(sum(item.usage.generated_tokens for item in live), rel=0.05)
    right = [problem.grade(result.text) for problem, result in zip(problems, live, strict=True)]
    assert abs(replayed.right.sum() - sum(right)) <= 1


def test_pass_at_k_is_right_where_any_sample_is() -> None:
    _, rollouts = simulated()
    found = evaluate(rollouts, setting("pass_at_k"))
    assert found.right.tolist() == [any(item.right for item in problem.rollouts) for problem in rollouts.problems]


def test_several_answers_are_right_where_one_is() -> None:
    _, rollouts = simulated(questions=24, samples=8)

    def found(**options: Any) -> np.ndarray:
        return evaluate(rollouts, setting("best_of_majority", strategy_options={"share": 0.0, **options})).right

    alone, two, all_of_them = found(), found(answers=2), found(answers=4)
    bound = evaluate(rollouts, setting("pass_at_k")).right
    assert (alone <= two).all()
    assert (two <= all_of_them).all()
    assert 0 < two.sum() < bound.sum() + 1
    assert (alone == evaluate(rollouts, setting("best_of_n")).right).all()
    # Each answer is given once, by its best sample, so that all answers together miss nothing.
    assert (all_of_them == bound).all()


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("adaptive_consistency", {"criterion": "dirichlet", "overtaken": 0.2}),
        ("early_stopping_consistency", {"window": 2}),
        ("opt_scale", {"confidence": 0.5}),
        ("step_prune", {"max_tokens_held": 40}),
    ],
)
def test_what_is_spared_is_not_paid_for(strategy: str, options: dict[str, Any]) -> None:
    _, rollouts = simulated(questions=24)
    whole = evaluate(rollouts, setting("majority_vote"))
    spared = evaluate(rollouts, setting(strategy, strategy_options=options))
    assert (spared.compute <= whole.compute).all()
    assert spared.compute.sum() < whole.compute.sum()
    right, *_ = single(rollouts)
    assert spared.right.mean() > right.mean() - 0.1


def test_windows_use_every_rollout_equally_often() -> None:
    _, rollouts = simulated()
    found = evaluate(rollouts, setting("single"), windows=4)
    right, compute, latency = single(rollouts)
    assert np.allclose(found.right, right)
    assert np.allclose(found.compute, compute)
    assert np.allclose(found.latency, latency)


def test_a_sweep_is_its_settings_one_by_one_in_their_order() -> None:
    _, rollouts = simulated(questions=6)
    settings = [setting("zip_rc", beta=beta) for beta in (0.05, 0.5)] + [setting("best_of_n")]
    for found, item in zip(sweep(rollouts, settings, processes=2), settings, strict=True):
        alone = evaluate(rollouts, item)
        assert found.setting == item
        assert np.array_equal(found.right, alone.right)
        assert np.array_equal(found.compute, alone.compute)


def test_what_cannot_be_replayed_is_refused_before_anything_runs() -> None:
    _, rollouts = simulated(questions=3)
    for bad, said in (
        (
            Setting("beam", CONFIG.replace(strategy="beam_search")),
            "branches within a sample.*evaluate beam_search with",
        ),
        (Setting("n", CONFIG.replace(strategy="best_of_n")), "may start 8 samples, and 4 are stored"),
        (Setting("long", CONFIG.replace(strategy="single", max_new_tokens=65)), "were cut at 64"),
        (Setting("rm", CONFIG.replace(strategy="weighted_best_of_n", max_samples=4), "external"), "external scores"),
    ):
        with pytest.raises(ConfigError, match=said):
            next(iter(sweep(rollouts, [setting("single"), bad])))
    backend = ReplayBackend(rollouts)
    with pytest.raises(PromptError, match="not among the 3 stored questions"):
        backend.encode("another question")
    root = backend.prefill([rollouts.problems[0].prompt_tokens])[0].sequence
    (sample,) = backend.fork(root, [0], CONFIG.sampling)
    with pytest.raises(BackendError, match="branch at the prompt only"):
        backend.fork(sample, [1], CONFIG.sampling)
    with pytest.raises(BackendError, match="sample 4 was asked for, and 4 are stored"):
        backend.fork(root, [4], CONFIG.sampling)
    backend.release([root, sample])
    with pytest.raises(BackendError, match="released"):
        backend.advance([sample], [1])


def test_scores_of_others_weigh_the_votes_and_are_paid_for() -> None:
    _, rollouts = simulated(questions=16)

    def scored(item: StoredRollout) -> StoredRollout:
        return dataclasses.replace(item, external_score=float(item.right), self_score=0.5)

    problems = [
        dataclasses.replace(problem, rollouts=tuple(map(scored, problem.rollouts))) for problem in rollouts.problems
    ]
    told = dataclasses.replace(rollouts, problems=tuple(problems), external_cost=0.5, judgement_tokens=3)
    config = CONFIG.replace(strategy="weighted_best_of_n", max_samples=4)
    own, oracle, judged = (evaluate(told, Setting("w", config, scorer)) for scorer in ("value", "external", "self"))
    votes = evaluate(told, setting("majority_vote"))
    bound = evaluate(told, setting("pass_at_k"))
    assert oracle.right.tolist() == bound.right.tolist()
    assert (oracle.right >= own.right).all()
    assert judged.right.mean() == pytest.approx(votes.right.mean(), abs=0.25)  # equal weights: ties apart, a vote
    for place, problem in enumerate(told.problems):
        read = sum(len(problem.prompt_tokens) + len(item.tokens) for item in problem.rollouts if item.finished)
        assert oracle.compute[place] == own.compute[place] + 0.5 * read
        judgements = sum(item.finished for item in problem.rollouts)
        assert judged.compute[place] == own.compute[place] + 3 * judgements
    assert (oracle.latency == own.latency).all()


def test_stored_tokens_can_be_appended_and_no_others() -> None:
    _, rollouts = simulated()
    backend, problem = ReplayBackend(rollouts), rollouts.problems[0]
    (prompt,) = backend.prefill([problem.prompt_tokens])
    drawn, given = (backend.fork(prompt.sequence, [0], CONFIG.sampling)[0] for _ in range(2))
    (run,) = backend.advance([drawn], [2])
    (appended,) = backend.append([given], [run.tokens.tolist()])
    assert np.array_equal(appended.joint_logits, run.joint_logits[-1:])
    assert backend.advance([given], [1])[0].tokens.tolist() == backend.advance([drawn], [1])[0].tokens.tolist()
    with pytest.raises(BackendError, match="evaluate this with the model"):
        backend.append([given], [[-1]])
    with pytest.raises(BackendError, match="give its token ids"):
        backend.spell("</think>")
