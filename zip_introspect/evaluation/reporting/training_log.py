"""What a training logged: `training.json`, a record every few updates, as the Trainer's history has it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from zip_introspect.errors import EvaluationDataError
from zip_introspect.paths import expanded


class LoggedUpdates(BaseModel):
    """A few updates: `step` is the last of them, `policy_kl` their mean divergence in nats a token."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    step: int
    policy_kl: float


def load_history(file: Path) -> list[LoggedUpdates]:
    """The records of a training with the divergence in them.

    Raises:
        EvaluationDataError: missing, or without it.
    """
    file = expanded(file)
    try:
        found = TypeAdapter(list[LoggedUpdates]).validate_json(file.read_bytes())
    except OSError as error:
        raise EvaluationDataError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise EvaluationDataError(
            f"{file} holds no training's log: {error.errors()[0]['msg']}; expected a list of records with step and "
            f"policy_kl, as the recipe writes it"
        ) from error
    if not found:
        raise EvaluationDataError(f"{file} holds no records")
    return found
