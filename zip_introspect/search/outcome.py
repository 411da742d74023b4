"""The result of a prompt's search: which sample is chosen, how sure the model is of it, and what it all took."""

from __future__ import annotations

from collections.abc import Sequence

from zip_introspect.backend.contract import Backend
from zip_introspect.backend.streams import prompt_seed
from zip_introspect.introspection.grid import lowest_reward
from zip_introspect.result import Decision, FinishReason, GenerationResult, StopReason, Usage
from zip_introspect.search.confidence import calibration_of, confidence
from zip_introspect.search.request import Checked
from zip_introspect.search.samples import Samples
from zip_introspect.strategies.selection import Candidate, select


def outcome(
    checked: Checked,
    samples: Samples,
    stop: tuple[StopReason, str],
    decisions: Sequence[Decision],
    backend: Backend,
    cached_tokens: int,
) -> GenerationResult:
    """What became of a search that has ended, or was broken off."""
    request, ledger, grid = checked.request, checked.ledger, backend.grid
    config, strategy = request.config, checked.strategy
    stop_reason, detail = stop
    found = samples.results()
    # Without values, texts vote where there is no answer to vote for.
    silent = not grid and all(sample.answer is None for sample in found)
    candidates = [
        Candidate(sample.number, sample.value, sample.complete, sample.text if silent else sample.answer)
        for sample in found
        if sample.tokens
    ]
    selection = config.selection or strategy.selection
    own = strategy.verdict(samples.ended()) if config.selection is None else None
    chosen = own or select(candidates, selection, prompt_seed(config.sampling.seed, request.tokens))
    best = found[chosen.number] if chosen else None
    complete = best is not None and best.complete
    source = config.confidence_source or (own.source if own else "head" if grid else "agreement")
    if own and config.confidence_source is None:
        sure = own.confidence
    elif best and complete:
        sure = confidence(best, found, source)
    else:
        sure = lowest_reward(grid if source == "head" else None)
    meaning = calibration_of(backend, config)
    finish: FinishReason = "stop" if complete else "length"
    if stop_reason in ("error", "budget", "handed_on"):
        finish = stop_reason
    return GenerationResult(
        text=best.text if best else "",
        answer=best.answer if best else None,
        confidence=sure,
        finish_reason=finish,
        usage=Usage(
            prompt_tokens=len(request.tokens),
            generated_tokens=ledger.tokens,
            chosen_tokens=best.tokens if best else 0,
            depth=ledger.depth,
            seconds=ledger.seconds,
            cost=ledger.cost,
            cached_tokens=cached_tokens,
        ),
        decisions=tuple(decisions),
        samples=found,
        chosen=best.number if best else None,
        stop_reason=stop_reason,
        stop_detail=detail,
        expected=samples.expected,
        strategy=strategy.name,
        selection=selection,
        seed=config.sampling.seed,
        warnings=tuple(_warnings(checked, samples, complete, backend.info.max_context)),
        confidence_source=source,
        calibrated_confidence=float(meaning.apply(sure)) if meaning else None,
        submitted=(best.number, *(own.others if own else ())) if best else (),
    )


def _warnings(checked: Checked, samples: Samples, complete: bool, context: int) -> list[str]:
    warnings, longest = list(checked.warnings), checked.request.config.max_new_tokens
    if not complete:
        warnings.append("no sample finished: the text is incomplete and its confidence is the lowest reward")
    cut = any(ending.finish == "length" for ending in samples.endings.values())
    if cut and samples.longest < longest:
        warnings.append(
            f"samples were cut at {samples.longest} tokens, where the context of {context} ends, before "
            f"max_new_tokens={longest}"
        )
    return warnings
