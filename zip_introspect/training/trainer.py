"""The ZIP objective (eq. 3) on the Hugging Face Trainer: the joint's cross-entropy plus the policy's KL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, TrainingArguments

from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training import chunked
from zip_introspect.training.batching import LengthBatchingTrainer
from zip_introspect.training.dataset import IGNORED


def joint_loss(logits: Tensor, targets: Tensor, grid: JointGrid) -> Tensor:
    """The mean of -log p(b*, l* | s_t) over labelled positions (after eq. 6).

    Args:
        logits: shape (n, V), any float type.
        targets: shape (n,), flat cells of the grid.
    """
    first = grid.first_reserved
    reserved = logits[:, first : first + grid.num_reward_bins * grid.num_length_bins]
    return functional.cross_entropy(reserved.float(), targets)


def policy_kl(logits: Tensor, reference: Tensor, grid: JointGrid) -> Tensor:
    """KL(pi_theta || pi) of eq. 3 at each position, over the tokens that can be sampled (eq. 2).

    Args:
        logits, reference: shape (..., V).

    Returns:
        shape (...), nats.
    """
    current, original = (_policy(item, grid) for item in (logits, reference))
    return (current.exp() * (current - original)).sum(-1)


def _policy(logits: Tensor, grid: JointGrid) -> Tensor:
    first = grid.first_reserved
    last = first + grid.num_reward_bins * grid.num_length_bins
    sampled = torch.cat((logits[..., :first], logits[..., last:]), dim=-1)
    return functional.log_softmax(sampled.float(), dim=-1)


class JointTrainer(LengthBatchingTrainer):
    """Trains a causal language model's reserved logits to predict the joint.

    Args:
        grid: its reserved tokens must lie within the model's vocabulary.
        reference: the frozen original; None trains without the KL term (an intermediate head, or ZIP-RC-Lite).
        kl_weight: alpha_KL of eq. 3; A.1 recommends 10 to 100.

    Logs `joint_loss` and, with a reference, `policy_kl` (nats a token) beside the loss.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        grid: JointGrid,
        reference: PreTrainedModel | None = None,
        kl_weight: float = 10.0,
        **kwargs: Any,
    ) -> None:
        grid.check_fits(model.config.get_text_config().vocab_size)
        super().__init__(model=model, args=args, **kwargs)
        self.grid = grid
        self.kl_weight = kl_weight
        self.reference: nn.Module | None = None
        self._output = chunked.output_head(model)
        self._original_output: nn.Linear | None = None
        if reference is not None:
            self.reference = nn.Module.to(reference, self.args.device).eval().requires_grad_(False)
            self._original_output = chunked.output_head(reference)
            if self._original_output is None:
                self._output = None

    def summed_loss(self, model: nn.Module, inputs: dict[str, Tensor | Any]) -> tuple[Tensor, Any]:
        """Eq. 3, summed over the labelled positions of a batch, chunk by chunk where the output head is a plain one."""
        labels = inputs.pop("targets")
        if self._output is not None:
            return self._chunked(model, inputs, labels, self._output)
        outputs = model(**inputs, use_cache=False)
        labelled = labels != IGNORED
        logits = outputs.logits[labelled]
        loss = labelled.sum() * joint_loss(logits, labels[labelled], self.grid)
        parts = {"joint_loss": loss}
        if self.reference is not None:
            with torch.no_grad():
                original = self.reference(**inputs, use_cache=False).logits[labelled]
            divergence = policy_kl(logits, original, self.grid).sum()
            parts["policy_kl"] = divergence
            loss = loss + self.kl_weight * divergence
        self.note(**parts)
        return loss, outputs

    def _chunked(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], labels: Tensor, output: nn.Linear
    ) -> tuple[Tensor, Any]:
        labelled = labels != IGNORED
        with chunked.passed_over(output):
            outputs = model(**inputs, use_cache=False)
        original = None
        if self.reference is not None and self._original_output is not None:
            with torch.no_grad(), chunked.passed_over(self._original_output):
                original = self.reference(**inputs, use_cache=False).logits[labelled]
        hidden, outputs.logits = outputs.logits[labelled], None  # they are none
        joint, divergence = chunked.summed(
            self._losses, hidden, output, labels[labelled], original, self._original_output
        )
        parts = {"joint_loss": joint}
        loss = joint
        if original is not None:
            parts["policy_kl"] = divergence
            loss = loss + self.kl_weight * divergence
        self.note(**parts)
        return loss, outputs

    def _losses(self, logits: Tensor, reference: Tensor | None, targets: Tensor) -> Tensor:
        """The sums of both terms over some positions, shape (2,)."""
        joint = len(targets) * joint_loss(logits, targets, self.grid)
        if reference is None:
            return torch.stack([joint, torch.zeros_like(joint)])
        return torch.stack([joint, policy_kl(logits, reference, self.grid).sum()])
