"""The ZIP objective (eq. 3) on the Hugging Face Trainer: the joint's cross-entropy plus the policy's KL."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, TrainingArguments

from zip_introspect.errors import TrainingDataError
from zip_introspect.heads.targets import IGNORED
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training import chunked
from zip_introspect.training.batching import LengthBatchingTrainer

TRAINED_FILE = "trained.safetensors"
_NEVER = -1e30  # finite, so that differences are; far below any logit, in bfloat16 too


def joint_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of -log p(b*, l* | s_t) over labelled positions (after eq. 6).

    Args:
        logits: of the joint's cells, shape (n, B_V*B_T), any float type.
        targets: shape (n,), flat cells of the grid.
    """
    return functional.cross_entropy(logits.float(), targets, reduction="sum")


def policy_kl(logits: Tensor, reference: Tensor, grid: JointGrid, top_k: int | None = None) -> Tensor:
    """KL(pi_theta || pi) of eq. 3 at each position, over the tokens that can be sampled (eq. 2).

    Args:
        logits, reference: shape (..., V).
        top_k: tell apart only the reference's k likeliest tokens, and take all others for one. The divergence of
            such coarser distributions is a lower bound of the exact one, for less memory and time.

    Returns:
        shape (...), nats.
    """
    current, original = (barred(item.float().clone(), grid) for item in (logits, reference))
    return divergence(current, original, top_k)


def barred(logits: Tensor, grid: JointGrid) -> Tensor:
    """Logits whose reserved ones were changed, in place, to what is never drawn (eq. 2)."""
    logits[..., grid.reserved.start : grid.reserved.stop] = _NEVER
    return logits


def divergence(current: Tensor, original: Tensor, top_k: int | None) -> Tensor:
    """KL at each position from barred logits, shape (..., V), float32; of what is never drawn they hold alike.

    Args:
        top_k: as `policy_kl` has it.
    """
    if top_k is None or top_k >= current.shape[-1]:
        current, original = (functional.log_softmax(item, dim=-1) for item in (current, original))
    else:
        kept = original.topk(top_k, dim=-1).indices
        current, original = (_coarser(item, kept) for item in (current, original))
    return (current.exp() * (current - original)).sum(-1)


def _coarser(logits: Tensor, kept: Tensor) -> Tensor:
    """Log-probabilities of the tokens `kept`, and of all others together, shape (..., k + 1)."""
    log_all = logits.logsumexp(-1, keepdim=True)
    probabilities = logits.gather(-1, kept) - log_all
    # Of the others themselves: one less the sum of those kept would be lost to rounding where it is small.
    others = logits.scatter(-1, kept, float("-inf")).logsumexp(-1, keepdim=True) - log_all
    return torch.cat((probabilities, others), dim=-1)


