"""LlamaCppBackend: the sequences of one llama.cpp context, and how a call of `advance` moves them.

It knows nothing of utilities or stop strings. A step is one `llama_decode` of every sequence's next token; reserved
logits are read, and masked, in llama.cpp's own buffer, and a head reads the hidden states beside them.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from gguf.constants import Keys
from numpy.typing import NDArray

from zip_introspect.backend.contract import Advanced, Backend, BackendInfo, Prefilled, SequenceId
from zip_introspect.backend.detokenization import ByteStream, TextStream
from zip_introspect.backend.encoding import end_ids
from zip_introspect.backend.sequences import check_tokens
from zip_introspect.config import SamplingParams
from zip_introspect.errors import NonFiniteLogitsError
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect.heads.head import Head
from zip_introspect.heads.readout import Readout
from zip_introspect.heads.sources import opened
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.paths import expanded
from zip_introspect.prompts import Message
from zip_introspect_llama_cpp import decoding, gguf_file
from zip_introspect_llama_cpp.cache.context import Context
from zip_introspect_llama_cpp.cache.held import Held, SharedPrompt
from zip_introspect_llama_cpp.cache.residents import Residents
from zip_introspect_llama_cpp.decoding import RowAdvance
from zip_introspect_llama_cpp.loading import LlamaModel
from zip_introspect_llama_cpp.options import LlamaCppOptions
from zip_introspect_llama_cpp.prompts import LlamaCppPromptEncoder

Work = int | Sequence[int]
"""What a sequence is to do: draw so many tokens at most, or go on with these. In one call all do the same."""


class LlamaCppBackend(Backend):
    """Any GGUF text model under llama.cpp: on the CPU, and on what else llama.cpp was built for.

    A sequence stops where `info.max_context` is reached: `advance` then gives fewer tokens than asked for, none in
    the end, with `finished` false.
    """

    def __init__(
        self,
        model: LlamaModel,
        grid: JointGrid | None,
        options: LlamaCppOptions,
        head: Head | None = None,
        hidden_states: bool = False,
    ) -> None:
        self.grid, self.head = head.grid if head else grid, head
        self._prompts = LlamaCppPromptEncoder(model, self.reserved)
        named = {Keys.Tokenizer.EOS_ID: model.eos_ids, Keys.Tokenizer.CHAT_TEMPLATE: self._prompts.closing()}
        ends = end_ids(named, model.vocab_size)
        if grid:
            grid.check_fits(model.vocab_size, ends)
        if head:
            head.check_fits(model.hidden_size)
            self.warnings = head.check_belongs(model.fingerprint)
        self._model = model
        self._context = Context(model, options, hidden=hidden_states or head is not None)
        if self._context.hidden_size:
            self._context.check_hidden(model.architecture)
        self._free = weakref.finalize(self, _free, self._context, model)  # where nobody closes it
        self._residents = Residents(
            self._context, options.max_sequences, cuttable=model.cuttable, kept=options.prefix_cache
        )
        self._reading = Readout(grid.reserved if grid else range(0), head, hidden_states)
        self._info = BackendInfo(
            backend="llama-cpp",
            model=str(model.path),
            architecture=model.architecture,
            vocab_size=model.vocab_size,
            eos_token_ids=ends,
            max_context=self._context.max_context,
            device=model.device,
            dtype=model.file_type,
            parameters=model.parameters,
            max_sequences=options.max_sequences,
            resident_sequences=self._context.slots,
            resident_tokens=self._context.cells,
            hidden_size=model.hidden_size,
            confidences=True,
        )

    @property
    def info(self) -> BackendInfo:  # type: ignore[override]  # what it says changes
        """What the model is and can do, and how many cells released prompts keep."""
        kept = self._residents.kept_cells if self._residents.kept else 0
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
        """Load a `.gguf` file; see `LlamaCppOptions` for the options."""
        settings, path = LlamaCppOptions(**options), expanded(Path(model))
        laid = None if head is None else opened(head)
        reader = gguf_file.read(path)
        grid = grid or gguf_file.find_grid(reader, path)
        gguf_file.check(reader, path, grid)
        weights = LlamaModel(path, reader, settings)
        try:
            return cls(weights, grid, settings, laid, hidden_states)
        except BaseException:
            weights.close()
            raise

    @classmethod
    def accepts(cls, model: str | Path) -> bool:
        path = expanded(Path(model))
        if path.suffix == ".gguf":
            return True
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(gguf_file.MAGIC)) == gguf_file.MAGIC

    @property
    def used_cells(self) -> int:
        """Tokens that are held at the moment, those of shared prompts counted once."""
        return self._residents.used_cells

    def encode(
        self,
        prompt: str | Sequence[Message],
        *,
        chat: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        return self._prompts.encode(prompt, chat=chat, chat_template_kwargs=chat_template_kwargs)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._model.text(tokens)

    def decode_stream(self) -> TextStream:
        return ByteStream(self._model.piece)

    def spell(self, text: str) -> list[int]:
        return self._prompts.spell(text)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
        check_tokens(prompts, self._info)
        self._residents.check_room(len(prompts))
        samples = [Held([int(token) for token in prompt], origin=SharedPrompt(len(prompt))) for prompt in prompts]
        ids = [self._residents.add(sample) for sample in samples]
        try:
            with self._residents.recovering(samples):
                self._compute(samples)
            return [
                Prefilled(identity, self._after_prompt(number, sample), sample.taken_over, self._kept(sample.hidden))
                for number, (identity, sample) in enumerate(zip(ids, samples, strict=True))
            ]
        except BaseException:
            self._residents.release(ids, sound=False)
            raise

    def fork(self, sequence: SequenceId, samples: Sequence[int], sampling: SamplingParams) -> list[SequenceId]:
        origin = self._residents.forkable(sequence, len(samples))
        copies = [
            Held(
                list(origin.tokens),
                sampling,
                number,
                origin.step,
                origin=origin.origin,
                logits=origin.logits,
                hidden=origin.hidden,
            )
            for number in samples
        ]
        return self._residents.fork(origin, copies)

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        samples = self._residents.advanceable(sequences, steps)
        budgets = {
            sample: min(asked, self._info.max_context - len(sample.tokens))
            for sample, asked in zip(samples, steps, strict=True)
        }
        moving = [sample for sample in samples if budgets[sample] > 0]
        runs = self._moved(moving, [budgets[sample] for sample in moving])
        return [self._advanced(sample, runs.get(sample)) for sample in samples]

    def append(self, sequences: Sequence[SequenceId], tokens: Sequence[Sequence[int]]) -> list[Advanced]:
        samples = self._residents.appendable(sequences, tokens, self._info, self.reserved)
        runs = self._moved(samples, list(tokens))
        return [self._advanced(sample, runs[sample]) for sample in samples]

    def pause(self, sequences: Sequence[SequenceId]) -> None:
        for sample in [self._residents[sequence] for sequence in sequences]:
            sample.paused = True

    def release(self, sequences: Sequence[SequenceId]) -> None:
        self._residents.release(sequences)

    def fingerprint(self, token_ids: Sequence[int] | None = None) -> Fingerprint:
        return self._model.fingerprint(token_ids)

    def close(self) -> None:
        """Free the cells and the weights."""
        self._residents.clear()
        self._free()

    def _compute(self, samples: Sequence[Held]) -> None:
        """The logits after prompts; one by one where some are not finite, so that it is known which."""
        for _ in self._residents.groups(samples, [0] * len(samples)):
            pass
        if all(_finite(sample) for sample in samples):
            return
        for sample in samples:
            self._residents.scrub()
            sample.logits = None
            for _ in self._residents.groups([sample], [0]):
                pass
            if not _finite(sample):
                self._residents.scrub()
                break  # the others will not be asked for

    def _after_prompt(self, number: int, sample: Held) -> NDArray[np.float32]:
        """The joint's logits after a prompt; reserved ones are masked out of what will be sampled from."""
        if sample.logits is None or not _finite(sample):
            raise NonFiniteLogitsError(
                f"the logits after prompt {number} ({len(sample.tokens)} tokens) hold NaN or infinity; expected "
                f"finite numbers. Check the model's weights, or export it in another type."
            )
        ids = self._reading.reserved
        reserved = sample.logits[ids.start : ids.stop]
        found = reserved.copy()
        reserved.fill(-np.inf)
        if self.head and sample.hidden is not None:
            return self.head.logits(sample.hidden, sample.hidden)
        return found

    def _kept(self, hidden: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        return hidden if self._reading.keep else None

    def _moved(self, samples: Sequence[Held], work: Sequence[Work]) -> dict[Held, RowAdvance]:
        """What samples did, in groups that fit; entered into them."""
        of, runs = dict(zip(samples, work, strict=True)), dict[Held, RowAdvance]()
        with self._residents.recovering(samples):
            for group in self._residents.groups(samples, [_growth(item) for item in work]):
                for sample, run in zip(group, self._run(group, [of[sample] for sample in group]), strict=True):
                    self._account(sample, run)
                    runs[sample] = run
        return runs

    def _run(self, group: Sequence[Held], work: Sequence[Work]) -> list[RowAdvance]:
        runs = self._decode(group, work)
        if not any(run.broken for run in runs):
            return runs
        self._residents.scrub()
        if len(group) == 1:
            return runs
        # What is not finite in one sample's cells reaches the others: only alone is it known whose it is.
        runs = []
        for sample, item in zip(group, work, strict=True):
            for alone in self._residents.groups([sample], [_growth(item)]):
                runs += self._run(alone, [item])
            self._residents.evict(sample)  # its cells are ahead of its tokens, so nobody may share them
        return runs

    def _decode(self, group: Sequence[Held], work: Sequence[Work]) -> list[RowAdvance]:
        budgets = [item for item in work if isinstance(item, int)]
        if budgets:
            return decoding.run(self._context, group, budgets, self._reading, frozenset(self._info.eos_token_ids))
        given = [item for item in work if not isinstance(item, int)]
        return decoding.read_further(self._context, group, given, self._reading)

    def _account(self, sample: Held, run: RowAdvance) -> None:
        """Enter what a row did into its sample, and give up its cells where it has ended."""
        sample.tokens += run.tokens.tolist()
        sample.step += len(run.tokens)
        sample.logits, sample.hidden = run.logits, run.sums
        if run.finished or run.broken:
            sample.ended = "has finished" if run.finished else "came to logits that are not finite"
            self._residents.evict(sample)

    def _advanced(self, sample: Held, run: RowAdvance | None) -> Advanced:
        if run is None:
            none = np.zeros((0, self._model.hidden_size), np.float32)
            empty = np.zeros((0, self.num_cells), np.float32)
            told = np.zeros((0, 2), np.float32) if sample.confident else None
            return Advanced(np.zeros(0, np.int32), empty, finished=False, hidden=self._kept(none), confidences=told)
        hidden = None if run.hidden is None else run.hidden.astype(np.float32)
        return Advanced(run.tokens, run.joint, run.finished, run.broken, hidden, run.confidences)


def _growth(item: Work) -> int:
    return item if isinstance(item, int) else len(item)


def _free(context: Context, model: LlamaModel) -> None:
    context.close()
    model.close()


def _finite(sample: Held) -> bool:
    return sample.logits is not None and bool(np.isfinite(sample.logits).all())
