"""How long one decision takes, and how much utility each way of searching leaves on the table.

Run: python benchmarks/decision_time.py [--out decision_time.json]

Times are of one core (set OMP_NUM_THREADS=1), on an 8x8 grid with up to 8 new samples and all horizons. `cpu` is the
processor time of the deciding thread, which other work on the machine does not lengthen as it does `wall`.
The regret of a search is the utility of the best meta-action of brute force, less that of the one it found: over every
subset and every number of new samples for a shared horizon, and over every horizon of each prefix for per-prefix ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zip_introspect.grid import JointGrid
from zip_introspect.joint import expected_length
from zip_introspect.meta_actions import HorizonMode, MetaAction, SearchMode, best_meta_action
from zip_introspect.utility import capped_statistics, evaluate, normalized_beta

GRID = JointGrid.paper(0, startup=32)
SMALL = JointGrid(reward_edges=[0, 0.25, 0.5, 0.75, 1], length_edges=[0, 32, 64, 128, 512], first_reserved=0)


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


def timed(decide: Callable[[], MetaAction], seconds: float) -> dict[str, float]:
    """Median wall and processor time of a decision, in microseconds."""
    decide()
    wall: list[float] = []
    cpu: list[float] = []
    end = time.thread_time() + seconds
    while time.thread_time() < end or len(wall) < 5:
        started, used = time.perf_counter(), time.thread_time()
        decide()
        cpu.append((time.thread_time() - used) * 1e6)
        wall.append((time.perf_counter() - started) * 1e6)
    return {"wall_us": statistics.median(wall), "cpu_us": statistics.median(cpu), "repeats": len(wall)}


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


def measure_times(seconds: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    plan: list[tuple[SearchMode, HorizonMode, tuple[int, ...]]] = [
        ("nested", "shared", (8, 32, 64, 128, 256)),
        ("exact", "shared", (4, 8, 12)),
        ("nested", "per_prefix", (4, 8)),
        ("exact", "per_prefix", (8,)),
    ]
    for search, horizon, n in ((search, horizon, n) for search, horizon, sizes in plan for n in sizes):
        case = draw_decision(rng, n, GRID, max_new=8)
        found = timed(partial(best_meta_action, **case, search=search, horizon=horizon), seconds)
        rows.append({"search": search, "horizon": horizon, "leaves": n, **found})
    base = rows[0]["cpu_us"]
    return [{**row, "ratio_to_8": row["cpu_us"] / base} for row in rows]


def measure_regret(decisions: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    rows = []
    for title, grid, n, max_new, per_prefix in (
        ("shared horizon, 8x8 grid, 6 leaves, 2 new", GRID, 6, 2, False),
        ("a horizon each, 4x4 grid, 3 leaves, 2 new", SMALL, 3, 2, True),
    ):
        regrets: dict[tuple[SearchMode, HorizonMode], list[float]] = {}
        for _ in range(decisions):
            case = draw_decision(rng, n, grid, max_new)
            best = brute_force(case, per_prefix)
            modes: tuple[HorizonMode, ...] = ("none", "shared", "per_prefix") if per_prefix else ("none", "shared")
            searches: tuple[SearchMode, ...] = ("nested", "exact")
            for search, horizon in itertools.product(searches, modes):
                found = best_meta_action(**case, search=search, horizon=horizon).utility.value
                regrets.setdefault((search, horizon), []).append(best - found)
        for key, values in regrets.items():
            rows.append(
                {
                    "against": title,
                    "search": key[0],
                    "horizon": key[1],
                    "mean": float(np.mean(values)),
                    "p95": float(np.quantile(values, 0.95)),
                    "worst": float(np.max(values)),
                    "found_best": float(np.mean(np.array(values) < 1e-9)),
                }
            )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    header = list(rows[0])
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for line in (header, *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    parser.add_argument("--seconds", type=float, default=0.5, help="processor time for each row of the first table")
    parser.add_argument("--decisions", type=int, default=100, help="decisions for each row of the second table")
    arguments = parser.parse_args()
    report = {"times": measure_times(arguments.seconds), "regret": measure_regret(arguments.decisions)}
    for rows in report.values():
        print_table(rows)
    print(json.dumps(report))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
