"""Every script of `make bench` runs to its end on tiny settings, and its table and JSON say the same."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.call_trace import travelled
from tests.evaluation.stored import simulated

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
BACKENDS = ["transformers", *(["llama-cpp"] if find_spec("llama_cpp") else [])]


def run(script: str, out: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    """The figures and the output of a script."""
    command: list[Any] = [
        sys.executable,
        SCRIPTS / f"{script}.py",
        *map(str, arguments),
        "--out",
        out / "build" / "figures.json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "build" / "figures.json").read_text(encoding="utf-8")), done.stdout


def test_decisions_are_timed_and_held_against_brute_force(tmp_path: Path) -> None:
    settings = ["--leaves", 2, 14, "--seconds", 0.01, "--decisions", 2, "--beyond", 1, "--problems", 4]
    figures, printed = run("decision_time", tmp_path, *settings)
    assert {(row["mode"], row["leaves"]) for row in figures["times"]} == {
        (mode, leaves) for mode in ("nested", "exact", "per-prefix", "exact, per-prefix") for leaves in (2, 14)
    }
    assert all(0 < row["cpu_us"] <= row["slowest_cpu_us"] for row in figures["times"])
    sets = {(row["mode"], row["leaves"]): row["sets"] for row in figures["times"]}
    assert (sets["nested", 14], sets["exact", 2], sets["exact", 14]) == (15, 4, 4096 + 15)
    assert not figures["left_out"]
    free, owed = figures["debt"]
    assert min(free["decisions"], owed["decisions"]) > 0
    assert (free["ratio"], owed["ratio"]) == (1, owed["cpu_us"] / free["cpu_us"])
    for row in (*figures["regret"], *figures["beyond_brute_force"]):
        assert row["worst"] >= row["mean"] > -1e-9
    shared = [row for row in figures["regret"] if row["against"].startswith("shared") and row["mode"] == "exact"]
    assert len(shared) == 2
    assert all(row["found_best"] == 1 for row in shared)
    assert f"{figures['device']}; 8x8 grid" in printed


def test_a_mode_that_takes_too_long_is_left_out_and_named(tmp_path: Path) -> None:
    settings = ["--leaves", 2, 3, "--seconds", 0, "--longest", 0, "--decisions", 1, "--beyond", 1, "--problems", 4]
    figures, printed = run("decision_time", tmp_path, *settings)
    assert {row["leaves"] for row in figures["times"]} == {2}
    assert len(figures["left_out"]) == 4
    assert all(f"left out: {line}" in printed for line in figures["left_out"])


def test_the_start_is_timed(tmp_path: Path) -> None:
    figures, printed = run("start_up", tmp_path, "--rounds", 1)
    seconds = figures["seconds"]
    assert [name for name in seconds if "demo" in name] == [f"zip-introspect demo, {name}" for name in BACKENDS]
    assert all(value > 0 for value in seconds.values())
    assert figures["import_over_numpy"] == seconds["import zip_introspect"] - seconds["import numpy"]
    assert all(f"| {name} | {value:.2f} |" in printed for name, value in seconds.items())


def test_the_text_of_a_growing_sample_is_timed_on_every_backend(tmp_path: Path) -> None:
    figures, printed = run("streaming", tmp_path, "--tokens", 100, "--rounds", 1)
    assert [row["backend"] for row in figures["rows"]] == BACKENDS
    for row in figures["rows"]:
        assert min(row["pieces"], row["stops"], row["anew"]) > 0
        assert f"| {1000 * row['pieces']:.1f} | {1000 * row['stops']:.1f} | {1000 * row['anew']:.1f} |" in printed


def test_many_callers_are_timed_on_every_backend(tmp_path: Path) -> None:
    settings = ["--callers", 2, "--rounds", 1, "--singles", 3, "--deadline", 0.2]
    figures, printed = run("concurrent_callers", tmp_path, *settings)
    assert [(row["backend"], row["callers"]) for row in figures["rows"]] == [(name, 2) for name in BACKENDS]
    for row in figures["rows"]:
        assert f"| {row['agenerate_ratio']:.2f} | {row['threads_ratio']:.2f} |" in printed
    for row in figures["others"]:
        assert row["back"] > 0
        assert f"| {1000 * row['generate']:.1f} | {row['bare_ratio']:.3f} |" in printed


def test_prompts_that_begin_alike_are_timed_on_every_backend(tmp_path: Path) -> None:
    figures, printed = run("prefix_reuse", tmp_path, "--tokens", 200, "--rounds", 1, "--threads", 1)
    assert [row["backend"] for row in figures["rows"]] == BACKENDS
    for row in figures["rows"]:
        assert 0.8 * row["prompt_tokens"] < row["cached_tokens"] < row["prompt_tokens"]
        assert f"| {row['ratio']:.3f} | {row['cached_tokens']} |" in printed


def test_introspection_is_timed_on_every_backend(tmp_path: Path) -> None:
    figures, printed = run(
        "introspection_overhead", tmp_path, "--samples", 2, "--steps", 4, "--rounds", 1, "--threads", 1
    )
    assert [row["backend"] for row in figures["rows"]] == BACKENDS
    for row in figures["rows"]:
        assert row["ratio"] == pytest.approx(row["read"] / row["blind"])
        assert f"| {row['device']} | 2 | {row['read']:,.0f} |" in printed


def test_confidences_of_tokens_are_timed_on_every_backend(tmp_path: Path) -> None:
    settings = ["--samples", 2, "--steps", 4, "--rounds", 1, "--threads", 1, "--vocabulary", 5000]
    figures, printed = run("token_confidences", tmp_path, *settings)
    assert [row["backend"] for row in figures["rows"]] == [row["backend"] for row in figures["large"]] == BACKENDS
    for row, large in zip(figures["rows"], figures["large"], strict=True):
        assert row["ratio"] == pytest.approx(row["told"] / row["silent"])
        assert f"| {row['device']} | 2 | {row['told']:,.0f} |" in printed
        assert f"| {large['backend']} | 5,000 | 2 | {1000 * large['seconds']:.2f} |" in printed


def test_what_confidences_of_tokens_tell_is_counted(tmp_path: Path) -> None:
    rollouts = simulated(questions=8, confidences=True)[1].save(tmp_path / "r.parquet")
    figures, printed = run("token_signals", tmp_path, rollouts, "--window", 4)
    told = {row["signal"]: row["auroc"] for row in figures["rows"]}
    assert told["value"] == 1, "the simulated world knows at the end"
    assert set(told) >= {"likelihood", "lowest_likelihood", "group", "lowest"}
    assert all(f"| {name} | {area:.3f} |" in printed for name, area in told.items())


def test_the_search_loop_is_timed_against_generate(tmp_path: Path) -> None:
    figures, printed = run("search_loop", tmp_path, "--tokens", 4, "--rounds", 1, "--threads", 1)
    assert [(row["prompts"], row["samples"]) for row in figures["rows"]] == [(1, 8), (8, 64)]
    for row in figures["rows"]:
        assert row["ratio"] == pytest.approx(row["ours"] / row["transformers"])
        assert f"| {row['samples']} | {row['ours']:,.0f} |" in printed


@pytest.mark.parametrize("backend", BACKENDS)
def test_growth_is_measured(tmp_path: Path, backend: str) -> None:
    settings = ["--prompts", 1, 2, "--samples", 3, "--length", 64, 8192, "--tokens", 4, "--rounds", 1, "--threads", 1]
    figures, printed = run("growth", tmp_path, "--backends", backend, *settings)
    prompts, samples, length = figures["measured"]
    assert [row["prompts"] for row in prompts["rows"]] == [1, 2]
    assert [row["samples"] for row in samples["rows"]] == [3]
    assert [row["length"] for row in length["rows"]] == [64]
    assert length["left_out"] == [8192]
    for found in (prompts, samples, length):
        assert found["backend"] == backend
        assert found["rows"][0]["relative"] == 1
        assert all(row["tokens_per_second"] > 0 and row["peak_bytes"] >= 0 for row in found["rows"])
        assert all(("cells" in row) == (backend == "llama-cpp") for row in found["rows"])
    # 4 layers, keys and values of 4 heads of 64 numbers, for a prompt of 64 tokens and 8 samples of 4
    width = 2 if backend == "llama-cpp" else 4
    assert length["rows"][0]["keys_values_bytes"] == pytest.approx((64 + 8 * 4) * 2 * 4 * 4 * 64 * width, rel=0.2)
    assert f"| {length['rows'][0]['length']} | {length['rows'][0]['tokens_per_second']:,.0f} | 1.00 |" in printed
    assert "left out, beyond the context of the model: 8192" in printed


def test_the_way_of_a_prompt_to_the_model_is_counted() -> None:
    hops, files = travelled()
    assert hops > len(files) - 1
    assert {"llm.py", "search/engine.py", "strategies/zip_rc.py"} <= set(files)
    assert not any("testing" in name for name in files)


def test_the_objectives_memory_is_held_against_one_chunks(tmp_path: Path) -> None:
    figures, printed = run("training_step", tmp_path, "--positions", 8, 16, "--timed", 0, "--rounds", 1)
    ways = {"in chunks", "in chunks, top 64", "plain"}
    assert {(row["way"], row["positions"]) for row in figures["rows"]} == {(way, n) for way in ways for n in (8, 16)}
    assert all(row["peak_mb"] > 0 for row in figures["rows"])
    assert all(row["of_one_chunk"] == 1 for row in figures["rows"] if row["positions"] == 8)
    assert "| in chunks | small | 16 |" in printed
