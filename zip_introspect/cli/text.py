"""Text from outside, made fit for a terminal: a model or a file may hold escape sequences."""

from __future__ import annotations

from rich.progress_bar import ProgressBar
from rich.text import Text

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """The text with every control character but newline replaced."""
    return "".join(c if c.isprintable() or c == "\n" else _REPLACEMENT for c in text.expandtabs(4))


def one_line(text: str) -> str:
    """The text on one line, printable."""
    return printable(" ".join(text.split()))


def last_line(text: str, width: int) -> Text:
    """The end of what was written last, at most `width` characters."""
    lines = printable(text).rstrip("\n").splitlines() or [""]
    line = lines[-1]
    return Text(line if len(line) <= width else f"…{line[1 - width :]}", style="dim", no_wrap=True)


def bar(share: float, style: str, width: int = 14) -> ProgressBar:
    """A bar filled to `share`, from 0 to 1."""
    return ProgressBar(
        total=1.0, completed=min(max(share, 0.0), 1.0), width=width, complete_style=style, finished_style=style
    )


def confidence_style(confidence: float) -> str:
    """Green from 0.8, yellow from 0.5, red below."""
    return "green" if confidence >= 0.8 else "yellow" if confidence >= 0.5 else "red"
