"""What a search came to, for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zip_introspect.cli.text import bar, confidence_style, printable
from zip_introspect.result import GenerationResult, SampleResult, Thought


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of the samples, by number, in rising order. A sample may be in several."""

    started: tuple[int, ...]
    paused: tuple[int, ...]
    resumed: tuple[int, ...]
    dropped: tuple[int, ...]
    finished: tuple[int, ...]

    @classmethod
    def of(cls, result: GenerationResult) -> Fates:
        """Read them off the decisions and the samples."""
        decisions = result.decisions
        return cls(
            started=_union([*(d.started for d in decisions), *(_branched(d.forked) for d in decisions)]),
            paused=_union(d.paused for d in decisions),
            resumed=_union(d.resumed for d in decisions),
            dropped=_union(d.dropped for d in decisions),
            finished=tuple(s.number for s in result.samples if s.status == "finished"),
        )


def print_summary(console: Console, result: GenerationResult, *, working: bool = True) -> None:
    """Print the answer, how sure the model is, what was spent, each sample's fate, and why the search stopped."""
    fates, usage, expected = Fates.of(result), result.usage, result.expected
    at_prompt = f"expected {expected.value:.2f} at the prompt" if expected else "the agreement of samples"
    if result.confidence_source == "tokens":
        at_prompt = "the likelihood of its tokens"
    promised = f"; one sample was expected to take {expected.remaining:.0f}" if expected else ""
    thought = result.thought
    if working and thought is not None and thought.text:
        console.print(Padding(Text(printable(thought.text), style="dim"), (0, 2)))
    if working and result.text:
        console.print(Padding(Text(printable(result.text)), (0, 2)))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    found = Text("no answer", style="dim") if result.answer is None else Text(printable(result.answer), style="bold")
    facts.add_row("answer", found)
    if len(result.answers) > 1:
        facts.add_row("or else", Text(printable(", ".join(result.answers[1:]))))
    confidence = Table.grid(padding=(0, 1))
    style = confidence_style(result.confidence)
    confidence.add_row(
        Text(f"{result.confidence:.2f}", style=style),
        bar(result.confidence, style),
        Text(at_prompt, style="dim"),
    )
    facts.add_row("confidence", confidence)
    facts.add_row(
        "tokens",
        f"{usage.generated_tokens} used in {usage.depth} serial steps, {usage.chosen_tokens} of them in the answer"
        f"{promised}",
    )
    if thought is not None:
        facts.add_row("thought", _became(thought))
    facts.add_row("samples", _samples(result, fates))
    facts.add_row("stopped", Text(printable(result.stop_detail)))
    facts.add_row("time", f"{usage.seconds:.1f} s" + ("" if usage.cost is None else f", cost {usage.cost:g}"))
    facts.add_row("seed", str(result.seed))
    for warning in result.warnings:
        facts.add_row("warning", Text(printable(warning), style="yellow"))
    console.print(Padding(facts, (0, 2)))


def _samples(result: GenerationResult, fates: Fates) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("started", _numbers(fates.started))
    table.add_row("paused", _numbers(fates.paused) + (f", resumed {_numbers(fates.resumed)}" if fates.resumed else ""))
    table.add_row("dropped", _numbers(fates.dropped))
    finished = [f"{sample.number} ({_came_to(sample)})" for sample in result.samples if sample.number in fates.finished]
    chosen = "" if result.chosen is None else f"; sample {result.chosen} was chosen"
    table.add_row("finished", Text(printable((", ".join(finished) or "none") + chosen)))
    return table


def _came_to(sample: SampleResult) -> str:
    said = "cut" if sample.finish == "length" else sample.answer or "no answer"
    return said if sample.value is None else f"{said}, {sample.value:.2f}"


def _became(thought: Thought) -> str:
    if not thought.tokens:
        return "none"
    closed = {"itself": "closed by itself", "count": "closed by its budget", "joint": "closed by the joint"}
    return f"{thought.tokens} tokens, {closed[thought.closed] if thought.closed else 'never closed'}"


def _numbers(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _branched(forked: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    return tuple(sample for _, sample in forked)


def _union(groups: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted({number for group in groups for number in group}))
