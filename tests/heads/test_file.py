"""Head files: what is written is read again, and nothing that is damaged or foreign is taken for a head."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.heads.test_fingerprint import MODEL
from zip_introspect.errors import HeadError
from zip_introspect.heads import file, sources
from zip_introspect.heads.head import Head
from zip_introspect.testing.heads import random_head

DAMAGED = 5_000


@pytest.fixture
def head() -> Head:
    made = random_head(64, hidden=5)
    return Head(made.about.replace(card={"questions": 12, "grader": "numeric"}), made.weights, MODEL)


def test_a_head_comes_back_whole(head: Head, tmp_path: Path) -> None:
    written = file.save(head, tmp_path)
    assert written.name == "head.zip.safetensors"
    for path in (written, tmp_path):
        again = file.load(path)
        assert again.about == head.about
        np.testing.assert_array_equal(again.logits(np.ones(64), np.ones(64)), head.logits(np.ones(64), np.ones(64)))
        assert again.fingerprint is not None
        assert again.fingerprint.compare(MODEL) == ()
    assert not list(tmp_path.glob("*.partial"))
    assert file.load(file.save(random_head(3), tmp_path / "deep" / "other.zip.safetensors")).fingerprint is None


def test_a_head_is_found_wherever_it_is(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources.opened(head) is head
    written = file.save(head, tmp_path)
    assert sources.opened(str(written)).about == head.about
    with pytest.raises(HeadError, match=r"there is no head 'nobodys'; expected a head's file"):
        sources.opened("nobodys")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HeadError, match="cannot be had from the hub"):
        sources.opened("owner/nobodys")


def test_foreign_files_are_refused(head: Head, tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(HeadError, match=message):
            file.load(path)

    refused(tmp_path / "none.safetensors", "does not exist")
    other = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, other)
    refused(other, "holds no head")
    save_file(
        {"weight": np.zeros(3, np.float32)}, other, {"zip_introspect.head": "{}", "zip_introspect.head.version": "2"}
    )
    refused(other, "has version '2'; this release reads 1")
    text = tmp_path / "text.safetensors"
    text.write_text("not a head " * 100)
    refused(text, "truncated, or no safetensors file")
    said = {"zip_introspect.head.version": "1", "zip_introspect.head": json.dumps({"about": head.about.model_dump()})}
    save_file({**head.weights, "0.bias": np.zeros(5, np.int64)}, other, said)
    refused(other, r"holds '0.bias' as I64; expected F32 or F16")
    for broken in ("[1]", "{}", "[" * 5_000, "{not json"):
        save_file(head.weights, other, {**said, "zip_introspect.head": broken})
        refused(other, "says nothing of its head|not JSON")
    save_file(head.weights, other, {**said, "zip_introspect.head": json.dumps({"about": {"inputs": ["x"]}})})
    refused(other, "the head is malformed")


def test_damage_is_noticed_or_harmless(head: Head, tmp_path: Path) -> None:
    """Bytes flipped, cut, repeated and overwritten, in the header mostly: an error of ours, or a head that computes."""
    whole = file.save(head, tmp_path).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    draws, target = random.Random(0), tmp_path / "damaged.safetensors"
    survived = 0
    for _ in range(DAMAGED):
        data = bytearray(whole)
        for _ in range(draws.choice([1, 1, 2, 8])):
            place = draws.randrange(length + 8) if draws.random() < 0.8 else draws.randrange(len(data))
            match draws.randrange(4):
                case 0:
                    data[place] = draws.randrange(256)
                case 1:
                    data[place] ^= 1 << draws.randrange(8)
                case 2:
                    del data[place:]
                case _:
                    data[place : place + 4] = data[place : place + 4] * 2
            if len(data) <= length:
                break
        target.write_bytes(data)
        try:
            found = file.load(target)
        except HeadError:
            continue
        survived += 1
        assert np.isfinite(found.logits(np.zeros(found.about.hidden_size), np.zeros(found.about.hidden_size))).all()
    assert 0 < survived < DAMAGED / 2
