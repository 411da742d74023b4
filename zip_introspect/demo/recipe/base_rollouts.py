"""Step 2: what the base model makes of the training mix, graded; and step 3: whether its evidence means anything."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from datasets import Dataset
from rich.table import Table
from tqdm.auto import tqdm

from zip_introspect.backend.contract import Backend
from zip_introspect.config import SamplingParams
from zip_introspect.demo.equations import TIERS
from zip_introspect.demo.problems import Problem
from zip_introspect.demo.solver import GIVE_UP, NONE, OK
from zip_introspect.training.dataset import load, row, save
from zip_introspect.training.on_policy import collect

MAX_NEW_TOKENS = 600
PART = 1000  # problems


def roll_out(
    backend: Backend,
    problems: list[Problem],
    samples: int,
    path: Path,
    *,
    seed: int,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Dataset:
    """Sample every problem `samples` times at temperature 1, grade the texts and write them to Parquet.

    Parts of `PART` problems are kept beside `path` while it is made; an interrupted run goes on after the last one.
    """
    prompts = [backend.encode(problem.prompt) for problem in problems]
    parts = path.with_suffix(".parts")
    with tqdm(total=len(prompts) * samples, desc="rollouts", mininterval=5) as progress:
        for start in range(0, len(prompts), PART):
            part = parts / f"{start:07d}.parquet"
            if part.exists():
                progress.update(len(prompts[start : start + PART]) * samples)
                continue
            found = collect(
                backend,
                prompts[start : start + PART],
                samples,
                SamplingParams(seed=seed),
                max_new_tokens=max_new_tokens,
                concurrency=256,
            )
            rows = []
            for rollout in found:
                number, text = start + rollout.prompt, backend.decode(rollout.tokens.tolist())
                problem = problems[number]
                right = rollout.finished and problem.grade(text)
                rows.append(
                    row(
                        rollout.prompt_tokens.tolist(),
                        rollout.tokens.tolist(),
                        float(right),
                        text=text,
                        problem=number,
                        sample=rollout.sample,
                        tier=problem.tier,
                        ending=ending(text),
                        finished=rollout.finished,
                    )
                )
                progress.update()
            save(sorted(rows, key=lambda item: (item["problem"], item["sample"])), part)
    whole = save((item for part in sorted(parts.iterdir()) for item in load(part)), path)
    shutil.rmtree(parts)
    return whole


def ending(text: str) -> str:
    """How a working ended: `ok`, `give up`, `none`, or `other` (a decline, or cut off)."""
    lines = text.split("\n")
    last = lines[-2] if len(lines) > 1 and lines[-1].startswith("ans") else ""
    return OK if last.endswith(OK) else last if last in (GIVE_UP, NONE) else "other"


def evidence(dataset: Dataset) -> Table:
    """Accuracy by tier and by how the working ended: what an `ok` is worth."""
    tiers, right = np.asarray(dataset["tier"]), np.asarray(dataset["reward"]) > 0.5
    endings = np.asarray(dataset["ending"])
    lengths = np.asarray(dataset["length"]) - np.asarray(dataset["prompt_length"])
    table = Table("tier", "rollouts", "right", "said ok", "right if ok", "right if gave up", "false ok", "tokens")
    for name, inside in [*((str(tier), tiers == tier) for tier in (0, *TIERS)), ("all", tiers >= 0)]:
        if not inside.any():
            continue
        ok, gave_up = inside & (endings == OK), inside & (endings == GIVE_UP)
        table.add_row(
            name,
            str(inside.sum()),
            _share(right[inside]),
            _share(endings[inside] == OK),
            _share(right[ok]),
            _share(right[gave_up]),
            _share((~right & ok)[inside]),
            f"{lengths[inside].mean():.0f}",
        )
    return table


def _share(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" if values.size else "-"
