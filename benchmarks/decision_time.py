"""How long one decision takes against the number of leaves, and how much utility each way of searching gives up.

Run: OMP_NUM_THREADS=1 python benchmarks/decision_time.py [--out decision_time.json]

Times are of one core, on an 8x8 grid with up to 8 new samples and all horizons. The processor time is that of the
deciding thread, which other work on the machine does not lengthen as it does the wall time; both are medians over
eight cases, the same for every mode. A mode that takes longer than `--longest` at one number of leaves is left out at
larger ones, and the table says so.
The second table times whole decisions of a strategy, in searches of eight samples. The third one does so over the
searches of simulated problems: those that owe an answer that is not worth its cost, which weigh it on a grid with one
more reward bin, beside all others.
The regret of a search is the utility of the best meta-action of brute force, less that of the one it found: over every
subset and every number of new samples for a shared horizon, and over every horizon of each prefix for per-prefix ones.
Brute force doubles with each leaf, so at the numbers of leaves of the first table a search is held against the best
that any of them found instead: what it gives up is at least that.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting import processor, table, write
from zip_introspect import strategies
from zip_introspect.config import GenerationConfig
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.joint import expected_length
from zip_introspect.introspection.plans import EXACT_LIMIT, HorizonMode, SearchMode, best_plan
from zip_introspect.introspection.utility import capped_statistics, evaluate, normalized_beta
from zip_introspect.search.continuous_batch import run
from zip_introspect.search.request import Request
from zip_introspect.strategies import Finished, Leaf, MetaAction, MetaState, ZipRC, register
from zip_introspect.strategies.zip_rc import OWED
from zip_introspect.testing.simulator import SimulatedBackend

GRID = JointGrid.paper(0, startup=32)
SMALL = JointGrid(reward_edges=[0, 0.25, 0.5, 0.75, 1], length_edges=[0, 32, 64, 128, 512], first_reserved=0)
MAX_NEW = 8
CASES = 8
MODES: dict[str, tuple[SearchMode, HorizonMode]] = {
    "nested": ("nested", "shared"),
    "exact": ("exact", "shared"),
    "per-prefix": ("nested", "per_prefix"),
    "exact, per-prefix": ("exact", "per_prefix"),
}
UNCAPPED: dict[str, tuple[SearchMode, HorizonMode]] = {
    "nested, no horizon": ("nested", "none"),
    "exact, no horizon": ("exact", "none"),
}


def draw_joints(rng: np.random.Generator, n: int, grid: JointGrid) -> NDArray[np.float64]:
    """n joints, each a right and a wrong mode: the wrong one lower in reward and mostly longer."""
    b, t = np.indices(grid.shape) / (np.array(grid.shape) - 1)[:, None, None]
    joints = np.empty((n, *grid.shape))
    for i in range(n):
        right, start = rng.beta(0.7, 0.7), rng.uniform(0, 0.8)
        high, low = rng.uniform(0.7, 1.0), rng.uniform(0.0, 0.4)
        later = start + rng.uniform(-0.1, 0.3)
        width = rng.uniform(0.05, 0.3, size=4)
        good = np.exp(-(((b - high) / width[0]) ** 2) - ((t - start) / width[1]) ** 2)
        bad = np.exp(-(((b - low) / width[2]) ** 2) - ((t - later) / width[3]) ** 2)
        joints[i] = right * good / good.sum() + (1 - right) * bad / bad.sum()
    return joints


def draw_decision(rng: np.random.Generator, n: int, grid: JointGrid, max_new: int) -> dict[str, Any]:
    """The arguments of one decision over n leaves."""
    joints = draw_joints(rng, n + 1, grid)
    return {
        "leaf_joints": joints[:n],
        "root_joint": joints[n],
        "grid": grid,
        "alpha": float(rng.choice([0.1, 1.0])),
        "beta": float(10 ** rng.uniform(-2.3, -0.5)),
        "leaf_lengths": rng.integers(0, 400, n),
        "finished_values": rng.random(rng.integers(0, 2)).tolist(),
        "max_new": max_new,
    }


def timed(decisions: Sequence[Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median wall and processor time of a decision in microseconds, and processor time of the slowest of them."""
    wall: list[float] = []
    cpu: list[list[float]] = [[] for _ in decisions]
    decisions[0]()
    end = time.thread_time() + seconds
    while time.thread_time() < end or len(wall) < len(decisions):
        for decide, spent in zip(decisions, cpu, strict=True):
            started, used = time.perf_counter(), time.thread_time()
            decide()
            spent.append((time.thread_time() - used) * 1e6)
            wall.append((time.perf_counter() - started) * 1e6)
    return {
        "cpu_us": statistics.median(itertools.chain(*cpu)),
        "slowest_cpu_us": max(map(statistics.median, cpu)),
        "wall_us": statistics.median(wall),
        "repeats": len(wall),
    }


