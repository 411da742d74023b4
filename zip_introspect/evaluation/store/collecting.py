"""Rollouts for replay: questions sampled by a model, graded, and kept with their joints."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from tqdm.auto import tqdm

from zip_introspect.answers.extraction import extract
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, EvaluationDataError
from zip_introspect.evaluation.store.rollout_file import Question, QuestionRollouts, Rollouts, StoredRollout
from zip_introspect.evaluation.store.unfinished import Parts, seed_of
from zip_introspect.framing import NO_FRAMING, Framing
from zip_introspect.introspection import joint
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.paths import digest, expanded
from zip_introspect.training.on_policy import Rollout, collect

Grader = Callable[[str, str], bool]
"""Whether a text gives the expected answer."""

_log = logging.getLogger(__name__)
_WEIGHTS = (".safetensors", ".bin", ".gguf")


class Collecting(TypedDict, total=False):
    """How rollouts are collected."""

    samples: int
    """Of each question. Where all are the same (`SamplingParams.greedy`), one is sampled and stored so many times, and
    a warning is given."""
    sampling: SamplingParams | None
    """In place of the model's own. A seed of None in the model's own draws one for the run."""
    max_new_tokens: int | None
    """In place of the model's own."""
    concurrency: int
    """Samples that grow together; 256 unless given."""
    chat_template_kwargs: Mapping[str, Any] | None
    """Variables of the chat template, in place of the model's own settings."""
    framing: Framing
    """How the questions are put."""
    hidden_every: int | None
    """Keep the last hidden state at every so many tokens, of a model that was opened with `hidden_states=True`."""
    confidences: bool
    """Keep how sure the model was of each token, of a backend that reports it."""


@dataclass
class Counts:
    """Of the rollouts of a group."""

    questions: int = 0
    samples: int = 0
    right: int = 0
    finished: int = 0
    tokens: int = 0

    def add(self, problem: QuestionRollouts) -> None:
        """Count a question in."""
        self.questions += 1
        self.samples += len(problem.rollouts)
        self.right += sum(item.right for item in problem.rollouts)
        self.finished += sum(item.finished for item in problem.rollouts)
        self.tokens += sum(len(item.tokens) for item in problem.rollouts)


@dataclass(frozen=True)
class Collected:
    """What was written to a file."""

    file: Path
    model: str
    max_new_tokens: int
    groups: dict[str, Counts]


def collect_rollouts(
    llm: IntrospectiveLLM, questions: Sequence[Question], grader: Grader, **how: Unpack[Collecting]
) -> Rollouts:
    """Sample every question, and keep what the model expected at every token, in memory.

    Args:
        grader: is given the text of a sample and the expected answer; samples that were cut are wrong.
        how: see `Collecting`; `samples` has to be given.

    Raises:
        PromptError: a question that the model cannot read.
        TrainingDataError, BackendError: as `zip_introspect.training.on_policy.collect`.
    """
    run = _Run(llm, questions, grader, {"sampling": llm.config.sampling, **how})
    if run.caution:
        _log.warning(run.caution)
    with closing(run.sample(range(len(questions)))) as stream:
        found = dict(stream)
    return replace(run.header, problems=tuple(found[place] for place in range(len(questions))))


