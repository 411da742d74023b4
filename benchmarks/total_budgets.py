"""One total for many questions, by the price of a token and in even shares: `python benchmarks/total_budgets.py`.

The rollouts are those of `make reproduce`. A total is a multiple of what one sample of every question takes. Beside
zip_rc under one `total_budget` stands every strategy that stored rollouts can play, with an equal share of the total
for each question; of its numbers of samples, the one that is best in hindsight.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks import reporting
from zip_introspect import strategies
from zip_introspect.config import GenerationConfig
from zip_introspect.evaluation.measures.cost import Interval, mean_interval
from zip_introspect.evaluation.replay.totals import AtTotal, at_total
from zip_introspect.evaluation.store.rollout_file import Rollouts

SHARES = (0.1, 0.25, 0.5, 1.0, 2.0)
SIZES = (2, 8)
PRICED = "zip_rc"


def rivals() -> list[str]:
    """The strategies that begin every sample at the prompt, and are no bound."""
    names = [name for name in strategies.names() if strategies.get(name).__module__.startswith("zip_introspect.")]
    return [name for name in names if not strategies.get(name).oracle and name != "beam_search"]


def best_even(rollouts: Rollouts, config: GenerationConfig, name: str, total: int, windows: int) -> AtTotal:
    """A strategy with an equal share for each question, at its best number of samples."""
    # What weighs each sample needs no other limit on them.
    sizes = [1] if name == "single" else SIZES[-1:] if strategies.get(name).priced else SIZES
    found = [
        at_total(rollouts, config.replace(strategy=name, max_samples=size), total, shared=False, windows=windows)
        for size in sizes
    ]
    return max(found, key=lambda item: float(item.right.mean()))


def main() -> None:
    """Print the table, and keep it as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rollouts", nargs="?", type=Path, default=Path("build/abacus.parquet"))
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, metavar="SHARE")
    parser.add_argument("--windows", type=int, default=1, help="runs, each beginning at another stored rollout")
    parser.add_argument("--beta", type=float, default=0.01)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rollouts = Rollouts.load(options.rollouts)
    config = GenerationConfig(max_new_tokens=rollouts.max_new_tokens, beta=options.beta)
    lengths = [len(rollout.tokens) for problem in rollouts.problems for rollout in problem.rollouts]
    one_each = float(np.mean(lengths)) * len(rollouts.problems)
    rows: list[list[str]] = []
    report: dict[str, dict[str, list[float]]] = {}
    for share in options.shares:
        total = int(share * one_each)
        priced = at_total(rollouts, config.replace(strategy=PRICED), total, shared=True, windows=options.windows)
        leads: dict[str, Interval] = {}
        accuracies: dict[str, float] = {}
        for name in rivals():
            even = best_even(rollouts, config, name, total, options.windows)
            leads[name], accuracies[name] = mean_interval(priced.right - even.right), float(even.right.mean())
        best = max(accuracies, key=lambda name: accuracies[name])
        rows.append(
            [
                f"{total:,} ({share:g} samples each)",
                f"{priced.right.mean():.1%}",
                f"{priced.answered.mean():.1%}",
                f"{priced.tokens.sum() / total:.1%}",
                f"{accuracies[PRICED]:.1%}",
                f"{best}, {accuracies[best]:.1%}",
                str(leads[best]),
            ]
        )
        report[str(share)] = {name: [lead.value, lead.low, lead.high] for name, lead in leads.items()}
        print(reporting.table(_HEADER, rows[-1:]) if len(rows) == 1 else f"| {' | '.join(rows[-1])} |", flush=True)
    reporting.write(options.out, {"questions": len(rollouts.problems), "leads": report})


_HEADER = (
    "Total tokens",
    "By price: right",
    "answered",
    "of the total used",
    "zip_rc in even shares",
    "Best in even shares",
    "Lead over it",
)


if __name__ == "__main__":
    main()
