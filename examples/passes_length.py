"""A probe of one's own: will this answer pass 200 tokens? Learnt from some hundred answers, read while one is written.

Nothing of the model is trained. What is learnt is a small network over its hidden states, in half a minute on one core.
How well it does is told by questions that it has not seen, against the base rate: of all answers that got as far, in
the training questions, the share that passed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from sklearn.metrics import roc_auc_score

from zip_introspect import IntrospectiveLLM
from zip_introspect.demo.problems import held_out
from zip_introspect.evaluation.measures import graders
from zip_introspect.evaluation.store.collecting import collect_rollouts
from zip_introspect.evaluation.store.rollout_file import Question, Rollouts
from zip_introspect.fitting import probing
from zip_introspect.fitting.probing import Labelled
from zip_introspect.fitting.training import HeadShape
from zip_introspect.heads import file
from zip_introspect.heads.probe import Probe, watch
from zip_introspect.heads.targets import Bernoulli

LIMIT, EVERY = 200, 8
TRAINING, HELD_OUT = 120, 40
SHAPES = (HeadShape(0, 1.0), HeadShape(0, 10.0), HeadShape(16, 1.0))
LOOKS = (0, 40, 80, 120, 160)
"""Tokens so far at which the probe is judged."""


def rollouts(llm: IntrospectiveLLM, questions: list[Question]) -> Rollouts:
    """Two answers to each, with the hidden state at every eighth token."""
    return collect_rollouts(
        llm, questions, graders.get("abacus"), samples=2, max_new_tokens=2 * LIMIT, hidden_every=EVERY
    )


def judge(probe: Probe, training: Labelled, unseen: Labelled) -> None:
    """Print how well it foretells, at some numbers of tokens so far."""
    foretold = probe.probabilities(unseen.last, unseen.mean)
    print("tokens so far  answers  pass  log loss  of base rate  AUROC")
    for tokens in LOOKS:
        rows, known = unseen.position == tokens, training.position == tokens
        at, before = unseen.where(rows), training.where(known).frequencies(2)
        auroc = roc_auc_score(at.labels, foretold[rows, 1])
        print(
            f"{tokens:>13}  {len(at.labels):>7}  {at.labels.mean():.2f}  {at.loss(foretold[rows]):>8.3f}  "
            f"{at.loss(before):>12.3f}  {auroc:.3f}"
        )


def main() -> None:
    """Collect, fit, judge, and watch an answer."""
    llm = IntrospectiveLLM.demo(hidden_states=True)
    questions = [Question(problem.prompt, problem.answer) for problem in held_out(11, TRAINING + HELD_OUT + 1)]
    fitted = probing.fit(
        rollouts(llm, questions[:TRAINING]),
        Bernoulli(),
        probing.passes(LIMIT),
        fingerprint=llm.backend.fingerprint(),
        candidates=SHAPES,
        note={"foretells": f"whether the answer passes {LIMIT} tokens"},
    )
    print(f"{fitted.trained.candidate.kind}, learnt from {len(fitted.rows.labels)} prefixes of {TRAINING} questions\n")
    unseen = Labelled.of(rollouts(llm, questions[TRAINING:-1]), Bernoulli(), probing.passes(LIMIT))
    judge(fitted.probe, fitted.rows, unseen)

    with tempfile.TemporaryDirectory() as folder:
        probe = file.load_probe(file.save_probe(fitted.probe, Path(folder)))
    question = questions[-1].text
    print(f"\n{question}\ntokens  probability of passing {LIMIT}")
    tokens, prompt = 0, llm.backend.encode(question)
    for foretold in watch(probe, llm.backend, prompt, llm.config.sampling, max_new_tokens=2 * LIMIT, interval=32):
        tokens += len(foretold.tokens)
        if len(foretold.probabilities):
            print(f"{tokens:>6}  {foretold.probabilities[-1, 1]:.2f}")
        if tokens >= LIMIT:
            break
    print(f"it has {tokens} tokens" + (" and goes on" if tokens >= LIMIT else ", and is done"))


if __name__ == "__main__":
    main()