def sets_weighed(search: SearchMode, leaves: int) -> int:
    """Sets of leaves that a search weighs, each with every number of new samples and every shared horizon.

    `exact` takes every subset of the best EXACT_LIMIT leaves, and beyond these the chains of `nested` too: its cost
    doubles with each leaf up to there, and then grows as that of `nested` does.
    """
    if search == "nested":
        return leaves + 1
    return (1 << min(leaves, EXACT_LIMIT)) + (leaves + 1 if leaves > EXACT_LIMIT else 0)


def brute_force(case: dict[str, Any], per_prefix: bool) -> float:
    """The highest utility of any meta-action, by trying each; of any horizons, too."""
    grid, joints = case["grid"], np.concatenate([case["leaf_joints"], case["root_joint"][None]])
    lengths = np.append(case["leaf_lengths"], 0)
    capped, remaining = capped_statistics(joints, grid), expected_length(joints, grid)
    floor = max(case["finished_values"], default=float(grid.reward_values[0]))
    n, bins, best = len(lengths) - 1, grid.num_length_bins, -np.inf
    for size, new in itertools.product(range(n + 1), range(case["max_new"] + 1)):
        if not size + new:
            continue
        plans = np.array(
            list(itertools.product(range(bins), repeat=size + new))
            if per_prefix
            else [[h] * (size + new) for h in range(bins)]
        )
        for leaves in itertools.combinations(range(n), size):
            rows = np.array([*leaves, *[n] * new])
            beta = normalized_beta(case["beta"], lengths[rows], remaining[rows])
            cdfs, compute = capped.cdfs[rows, plans].prod(axis=1), capped.lengths[rows, plans].sum(axis=1)
            best = max(best, float(evaluate(cdfs, compute, grid, case["alpha"], beta, floor)[0].max()))
    return best


