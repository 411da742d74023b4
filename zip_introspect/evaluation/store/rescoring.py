"""Stored rollouts read again by another model: scores of a reward model or a judge, or the joints of another head.

Costs are those of the paper's baselines (section 6.1): a reward model reads prompt and sample anew; a judge reads its
question only, since it has the rest cached.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from zip_introspect.errors import EvaluationDataError, ModelLoadError, TrainingDataError
from zip_introspect.evaluation.store.rollout_file import QuestionRollouts, Rollouts, StoredRollout
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.paths import expanded
from zip_introspect.training.dataset import pad
from zip_introspect.training.scorers import JudgeQuestion, judgement_score
from zip_introspect_transformers import TokenText

TOKENS_AT_ONCE = 16_384
LOGITS_AT_ONCE = 2**28  # a gigabyte in float32
JUDGE_FILE = "judge.json"
"""Beside a judge's weights: `question`, `yes` and `no`."""
QUESTION = {"question": "\nIs this answer correct? ", "yes": "Yes", "no": "No"}
"""What is asked of a model that says nothing of its own."""

T = TypeVar("T")


def with_external_scores(rollouts: Rollouts, model: str | Path) -> Rollouts:
    """The rollouts with `external_score`: the sigmoid of a reward model's one logit for prompt and sample.

    Args:
        model: directory or hub id of a sequence classifier with one label, with the tokenizer of the rollouts' model.

    Raises:
        ModelLoadError: no such model.
        EvaluationDataError: more labels than one, or another tokenizer.
    """
    model = expanded(model)
    scorer = _open(AutoModelForSequenceClassification, model)
    if scorer.config.num_labels != 1:
        raise EvaluationDataError(f"{model} has {scorer.config.num_labels} labels; expected a reward model, with one")
    tokenizer = _check_tokens(rollouts, model, scorer)
    config = scorer.config.get_text_config()
    if config.pad_token_id is None:  # what is padding is not read; an end of sequence is
        config.pad_token_id = _filler(rollouts, tokenizer)
    scorer.config.pad_token_id = config.pad_token_id

    def score(batch: dict[str, Tensor], _: Sequence[Any]) -> list[float]:
        logits = scorer(**batch, use_cache=False).logits
        return [float(value) for value in torch.sigmoid(logits[:, 0].float()).cpu()]

    found = _read(rollouts, scorer, score, config.pad_token_id, (), "reward model")
    ratio = scorer.num_parameters() / rollouts.parameters if rollouts.parameters else 1.0
    scored = _changed(rollouts, found, lambda rollout, value: replace(rollout, external_score=value))
    return replace(scored, external_cost=ratio)


def with_self_scores(rollouts: Rollouts, model: str | Path, **texts: str | None) -> Rollouts:
    """The rollouts with `self_score`: how likely the judge answers yes rather than no behind the sample.

    Args:
        model: directory or hub id of the judge: the model of the rollouts, trained for it or not.
        texts: `question`, `yes` and `no`, where `judge.json` beside the model or the defaults are not meant.

    Raises:
        ModelLoadError: no such model, or a `judge.json` that says nothing usable.
        EvaluationDataError: texts that are no question, or another tokenizer.
    """
    model = expanded(model)
    judge = _open(AutoModelForCausalLM, model)
    asked = {**QUESTION, **_own_question(Path(model)), **{name: text for name, text in texts.items() if text}}
    try:
        question = JudgeQuestion.encode(AutoTokenizer.from_pretrained(model), **asked)
    except TrainingDataError as error:
        raise EvaluationDataError(str(error)) from error
    _check_tokens(rollouts, model, judge, len(question.question))

    def score(batch: dict[str, Tensor], _: Sequence[Any]) -> list[float]:
        logits = judge(**_right_aligned(batch), use_cache=False, logits_to_keep=1).logits[:, -1]
        return [float(value) for value in judgement_score(logits, question).cpu()]

    found = _read(rollouts, judge, score, 0, question.question, "judge")
    scored = _changed(rollouts, found, lambda rollout, value: replace(rollout, self_score=value))
    return replace(scored, judgement_tokens=len(question.question))


def with_joints_of(rollouts: Rollouts, model: str | Path) -> Rollouts:
    """The rollouts with the joints that another head predicts at their tokens, such as ZIP-RC-Lite's (A.3).

    The samples remain those of the model that drew them: compare heads over one policy, or nearly one.

    Args:
        model: directory of a causal language model with its grid.

    Raises:
        ModelLoadError, GridError: no such model, or one without a grid.
        EvaluationDataError: another tokenizer.
    """
    model = expanded(model)
    grid = JointGrid.load(Path(model))
    head = _open(AutoModelForCausalLM, model)
    _check_tokens(rollouts, model, head)
    grid.check_fits(head.config.get_text_config().vocab_size)
    cells = slice(grid.first_reserved, grid.first_reserved + grid.num_cells)

    def predict(
        batch: dict[str, Tensor], rows: Sequence[tuple[QuestionRollouts, StoredRollout]]
    ) -> list[NDArray[np.float16]]:
        logits = head(**batch, use_cache=False).logits[..., cells].float().cpu().numpy()
        return [
            _joints(logits[place], grid, len(problem.prompt_tokens), len(rollout.joints))
            for place, (problem, rollout) in enumerate(rows)
        ]

    at_once = min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // head.config.get_text_config().vocab_size)
    found = _read(rollouts, head, predict, 0, (), "joints", at_once)
    changed = _changed(rollouts, found, lambda rollout, joints: replace(rollout, joints=joints))
    return replace(changed, grid=grid, model=Path(model).name, answers=None)


