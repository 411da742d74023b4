"""Memory and time of the objective under the KL term, for 152,000 tokens: `python -m benchmarks.training_step`.

The objective is computed in chunks of positions, and the plain way, with the logits of all of them; every figure in a
process of its own. Memory is the peak of a step above the models and their gradients, for a model of few layers: there
the objective's share is largest. Time is that of the loss alone, against the forward passes of model and reference,
without which it cannot be had, for a model of Qwen3-0.6B's shape.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.reporting import processor, table, write
from zip_introspect.heads.targets import IGNORED
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training import chunked
from zip_introspect.training.trainer import barred, divergence, joint_loss, policy_kl

VOCABULARY = 151_936
GRID = JointGrid.paper(151_669)
CHUNKED, TOP, PLAIN, PASSES = "in chunks", "in chunks, top 64", "plain", "the two forward passes"
SHAPES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
    "0.6b": {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8},
}
HEADER = ("objective", "model", "positions", "peak, MB", "of one chunk's", "loss, s", "of the passes")


def main() -> None:
    """Print the table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, nargs="+", default=[256, 1500, 6000], help="of the memory's table")
    parser.add_argument("--plain-up-to", type=int, default=1500, help="positions; the plain way takes 7 GB there")
    parser.add_argument("--timed", type=int, default=1500, help="positions of the time's table; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    parser.add_argument("--one", nargs=3, metavar=("WAY", "SHAPE", "POSITIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, shape, positions = options.one
        print(json.dumps(_measured(way, shape, int(positions), options.rounds)))
        return
    wanted = [
        (way, "small", positions)
        for positions in options.positions
        for way in (CHUNKED, TOP, PLAIN)
        if way != PLAIN or positions <= options.plain_up_to
    ]
    wanted += [(way, "0.6b", options.timed) for way in (PASSES, CHUNKED, TOP) if options.timed]
    rows = []
    for way, shape, positions in wanted:
        command = [sys.executable, "-m", "benchmarks.training_step", "--one", way, shape, str(positions)]
        done = subprocess.run(
            [*command, "--rounds", str(options.rounds)], stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append({"way": way, "shape": shape, "positions": positions, **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], file=sys.stderr)
    _compare(rows)
    print(table(HEADER, [_shown(row) for row in rows]))
    write(options.out, {"device": _device(), "rows": rows})


def _compare(rows: list[dict[str, Any]]) -> None:
    """Each against the least of its kind: one chunk's memory, and the time of the forward passes."""
    least = min((row["positions"] for row in rows if row["shape"] == "small"), default=0)
    one = {row["way"]: row["peak_mb"] for row in rows if row["shape"] == "small" and row["positions"] == least}
    passes = next((row["loss_s"] for row in rows if row["way"] == PASSES), None)
    for row in rows:
        if row["shape"] == "small":
            row["of_one_chunk"] = round(row["peak_mb"] / one[row["way"]], 2)
        elif passes:
            row["of_the_passes"] = round(row["loss_s"] / passes, 2)


def _shown(row: dict[str, Any]) -> list[str]:
    memory = [f"{row['peak_mb']:,}", str(row["of_one_chunk"])] if row["shape"] == "small" else ["", ""]
    spent = [f"{row['loss_s']:.2f}", str(row["of_the_passes"])] if row["shape"] != "small" else ["", ""]
    return [row["way"], row["shape"], f"{row['positions']:,}", *memory, *spent]


def _device() -> str:
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else processor()


def _measured(way: str, shape: str, positions: int, rounds: int) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        intermediate_size=3 * SHAPES[shape]["hidden_size"],
        head_dim=64 if shape == "small" else 128,
        **SHAPES[shape],
        tie_word_embeddings=True,
    )
    model, reference = (nn.Module.to(Qwen3ForCausalLM(config), device) for _ in range(2))
    reference.requires_grad_(False)
    ids = torch.randint(0, 1000, (1, positions + 1), device=device)
    labels = torch.full((1, positions + 1), IGNORED, device=device)
    labels[0, :positions] = torch.randint(0, GRID.num_cells, (positions,), device=device)
    steps = shape == "small"  # of the large one only the loss is timed
    for item in model.parameters():
        item.requires_grad_(steps)
        item.grad = torch.zeros_like(item) if steps else None  # a training has them, whatever its loss
    before = _peak(device)
    spent: list[float] = []
    for _ in range(rounds):
        begun = time.perf_counter()
        loss = _loss(way, model, reference, ids, labels)
        _wait(device)
        spent.append(time.perf_counter() - begun)
        if steps:
            loss.backward()
        del loss
    return {"peak_mb": round((_peak(device) - before) / 1e6), "loss_s": round(min(spent), 3)}


def _loss(way: str, model: Any, reference: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    labelled = labels != IGNORED
    if way == PASSES:
        with torch.no_grad():
            reference(input_ids=ids, use_cache=False)
            found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        return found
    if way == PLAIN:
        with torch.no_grad():
            original = reference(input_ids=ids, use_cache=False).logits[labelled]
        logits = model(input_ids=ids, use_cache=False).logits[labelled]
        cells = logits[:, GRID.reserved.start : GRID.reserved.stop]
        return joint_loss(cells, labels[labelled]) + 10 * policy_kl(logits, original, GRID).sum()
    top = 64 if way == TOP else None
    with torch.no_grad(), chunked.passed_over(reference.lm_head):
        states = reference(input_ids=ids, use_cache=False).logits[labelled]

    def losses(hidden: torch.Tensor, held: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = functional.linear(hidden, model.lm_head.weight)
        with torch.no_grad():
            other = functional.linear(held, reference.lm_head.weight)
        cells = logits[:, GRID.reserved.start : GRID.reserved.stop].clone()
        current, original = (barred(item.float(), GRID) for item in (logits, other))
        return joint_loss(cells, targets) + 10 * divergence(current, original, top).sum()

    with chunked.in_place_of(model.lm_head, lambda h: chunked.summed(losses, h[labelled], states, labels[labelled])):
        total: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return total


def _peak(device: str) -> float:
    """Bytes, at most, since the process began."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