class JointTrainer(LengthBatchingTrainer):
    """Trains a causal language model to predict the joint.

    Args:
        grid: its reserved tokens must lie within the model's vocabulary.
        rows: what gives the joint's logits in place of the output head's reserved rows, shape (cells, hidden size);
            a parameter of the model. The other weights that are trained are saved with it, and no others.
        reference: the original, or the model itself where `unadapted` makes it that; None trains without the KL term
            (an intermediate head, or ZIP-RC-Lite).
        unadapted: a context in which the reference is the original.
        kl_weight: alpha_KL of eq. 3; A.1 recommends 10 to 100.
        kl_top_k: as `policy_kl` has it.
        rows_learning_rate: of `rows`; that of the arguments unless given.

    Logs `joint_loss` and, with a reference, `policy_kl` (nats a token) beside the loss.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        grid: JointGrid,
        rows: nn.Parameter | None = None,
        reference: PreTrainedModel | None = None,
        unadapted: Callable[[], AbstractContextManager[Any]] = nullcontext,
        kl_weight: float = 10.0,
        kl_top_k: int | None = None,
        rows_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        grid.check_fits(model.config.get_text_config().vocab_size)
        super().__init__(model=model, args=args, **kwargs)
        self.grid, self.rows = grid, rows
        self.kl_weight, self.kl_top_k = kl_weight, kl_top_k
        self._rows_learning_rate = rows_learning_rate
        self.reference: PreTrainedModel | None = None
        self._unadapted = unadapted
        self._output = chunked.output_head(model)
        self._original_output: nn.Linear | None = None
        if reference is not None:
            self.reference = reference
            if reference is not model:
                nn.Module.to(reference, self.args.device).eval().requires_grad_(False)
            self._original_output = chunked.output_head(reference)
            if self._original_output is None:
                self._output = None
        if rows is not None and self._output is None:
            raise TrainingDataError(
                f"{type(model).__name__} changes its logits behind the output head, so that rows of it cannot be "
                f"trained apart; expected one that does not, or the method full"
            )

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The Trainer's, with a learning rate of their own for the reserved rows."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if self.rows is not None and self._rows_learning_rate is not None and not optimizer.state:
            for group in optimizer.param_groups:
                group["params"] = [item for item in group["params"] if item is not self.rows]
            optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
            own = {"lr": self._rows_learning_rate, "weight_decay": self.args.weight_decay}
            optimizer.add_param_group({"params": [self.rows], **own})
        return optimizer

    def summed_loss(self, model: nn.Module, inputs: dict[str, Tensor | Any]) -> tuple[Tensor, Any]:
        """Eq. 3, summed over the labelled positions of a batch, chunk by chunk where the output head is a plain one."""
        labels = inputs.pop("targets")
        if self._output is not None:
            sums, outputs = self._chunked(model, inputs, labels, self._output)
        else:
            outputs = model(**inputs, use_cache=False)
            labelled = labels != IGNORED
            original = None
            if self.reference is not None:
                with torch.no_grad():
                    original = self.reference(**inputs, use_cache=False).logits[labelled]
            logits = outputs.logits[labelled]
            sums = self._losses(self._reserved(logits), labels[labelled], logits, original)
        parts = {"joint_loss": sums[0]}
        loss = sums[0]
        if self.reference is not None:
            parts["policy_kl"] = sums[1]
            loss = loss + self.kl_weight * sums[1]
        self.note(**parts)
        return loss, outputs

    def _chunked(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], labels: Tensor, output: nn.Linear
    ) -> tuple[Tensor, Any]:
        labelled = labels != IGNORED
        original = self._original(inputs, labelled)

        def losses(states: Tensor, held: Tensor | None, targets: Tensor) -> Tensor:
            if self.rows is not None:
                joint = functional.linear(states.to(self.rows.dtype), self.rows)
                if held is None:  # no policy can have moved, so no logits of the vocabulary are needed
                    return self._losses(joint, targets)
            logits = functional.linear(states, output.weight, output.bias)
            if self.rows is None:
                joint = self._reserved(logits)
            reference = None
            if held is not None and self._original_output is not None:
                with torch.no_grad():
                    reference = functional.linear(held, self._original_output.weight, self._original_output.bias)
            return self._losses(joint, targets, logits, reference)

        def ending(hidden: Tensor) -> Tensor:
            return chunked.summed(losses, hidden[labelled], original, labels[labelled])

        with chunked.in_place_of(output, ending):
            outputs = model(**inputs, use_cache=False)
        sums, outputs.logits = outputs.logits, None  # they are none
        return sums, outputs

    def _original(self, inputs: dict[str, Tensor | Any], labelled: Tensor) -> Tensor | None:
        """The reference's hidden states at the labelled positions."""
        if self.reference is None or self._original_output is None:
            return None
        training = self.reference.training
        self.reference.eval()
        try:
            with torch.no_grad(), self._unadapted(), chunked.passed_over(self._original_output):
                hidden: Tensor = self.reference(**inputs, use_cache=False).logits[labelled]
        finally:
            self.reference.train(training)
        return hidden

    def _losses(
        self, joint: Tensor, targets: Tensor, logits: Tensor | None = None, reference: Tensor | None = None
    ) -> Tensor:
        """The sums of both terms over some positions, shape (2,); without a reference the second one is 0."""
        loss = joint_loss(joint, targets)
        if logits is None or reference is None:
            return torch.stack([loss, torch.zeros_like(loss)])
        # These are no one else's, so that they need not be copied.
        current, original = (barred(item.float(), self.grid) for item in (logits, reference))
        return torch.stack([loss, divergence(current, original, self.kl_top_k).sum()])

    def _reserved(self, logits: Tensor) -> Tensor:
        """A copy: what it is of is barred."""
        return logits[:, self.grid.reserved.start : self.grid.reserved.stop].clone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A checkpoint holds what is trained: beside frozen weights that is little."""
        if self.rows is None:
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: item.detach().contiguous().cpu() for name, item in self._trained()}, folder / TRAINED_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.rows is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        found = load_file(Path(resume_from_checkpoint) / TRAINED_FILE)
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(found[name])

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        assert self.model is not None
        return [(name, item) for name, item in self.model.named_parameters() if item.requires_grad]
