"""Handing on is held against the mean of random choices, and the benchmark's table adds up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zip_introspect.evaluation.measures.handing_on import over_random

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "escalation.py"
PROBLEMS, COST, BETA, ALPHA = 10, 0.3, 0.2, 0.1


def test_random_choices_are_no_better_than_random_and_knowing_ones_are() -> None:
    rng = np.random.default_rng(0)
    first, last = (rng.random(2000) < 0.6).astype(float), (rng.random(2000) < 0.9).astype(float)
    blind = (rng.random(2000) < 0.3).astype(float)
    difference = over_random(np.where(blind, last, first), blind, first, last)
    assert difference.low < 0 < difference.high
    knowing = ((first == 0) & (rng.random(2000) < 0.75)).astype(float)
    difference = over_random(np.where(knowing, last, first), knowing, first, last)
    assert difference.low > 0.1


def test_the_random_rival_is_the_mean_over_all_choices() -> None:
    rng = np.random.default_rng(1)
    first, last = (rng.random(200) < 0.5).astype(float), (rng.random(200) < 0.9).astype(float)
    handed = np.zeros(200)
    handed[:60] = 1.0
    right = np.where(handed, last, first)
    drawn = [np.where(rng.permutation(handed), last, first).mean() for _ in range(4000)]
    assert over_random(right, handed, first, last).value == pytest.approx(right.mean() - np.mean(drawn), abs=0.002)


def test_the_benchmark_adds_up(tmp_path: Path) -> None:
    settings = {"problems": PROBLEMS, "samples": 1, "beta": BETA, "cost": COST, "json": tmp_path / "figures.json"}
    command = [str(item) for name, value in settings.items() for item in (f"--{name}", value)]
    done = subprocess.run([sys.executable, SCRIPT, *command], capture_output=True, text=True, check=True)
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in figures["rows"]}
    small, strong = figures["rows"][:2]
    assert (small["handed_on"], strong["handed_on"]) == (0, 1)
    assert (strong["accuracy"], strong["tokens"], strong["net"]) == (1, 0, pytest.approx(1 - COST))
    for name, row in rows.items():
        low, high = row["accuracy_interval"]
        assert low <= row["accuracy"] <= high
        assert row["net"] == pytest.approx(row["accuracy"] - COST * row["handed_on"])
        steps = ALPHA * row["tokens"] + (1 - ALPHA) * row["depth"]
        assert row["net_of_search"] == pytest.approx(row["net"] - BETA * steps / figures["typical"])
        mixed = (1 - row["handed_on"]) * small["accuracy"] + row["handed_on"]
        assert row["random_accuracy"] == pytest.approx(mixed)
        assert row["over_random"][0] == pytest.approx(row["accuracy"] - mixed)
        assert f"| {name} | {row['accuracy']:.3f} [" in done.stdout
        if name.startswith("at the end"):
            assert row["tokens"] == small["tokens"]
            assert row["accuracy"] >= small["accuracy"]
    weighed = rows["at every decision, by expected utility"]
    assert weighed["tokens"] < small["tokens"]
    assert weighed["expected_saving"] > 0
    assert f"end: {small['tokens'] - weighed['tokens']:.1f} a question" in done.stdout
