"""Whether a model is still the one that was looked at: its modules, and where its weights lie."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

_NUMBERS = ("variance_epsilon", "layer_idx", "scaling")
"""Attributes that modules compute with, and that nothing changes but a user."""


class Snapshot:
    """Which modules compute a model, and where its weights lie, at one moment.

    It is compared at every call of a backend, so it reads the modules' dictionaries and not their attributes, from a
    list of its own; and it keeps nothing of the model alive.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [weakref.ref(module) for module in model.modules()]
        self._made_of = _made_of([vars(module) for module in model.modules()])

    @property
    def changed(self) -> bool:
        """Whether a module was added, taken or replaced, a weight moved, cast or replaced, or a number changed.

        Weights that were changed where they lie are not noticed.
        """
        owned = self._owned()
        return len(owned) < len(self._modules) or _made_of(owned) != self._made_of

    @property
    def hooked(self) -> bool:
        """Whether somebody wants to see the calls of a module."""
        own_hooks = (own["_forward_hooks"] or own["_forward_pre_hooks"] for own in self._owned())
        return bool(_global_forward_hooks or _global_forward_pre_hooks) or any(own_hooks)

    def _owned(self) -> list[dict[str, Any]]:
        """The dictionaries of the modules that are still there."""
        return [vars(module) for seen in self._modules if (module := seen()) is not None]


def _made_of(owned: list[dict[str, Any]]) -> tuple[list[Any], ...]:
    """Modules: replaced forwards, as accelerate does it, numbers, children. Weights: which, and where they lie."""
    weights = [weight for own in owned for weight in own["_parameters"].values() if weight is not None]
    return (
        ["forward" in own for own in owned],
        [own[number] for own in owned for number in _NUMBERS if number in own],
        [len(own["_modules"]) for own in owned],
        [id(child) for own in owned for child in own["_modules"].values()],
        [id(weight) for weight in weights],
        [weight.data_ptr() for weight in weights],
        [weight.dtype for weight in weights],
    )
