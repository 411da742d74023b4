"""What every backend that reports the confidences of tokens must report: its own distribution's, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from zip_introspect.backend.confidences import TOP_K
from zip_introspect.backend.contract import Advanced, Backend, SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.testing import rounding

TOLD = (
    SamplingParams(temperature=1.0, seed=7, confidences=True),
    SamplingParams(temperature=0.0, confidences=True),
    SamplingParams(temperature=5.0, top_k=50, top_p=0.9, min_p=0.001, seed=3, confidences=True),
)


class ConfidenceConformance:
    """Tests of `Advanced.confidences`, of backends whose `BackendInfo` says that they report them."""

    sums: int = rounding.SMALL_MODEL
    roundoff: float = rounding.FLOAT32
    prompts: tuple[str, ...] = ("Solve 3*x+5=35",)

    def logits(self, backend: Backend, tokens: Sequence[int]) -> NDArray[np.float32] | None:
        """The logits (V,) after a text, on a way of their own, such as a plain forward pass; None where there is none.

        A suite that overrides this has the confidences compared with a naive log-softmax.
        """
        return None

    @pytest.fixture
    def telling(self, backend: Backend) -> Backend:
        """The backend, if it reports confidences."""
        if not backend.info.confidences:
            pytest.skip("the backend reports no confidences of tokens")
        return backend

    def test_confidences_come_with_each_token_and_change_none(self, telling: Backend) -> None:
        """Beside rows that ask for none too, and of tokens that end a sequence."""
        silent = [sampling.replace(confidences=False) for sampling in TOLD]
        *told, quiet = self._side_by_side(telling, [*TOLD, silent[0]])
        alone = self._side_by_side(telling, silent)
        assert quiet.confidences is None
        for run, other in zip(told, alone, strict=True):
            assert run.tokens.tolist() == other.tokens.tolist()
            assert run.finished == other.finished
            assert other.confidences is None
            assert run.confidences is not None
            assert run.confidences.shape == (len(run.tokens), 2)
            assert run.confidences.dtype == np.float32
            assert np.isfinite(run.confidences).all()
            own, likeliest = run.confidences.T
            assert (own <= 0).all()
            # Of k numbers that sum to 1 at most, the mean logarithm is highest where all are the same.
            most = min(TOP_K, telling.info.vocab_size - len(telling.reserved))
            assert (likeliest <= -np.log(most) + 1e-5).all()
        greedy = told[1].confidences
        assert greedy is not None
        assert (greedy[:, 0] >= greedy[:, 1]).all()

    def test_confidences_do_not_depend_on_intervals_and_forks(self, telling: Backend) -> None:
        (whole,) = self._side_by_side(telling, TOLD[:1], steps=(9,))
        prompt = telling.prefill([telling.encode(self.prompts[0])])[0].sequence
        (first,) = telling.fork(prompt, [0], TOLD[0])
        (begun,) = telling.advance([first], [4])
        assert not begun.finished, "choose another seed: the sample ended before it could be forked"
        silent_too = TOLD[0].replace(confidences=False)
        second, silent = (telling.fork(first, [0], own)[0] for own in (TOLD[0], silent_too))
        none, nothing = telling.advance([second, silent], [0, 0])
        assert none.confidences is not None
        assert none.confidences.shape == (0, 2)
        assert nothing.confidences is None
        telling.pause([second])
        end, quiet = telling.advance([second, silent], [5, 5])
        assert quiet.confidences is None
        assert end.tokens.tolist() == quiet.tokens.tolist()
        assert begun.confidences is not None
        assert end.confidences is not None
        assert whole.confidences is not None
        found = np.concatenate([begun.confidences, end.confidences])
        np.testing.assert_allclose(found, whole.confidences, rtol=0, atol=self._allowed(found))
        telling.release([prompt, first, second, silent])

    def test_confidences_are_those_of_a_naive_softmax(self, telling: Backend) -> None:
        prompt = telling.encode(self.prompts[0])
        for run in self._side_by_side(telling, TOLD):
            for place, token in enumerate(run.tokens.tolist()):
                logits = self.logits(telling, [*prompt, *run.tokens[:place].tolist()])
                if logits is None:
                    pytest.skip("this suite knows no other way to the logits")
                logs = logits.astype(np.float64)
                logs[list(telling.reserved)] = -np.inf
                logs -= np.log(np.exp(logs - logs.max()).sum()) + logs.max()
                expected = logs[token], np.mean(np.sort(logs[np.isfinite(logs)])[-TOP_K:])
                assert run.confidences is not None
                np.testing.assert_allclose(run.confidences[place], expected, rtol=0, atol=self._allowed(logits))

    def _side_by_side(
        self, backend: Backend, samplings: Sequence[SamplingParams], steps: Sequence[int] = (12, 5, 9, 12)
    ) -> list[Advanced]:
        """What samples of a prompt do beside each other, some of them for longer."""
        prompt = backend.prefill([backend.encode(self.prompts[0])])[0].sequence
        forks: list[SequenceId] = [sequence for own in samplings for sequence in backend.fork(prompt, [0], own)]
        found = backend.advance(forks, list(steps[: len(forks)]))
        backend.release([prompt, *forks])
        return found

    def _allowed(self, numbers: NDArray[np.floating]) -> float:
        # A log-probability is the difference of a logit and a sum over the vocabulary, each as wrong as logits are.
        return 2 * rounding.tolerance(numbers, self.sums, self.roundoff) + 1e-5