def measure_times(leaves: Sequence[int], seconds: float, longest: float) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each mode and number of leaves, and what was left out, with the reason."""
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for name, (search, horizon) in MODES.items():
        rng = np.random.default_rng(0)  # every mode decides the same cases
        for place, n in enumerate(leaves):
            # What a per-prefix decision costs depends on how many samples it would run, so on the case.
            cases = [draw_decision(rng, n, GRID, MAX_NEW) for _ in range(CASES)]
            found = timed([partial(best_plan, **case, search=search, horizon=horizon) for case in cases], seconds)
            rows.append({"mode": name, "leaves": n, "sets": sets_weighed(search, n), **found})
            if found["cpu_us"] > longest * 1e6 and leaves[place + 1 :]:
                larger = ", ".join(map(str, leaves[place + 1 :]))
                left_out.append(
                    f"{name} at {larger} leaves: one decision over {n} takes {found['cpu_us'] / 1e6:.2f} s, more than "
                    f"--longest {longest:g}"
                )
                break
    base = rows[0]["cpu_us"]
    return [{**row, "ratio": row["cpu_us"] / base} for row in rows], left_out


def draw_state(rng: np.random.Generator, leaves: int, finished: int, room: int) -> MetaState:
    """What a strategy sees of a search with so many samples; finished ones gave one of three answers."""
    joints = draw_joints(rng, leaves + 1, GRID)
    values, lengths = joint.expected_value(joints, GRID), joint.expected_length(joints, GRID)
    limit = int(GRID.length_edges[-1])
    return MetaState(
        decision=1,
        bins=GRID,
        config=GenerationConfig(),
        prompt_tokens=100,
        root_joint=joints[-1],
        root_value=float(values[-1]),
        root_remaining=float(lengths[-1]),
        leaves=tuple(
            Leaf(place, 100, joints[place], float(values[place]), float(lengths[place]), limit, True)
            for place in range(leaves)
        ),
        finished=tuple(
            Finished(leaves + place, 200, float(rng.random()), True, str(rng.integers(3))) for place in range(finished)
        ),
        started=leaves + finished,
        room=room,
        limit=limit,
    )


def measure_strategies(seconds: float) -> list[dict[str, Any]]:
    """A row for each strategy and kind of search of eight samples: one whole decision, the state given."""
    rows: list[dict[str, Any]] = []
    for name in ("zip_rc", "answer_posterior"):
        for leaves, finished, room in ((0, 0, 8), (8, 0, 0), (4, 2, 2), (3, 5, 0)):
            rng = np.random.default_rng(0)
            states = [draw_state(rng, leaves, finished, room) for _ in range(CASES)]
            decisions = [partial(strategies.get(name)(GenerationConfig(strategy=name)).decide, s) for s in states]
            rows.append({"strategy": name, "leaves": leaves, "finished": finished, "room": room})
            rows[-1] |= timed(decisions, seconds)
    return rows


class _Timed(ZipRC):
    """zip_rc that notes what each decision takes: (whether an answer is owed at a loss, microseconds)."""

    name: ClassVar[str] = "zip_rc_timed"
    spent: ClassVar[list[tuple[bool, float]]] = []

    def decide(self, state: MetaState) -> MetaAction:
        used = time.thread_time()
        action = super().decide(state)
        _Timed.spent.append((action.reason.startswith(OWED), (time.thread_time() - used) * 1e6))
        return action


def measure_debt(problems: int) -> list[dict[str, Any]]:
    """Median processor time of a decision in simulated searches, with an answer owed at a loss and without."""
    register(_Timed)
    _Timed.spent.clear()
    for beta in (0.05, 1.0, 3.0):
        config = GenerationConfig(strategy=_Timed.name, interval=4, beta=beta)
        requests = [Request(tuple(f"problem {number}".encode()), config) for number in range(problems)]
        for _ in run(SimulatedBackend(), requests):
            pass
    rows: list[dict[str, Any]] = []
    for owed, title in ((False, "none owed, or at a gain"), (True, "owed at a loss")):
        spent = [micros for debt, micros in _Timed.spent if debt == owed]
        rows.append({"answer": title, "decisions": len(spent), "cpu_us": statistics.median(spent)})
    return [{**row, "ratio": row["cpu_us"] / rows[0]["cpu_us"]} for row in rows]


def given_up(against: str, losses: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row a mode: its losses of utility in words of a distribution."""
    return [
        {
            "against": against,
            "mode": name,
            "mean": float(np.mean(values)),
            "p95": float(np.quantile(values, 0.95)),
            "worst": float(np.max(values)),
            "found_best": float(np.mean(np.array(values) < 1e-9)),
        }
        for name, values in losses.items()
    ]


def measure_regret(decisions: int) -> list[dict[str, Any]]:
    """Regret against brute force, where there are few enough meta-actions to try each."""
    rng = np.random.default_rng(1)
    rows = []
    for title, grid, n, max_new, per_prefix in (
        ("shared horizon, 8x8 grid, 6 leaves, 2 new", GRID, 6, 2, False),
        ("shared horizon, 8x8 grid, 8 leaves, 2 new", GRID, 8, 2, False),
        ("a horizon each, 4x4 grid, 3 leaves, 2 new", SMALL, 3, 2, True),
    ):
        modes = {name: mode for name, mode in (MODES | UNCAPPED).items() if per_prefix or mode[1] in ("shared", "none")}
        regrets: dict[str, list[float]] = {name: [] for name in modes}
        for _ in range(decisions):
            case = draw_decision(rng, n, grid, max_new)
            best = brute_force(case, per_prefix)
            for name, (search, horizon) in modes.items():
                found = best_plan(**case, search=search, horizon=horizon).utility.value
                regrets[name].append(best - found)
        rows += given_up(title, regrets)
    return rows


