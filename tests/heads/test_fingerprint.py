"""One model is known again in every number format; others, and those that were trained on, are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zip_introspect.errors import HeadError
from zip_introspect.heads.fingerprint import Fingerprint, token_ids

RNG = np.random.default_rng(0)
IDS = token_ids(1_000)
MODEL = Fingerprint(
    architecture="qwen2",
    hidden_size=64,
    layers=4,
    token_ids=IDS,
    rows=RNG.normal(size=(16, 64)).astype(np.float32),
    mlp=RNG.normal(size=(4, 128)).astype(np.float32),
    norm=1 + RNG.normal(size=64).astype(np.float32),
    template="a",
)


def noisy(share: float, **changed: object) -> Fingerprint:
    rows, mlp = (array * (1 + share * RNG.normal(size=array.shape)) for array in (MODEL.rows, MODEL.mlp))
    return replace(MODEL, rows=rows.astype(np.float32), mlp=mlp.astype(np.float32), **changed)  # type: ignore[arg-type]


def test_ids_lie_over_the_whole_vocabulary() -> None:
    assert len(IDS) == len(set(IDS)) == 16
    assert min(IDS) > 0
    assert max(IDS) < 999
    assert len(token_ids(3)) == 16


def test_rounding_is_allowed_for() -> None:
    assert MODEL.compare(MODEL) == ()
    assert MODEL.compare(noisy(0.09, rounding=0.1)) == ()
    assert MODEL.compare(replace(MODEL, norm=MODEL.norm - 1)) == (), "stored as the distance from 1"
    assert MODEL.compare(replace(MODEL, mlp=np.zeros((0, 0), np.float32))) == (), "what is not known is not compared"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(MODEL, layers=5), "layers 4, and this qwen2 has 5"),
        (replace(MODEL, rows=MODEL.rows[::-1].copy()), "the embeddings .*another model"),
        (noisy(0.05), "a model that was trained on since"),
        (replace(MODEL, norm=(MODEL.norm * RNG.normal(1, 0.03, 64)).astype(np.float32)), "the final norm"),
        (replace(MODEL, mlp=MODEL.mlp[:2]), "the middle layer"),
    ],
)
def test_others_are_refused(other: Fingerprint, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        MODEL.compare(other)


def test_tight_norms_are_allowed_the_rounding_of_their_size() -> None:
    tight = replace(MODEL, norm=(1 + 0.05 * RNG.normal(size=64)).astype(np.float32))
    halved = replace(tight, norm=(tight.norm * (1 + RNG.uniform(-0.004, 0.004, 64))).astype(np.float32))
    assert tight.compare(replace(halved, rounding=0.002)) == ()
    with pytest.raises(HeadError, match="the final norm"):
        tight.compare(halved)
    trained = replace(tight, norm=(tight.norm + 0.02 * RNG.normal(size=64)).astype(np.float32), rounding=0.002)
    with pytest.raises(HeadError, match="the final norm"):
        tight.compare(trained)


def test_another_chat_template_is_a_warning() -> None:
    assert MODEL.compare(replace(MODEL, template="")) == ()
    (warning,) = MODEL.compare(replace(MODEL, template="b"))
    assert "chat template is not the one" in warning


def test_what_cannot_be_compared_is_refused() -> None:
    for changed in ({"rows": np.zeros((2, 64))}, {"norm": np.zeros(3)}, {"mlp": np.full((1, 2), np.inf)}):
        with pytest.raises(HeadError, match="fingerprint is malformed"):
            replace(MODEL, **changed)
