"""The embedded model with an exact solver above it, on held-out problems: `python benchmarks/escalation.py`.

A right answer earns 1, and handing a question on costs `--cost`. The embedded model alone, the solver alone, and
handing on: at the end, below thresholds on confidence; by expected utility, at every decision; at the prompt. Each is
held against handing on the same share of the questions at random.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zip_introspect import EscalationPolicy, GenerationResult, IntrospectiveLLM, Ladder, Reply, Rung, Usage
from zip_introspect.answers.extraction import same
from zip_introspect.demo.problems import Problem, held_out
from zip_introspect.escalation.drivers import moved
from zip_introspect.escalation.plan import Call, EscalationPlan
from zip_introspect.evaluation.measures.handing_on import Answered, Prices, compared, table
from zip_introspect.result import EscalationResult

Ended = tuple[str | None, Usage, EscalationResult | None]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=8, help="of the embedded model for a question, at most")
    parser.add_argument("--beta", type=float, default=0.05)
    parser.add_argument("--cost", type=float, default=0.3, help="of handing on, where a right answer earns 1")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.3, 0.5, 0.9])
    parser.add_argument("--backend", default=None)
    parser.add_argument("--threads", type=int, default=None, help="of llama.cpp")
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file too")
    options = parser.parse_args()
    problems = held_out(1, options.problems)
    prompts = [problem.prompt for problem in problems]
    exact = Rung({problem.prompt: problem.answer for problem in problems}.__getitem__, "exact", cost=options.cost)
    worth = 1 - options.cost
    own = {"threads": options.threads} if options.threads else {}
    with IntrospectiveLLM.demo(backend=options.backend, **own) as llm:
        config = llm.config.replace(max_samples=options.samples, beta=options.beta, seed=2)

        def searched(name: str, **criteria: float) -> Answered:
            results = Ladder(llm, exact, policy=EscalationPolicy(**criteria)).batch(prompts, config=config)
            return _answered(name, problems, [(item.answer, item.usage, item.escalation) for item in results])

        def at_the_end(name: str, threshold: float) -> Answered:
            ladder = Ladder(llm, exact, policy=EscalationPolicy(min_confidence=threshold))
            pairs = zip(prompts, alone, strict=True)
            return _answered(name, problems, [_ended(ladder.plan(prompt), prompt, result) for prompt, result in pairs])

        alone = llm.batch(prompts, config=config)
        first = _answered("always small", problems, [(item.answer, item.usage, None) for item in alone])
        last = Answered("always strong", *np.array([[1.0, 1.0, 0.0, 0.0, 0.0]] * len(prompts)).T)
        thresholds = [at_the_end(f"at the end, confidence below {bar:g}", bar) for bar in options.thresholds]
        end = at_the_end(f"at the end, confidence below {worth:g} = 1 - cost", worth)
        weighed = searched("at every decision, by expected utility", expected_utility=True)
        prompt = searched(f"at the prompt, less than {worth:g} expected", min_prompt_confidence=worth)
    typical = float(np.mean([result.expected.remaining for result in alone if result.expected]))
    prices = Prices(options.cost, config.alpha, config.beta, typical)
    rows = [compared(way, first, last, prices) for way in (first, last, *thresholds, end, weighed, prompt)]
    print(
        f"{len(problems)} problems, {options.samples} samples at most, beta {options.beta:g}, cost {options.cost:g}\n"
    )
    print(table(rows))
    measured = (end.tokens - weighed.tokens).mean()
    print(f"\nTokens saved by not waiting for the end: {measured:.1f} a question; expected {weighed.saved.mean():.1f}")
    if options.json:
        options.json.write_text(json.dumps({"typical": typical, "rows": rows}, indent=1), encoding="utf-8")


def _ended(plan: EscalationPlan, prompt: str, result: GenerationResult) -> Ended:
    """What a ladder makes of a search that has been run already: a threshold only matters once it is over."""
    flow = plan.flow()
    moved(flow)
    step = moved(flow, Reply.of(result))
    while isinstance(step, Call):
        step = moved(flow, step.model.ask(step, prompt, {}))
    return step.reply.answer if step.reply else None, step.usage, step.escalation


def _answered(name: str, problems: Sequence[Problem], outcomes: Sequence[Ended]) -> Answered:
    pairs = zip(problems, outcomes, strict=True)
    columns = [
        (
            same(problem.answer, answer),
            escalation is not None,
            usage.generated_tokens,
            usage.depth,
            (escalation.tokens_saved or 0.0) if escalation else 0.0,
        )
        for problem, (answer, usage, escalation) in pairs
    ]
    return Answered(name, *np.array(columns, dtype=np.float64).T)


if __name__ == "__main__":
    main()