def collect_to_file(
    llm: IntrospectiveLLM,
    questions: Sequence[Question],
    grader: Grader,
    file: str | Path,
    *,
    say: Callable[[str], None] = _log.warning,
    watch: Callable[[int, QuestionRollouts], None] = lambda done, problem: None,
    **how: Unpack[Collecting],
) -> Collected:
    """Write the file that `collect_rollouts(...).save(file)` would, of more rollouts than memory holds.

    Every question that is done is kept at once in the folder `file` + ".parts". However the run ends, the same call
    goes on from there, and makes the same file as if nothing had happened: a sample depends on the seed, its prompt and
    its number only (and on rounding, where a backend's depends on what is computed together). What is taken over is
    graded anew, so the grader may have been mended.

    Args:
        how: as of `collect_rollouts`.
        say: is told, a line each, what is taken over, what is kept where the run is ended, and where all samples of a
            question are the same.
        watch: is told how many questions are done, and the one that was done last; what it raises ends the run, and
            nothing that is done is lost.

    Raises:
        EvaluationDataError: the folder is that of a run with other settings; the message names them.
        PromptError, TrainingDataError, BackendError: as `collect_rollouts`.
    """
    file = expanded(Path(file))
    if how.get("sampling") is None:
        config = llm.config
        how["sampling"] = (config if config.seed is not None else config.replace(seed=seed_of(file))).sampling
    run = _Run(llm, questions, grader, how)
    if run.caution:
        say(run.caution)
    parts = Parts(file, run.header, run.prompts, how["samples"], run.header.settings)
    if parts.damaged:
        say(f"{parts.damaged} files in {parts.folder} are damaged; their questions are sampled anew")
    if parts.done:
        say(f"{len(parts.done)} of {len(questions)} questions are taken over from {parts.folder}")
    taken_over = frozenset(parts.done)
    missing = [place for place in range(len(questions)) if place not in taken_over]
    counts = {question.group: Counts() for question in questions}

    def problems() -> Iterator[QuestionRollouts]:
        for place in tqdm(range(len(questions)), desc="file", mininterval=1, delay=2):
            problem = parts.load(place)
            if place in taken_over:
                problem = run.graded_anew(place, problem)
            counts[problem.question.group].add(problem)
            yield problem

    try:
        if missing or not questions:  # no questions at all are an error of `collect`
            with closing(run.sample(missing)) as stream:
                for place, problem in stream:
                    parts.save(place, problem)
                    watch(len(parts.done), problem)
        run.header.save(file, problems())
    except BaseException:
        if parts.done:
            say(f"{len(parts.done)} of {len(questions)} questions are kept in {parts.folder}; run the same to go on")
        else:
            parts.discard()
        raise
    parts.discard()
    return Collected(file, run.header.model, run.header.max_new_tokens, counts)


def taken_over(
    llm: IntrospectiveLLM, questions: Sequence[Question], grader: Grader, file: str | Path, **how: Unpack[Collecting]
) -> Rollouts:
    """The rollouts of a file, if they are those that `collect_to_file` would make; graded anew.

    Raises:
        EvaluationDataError: they are others; the message names what differs. Or as `Rollouts.load`.
    """
    file = expanded(Path(file))
    found, run = Rollouts.load(file), _Run(llm, questions, grader, {"sampling": llm.config.sampling, **how})
    wanted, stored = _of_any_machine(run.header.settings), _of_any_machine(found.settings)
    if other := sorted(name for name in wanted.keys() | stored.keys() if wanted.get(name) != stored.get(name)):
        raise EvaluationDataError(
            f"{file} holds rollouts that differ in {', '.join(other)}: {other[0]} is {stored.get(other[0])!r:.80}, "
            f"and here {wanted.get(other[0])!r:.80}. Delete it to begin anew, or name another file"
        )
    return replace(found, problems=tuple(run.graded_anew(place, item) for place, item in enumerate(found.problems)))


