"""The contract between the search and whatever runs the model.

A backend knows tokens, states and logits. It knows nothing of joints, utilities, budgets or stop
strings. The core never sees a tensor of a backend's: everything that crosses is a number, a string
or a numpy array, and `advance` crosses once for a whole decision interval.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType, Self

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.detokenization import TextStream, WindowStream
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, HeadError
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect.heads.head import Head
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.posterior import AnswerModel
from zip_introspect.prompts import Message

SequenceId = NewType("SequenceId", int)


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a loaded model is and can do."""

    backend: str
    model: str
    architecture: str
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_context: int
    """Prompt and generated tokens of one sequence together."""
    device: str
    dtype: str
    parameters: int
    max_sequences: int | None = None
    """How many unreleased sequences may exist; None where only memory limits them."""
    resident_sequences: int | None = None
    """How many of them keep their state at once; beyond it some are computed again when they go on. None is all."""
    resident_tokens: int | None = None
    """How many tokens may keep their state at once, those of sequences and of kept prefixes together; beyond it some
    are computed again. None where nothing limits them, or nothing says so."""
    hidden_size: int | None = None
    """Numbers of a hidden state; None where the backend reads none."""
    kept_tokens: int = 0
    """How many of these are prefixes of released prompts, kept for prompts to come; they give way to sequences."""
    confidences: bool = False
    """Whether `advance` reports `Advanced.confidences` of sequences whose `SamplingParams` ask for them."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A prompt whose state has been computed once; fork it to start samples."""

    sequence: SequenceId
    joint_logits: NDArray[np.float32]
    """Shape (B_V*B_T,): they describe the prompt itself, before a token is generated. (0,) without a grid."""
    cached_tokens: int = 0
    """Tokens of the prompt whose states were taken over from one that was computed before."""
    hidden: NDArray[np.float32] | None = None
    """Shape (hidden size,): the last hidden state after the prompt. Only where the model was opened for it."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """What one sequence did in one call of `advance`."""

    tokens: NDArray[np.int32]
    """Shape (n,), 0 <= n <= steps; the end-of-sequence token included where it was drawn."""
    joint_logits: NDArray[np.float32]
    """Shape (m, B_V*B_T): row i describes the prefix that ends in tokens[i]. m = n, or n - 1 where the
    last token is end-of-sequence (no forward pass is spent on it) or `non_finite` is true. (m, 0) without a grid."""
    finished: bool
    """Whether the last token is an end-of-sequence token."""
    non_finite: bool = False
    """Whether the logits after the last token were NaN or infinite; the tokens and rows given are sound."""
    hidden: NDArray[np.float32] | None = None
    """Shape (m, hidden size): the last hidden states at the rows of the joint logits, in half precision or better. Only
    where the model was opened for them."""
    confidences: NDArray[np.float32] | None = None
    """Shape (n, 2), for each of the tokens, end of sequence included: its log-probability, and the mean log-probability
    of the `confidences.TOP_K` likeliest tokens (of all that may be drawn, where these are fewer); DeepConf's confidence
    of a token is the second, negated. Natural logarithms, of the distribution that the model itself gives before the
    token: at a temperature of 1, before any filter, reserved ids masked. Only where `SamplingParams.confidences`, and
    of tokens that were drawn: `append` gives none."""


def joint_grid(backend: Backend) -> JointGrid:
    """The bins of a model's joints.

    Raises:
        HeadError: it gives none.
    """
    if backend.grid is None:
        raise HeadError(f"{backend.info.model} has no head, and so gives no joints; expected a model that has one")
    return backend.grid


class Backend(ABC):
    """A loaded model. Every method raises `BackendError` for a sequence that was released.

    Sequences hold their place in the random stream: the token drawn at step t of sample j depends on
    (sampling.seed, j, t) and the logits alone (`zip_introspect.backend.streams`).
    """

    info: BackendInfo
    grid: JointGrid | None
    """The bins of its joints; None for a model without a head, which gives none."""
    head: Head | None = None
    """What gives its joints; None where they are logits of reserved tokens, or where there are none."""
    answers: AnswerModel | None = None
    """What is believed of answers (`answer_posterior`), where a file beside the model says so."""
    warnings: tuple[str, ...] = ()
    """What every result of the model should be taken with."""

    @property
    def num_cells(self) -> int:
        """Logits of a joint: those of the grid's cells, 0 without one."""
        return self.grid.num_cells if self.grid else 0

    @property
    def reserved(self) -> range:
        """The ids that are never drawn, whose logits are the joint's; none where there is no grid, or it names none."""
        return self.grid.reserved if self.grid else range(0)

    @classmethod
    @abstractmethod
    def open(
        cls,
        model: str | Path,
        *,
        grid: JointGrid | None = None,
        head: str | Path | Head | None = None,
        hidden_states: bool = False,
        **options: Any,
    ) -> Self:
        """Load a model from a directory, file or hub id; `grid` overrides the one stored with it.

        Args:
            head: what gives its joints, in place of reserved tokens: a head, its file, or the name of one that
                `zip_introspect.heads.sources` finds.
            hidden_states: whether `prefill` and `advance` give the last hidden states too.

        Raises:
            HeadError: a head that cannot be read, or is another model's.
            ModelLoadError: missing, truncated or foreign files.
            GridError: a grid with the model that is malformed.
            ReservedTokensError: the grid does not fit the vocabulary.
        """

    @classmethod
    @abstractmethod
    def accepts(cls, model: str | Path) -> bool:
        """Whether `model` looks like something this backend opens; cheap, and without loading it."""

    @abstractmethod
    def encode(
        self,
        prompt: str | Sequence[Message],
        *,
        chat: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a prompt, through the chat template where there is one and `chat` is true.

        A plain string is one user message. Text that spells a special token is encoded as text. Threads may encode at
        once. `zip_introspect.backend.encoding` says where prompts begin and texts end; its `PromptEncoder` does it.

        Args:
            chat_template_kwargs: further variables of the template, such as `enable_thinking` or `tools`; JSON.

        Raises:
            PromptError: messages that the template refuses, or leaves out.
            ConfigError: options for a template that is not applied, or of names that are not free.
            BackendError: the backend is closed, and what encodes went with it.
        """

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of generated tokens: what they say after a text, special tokens left out.

        Generated tokens follow a prompt, so nothing is stripped: a first token that begins with a space keeps it,
        though a tokenizer strips it from a text of its own (SentencePiece). Bytes that are no UTF-8 become U+FFFD.
        A text that is cut between two tokens, and not within a character, is the texts of its parts joined.
        """

    def decode_stream(self) -> TextStream:
        """`decode` for a growing sample: the pieces joined are what `decode` gives for all tokens.

        The default decodes the last tokens together with the new ones. A backend that knows the bytes of a token
        gives a `ByteStream`, which decodes each token once.
        """
        return WindowStream(self.decode)

    @abstractmethod
    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
        """Compute the states of prompts, in shared batches; each is computed once for all its samples.

        What a prompt shares with one that was computed before may be taken over; its last token is always computed.

        Raises:
            BackendError: no room for that many sequences.
            NonFiniteLogitsError: the logits after a prompt are not finite.
        """

    @abstractmethod
    def fork(self, sequence: SequenceId, samples: Sequence[int], sampling: SamplingParams) -> list[SequenceId]:
        """Copies of a sequence, one for each sample number; each goes on from its state with its own stream.

        The step counter of the stream goes on from that of `sequence` (0 for a prefilled prompt).
        """

    @abstractmethod
    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        """Generate up to `steps[i]` tokens of `sequences[i]`, all in one batch; results in the same order.

        Reserved ids are masked before any filter. A sequence stops early at an end-of-sequence token or at
        non-finite logits. Paused sequences are resumed. A host synchronisation happens once a call, at its end. What is
        drawn does not depend on whether confidences are reported.
        """

    def spell(self, text: str) -> list[int]:
        """Token ids with which a sample goes on to say a text; what spells a special token is that token.

        Raises:
            ConfigError: the tokenizer has no tokens for it.
            BackendError: the backend cannot tell; the default's answer.
        """
        raise BackendError(
            f"the backend {self.info.backend} cannot spell {text[:80]!r}; give its token ids, or open the model with "
            f"another backend"
        )

    def append(self, sequences: Sequence[SequenceId], tokens: Sequence[Sequence[int]]) -> list[Advanced]:
        """Go on with given tokens, `tokens[i]` for `sequences[i]`: computed together, in one forward pass, not drawn.

        The step counter of the stream goes on by as many, so that what follows is what would follow had they been
        drawn. Paused sequences are resumed. A backend of a server's may as well send a longer prompt.

        Returns:
            in the same order, each with the tokens given and the joint's logits (and hidden states) after the last of
            them alone, shape (1, B_V*B_T); (0, B_V*B_T) where the logits there are not finite.

        Raises:
            BackendError: a sequence as `advance` refuses it, no tokens, reserved or end-of-sequence ids or such as the
                vocabulary lacks, or more tokens than the context holds; then no sequence has changed. Or the backend
                appends none; the default's answer.
        """
        raise BackendError(
            f"the backend {self.info.backend} appends no tokens of others; open the model with another backend, or "
            f"leave out what needs it, such as thinking"
        )

    @abstractmethod
    def pause(self, sequences: Sequence[SequenceId]) -> None:
        """Take sequences out of the batch and keep their states, evicted and recomputed if memory asks for it."""

    @abstractmethod
    def release(self, sequences: Sequence[SequenceId]) -> None:
        """Forget sequences; unknown and already released ones are passed over."""

    def fingerprint(self, token_ids: Sequence[int] | None = None) -> Fingerprint:
        """What tells this model from others; see `zip_introspect.heads.fingerprint`.

        Args:
            token_ids: whose embeddings it holds; None is `fingerprint.token_ids` of the vocabulary.

        Raises:
            HeadError: the backend cannot look at its weights.
        """
        raise HeadError(f"the backend {self.info.backend} gives no fingerprint; open the model with another one")

    def close(self) -> None:
        """Free the model. The default does nothing."""
