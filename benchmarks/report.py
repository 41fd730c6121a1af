"""Tables for a terminal. Reads results; measures nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from benchmarks.summaries import MET, MISSED, tables
from benchmarks.tables import WRONG

if TYPE_CHECKING:
    from benchmarks.results import Results
    from benchmarks.tables import Table

_WIDTH: Final = 190
"""Where the output is no terminal."""
_STYLES: Final = {WRONG: "red", MISSED: "red", MET: "green", "(errors)": "yellow", "not measured": "yellow"}
"""By how a text ends."""


def show(results: Results, console: Console | None = None) -> None:
    """Print all tables that say something.

    Args:
        results: of a run.
        console: where to; None: the standard output.
    """
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH)
    for table in tables(results):
        if table.rows:
            console.print(_grid(table))


def _grid(table: Table) -> Grid:
    grid = Grid(title=table.title, title_justify="left", header_style="bold")
    for number, head in enumerate(table.heads):
        grid.add_column(head, justify="right" if number else "left")
    for row in table.rows:
        grid.add_row(*map(_styled, row))
    return grid


def _styled(text: str) -> Text:
    style = next((style for end, style in _STYLES.items() if text.endswith(end)), "")
    return Text(text, style)
