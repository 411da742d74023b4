"""Scorers of finished samples, the rivals of introspection: a reward model, and the generator as its own judge.

Both learn from rollouts (`training.dataset`) whether the whole sample is right. The reward model is a classifier that
reads prompt and sample anew (a verifier, Cobbe et al. 2021). The judge is the generator: a question follows its own
sample, and the probabilities of two answer tokens are the score (GenRM: Zhang et al. 2025; Manvi et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from zip_introspect.errors import TrainingDataError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.batching import LengthBatchingTrainer
from zip_introspect.training.dataset import pad
from zip_introspect.training.trainer import policy_kl


@dataclass(frozen=True)
class JudgeQuestion:
    """What a judge is asked after a sample, as tokens, and the two tokens that it may answer."""

    question: tuple[int, ...]
    yes: int
    no: int

    @classmethod
    def encode(cls, tokenizer: PreTrainedTokenizerBase, question: str, yes: str, no: str) -> JudgeQuestion:
        """Texts as tokens; an answer counts by its first.

        Raises:
            TrainingDataError: a text without tokens, or two answers that begin alike.
        """
        asked, *answers = (tokenizer.encode(text, add_special_tokens=False) for text in (question, yes, no))
        if not asked or not all(answers) or answers[0][0] == answers[1][0]:
            raise TrainingDataError(
                f"the judge's question {question!r} and its answers {yes!r} and {no!r} are the tokens {asked}, "
                f"{answers[0]} and {answers[1]}; expected a question, and answers whose first tokens differ"
            )
        return cls(tuple(asked), answers[0][0], answers[1][0])


def judgement_score(logits: Tensor, question: JudgeQuestion) -> Tensor:
    """The probability of yes, of the two answers.

    Args:
        logits: shape (n, V), after the question.

    Returns:
        shape (n,), in [0, 1].
    """
    return torch.sigmoid((logits[:, question.yes] - logits[:, question.no]).float())


@dataclass(frozen=True)
class RewardCollator:
    """Rows of rollouts for a classifier with one label."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        rewards = torch.tensor([float(row["reward"]) for row in rows])
        return {**pad([row["input_ids"] for row in rows], self.pad_token_id), "rewards": rewards}


class RewardModelTrainer(LengthBatchingTrainer):
    """Trains a sequence classifier with one label to tell how likely a whole sample is right; rows weigh alike."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.usual_tokens = float(self.args.train_batch_size * self.args.gradient_accumulation_steps)

    def summed_loss(self, model: nn.Module, inputs: dict[str, Tensor | Any]) -> tuple[Tensor, Any]:
        """The cross-entropy of the rewards, summed over a batch's rows."""
        rewards = inputs.pop("rewards")
        outputs = model(**inputs, use_cache=False)
        logits = outputs.logits[:, 0].float()
        return functional.binary_cross_entropy_with_logits(logits, rewards, reduction="sum"), outputs


@dataclass(frozen=True)
class JudgeCollator:
    """Rows of rollouts with the question behind them, and the positions whose next token was drawn."""

    question: JudgeQuestion
    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = pad([[*row["input_ids"], *self.question.question] for row in rows], self.pad_token_id)
        drawn = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        for place, row in enumerate(rows):
            drawn[place, row["prompt_length"] - 1 : len(row["input_ids"]) - 1] = True
        rewards = torch.tensor([float(row["reward"]) for row in rows])
        return {**batch, "rewards": rewards, "drawn": drawn}


class JudgeTrainer(LengthBatchingTrainer):
    """Trains a generator to answer whether its own sample is right, and to go on generating as before.

    Args:
        reference: the frozen original, from which the policy must not move (eq. 3's second term).
        grid: reserved tokens are left out of the policy.
        kl_weight: of the divergence a token against the cross-entropy of a judgement.

    Logs `judge_loss` and `policy_kl` (nats a token) beside the loss.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        question: JudgeQuestion,
        reference: PreTrainedModel,
        grid: JointGrid,
        kl_weight: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, **kwargs)
        self.question, self.grid, self.kl_weight = question, grid, kl_weight
        self.reference = nn.Module.to(reference, self.args.device).eval().requires_grad_(False)
        self._rows = self.args.train_batch_size * self.args.gradient_accumulation_steps

    def summed_loss(self, model: nn.Module, inputs: dict[str, Tensor | Any]) -> tuple[Tensor, Any]:
        """The judgements' cross-entropy, as if a row were a usual row's tokens, and the policy's divergence."""
        rewards, drawn = inputs.pop("rewards"), inputs.pop("drawn")
        outputs = model(**inputs, use_cache=False)
        last = inputs["attention_mask"].sum(1) - 1
        logits = outputs.logits[torch.arange(len(last)), last].float()
        answers = torch.where(rewards > 0.5, self.question.yes, self.question.no)
        judged = functional.cross_entropy(logits, answers, reduction="sum") * (self.usual_tokens / self._rows)
        with torch.no_grad():
            original = self.reference(**inputs, use_cache=False).logits[drawn]
        divergence = policy_kl(outputs.logits[drawn], original, self.grid).sum()
        self.note(judge_loss=judged, policy_kl=divergence)
        return judged + self.kl_weight * divergence, outputs
