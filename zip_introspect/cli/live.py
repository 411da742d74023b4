"""The samples of a search while it runs: a table that follows the events."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from zip_introspect.cli.text import bar, confidence_style, last_line
from zip_introspect.events import DecisionMade, Event, SampleAdvanced, SampleFinished, SearchStarted
from zip_introspect.result import Decision, Outlook, SampleStatus

STATUS_STYLES: dict[SampleStatus, str] = {
    "active": "bold cyan",
    "paused": "yellow",
    "finished": "green",
    "dropped": "dim red",
}
_ORDER: tuple[SampleStatus, ...] = ("active", "finished", "paused", "dropped")
_FRAME = 6  # lines of the table that are not samples


@dataclass(slots=True)
class SampleRow:
    """What is known of one sample."""

    number: int
    outlook: Outlook | None
    status: SampleStatus = "active"
    tokens: int = 0
    text: str = ""


@dataclass
class SearchView:
    """The state of one prompt's search, drawn as a table whenever Rich asks for it."""

    rows: dict[int, SampleRow] = field(default_factory=dict)
    expected: Outlook | None = None
    """What one sample promised at the prompt; None before that is known, and of a model without a head."""
    longest: float = 1.0
    """The most tokens that any sample was expected to need yet: the length of a full bar."""
    title: str = "reading the prompt"

    def update(self, event: Event) -> None:
        """Take in what has happened."""
        match event:
            case SearchStarted():
                self.expected, self.title = event.expected, ""
                if event.expected:
                    self.longest = max(event.expected.remaining, 1.0)
                    self.title = f"at the prompt: confidence {event.expected.value:.2f}, "
                    self.title += f"about {event.expected.remaining:.0f} tokens a sample"
            case DecisionMade():
                self._decide(event.decision)
            case SampleAdvanced():
                row = self._row(event.sample)
                row.text, row.tokens, row.outlook = event.text or event.thinking or "", event.tokens, event.outlook
                self.longest = max(self.longest, event.outlook.remaining if event.outlook else 0.0)
            case SampleFinished():
                row = self._row(event.sample)
                row.text, row.tokens, row.status = event.text, event.tokens, "finished"
                row.outlook = None if event.value is None else Outlook(value=event.value, remaining=0.0)

    def _decide(self, decision: Decision) -> None:
        branched = [sample for _, sample in decision.forked]
        for numbers, status in (
            ((*decision.started, *branched, *decision.continued, *decision.resumed), "active"),
            (decision.paused, "paused"),
            (decision.dropped, "dropped"),
            (decision.finished, "finished"),
        ):
            for number in numbers:
                self._row(number).status = status  # type: ignore[assignment]

    def _row(self, number: int) -> SampleRow:
        return self.rows.setdefault(number, SampleRow(number, self.expected))

    def _expected_of(self, row: SampleRow) -> tuple[RenderableType, ...]:
        """Confidence and tokens to go, each as a bar and a number; nothing from a model without a head."""
        if row.outlook is None:
            return ()
        value, remaining = row.outlook.value, row.outlook.remaining
        lengths = bar(remaining / self.longest, "blue")
        return bar(value, confidence_style(value)), f"{value:.2f}", lengths, f"{remaining:.0f}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title=self.title, title_justify="left", box=None, padding=(0, 1), expand=False)
        expecting = ("confidence", "", "tokens to go", "") if self.expected else ()
        for heading in ("sample", "", *expecting, "written"):
            table.add_column(heading, no_wrap=True)
        table.add_column("", no_wrap=True, overflow="ellipsis")
        ranked = sorted(self.rows.values(), key=lambda row: (_ORDER.index(row.status), row.number))
        shown = ranked[: max(console.height - _FRAME, 1)]
        for row in sorted(shown, key=lambda row: row.number):
            table.add_row(
                str(row.number),
                Text(row.status, style=STATUS_STYLES[row.status]),
                *self._expected_of(row),
                str(row.tokens),
                last_line(row.text, max(options.max_width - 78, 8)),
            )
        yield table
        if len(shown) < len(ranked):
            yield Text(f"and {len(ranked) - len(shown)} more", style="dim")
