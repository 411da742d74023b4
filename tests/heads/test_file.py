"""Head files: what is written is read again, and nothing that is damaged or foreign is taken for a head."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.heads.test_fingerprint import MODEL
from tests.heads.test_probe import random_probe
from zip_introspect.errors import HeadError
from zip_introspect.heads import file, sources
from zip_introspect.heads.head import Head
from zip_introspect.heads.probe import Probe
from zip_introspect.heads.targets import AnyTarget, Bernoulli, Binned, Categorical, RewardCost
from zip_introspect.introspection.grid import JointGrid
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


TARGETS: tuple[AnyTarget, ...] = (
    Bernoulli(),
    Categorical(names=("answers", "refuses", "asks back")),
    Binned(edges=(0, 1, 4), values=(0, 2)),
    RewardCost(grid=JointGrid.paper(0, num_reward_bins=2)),
)
PROBES = [random_probe(5, target, hidden=hidden) for hidden, target in enumerate(TARGETS)]


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.target.kind)
def test_a_probe_comes_back_whole(probe: Probe, tmp_path: Path) -> None:
    made = Probe(probe.about.replace(card={"foretells": "something"}), probe.weights, MODEL)
    written = file.save_probe(made, tmp_path)
    assert written.name == "probe.zip.safetensors"
    for path in (written, tmp_path):
        again = file.load_probe(path)
        assert again.about == made.about
        states = np.ones((2, 5))
        np.testing.assert_array_equal(again.probabilities(states, states), made.probabilities(states, states))
        assert again.fingerprint is not None
        assert again.fingerprint.compare(MODEL) == ()


def test_heads_and_probes_are_not_taken_for_each_other(head: Head, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=r"holds a probe, and no head; read it with heads\.file\.load_probe"):
        file.load(file.save_probe(PROBES[0], tmp_path / "one.safetensors"))
    with pytest.raises(HeadError, match=r"holds a head, and no probe; read it with heads\.file\.load"):
        file.load_probe(file.save(head, tmp_path / "other.safetensors"))
    with pytest.raises(HeadError, match="expected a probe's file"):
        file.load_probe(tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        None,
        {},
        {"kind": "unheard of"},
        {"kind": "binned", "edges": [1, 0]},
        {"kind": "binned", "edges": [0] * 9_999},
        {"kind": "categorical", "names": "abc"},
        {"kind": "reward_cost", "grid": {}},
        {"kind": "bernoulli", "more": 1},
    ],
)
def test_a_probe_of_no_target_is_refused(target: Any, tmp_path: Path) -> None:
    said = json.dumps({"about": {**PROBES[0].about.model_dump(mode="json"), "target": target}})
    path = tmp_path / "probe.safetensors"
    save_file(PROBES[0].weights, path, {"zip_introspect.probe": said, "zip_introspect.probe.version": "1"})
    with pytest.raises(HeadError, match=r"probe\.safetensors: the (probe|target|grid) is malformed"):
        file.load_probe(path)


def test_damage_is_noticed_or_harmless(head: Head, tmp_path: Path) -> None:
    """Bytes flipped, cut, repeated and overwritten, in the header mostly: an error of ours, or a head that computes."""
    _damage(file.save(head, tmp_path), file.load)


@pytest.mark.parametrize("probe", PROBES[2:], ids=lambda probe: probe.target.kind)
def test_damaged_probes_too(probe: Probe, tmp_path: Path) -> None:
    _damage(file.save_probe(probe, tmp_path), file.load_probe)


def _damage(saved: Path, load: Callable[[Path], Head | Probe]) -> None:
    whole, tmp_path = saved.read_bytes(), saved.parent
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
            found = load(target)
        except HeadError:
            continue
        survived += 1
        assert np.isfinite(found.logits(np.zeros(found.about.hidden_size), np.zeros(found.about.hidden_size))).all()
        if isinstance(found, Probe):
            assert np.isfinite(found.target.expectation(np.eye(found.outputs))).all()
    assert 0 < survived < DAMAGED / 2
