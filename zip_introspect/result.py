"""What a generation gives back: the answer, how sure it is, what it cost, and every decision on the way.

All results are immutable, hold plain numbers, strings and tuples, and go to JSON with `to_json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

FinishReason = Literal["stop", "length", "budget", "handed_on", "abstained", "error"]
"""stop: the answer is complete. length: cut at max_new_tokens. budget: the budget ended the search. handed_on: a
stronger model is worth more, so this one stopped. abstained: no model was sure enough to answer. error: in the partial
results of an error."""

StopReason = Literal["utility", "finished", "budget", "handed_on", "error"]
"""utility: nothing is worth more than the best finished sample. finished: no sample is left to continue, or the votes
are settled. handed_on: handing the question on is worth more than going on, and than what is finished."""

ConfidenceSource = Literal["agreement", "head", "both", "tokens"]
"""agreement: how many samples say the same (`answers.agreement`). head: the value that the model's joints expect.
tokens: how likely the model found what it said, `TokenConfidence.likelihood`: no probability of being right."""

SampleStatus = Literal["active", "paused", "finished", "dropped"]
SampleFinish = Literal["stop", "stop_string", "length"]
"""stop: end of sequence. stop_string: one of `stop`. length: cut at max_new_tokens, so without an answer."""


class Record:
    """A frozen dataclass that goes to plain data and JSON."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts and lists of plain values, ready for any serialiser."""
        adapter = _adapter(type(self))  # type: ignore[arg-type]  # mypy looks for the class's hash in its instances
        plain: dict[str, Any] = adapter.dump_python(self, mode="json", warnings="error")
        return plain

    def to_json(self, indent: int | None = None) -> str:
        """Strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@dataclass(frozen=True, slots=True)
class Usage(Record):
    """What was spent."""

    prompt_tokens: int
    generated_tokens: int
    """Tokens of all samples together, as the budget counts them: end-of-sequence tokens, those with which thoughts were
    closed, and the few that a backend generated beyond a stop string included, and those by which it was tried what
    closing a thought is worth (`thinking.by="joint"`)."""
    chosen_tokens: int
    """Tokens of the chosen sample; 0 where there is none."""
    depth: int
    """Serial steps: forward passes one after another, the latency of eq. 17. Closing thoughts is one step."""
    seconds: float
    cost: float | None = None
    """Money, where the budget gives prices."""
    cached_tokens: int = 0
    """Tokens of the prompt that were not computed: an earlier prompt began with them."""


@dataclass(frozen=True, slots=True)
class Outlook(Record):
    """What the model expects of one sample, seen from some prefix (eq. 8)."""

    value: float
    """Expected reward, in the grid's units: the probability to be right where rewards are 0 or 1."""
    remaining: float
    """Expected tokens still to come, end of sequence included."""


@dataclass(frozen=True, slots=True)
class UtilityReport(Record):
    """The numbers of eq. 17 to 19 behind a decision."""

    chosen: float
    """Utility of the best meta-action: the chosen one, or at a stop the one that was not worth running."""
    keep: float | None
    """What going on is held against: the representative of the bin into which the best finished value falls, or what
    handing on is worth, if that is more; None while there is neither."""
    expected_reward: float
    """Of the best sample by the horizon. Where an answer is owed that is not worth its cost, what is pruned counts as
    the way to that answer, and this may lie below every reward."""
    expected_compute: float
    """Expected tokens of all chosen prefixes together, up to the horizon."""
    expected_latency: float
    """Expected serial steps, up to the horizon."""
    horizon: int | tuple[int, ...] | None
    """The last length bin a prefix is planned to reach: one for all, one for each, or None uncapped."""
    beta: float
    """Normalised (eq. 28): cost of a token, in reward."""


