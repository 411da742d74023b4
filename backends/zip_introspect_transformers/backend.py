"""TransformersBackend: the sequences, their states, and how a call of `advance` moves them.

It knows nothing of joints, utilities or stop strings. A sequence is its tokens and a row of a `State`; rows are
shared until somebody advances. Everything inside one interval is queued on the device without looking at results:
uniforms go up once, tokens and reserved logits come down once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from zip_introspect.backend.contract import Advanced, Backend, BackendInfo, Prefilled, SequenceId
from zip_introspect.backend.detokenization import TextStream
from zip_introspect.backend.encoding import end_ids
from zip_introspect.backend.sequences import check_tokens, draws
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, NonFiniteLogitsError
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect.heads.head import Head
from zip_introspect.heads.readout import Readout
from zip_introspect.heads.sources import opened
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.paths import expanded
from zip_introspect.prompts import Message
from zip_introspect_transformers import fingerprint
from zip_introspect_transformers.cache.states import State, upload
from zip_introspect_transformers.cache.table import Row, SequenceTable, place
from zip_introspect_transformers.decoding import Decoder, Drawn, Span, computing_with
from zip_introspect_transformers.loading import TransformersOptions, load, looks_openable
from zip_introspect_transformers.prompts import TransformersPromptEncoder
from zip_introspect_transformers.sampling import TorchSampler
from zip_introspect_transformers.text import TokenText

T = TypeVar("T")

_LOOK_EVERY = 16  # steps between two looks for rows that have ended, where looking is free
_LEAVE_SHARE = 8  # dropping ended rows copies the others: worth it from one row in so many


class TransformersBackend(Backend):
    """Any `AutoModelForCausalLM` on CPU or CUDA.

    A sequence stops where `info.max_context` is reached: `advance` then gives fewer tokens than asked for, none in
    the end, with `finished` false.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        grid: JointGrid | None,
        options: TransformersOptions,
        name: str,
        head: Head | None = None,
        hidden_states: bool = False,
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        vocab_size = _vocab_size(model)
        self.grid, self.head = head.grid if head else grid, head
        self._prompts = TransformersPromptEncoder(tokenizer, self.reserved)
        eos = _eos_token_ids(model, tokenizer, vocab_size, self._prompts.closing())
        self._rows = grid
        if grid:
            grid.check_fits(vocab_size, eos)
        if head:
            head.check_fits(config.hidden_size)
            self.warnings = head.check_belongs(lambda ids: fingerprint.taken(model, tokenizer, ids))
        self._info = BackendInfo(
            backend="transformers",
            model=name,
            architecture=type(model).__name__,
            vocab_size=vocab_size,
            eos_token_ids=eos,
            max_context=_max_context(config, tokenizer, options),
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            max_sequences=options.max_sequences,
            hidden_size=getattr(config, "hidden_size", None),
            confidences=True,
        )
        self._threads = options.threads
        self._tokenizer, self._text = tokenizer, TokenText(tokenizer)
        reading = Readout(grid.reserved if grid else range(0), head, hidden_states)
        self._decoder = Decoder(model, reading, eos, options.prefill_tokens)
        self._sequences = SequenceTable(
            self._decoder, options.max_sequences, options.max_state_bytes, options.prefix_cache
        )

    @property
    def info(self) -> BackendInfo:  # type: ignore[override]  # what it says changes
        """What the model is and can do, and how many tokens of released prompts it keeps the states of."""
        kept = sum(len(sample.tokens) for sample in self._sequences.kept)
        return replace(self._info, kept_tokens=kept) if kept else self._info

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        grid: JointGrid | None = None,
        head: str | Path | Head | None = None,
        hidden_states: bool = False,
        **options: Any,
    ) -> Self:
        """Load a directory of `save_pretrained` or a hub repository; see `TransformersOptions` for the options."""
        settings, model = TransformersOptions(**options), expanded(model)
        laid = None if head is None else opened(head)
        return cls(*load(model, grid, settings), settings, str(model), laid, hidden_states)

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        grid: JointGrid | None = None,
        *,
        head: str | Path | Head | None = None,
        hidden_states: bool = False,
        **options: Any,
    ) -> Self:
        """Wrap a model that is already in memory, where it is; it is put into evaluation mode.

        The tokenizer is copied: what others do with theirs changes nothing here.

        Raises:
            ModelLoadError: no end-of-sequence token, or one beyond the vocabulary.
            ReservedTokensError: the grid does not fit the vocabulary.
        """
        own, settings = copy.deepcopy(tokenizer), TransformersOptions(**options)
        name, laid = model.name_or_path or "in memory", None if head is None else opened(head)
        return cls(model.eval(), own, grid, settings, name, laid, hidden_states)

    @classmethod
    def accepts(cls, model: str | Path) -> bool:
        return looks_openable(model)

    def encode(
        self,
        prompt: str | Sequence[Message],
        *,
        chat: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        return self._prompts.encode(prompt, chat=chat, chat_template_kwargs=chat_template_kwargs)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._text.decode(tokens)

    def decode_stream(self) -> TextStream:
        return self._text.stream()

    def spell(self, text: str) -> list[int]:
        return self._prompts.spell(text)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
        return self._with_room(lambda: self._prefill(prompts))

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
        self._follow()
        check_tokens(prompts, self._info)
        self._sequences.check_room(len(prompts))
        samples = [Row([int(token) for token in prompt]) for prompt in prompts]
        with computing_with(self._threads), self._sequences.recovering(samples):
            self._sequences.compute(samples)
            found = self._sequences.after_prompts(samples, self.num_cells)
        rows: list[tuple[NDArray[np.float32], ...]] = []
        for number, row in enumerate(found):
            if row is None:
                raise NonFiniteLogitsError(
                    f"the logits after prompt {number} ({len(prompts[number])} tokens) hold NaN or infinity; expected "
                    f"finite numbers. Check the model's weights, or open it with dtype='float32'."
                )
            rows.append(row)
        prefilled = [
            Prefilled(self._sequences.add(sample), joint, sample.taken_over, self._kept(hidden))
            for sample, (joint, hidden) in zip(samples, rows, strict=True)
        ]
        self._sequences.evict()
        return prefilled

    def fork(self, sequence: SequenceId, samples: Sequence[int], sampling: SamplingParams) -> list[SequenceId]:
        origin = self._sequences.forkable(sequence, len(samples))
        return [
            self._sequences.add(
                Row(
                    list(origin.tokens),
                    sampling,
                    number,
                    origin.step,
                    state=origin.state,
                    row=origin.row,
                    sums=origin.sums,
                )
            )
            for number in samples
        ]

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        return self._with_room(lambda: self._advance(sequences, steps))

    def _advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        self._follow()
        samples = self._sequences.advanceable(sequences, steps)
        budgets = {
            id(sample): min(asked, self._info.max_context - len(sample.tokens))
            for sample, asked in zip(samples, steps, strict=True)
        }
        drawn: dict[int, Drawn] = {}
        with computing_with(self._threads), self._sequences.recovering(samples):
            for state, rows in self._sequences.batches([sample for sample in samples if budgets[id(sample)] > 0]):
                drawn |= self._run(state, rows, budgets)
        advanced = [self._account(sample, drawn.get(id(sample))) for sample in samples]
        self._sequences.evict()
        return advanced

    def append(self, sequences: Sequence[SequenceId], tokens: Sequence[Sequence[int]]) -> list[Advanced]:
        return self._with_room(lambda: self._append(sequences, tokens))

    def _append(self, sequences: Sequence[SequenceId], tokens: Sequence[Sequence[int]]) -> list[Advanced]:
        self._follow()
        samples = self._sequences.appendable(sequences, tokens, self._info, self.reserved)
        with computing_with(self._threads), self._sequences.recovering(samples):
            read = self._sequences.read_further(samples, tokens, self.num_cells)
        # What is given was not drawn, so there is no confidence in it.
        advanced = [replace(self._account(sample, read[id(sample)]), confidences=None) for sample in samples]
        self._sequences.evict()
        return advanced

    def pause(self, sequences: Sequence[SequenceId]) -> None:
        self._sequences.pause(sequences)

    def release(self, sequences: Sequence[SequenceId]) -> None:
        self._sequences.release(sequences)

    def fingerprint(self, token_ids: Sequence[int] | None = None) -> Fingerprint:
        return fingerprint.taken(self._decoder.model, self._tokenizer, token_ids)

    def close(self) -> None:
        """Forget all sequences; the model goes when this object does."""
        self._sequences.clear()

    def _with_room(self, work: Callable[[], T]) -> T:
        """Do something, and where memory is short, again without the states that are only kept."""
        try:
            return work()
        except BackendError as error:
            if not (self._sequences.kept and isinstance(error.__cause__, torch.OutOfMemoryError)):
                raise
        self._sequences.kept.clear()
        return work()

    def _follow(self) -> None:
        """Take the model as it is now: where it was moved, cast or changed in part, all states are computed anew."""
        if self._decoder.follow():
            self._sequences.forget_states()
            model = self._decoder.model
            self._info = replace(
                self._info,
                vocab_size=_vocab_size(model),
                device=str(model.device),
                dtype=str(model.dtype).removeprefix("torch."),
                parameters=sum(parameter.numel() for parameter in model.parameters()),
            )
        if self._rows:
            self._rows.check_fits(self._info.vocab_size, self._info.eos_token_ids)

    def _run(self, state: State, rows: list[Row], budgets: dict[int, int]) -> dict[int, Drawn]:
        """Advance the rows of a state by their budgets; those whose budget ends leave the batch with their state.

        Budgets are known beforehand, so nothing is read back for them. Rows that end early are known, and leave,
        where the host can look for free.
        """
        device, looks = self._decoder.device, self._decoder.looks
        uniforms = upload(draws(rows, [budgets[id(sample)] for sample in rows]), device)
        alive = torch.ones(len(rows), dtype=torch.bool, device=device)
        known = [sample.sums for sample in rows if sample.sums is not None]
        sums = torch.stack(known) if known else torch.empty((len(rows), 0), device=device)
        counts = upload(np.array([[sample.step + 1.0] for sample in rows], np.float32), device)
        confident = any(sample.confident for sample in rows)
        spans: list[tuple[list[Row], Span]] = []
        done, going = 0, list(range(len(rows)))
        while True:
            steps = min(budgets[id(rows[row])] for row in going) - done
            steps = min(steps, _LOOK_EVERY) if looks else steps
            sampler = TorchSampler([sample.sampling for sample in rows if sample.sampling is not None], device)
            span = self._decoder.run(state, sampler, uniforms[:, done : done + steps], alive, sums, counts, confident)
            spans.append((rows, span))
            done, alive, sums, counts = done + steps, span.alive, span.sums, counts + steps
            living = alive.tolist() if looks else [True] * len(rows)
            going = [row for row, sample in enumerate(rows) if living[row] and budgets[id(sample)] > done]
            spent = [row for row, sample in enumerate(rows) if living[row] and budgets[id(sample)] == done]
            ended = len(rows) - len(going) - len(spent)
            for row in spent if known else ():
                rows[row].sums = sums[row]
            if not going:
                break
            if spent or ended * _LEAVE_SHARE >= len(rows):
                if spent:
                    place([rows[row] for row in spent], state.select(spent))
                state, rows = state.select(going), [rows[row] for row in going]
                place(rows, state)
                index = upload(np.array(going), device)
                uniforms, alive, sums, counts = (
                    item.index_select(0, index) for item in (uniforms, alive, sums, counts)
                )
                going = list(range(len(rows)))
        return _gather(self._decoder.to_host([span for _, span in spans]), [rows for rows, _ in spans])

    def _account(self, sample: Row, drawn: Drawn | None) -> Advanced:
        """Enter what came down into the sample, and give up its state where it has ended."""
        if drawn is None:
            none = np.zeros((0, self._info.hidden_size or 0), np.float32)
            empty = np.zeros((0, self.num_cells), np.float32)
            confidences = np.zeros((0, 2), np.float32) if sample.confident else None
            return Advanced(
                np.zeros(0, np.int32), empty, finished=False, hidden=self._kept(none), confidences=confidences
            )
        finished = bool(drawn.tokens.size) and int(drawn.tokens[-1]) in self._info.eos_token_ids
        sample.tokens += drawn.tokens.tolist()
        sample.step += drawn.tokens.size
        if finished or drawn.broken:
            sample.ended = "has finished" if finished else "came to logits that are not finite"
            sample.state = None
        rows = slice(0, len(drawn.joint) - bool(sample.ended))
        confidences = drawn.confidences if sample.confident else None
        hidden = self._kept(drawn.hidden[rows])
        return Advanced(drawn.tokens, drawn.joint[rows], finished, drawn.broken, hidden, confidences)

    def _kept(self, hidden: NDArray[np.float32]) -> NDArray[np.float32] | None:
        return hidden if self._decoder.reading.keep else None


def _gather(spans: Sequence[Sequence[Drawn]], rows: Sequence[Sequence[Row]]) -> dict[int, Drawn]:
    """One `Drawn` a sample, keyed by its id(), from those of its spans."""
    parts: dict[int, list[Drawn]] = {}
    for span, samples in zip(spans, rows, strict=True):
        for drawn, sample in zip(span, samples, strict=True):
            parts.setdefault(id(sample), []).append(drawn)
    return {
        identity: Drawn(
            np.concatenate([part.tokens for part in pieces]),
            np.concatenate([part.joint for part in pieces]),
            np.concatenate([part.hidden for part in pieces]),
            np.concatenate([part.confidences for part in pieces]),
            any(part.broken for part in pieces),
        )
        for identity, pieces in parts.items()
    }


def _vocab_size(model: PreTrainedModel) -> int:
    head = model.get_output_embeddings()
    return int(head.weight.shape[0]) if head is not None else int(model.config.get_text_config(decoder=True).vocab_size)


def _eos_token_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocab_size: int, closing: int | None
) -> tuple[int, ...]:
    config = model.config.get_text_config(decoder=True)
    named = {
        "the generation config": getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        "the config": getattr(config, "eos_token_id", None),
        "the tokenizer": tokenizer.eos_token_id,
        "the chat template": closing,
    }
    found = end_ids(named, vocab_size)
    # A config that says nothing has its class's id, which in this vocabulary may be any text's.
    assumed = getattr(type(config)(), "eos_token_id", None)
    known = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return tuple(token for token in found if token != assumed or token in known) or found


def _max_context(config: Any, tokenizer: PreTrainedTokenizerBase, options: TransformersOptions) -> int:
    named = getattr(config, "max_position_embeddings", None) or min(int(tokenizer.model_max_length), 1 << 31)
    return min(int(named), options.max_context or int(named))
