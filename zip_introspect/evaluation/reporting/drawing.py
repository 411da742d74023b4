"""How every picture is framed and saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("png", "svg")) -> None:
    """Write `stem.png` and `stem.svg`; the same figure gives the same SVG, and its text stays text."""
    for kind in formats:
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "zip-introspect"}):
            figure.savefig(f"{stem}.{kind}", dpi=150, metadata={"Date": None} if kind == "svg" else None)


def bare(axes: Axes) -> None:
    """Take away the frame but for the two axes."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