@dataclass(frozen=True, slots=True)
class Decision(Record):
    """One decision: the meta-action, what became of each sample, and why."""

    index: int
    """From 0."""
    tokens: int
    """Generated tokens when it was taken."""
    depth: int
    """Serial steps when it was taken."""
    started: tuple[int, ...]
    """Numbers of the samples started at the prompt; the next lists name samples likewise."""
    continued: tuple[int, ...]
    paused: tuple[int, ...]
    """Those that were running and are not chosen now; samples paused before are not repeated."""
    resumed: tuple[int, ...]
    dropped: tuple[int, ...]
    """Released for good: at the end of the search, the unfinished ones."""
    finished: tuple[int, ...]
    """Those that finished since the decision before."""
    outlooks: tuple[tuple[int, Outlook], ...]
    """(sample, outlook) of each unfinished sample when the decision was taken; none from a model without a head."""
    stop: StopReason | None
    """Why the search ends here, or None where it goes on."""
    reason: str
    """One sentence for people."""
    utility: UtilityReport | None = None
    """None for strategies that compute none."""
    forked: tuple[tuple[int, int], ...] = ()
    """(parent, sample) of each sample that was branched off an unfinished one."""
    tokens_saved: float | None = None
    """Where the question is handed on, or not begun: the tokens that going on was expected to take."""


@dataclass(frozen=True, slots=True)
class TracePoint(Record):
    """What was expected of a sample at one decision."""

    decision: int
    tokens: int
    """The sample's length then."""
    value: float
    remaining: float


ThoughtClosed = Literal["itself", "count", "joint"]
"""What closed a thought: the sample itself, its budget, or that going on was worth less than answering."""


@dataclass(frozen=True, slots=True)
class Thought(Record):
    """What a sample thought before it answered, where the model was asked with `thinking`."""

    text: str
    """Without the markers around it."""
    tokens: int
    """Those of the sample up to its answer, the markers among them; 0 where it did not think."""
    closed: ThoughtClosed | None
    """None where it was not: the sample was still thinking, and its `text` is empty, or it never began to."""

    @property
    def unfinished(self) -> bool:
        """Whether the sample never came to its answer."""
        return self.closed is None and self.tokens > 0


def is_complete(finish: SampleFinish | None, thought: Thought | None = None) -> bool:
    """Whether a sample came to the end of an answer: one that was cut, still runs, or ended in thought has none yet."""
    return finish in ("stop", "stop_string") and not (thought is not None and thought.unfinished)


@dataclass(frozen=True, slots=True)
class TokenConfidence(Record):
    """How sure a model was of a sample's tokens, under its own distribution; no head is needed, and none is trained.

    Likelihoods are geometric means of the probabilities of the tokens that were drawn, in [0, 1]: inverse perplexities.
    DeepConf's confidence of a token is the mean negative log-probability of the 20 likeliest ones, in nats: the higher,
    the more of the mass lies on few of them; log 20 = 3.0 is the lowest (Fu et al., 2025, arXiv 2508.15260). Groups are
    of `confidence_window` tokens each, one ending at every token; a sample that is shorter is one group.
    """

    likelihood: float
    """Of all tokens."""
    group_likelihood: float
    """Of the last group."""
    lowest_likelihood: float
    """Of the least likely group so far."""
    mean: float
    """DeepConf's confidence, of all tokens."""
    group: float
    """Of the last group: the tail confidence of a sample that ended."""
    lowest: float
    """Of the group that is least sure so far."""


@dataclass(frozen=True, slots=True)
class SampleResult(Record):
    """One sample, finished or not."""

    number: int
    text: str
    """Without the end-of-sequence token and without the stop string; where `thought` is given, without that."""
    tokens: int
    token_ids: tuple[int, ...]
    status: SampleStatus
    finish: SampleFinish | None
    """None for a sample that did not finish."""
    value: float | None
    """Finished: expected value of the smoothed joint at the last prefix before its end; the lowest reward where it
    was cut at max_new_tokens or ended in thought, since it has no complete answer (as eq. 26 counts it). Unfinished:
    the latest value. None from a model without a head."""
    answer: str | None
    trace: tuple[TracePoint, ...]
    parent: int | None = None
    """The sample it was branched off; None where it began at the prompt."""
    thought: Thought | None = None
    """None where the model was not asked with `thinking`."""
    token_confidence: TokenConfidence | None = None
    """How sure the model was of its tokens, where the strategy or `confidence_source` asked for it."""

    @property
    def complete(self) -> bool:
        """Whether it came to its own end, and so may hold an answer."""
        return is_complete(self.finish, self.thought)