def _joints(logits: NDArray[np.float32], grid: JointGrid, prompt: int, rows: int) -> NDArray[np.float16]:
    predicted = joint.from_logits(logits[prompt - 1 : prompt - 1 + rows], grid)
    return predicted.reshape(rows, -1).astype(np.float16)


def _open(kind: Any, model: str | Path) -> PreTrainedModel:
    try:
        opened: PreTrainedModel = kind.from_pretrained(model, dtype="auto")
    except (OSError, ValueError, KeyError) as error:
        raise ModelLoadError(f"{model} cannot be opened as a scorer: {error}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Half precision saves nothing on a CPU, and is slower on most.
    torch.nn.Module.to(opened, device, torch.float32 if device == "cpu" else None).eval()
    return opened


def _right_aligned(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows padded on the left instead, and their tokens' positions: every row's last column is its last token."""
    mask = batch["attention_mask"]
    width = mask.shape[1]
    places = (torch.arange(width, device=mask.device) - (width - mask.sum(1, keepdim=True))) % width
    mask = mask.gather(1, places)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": batch["input_ids"].gather(1, places), "attention_mask": mask, "position_ids": positions}


def _filler(rollouts: Rollouts, tokenizer: Any) -> int:
    """A token to pad with: the tokenizer's own, or one that no sample has."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    used = {int(token) for problem in rollouts.problems for token in problem.prompt_tokens}
    used |= {int(token) for problem in rollouts.problems for item in problem.rollouts for token in item.tokens}
    return next(token for token in range(len(used) + 1) if token not in used)


def _check_tokens(rollouts: Rollouts, model: str | Path, scorer: PreTrainedModel, further: int = 0) -> Any:
    """The scorer's tokenizer. Token ids are given to it as they are, so they must mean the same to it."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    reading = TokenText(tokenizer)
    for problem in rollouts.problems[:20]:
        for rollout in problem.rollouts[:2]:
            text = reading.decode(rollout.tokens.tolist())
            if text != rollout.text:
                raise EvaluationDataError(
                    f"{model} reads a sample of {rollouts.model} as {text[:60]!r}, which was {rollout.text[:60]!r}; "
                    f"expected a model with the same tokenizer"
                )
    longest = further + max(
        len(problem.prompt_tokens) + len(item.tokens) for problem in rollouts.problems for item in problem.rollouts
    )
    holds = getattr(scorer.config.get_text_config(), "max_position_embeddings", longest)
    if longest > holds:
        raise EvaluationDataError(f"the longest sample has {longest} tokens with its prompt, and {model} reads {holds}")
    return tokenizer


def _own_question(model: Path) -> dict[str, str]:
    file = model / JUDGE_FILE
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {name: str(found[name]) for name in QUESTION}
    except (ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"{file} is no judge's question; expected question, yes and no: {error}") from error


def _read(
    rollouts: Rollouts,
    model: PreTrainedModel,
    work: Callable[[dict[str, Tensor], Sequence[tuple[QuestionRollouts, StoredRollout]]], list[T]],
    pad_token: int,
    suffix: Sequence[int],
    name: str,
    at_once: int = TOKENS_AT_ONCE,
) -> Iterator[T]:
    """What `work` makes of every rollout, in their order; it is given batches of similar lengths."""
    rows = [(problem, rollout) for problem in rollouts.problems for rollout in problem.rollouts]
    sizes = [len(problem.prompt_tokens) + len(rollout.tokens) + len(suffix) for problem, rollout in rows]
    found: dict[int, T] = {}
    with torch.inference_mode(), tqdm(total=len(rows), desc=name, mininterval=1) as bar:
        for places in _batches(sizes, at_once):
            some = [rows[place] for place in places]
            ids = [[*problem.prompt_tokens, *rollout.tokens.tolist(), *suffix] for problem, rollout in some]
            batch = {name: item.to(model.device) for name, item in pad(ids, pad_token).items()}
            found.update(zip(places, work(batch, some), strict=True))
            bar.update(len(places))
    return (found[place] for place in range(len(rows)))


def _batches(sizes: Sequence[int], at_once: int) -> Iterator[list[int]]:
    """Places, the longest first, in batches of up to `at_once` tokens."""
    batch: list[int] = []
    for place in np.argsort(-np.asarray(sizes), kind="stable").tolist():
        if batch and sizes[batch[0]] * (len(batch) + 1) > at_once:
            yield batch
            batch = []
        batch.append(place)
    yield batch


def _changed(rollouts: Rollouts, found: Iterator[T], change: Callable[[StoredRollout, T], StoredRollout]) -> Rollouts:
    problems = tuple(
        replace(problem, rollouts=tuple(change(rollout, next(found)) for rollout in problem.rollouts))
        for problem in rollouts.problems
    )
    return replace(rollouts, problems=problems)
