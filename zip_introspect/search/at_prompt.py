"""What the model expects of itself at a prompt, before a token is generated: one forward pass."""

from __future__ import annotations

from zip_introspect.backend.contract import Backend
from zip_introspect.errors import HeadError
from zip_introspect.introspection import joint
from zip_introspect.result import IntrospectionResult, Usage
from zip_introspect.search.request import TO_GET_ONE, Checked


def introspect(backend: Backend, checked: Checked) -> IntrospectionResult:
    """Read the joint at a prompt.

    Raises:
        HeadError: the model gives no joints.
        NonFiniteLogitsError: NaN or infinite logits.
    """
    grid, tokens = backend.grid, checked.request.tokens
    if grid is None:
        raise HeadError(f"{backend.info.model} has no head, and so expects nothing at a prompt; {TO_GET_ONE}")
    (prefilled,) = backend.prefill([tokens])
    backend.release([prefilled.sequence])
    probabilities = joint.from_logits(prefilled.joint_logits, grid)
    return IntrospectionResult(
        joint=tuple(tuple(row) for row in probabilities.tolist()),
        confidence=float(joint.expected_value(probabilities, grid)),
        expected_tokens=float(joint.expected_length(probabilities, grid)),
        reward_values=tuple(grid.reward_values.tolist()),
        length_values=tuple(grid.length_values.tolist()),
        value_marginal=tuple(joint.value_marginal(probabilities).tolist()),
        length_marginal=tuple(joint.length_marginal(probabilities).tolist()),
        usage=Usage(len(tokens), 0, 0, 0, checked.ledger.seconds, cached_tokens=prefilled.cached_tokens),
    )
