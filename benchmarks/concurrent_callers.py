"""Many callers of one model: `python benchmarks/concurrent_callers.py [--callers 12 64]`.

The same questions asked by one `abatch`, by as many tasks that each await `agenerate`, and by as many threads that each
call `generate`: all share the forward passes of one engine, so each should take as long. Rounds take turns, and so does
who goes first; a ratio is the median of each round's ratio to `abatch`.
Beside them, of every backend: how long callers with a deadline take to come back when all ask at once; what a single
`generate` takes beside the same search run in the caller's own thread, with nothing between it and the backend; and
the longest wait in the event loop's default executor while every caller waits.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.reporting import processor, table, write
from zip_introspect import Budget, GenerationResult, IntrospectiveLLM, SearchFinished
from zip_introspect.demo.problems import held_out
from zip_introspect.search import continuous_batch
from zip_introspect.search.request import Request

WAYS = ("abatch", "agenerate", "threads")


def main() -> None:
    """Print the tables, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, nargs="+", default=[12, 64])
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds of each caller's budget")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--singles", type=int, default=40, help="questions asked one after another")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    names = [name for name, module in (("transformers", "torch"), ("llama-cpp", "llama_cpp")) if find_spec(module)]
    rows: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for name in names:
        with IntrospectiveLLM.demo(backend=name) as llm:
            for callers in options.callers:
                questions = [problem.prompt for problem in held_out(5, callers)]
                rows.append({"backend": name, "callers": callers, **together(llm, questions, options.rounds)})
            asked = [problem.prompt for problem in held_out(5, max(options.callers))]
            others.append({"backend": name, **in_time(llm, asked, options.deadline)})
            others[-1] |= alone(llm, [problem.prompt for problem in held_out(6, options.singles)])
    print(f"the embedded model, {processor()}\n")
    header = ["backend", "callers", "one abatch, s", "agenerate each", "threads"]
    told = [
        [row["backend"], row["callers"], f"{row['abatch']:.2f}", *(f"{row[f'{way}_ratio']:.2f}" for way in WAYS[1:])]
        for row in rows
    ]
    print(table(header, told))
    deadline = f"{max(options.callers)} callers with {options.deadline:g} s: back after, s"
    header = ["backend", deadline, "answered", "wait in the default executor, s", "generate, ms", "of a bare loop"]
    told = [
        [
            row["backend"],
            f"{row['back']:.2f}",
            row["answered"],
            f"{row['executor_wait']:.3f}",
            f"{1000 * row['generate']:.1f}",
            f"{row['bare_ratio']:.3f}",
        ]
        for row in others
    ]
    print("\n" + table(header, told))
    figures = {"device": processor(), "deadline": options.deadline, "rows": rows, "others": others}
    write(options.out, figures)


def together(llm: IntrospectiveLLM, questions: Sequence[str], rounds: int) -> dict[str, float]:
    """Median seconds of each way, and the median ratio of each round to `abatch`."""
    ways: dict[str, Callable[[], list[GenerationResult]]] = {
        "abatch": lambda: asyncio.run(llm.abatch(questions)),
        "agenerate": lambda: asyncio.run(tasks(llm, questions)),
        "threads": lambda: threads(llm, questions),
    }
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(rounds + 1):
        texts: dict[str, list[str]] = {}
        for name in sorted(WAYS, reverse=bool(turn % 2)):
            begun = time.perf_counter()
            texts[name] = [result.text for result in ways[name]()]
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - begun)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    for name in WAYS[1:]:
        pairs = zip(seconds[name], seconds["abatch"], strict=True)
        found[f"{name}_ratio"] = statistics.median(own / batch for own, batch in pairs)
    return found


async def tasks(llm: IntrospectiveLLM, questions: Sequence[str], **settings: Any) -> list[GenerationResult]:
    """Every question by a task of its own."""
    return await asyncio.gather(*(llm.agenerate(question, **settings) for question in questions))


def threads(llm: IntrospectiveLLM, questions: Sequence[str]) -> list[GenerationResult]:
    """Every question by a thread of its own."""
    with ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(llm.generate, questions))


def in_time(llm: IntrospectiveLLM, questions: Sequence[str], deadline: float) -> dict[str, Any]:
    """When the last of all callers is back, how many have an answer, and the longest wait in the default executor."""

    async def work() -> tuple[float, list[GenerationResult], float]:
        waits: list[float] = []

        async def look() -> None:
            while True:
                begun = time.perf_counter()
                await asyncio.to_thread(time.perf_counter)
                waits.append(time.perf_counter() - begun)
                await asyncio.sleep(0.01)

        looking = asyncio.ensure_future(look())
        await asyncio.sleep(0.05)
        begun = time.perf_counter()
        results = await tasks(llm, questions, budget=Budget(max_seconds=deadline))
        seconds = time.perf_counter() - begun
        looking.cancel()
        return seconds, results, max(waits)

    seconds, results, wait = asyncio.run(work())
    answered = sum(result.answer is not None for result in results)
    return {"back": seconds, "answered": answered, "executor_wait": wait}


def alone(llm: IntrospectiveLLM, questions: Sequence[str]) -> dict[str, float]:
    """Median seconds of one `generate`, and the bare loop's seconds over them: 1 is as fast, above it is faster."""
    bare = partial(searched, llm)
    seconds: dict[str, list[float]] = {"generate": [], "bare": []}
    for place, question in enumerate(questions):
        for name in sorted(seconds, reverse=bool(place % 2)):
            begun = time.perf_counter()
            llm.generate(question) if name == "generate" else bare(question)
            seconds[name].append(time.perf_counter() - begun)
    ratios = [one / other for one, other in zip(seconds["bare"][2:], seconds["generate"][2:], strict=True)]
    return {"generate": statistics.median(seconds["generate"]), "bare_ratio": statistics.median(ratios)}


def searched(llm: IntrospectiveLLM, question: str) -> GenerationResult:
    """The search of one question in this thread, with nobody beside it."""
    request = Request(tuple(llm.backend.encode(question)), llm.config)
    *_, last = continuous_batch.run(llm.backend, [request], extractor=llm.extractor)
    assert isinstance(last, SearchFinished)
    return last.result


if __name__ == "__main__":
    main()