def _of_any_machine(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what differs between machines that sample one model: rollouts travel."""
    kept = {name: value for name, value in settings.items() if name not in ("backend", "dtype", "max_context")}
    return {**kept, "weights": [known for *_, known in kept.get("weights", [])]}


class _Run:
    """One model, its questions, and how they are sampled."""

    def __init__(self, llm: IntrospectiveLLM, questions: Sequence[Question], grader: Grader, how: Collecting) -> None:
        self.llm, self.questions, self.grader = llm, questions, grader
        sampling, samples = how["sampling"] or llm.config.sampling, how["samples"]
        if how.get("confidences") or sampling.confidences:
            sampling = sampling.replace(confidences=True)
            if not llm.info.confidences:
                raise BackendError(
                    f"confidences were asked for, and the backend {llm.info.backend} reports none; leave them out, or "
                    f"open the model with transformers or llama-cpp"
                )
        self.sampling, self.concurrency = sampling, how.get("concurrency", 256)
        self.samples, self.copies, self.caution = samples, 1, ""
        if sampling.greedy and samples > 1:
            self.samples, self.copies = 1, samples
            self.caution = (
                f"nothing is drawn, so all {samples} samples of a question are the same: one is sampled, and stored "
                f"{samples} times"
            )
        options = how.get("chat_template_kwargs")
        self.options = dict(llm.config.chat_template_kwargs if options is None else options)
        given: dict[str, Any] = {"chat_template_kwargs": self.options} if self.options else {}
        self.framing, self.hidden_every = how.get("framing", NO_FRAMING), how.get("hidden_every")
        self.prompts = [tuple(llm.backend.encode(self.framing.put(question.text), **given)) for question in questions]
        local = Path(llm.info.model)  # others need not know where it lies
        name = local.name if local.exists() else llm.info.model
        limit = how.get("max_new_tokens") or llm.config.max_new_tokens
        size = llm.info.hidden_size if self.hidden_every else None
        self.header = Rollouts(
            llm.backend.grid,
            name,
            limit,
            (),
            llm.info.parameters,
            hidden_size=size,
            framing=self.framing,
            confidences=sampling.confidences,
            answers=llm.backend.head.about.answers if llm.backend.head else llm.backend.answers,
        )
        self.header = replace(self.header, settings=json.loads(json.dumps(self.settings())))

    def settings(self) -> dict[str, Any]:
        """All that the samples and their joints depend on."""
        asked = [(question.text, prompt) for question, prompt in zip(self.questions, self.prompts, strict=True)]
        return {
            "model": self.header.model,
            "weights": _stamp(Path(self.llm.info.model)),
            "backend": self.llm.info.backend,
            "dtype": self.llm.info.dtype,
            "grid": self.header.grid.to_metadata() if self.header.grid else None,
            "questions": {"count": len(asked), "sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest()},
            "samples": self.samples * self.copies,
            "max_new_tokens": self.header.max_new_tokens,
            "max_context": self.llm.info.max_context,
            **({"chat_template_kwargs": self.options} if self.options else {}),
            **({"framing": self.framing.model_dump(mode="json")} if self.framing != NO_FRAMING else {}),
            **({"hidden_every": self.hidden_every} if self.hidden_every else {}),
            **({"confidences": True} if self.sampling.confidences else {}),
            **{name: getattr(self.sampling, name) for name in SamplingParams.model_fields if name != "confidences"},
        }

    def sample(self, places: Sequence[int]) -> Generator[tuple[int, QuestionRollouts], None, None]:
        """Questions by their places, in the order in which the last of their samples ends."""
        stream = collect(
            self.llm.backend,
            [self.prompts[place] for place in places],
            self.samples,
            self.sampling,
            max_new_tokens=self.header.max_new_tokens,
            concurrency=self.concurrency,
            hidden_every=self.hidden_every,
        )
        begun: dict[int, dict[int, StoredRollout]] = {}
        total, before = (count * self.samples for count in (len(self.questions), len(self.questions) - len(places)))
        with closing(stream), tqdm(total=total, initial=before, desc="rollouts", mininterval=1) as bar:
            for rollout in stream:
                place = places[rollout.prompt]
                group = begun.setdefault(place, {})
                group[rollout.sample] = self._graded(place, self._stored(rollout))
                bar.update()
                if len(group) == self.samples:
                    del begun[place]
                    ordered = tuple(group[sample] for sample in sorted(group)) * self.copies
                    yield place, QuestionRollouts(self.questions[place], self.prompts[place], ordered)

    def graded_anew(self, place: int, problem: QuestionRollouts) -> QuestionRollouts:
        """The same samples, as the question, the extractor and the grader of this run see them."""
        rollouts = tuple(self._graded(place, rollout) for rollout in problem.rollouts)
        return replace(problem, question=self.questions[place], rollouts=rollouts)

    def _graded(self, place: int, rollout: StoredRollout) -> StoredRollout:
        if not rollout.finished:
            return replace(rollout, answer=None, right=False)
        right = self.grader(rollout.text, self.questions[place].expected)
        return replace(rollout, answer=extract(self.llm.extractor, rollout.text), right=right)

    def _stored(self, rollout: Rollout) -> StoredRollout:
        grid, logits = self.header.grid, rollout.joint_logits
        joints = logits if grid is None else joint.from_logits(logits, grid)
        return StoredRollout(
            tokens=rollout.tokens,
            text=self.llm.backend.decode(rollout.tokens.tolist()),
            answer=None,
            right=False,
            finished=rollout.finished,
            joints=joints.reshape(len(joints), self.header.cells).astype(np.float16),
            hidden=rollout.hidden,
            confidences=None if rollout.confidences is None else rollout.confidences.astype(np.float16),
        )


def _stamp(model: Path) -> list[tuple[str, int, str]]:
    """Which weights lie there: training writes others under the same names. Empty for a model from the hub."""
    files = sorted(model.iterdir()) if model.is_dir() else [model]
    found = [file for file in files if file.suffix in _WEIGHTS and file.is_file()]
    return [(file.name, file.stat().st_mtime_ns, digest(file)) for file in found]
