"""What fitting found, as a page: words first, then tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from zip_introspect.fitting.choosing import PRICES
from zip_introspect.fitting.fit import Fitted

_NAMES = {
    "end": "AUROC at the end of a sample",
    "within": "the same within a question",
    "prompt": "AUROC at the prompt",
    "votes": "AUROC of votes",
    "votes_within": "the same within a question",
    "ece": "calibration error at the end (ECE)",
    "length_error": "error of the length expected at the prompt, tokens",
    "length_guess": "the same of one guess for all, tokens",
}


def text(fitted: Fitted, name: str, pictures: Mapping[str, Path]) -> str:
    """The report of a head, in Markdown; its pictures, by title, lie beside it."""
    about, trained = fitted.head.about, fitted.trained
    quality = asdict(fitted.quality)
    lines = [f"# {name}", "", f"A head for {about.card.get('model', 'a model')}.", ""]
    lines += [f"- {line}" for line in fitted.said]
    lines += ["", "## How well it tells", "", "| | held-out questions |", "|---|---|"]
    lines += [f"| {title} | {quality[figure]:.3f} |" for figure, title in _NAMES.items()]
    lines += [
        "",
        "## What it recommends",
        "",
        "| price | strategy | accuracy | tokens, in samples |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {price} ({PRICES[price]:g}) | {item.name} | {item.right.mean():.3f} | {item.cost.mean():.2f} |"
        for price, item in fitted.recommended.items()
    ]
    lines += [line for title, file in pictures.items() for line in ("", f"![{title}]({file.name})")]
    lines += ["", "## Every setting", "", "| strategy | accuracy | tokens, in samples |", "|---|---|---|"]
    lines += [
        f"| {item.name} | {item.right.mean():.3f} | {item.cost.mean():.2f} |"
        for item in sorted(fitted.played, key=lambda item: float(item.cost.mean()))
    ]
    lines += ["", "## What was tried", "", "| head | weight decay | nats on held-out questions |", "|---|---|---|"]
    lines += [f"| {one.kind} | {one.decay:g} | {loss:.4f} |" for one, loss in trained.losses.items()]
    lines += [f"| frequencies alone | | {trained.prior:.4f} |", ""]
    return "\n".join(lines)
