"""Write the tables of the docs' pages from the code, and from the report in docs/results:
`python docs/make_tables.py [--check]`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from docs import results_tables
from zip_introspect import Budget, EscalationPolicy, GenerationConfig, Thinking, ZipIntrospectError, errors, strategies
from zip_introspect.config import Settings
from zip_introspect.training import recipe
from zip_introspect_llama_cpp import LlamaCppOptions

DOCS = Path(__file__).parent
END = "<!-- end -->"
_SYMBOLS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))


def settings_table(settings: type[Settings]) -> str:
    """One row a field: name, type and range, default, meaning; sections, settings of their own, are left out."""
    rows = [
        f"| `{name}` | {_kind(field)} | `{default!r}` | {_cell(field.description or '')} |"
        for name, field in settings.model_fields.items()
        for default in [field.get_default(call_default_factory=True)]
        if not any(isinstance(kind, type) and issubclass(kind, Settings) for kind in _parts(field.annotation))
    ]
    return "\n".join(["| Field | Type | Default | Meaning |", "|---|---|---|---|", *rows])


def errors_table() -> str:
    """One row an error, children below their parents."""
    rows = [
        f"| {'&nbsp;' * 4 * depth}`{error.__name__}` | {inspect.cleandoc(error.__doc__ or '').splitlines()[0]} |"
        for depth, error in _family(ZipIntrospectError, 0)
    ]
    return "\n".join(["| Error | Raised for |", "|---|---|", *rows])


def strategies_table(need: strategies.Need) -> str:
    """One row a strategy: name, what it is and where it is from, how it goes about it."""
    rows = [
        f"| `{kind.name}` | {_cell(' '.join(_first_paragraph(inspect.getmodule(kind))))} "
        f"| {_cell(' '.join(_first_paragraph(kind)))} |"
        for kind in _strategies(need)
    ]
    return "\n".join(["| Strategy | What it is | What it does |", "|---|---|---|", *rows])


def options_table() -> str:
    """One row an option of a strategy."""
    rows = [
        f"| `{kind.name}` | `{name}` | `{field.get_default()!r}` | {_cell(field.description or '')} |"
        for need in strategies.by_need()
        for kind in _strategies(need)
        for name, field in kind.Options.model_fields.items()
    ]
    return "\n".join(["| Strategy | Option | Default | Meaning |", "|---|---|---|---|", *rows])


def _strategies(need: strategies.Need) -> list[type[strategies.Strategy]]:
    """Ours that need this."""
    found = [strategies.get(name) for name in strategies.by_need()[need]]
    return [kind for kind in found if kind.__module__.startswith("zip_introspect.")]


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "configuration.md": {
        "GenerationConfig": lambda: settings_table(GenerationConfig),
        "Thinking": lambda: settings_table(Thinking),
        "Budget": lambda: settings_table(Budget),
    },
    "errors.md": {"errors": errors_table},
    "strategies.md": {
        **{need: partial(strategies_table, need) for need in strategies.by_need()},
        "options": options_table,
    },
    "escalation.md": {"EscalationPolicy": lambda: settings_table(EscalationPolicy)},
    "measures.md": {
        "cost_of_pass": partial(results_tables.whole, "cost_of_pass_flops"),
        **{
            name: partial(results_tables.whole, name)
            for name in ("predicted_cost", "price_reversal", "resampling", "guard")
        },
    },
    "results.md": {
        "differences": results_tables.differences,
        "matched": results_tables.matched,
        "predictions": results_tables.predictions,
        "compute": results_tables.compute,
    },
    "training.md": {
        kind.__name__: partial(settings_table, kind)
        for kind in (recipe.Recipe, recipe.Questions, recipe.Sampling, recipe.Grid, recipe.Training, recipe.Lora)
    },
    "llama-cpp.md": {"LlamaCppOptions": lambda: settings_table(LlamaCppOptions)},
}


def filled(page: str) -> str:
    """A page with its tables as the code has them now."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, table in TABLES[page].items():
        before, rest = text.split(f"<!-- generated: {name} -->\n")
        _, after = rest.split(END, maxsplit=1)
        text = f"{before}<!-- generated: {name} -->\n\n{table()}\n\n{END}{after}"
    return text


def stale() -> list[str]:
    """The pages whose tables the code has left behind."""
    return [page for page in TABLES if filled(page) != (DOCS / page).read_text(encoding="utf-8")]


def main() -> None:
    """Write the pages, or only check them."""
    pages = stale()
    if "--check" in sys.argv[1:]:
        sys.exit(f"stale: {', '.join(pages)}; run python docs/make_tables.py" if pages else 0)
    for page in pages:
        (DOCS / page).write_text(filled(page), encoding="utf-8")


def _first_paragraph(documented: Any) -> list[str]:
    return inspect.cleandoc(documented.__doc__ or "").split("\n\n")[0].splitlines()


def _parts(annotation: Any) -> Iterator[Any]:
    """An annotation and all within it."""
    yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _kind(field: FieldInfo) -> str:
    choices = [value for value in _literals(field.annotation) if isinstance(value, str)]
    annotation = field.annotation
    name = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    kind = " or ".join(f"`{choice}`" for choice in choices) or _cell(f"`{name}`")
    if choices and type(None) in get_args(annotation):
        kind += " or `None`"
    limits = [
        f"{symbol} {getattr(limit, attribute):g}"
        for limit in field.metadata
        for constraint, attribute, symbol in _SYMBOLS
        if isinstance(limit, constraint)
    ]
    return ", ".join([kind, *limits])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _literals(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation):
        if isinstance(part, str):
            yield part
        else:
            yield from _literals(part)


def _family(error: type[Exception], depth: int) -> Iterator[tuple[int, type[Exception]]]:
    yield depth, error
    for child in error.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _family(child, depth + 1)


if __name__ == "__main__":
    main()
