"""What a backend reads of a model at every token, beside the logits that tokens are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from zip_introspect.heads.head import Head


@dataclass(frozen=True)
class Readout:
    """Where joints come from: logits of reserved tokens, or a head over hidden states."""

    reserved: range
    """Ids that are masked before anything is drawn. Without a head their logits are the joint's."""
    head: Head | None = None
    keep: bool = False
    """Whether hidden states are handed out."""

    @property
    def hidden(self) -> bool:
        """Whether hidden states are read at all."""
        return self.keep or self.head is not None

    @property
    def cells(self) -> int:
        """Logits of a joint."""
        return self.head.grid.num_cells if self.head else len(self.reserved)
