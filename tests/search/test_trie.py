from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zip_introspect.search.trie import PrefixTrie

SHAPE = (2, 3)


def joints(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.dirichlet(np.ones(6), size=count).reshape(count, *SHAPE).astype(np.float32)


class TrieMachine(RuleBasedStateMachine):
    """Against a naive twin that keeps every path and every joint of each leaf whole."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)
        self.root = joints(self.rng, 1)
        self.window = 3
        self.trie = PrefixTrie(self.root[0], self.window)
        self.paths: list[list[int]] = []
        self.rows: list[list[np.ndarray]] = []

    @rule()
    def branch_at_the_root(self) -> None:
        assert self.trie.branch() == len(self.paths)
        self.paths.append([])
        self.rows.append([self.root[0]])

    @rule(data=st.data())
    def branch_at_any_prefix(self, data: st.DataObject) -> None:
        if not self.paths:
            return
        leaf = data.draw(st.integers(0, len(self.paths) - 1))
        at = data.draw(st.integers(max(0, len(self.paths[leaf]) - 2), len(self.paths[leaf])))
        assert self.trie.branch(leaf, at) == len(self.paths)
        self.paths.append(self.paths[leaf][:at])
        kept = self.rows[leaf][-self.window :]
        kept = kept[: len(kept) - (len(self.paths[leaf]) - at)]
        self.rows.append(kept or [self.root[0]])

    @rule(data=st.data(), count=st.integers(0, 6))
    def extend(self, data: st.DataObject, count: int) -> None:
        if not self.paths:
            return
        leaf = data.draw(st.integers(0, len(self.paths) - 1))
        tokens = self.rng.integers(0, 1000, size=count)
        rows = joints(self.rng, count)
        self.trie.extend(leaf, tokens, rows)
        self.paths[leaf] += tokens.tolist()
        self.rows[leaf] += list(rows)

    @invariant()
    def agrees_with_the_twin(self) -> None:
        for leaf, path in enumerate(self.paths):
            assert self.trie.path(leaf).tolist() == path
            assert self.trie.length(leaf) == len(path)
            expected = np.mean(self.rows[leaf][-self.window :], axis=0, dtype=np.float64)
            np.testing.assert_allclose(self.trie.joint(leaf), expected, rtol=1e-6)


TestTrie = TrieMachine.TestCase
TestTrie.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


def test_space_is_that_of_the_tokens_generated() -> None:
    trie = PrefixTrie(joints(np.random.default_rng(0), 1)[0])
    stem = trie.branch()
    trie.extend(stem, range(1000), np.zeros((1000, *SHAPE)))
    for _ in range(50):
        trie.extend(trie.branch(stem), [1], np.zeros((1, *SHAPE)))
    assert trie.num_tokens == 1050
    assert trie.length(30) == 1001


def test_a_branch_from_far_back_belongs_to_the_run_that_holds_the_prefix() -> None:
    trie = PrefixTrie(joints(np.random.default_rng(0), 1)[0])
    a = trie.branch()
    trie.extend(a, [1, 2, 3], np.zeros((3, *SHAPE)))
    b = trie.branch(a)
    trie.extend(b, [4, 5], np.zeros((2, *SHAPE)))
    c = trie.branch(b, 2)
    assert trie.parent(c) == a
    assert trie.path(c).tolist() == [1, 2]
    assert trie.parent(trie.branch(b, 0)) is None


def test_finished_and_dropped_leaves_stay_so_and_do_not_grow() -> None:
    trie = PrefixTrie(joints(np.random.default_rng(0), 1)[0])
    leaf = trie.branch()
    trie.set_status(leaf, "paused")
    trie.set_status(leaf, "active")
    trie.extend(leaf, [7], np.zeros((0, *SHAPE)))
    trie.set_status(leaf, "finished")
    with pytest.raises(ValueError, match="leaf 0 is finished and cannot become active"):
        trie.set_status(leaf, "active")
    with pytest.raises(ValueError, match="only active and paused leaves grow"):
        trie.extend(leaf, [1], np.zeros((1, *SHAPE)))
    assert trie.leaves("finished") == [0]
    assert trie.leaves("active", "paused") == []


def test_the_terminal_token_has_no_joint_and_smoothing_stops_before_it() -> None:
    rng = np.random.default_rng(0)
    rows = joints(rng, 4)
    trie = PrefixTrie(rows[0], window=2)
    leaf = trie.branch()
    trie.extend(leaf, [1, 2, 3, 4], rows[1:])  # token 4 ends the sequence
    np.testing.assert_allclose(trie.joint(leaf), rows[2:].mean(axis=0), rtol=1e-6)


@given(st.integers(-3, 0))
def test_a_window_below_one_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        PrefixTrie(np.ones(SHAPE), window)