AttemptOutcome = Literal["accepted", "doubtful", "handed_on", "failed", "timeout", "skipped"]
"""doubtful: answered, but not surely enough. handed_on: stopped before its end, since a stronger model is worth more.
failed: raised an error. skipped: not asked, since the budget could not have been held."""


@dataclass(frozen=True, slots=True)
class Attempt(Record):
    """One model of a ladder, and what became of asking it."""

    target: str
    outcome: AttemptOutcome
    reason: str
    """One sentence for people."""
    usage: Usage
    text: str = ""
    answer: str | None = None
    confidence: float | None = None
    """As the model reports it; None where it reports none."""
    result: GenerationResult | None = None
    """Everything, where the model is an `IntrospectiveLLM`."""


@dataclass(frozen=True, slots=True)
class EscalationResult(Record):
    """How a question was handed on, and whose answer it got."""

    target: str | None
    """The model whose answer is given; None where no answer is."""
    reason: str
    """Why the first model's answer was not taken. One sentence for people."""
    attempts: tuple[Attempt, ...]
    """In the order in which models were asked, the first one included."""
    tokens_saved: float | None = None
    """Expected tokens that the first model would still have generated, had it decided at its end; None where it did."""


@dataclass(frozen=True, slots=True)
class IntrospectionResult(Record):
    """What the model expects at the prompt, before a token is generated."""

    joint: tuple[tuple[float, ...], ...]
    """Shape (B_V, B_T): rows are reward bins from low to high, columns length bins from short to long."""
    confidence: float
    """Expected value of one sample (eq. 8)."""
    expected_tokens: float
    """Expected length of one sample, end of sequence included (eq. 8)."""
    reward_values: tuple[float, ...]
    length_values: tuple[float, ...]
    value_marginal: tuple[float, ...]
    length_marginal: tuple[float, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class GenerationResult(Record):
    """The outcome of one prompt."""

    text: str
    """Of the chosen sample: its answer alone, where it thought before; "" where nothing was generated."""
    answer: str | None
    """Extracted from the chosen sample's text, in canonical form (`answers.canonical`); None where there is
    none, or where that sample is incomplete."""
    confidence: float
    """Final value of the chosen sample, or of a model without a head the agreement of its samples, unless the settings
    name another `confidence_source`; the lowest reward where it is incomplete. Of a stronger model that reports no
    confidence: the reward expected of it. Where a ladder abstains: that of the best answer it does not give."""
    finish_reason: FinishReason
    usage: Usage
    decisions: tuple[Decision, ...]
    samples: tuple[SampleResult, ...]
    """In order of their numbers."""
    chosen: int | None
    """Number of the chosen sample; None where nothing was generated."""
    stop_reason: StopReason
    stop_detail: str
    """One sentence for people."""
    expected: Outlook | None
    """What one sample promised at the prompt, before a token was generated; None from a model without a head."""
    strategy: str
    selection: str
    seed: int
    """With which the same call repeats the result."""
    warnings: tuple[str, ...] = ()
    confidence_source: ConfidenceSource | None = "head"
    """What the confidence rests on; None where a stronger model that reports none answered."""
    calibrated_confidence: float | None = None
    """The probability of being right, where the model has a calibration."""
    escalation: EscalationResult | None = None
    """How a ladder came to this answer; None where its first model was sure enough, or without a ladder."""
    submitted: tuple[int, ...] = ()
    """Samples whose answers are given: the chosen one, and after it those of a strategy that gives several."""

    @property
    def thought(self) -> Thought | None:
        """What the chosen sample thought before it answered; None where the model was not asked with `thinking`."""
        chosen = self._chosen
        return None if chosen is None else chosen.thought

    @property
    def complete(self) -> bool:
        """Whether the text was written to its end, whatever ended the search."""
        chosen = self._chosen
        return self.finish_reason == "stop" if chosen is None else chosen.complete

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers that are given, the best first; several where the strategy gives several."""
        given = {sample.number: sample.answer for sample in self.samples}
        return tuple(answer for number in self.submitted if (answer := given[number]) is not None)

    @property
    def _chosen(self) -> SampleResult | None:
        return next((sample for sample in self.samples if sample.number == self.chosen), None)