def measure_beyond(leaves: Sequence[int], decisions: int) -> list[dict[str, Any]]:
    """What each mode gives up against the best that any of them found, where brute force is out of reach."""
    rng = np.random.default_rng(2)
    rows = []
    for n in leaves:
        losses: dict[str, list[float]] = {name: [] for name in MODES}
        for _ in range(decisions):
            case = draw_decision(rng, n, GRID, MAX_NEW)
            found = {
                name: best_plan(**case, search=search, horizon=horizon).utility.value
                for name, (search, horizon) in MODES.items()
            }
            for name, value in found.items():
                losses[name].append(max(found.values()) - value)
        rows += given_up(f"{n} leaves, {MAX_NEW} new", losses)
    return rows


def regret_table(rows: Sequence[dict[str, Any]], against: str) -> str:
    """Losses of utility, where a right answer earns 1."""
    told = [
        [
            row["against"],
            row["mode"],
            *(f"{row[key]:.1e}" if row[key] > 1e-12 else "0" for key in ("mean", "p95", "worst")),  # rounding is none
            f"{row['found_best']:.0%}",
        ]
        for row in rows
    ]
    return table([against, "mode", "mean given up", "95th percentile", "worst", "gives up nothing"], told)


def main() -> None:
    """Print the tables, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leaves", type=int, nargs="+", default=[8, 32, 128, 512, 1024])
    parser.add_argument("--seconds", type=float, default=0.5, help="processor time for each row of the first table")
    parser.add_argument("--longest", type=float, default=2.0, help="seconds of a decision that end a mode's rows")
    parser.add_argument("--decisions", type=int, default=100, help="decisions for each row of the second table")
    parser.add_argument("--problems", type=int, default=60, help="simulated searches for the table of answers owed")
    parser.add_argument("--beyond", type=int, default=20, help="decisions for each row of the third table")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    times, left_out = measure_times(options.leaves, options.seconds, options.longest)
    device = processor()
    print(f"{device}; 8x8 grid, up to {MAX_NEW} new samples\n")
    told = [
        [
            row["mode"],
            row["leaves"],
            f"{row['sets']:,}",
            f"{row['cpu_us'] / 1e3:.2f}",
            f"{row['slowest_cpu_us'] / 1e3:.2f}",
            f"{row['wall_us'] / 1e3:.2f}",
            f"{row['ratio']:.1f}",
        ]
        for row in times
    ]
    first = f"to nested, {options.leaves[0]}"
    print(table(["mode", "leaves", "sets weighed", "processor, ms", "slowest case, ms", "wall, ms", first], told))
    for line in left_out:
        print(f"left out: {line}")
    whole = measure_strategies(options.seconds)
    shown = [
        [r["strategy"], r["leaves"], r["finished"], r["room"], f"{r['cpu_us']:.0f}", f"{r['wall_us']:.0f}"]
        for r in whole
    ]
    print(f"\n{table(['strategy', 'running', 'finished', 'may start', 'processor, us', 'wall, us'], shown)}")
    debt = measure_debt(options.problems)
    owed = [[row["answer"], row["decisions"], f"{row['cpu_us'] / 1e3:.2f}", f"{row['ratio']:.1f}"] for row in debt]
    print(f"\n{table(['answer', 'decisions', 'processor, ms', 'to none owed'], owed)}")
    regret = measure_regret(options.decisions)
    print(f"\n{regret_table(regret, 'against brute force')}\n")
    reached = [n for n in options.leaves if all(any(r["mode"] == m and r["leaves"] == n for r in times) for m in MODES)]
    beyond = measure_beyond(reached, options.beyond)
    print("Brute force would try 2^leaves sets here, so these are held against the best of the four.\n")
    print(regret_table(beyond, "against the best found"))
    write(
        options.out,
        {
            "device": device,
            "times": times,
            "left_out": left_out,
            "strategies": whole,
            "debt": debt,
            "regret": regret,
            "beyond_brute_force": beyond,
        },
    )


if __name__ == "__main__":
    main()
