"""``python -m benchmarks.docs [FOLDER]``: writes a recorded run into docs/performance.md, plots included.

The page names the run, and holds a place for each table; what stands there is made from the run's JSON and nothing else,
which a test checks. Without a folder the run that the page names is written anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import plots
from benchmarks.results import FOLDER, Results
from benchmarks.summaries import tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.tables import Table

PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
_RUN: Final = re.compile(r"(?<=<!-- run: ).*(?= -->)")
_PLACE: Final = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def run_of(page: str) -> Path:
    """The folder of the run that a page is about.

    Raises:
        ValueError: it names none.
    """
    found = _RUN.search(page)
    if found is None:
        raise ValueError("the page does not say which run it is about: <!-- run: NAME -->")
    return FOLDER / found.group()


def filled(page: str, results: Results) -> str:
    """The page with the tables of these results.

    Raises:
        KeyError: it has a place for a table that there is none of.
    """
    return fill(page, tables(results))


def fill(page: str, made: Iterable[Table]) -> str:
    """The page with these tables in their places.

    Raises:
        KeyError: it has a place for a table that is not among them.
    """
    texts = {table.name: markdown(table) for table in made}
    return _PLACE.sub(lambda found: f"{found[1]}{texts[found[2]]}{found[3]}", page)


def markdown(table: Table) -> str:
    """As GitHub renders it."""
    if not table.rows:
        return "Nothing.\n"
    aligned = [":--", *["--:"] * (len(table.heads) - 1)]
    return "".join("| " + " | ".join(row) + " |\n" for row in (table.heads, aligned, *table.rows))


def main() -> None:
    """Write the page and its plots."""
    page = PAGE.read_text()
    if len(sys.argv) > 1:
        page = _RUN.sub(Path(sys.argv[1]).resolve().name, page)
    results = Results.load(run_of(page))
    PAGE.write_text(filled(page, results))
    for path in (PAGE, *plots.draw(results, PAGE.parent / "img")):
        print(path.relative_to(PAGE.parents[1]))


if __name__ == "__main__":
    main()
