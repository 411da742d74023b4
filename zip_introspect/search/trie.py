"""The meta-state: a prefix tree over tokens, stored as runs.

A run is a stretch of tokens without a branch, kept as one packed array; a prefix is a run and an offset
into it. So space is that of the tokens generated, however many prefixes they make. Every run ends in a
leaf: the prefix that a sample has reached.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zip_introspect.introspection import joint
from zip_introspect.result import SampleStatus


@dataclass(slots=True)
class Branch:
    """The tokens of one leaf since it left its parent."""

    parent: int | None
    """Number of the run it left; None where it left the root."""
    parent_offset: int
    """Tokens of the parent's run that are on this path."""
    start: int
    """Length of the path before this run's first token."""
    status: SampleStatus = "active"
    tokens: array[int] = field(default_factory=lambda: array("i"))
    recent: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0, 0), np.float32))
    """Shape (w, B_V, B_T), w <= window: joints at the last non-terminal prefixes of the path."""


class PrefixTrie:
    """The prefix tree below one prompt. Leaves are numbered from 0 in the order of their branching.

    Args:
        root_joint: shape (B_V, B_T), the joint at the prompt; (0, 0) of a model that gives none.
        window: how many joints a path keeps for smoothing (W of eq. 27).
    """

    def __init__(self, root_joint: ArrayLike, window: int = 1) -> None:
        if window < 1:
            raise ValueError(f"window is {window}; expected 1 or more")
        self.window = window
        self._root = np.array(root_joint, dtype=np.float32)[np.newaxis]
        if self._root.ndim != 3:
            raise ValueError(f"root_joint has shape {self._root.shape[1:]}; expected (B_V, B_T)")
        self.root_joint: NDArray[np.float64] = np.asarray(self._root[0], dtype=np.float64)
        """Shape (B_V, B_T)."""
        self._runs: list[Branch] = []

    def __len__(self) -> int:
        """How many leaves were ever branched."""
        return len(self._runs)

    @property
    def num_tokens(self) -> int:
        """Tokens stored, over all runs."""
        return sum(len(run.tokens) for run in self._runs)

    def branch(self, leaf: int | None = None, at: int | None = None) -> int:
        """Begin a new path at the root, or at any prefix of a leaf's path; returns the new leaf's number.

        Args:
            leaf: whose path to leave; None is the root.
            at: the length of the prefix to leave from; None is the leaf's own end. A path keeps joints of its
                last `window` prefixes only: a branch from further back begins anew with the root's joint.
        """
        if leaf is None:
            if at:
                raise ValueError(f"at is {at}, and the root is a prefix of length 0; give the leaf to branch from")
            self._runs.append(Branch(None, 0, 0, recent=self._root))
            return len(self._runs) - 1
        length = self.length(leaf)
        at = length if at is None else at
        if not 0 <= at <= length:
            raise ValueError(f"at is {at}; leaf {leaf} has prefixes of length 0 to {length}")
        run = self._runs[leaf]
        recent = run.recent[: max(0, len(run.recent) - (length - at))]
        if not len(recent):
            recent = self._root
        # The owner is the run in which the prefix lies, so that chains of parents stay short.
        owner: int | None = leaf
        while owner is not None and self._runs[owner].start >= at:
            owner = self._runs[owner].parent
        offset = 0 if owner is None else at - self._runs[owner].start
        self._runs.append(Branch(owner, offset, at, recent=recent))
        return len(self._runs) - 1

    def extend(self, leaf: int, tokens: ArrayLike, joints: ArrayLike) -> None:
        """Append tokens to a leaf.

        Args:
            tokens: shape (n,).
            joints: shape (m, B_V, B_T), the joints at the last m of the new prefixes that are not terminal. Only the
                last `window` are kept, so no more need be given.
        """
        run = self._running(leaf)
        ids = np.asarray(tokens, dtype=np.int32)
        rows = np.asarray(joints, dtype=np.float32)
        rows = rows.reshape(len(rows), *self._root.shape[1:])
        if not min(self.window, len(ids) - 1) <= len(rows) <= len(ids):
            raise ValueError(
                f"{len(ids)} tokens came with {len(rows)} joints; expected one a token, none for an end of sequence, "
                f"or at least the last {self.window}"
            )
        run.tokens.frombytes(ids.tobytes())
        kept = np.concatenate([run.recent[max(0, len(rows) + len(run.recent) - self.window) :], rows[-self.window :]])
        run.recent = kept[-self.window :]

    def force(self, leaf: int, tokens: ArrayLike, joint: ArrayLike) -> None:
        """Append tokens that were given to a leaf. Joints before them foretold another way, so smoothing begins anew.

        Args:
            tokens: shape (n,).
            joint: shape (B_V, B_T), after the last of them.
        """
        run = self._running(leaf)
        run.tokens.frombytes(np.asarray(tokens, dtype=np.int32).tobytes())
        run.recent = np.asarray(joint, dtype=np.float32)[np.newaxis]

    def joint(self, leaf: int) -> NDArray[np.float64]:
        """The joint at a leaf's last non-terminal prefix, smoothed along its own path (eq. 27): shape (B_V, B_T)."""
        return np.asarray(joint.smooth(self._runs[leaf].recent, self.window), dtype=np.float64)

    def set_status(self, leaf: int, status: SampleStatus) -> None:
        """Mark a leaf; one that finished or was dropped stays so."""
        run = self._runs[leaf]
        if run.status in ("finished", "dropped") and status != run.status:
            raise ValueError(f"leaf {leaf} is {run.status} and cannot become {status}")
        run.status = status

    def status(self, leaf: int) -> SampleStatus:
        """What became of a leaf."""
        return self._runs[leaf].status

    def leaves(self, *statuses: SampleStatus) -> list[int]:
        """Numbers of the leaves with one of these statuses, or of all, in order."""
        return [number for number, run in enumerate(self._runs) if not statuses or run.status in statuses]

    def parent(self, leaf: int) -> int | None:
        """The leaf whose run this one left; None for the root."""
        return self._runs[leaf].parent

    def length(self, leaf: int) -> int:
        """Tokens on the path from the root to a leaf."""
        run = self._runs[leaf]
        return run.start + len(run.tokens)

    def path(self, leaf: int) -> NDArray[np.int32]:
        """The tokens from the root to a leaf, shape (length,)."""
        pieces: list[NDArray[np.int32]] = []
        number: int | None = leaf
        count = len(self._runs[leaf].tokens)
        while number is not None:
            run = self._runs[number]
            pieces.append(np.array(run.tokens[:count], dtype=np.int32))
            number, count = run.parent, run.parent_offset
        return np.concatenate(pieces[::-1])

    def paths(self, *statuses: SampleStatus) -> Sequence[NDArray[np.int32]]:
        """The token paths of the leaves with these statuses, in order."""
        return [self.path(leaf) for leaf in self.leaves(*statuses)]

    def _running(self, leaf: int) -> Branch:
        run = self._runs[leaf]
        if run.status in ("finished", "dropped"):
            raise ValueError(f"leaf {leaf} is {run.status}; only active and paused leaves grow")
        return run
