"""Tables of what was measured, for a terminal. Reads results; measures nothing."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from benchmarks.peers import PEERS
from benchmarks.targets import outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.results import Case, Measured, Results
    from benchmarks.targets import Outcome

_WIDTH: Final = 190
"""Where the output is no terminal."""

_OWN: Final = {
    "tasks": "txstate-async",
    "read-only": "txstate-read-only",
    "hash-size": "txstate-fields",
    "fields": "txstate-fields",
}
"""Which peer is the 1 in a scenario's ratios, where it is not plain txstate."""


def show(results: Results, titles: dict[str, str], console: Console | None = None) -> None:
    """Print all tables.

    Args:
        results: of a run.
        titles: of its scenarios, by name.
        console: where to; None: the standard output.
    """
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH)
    for name, title in titles.items():
        if any(results.of(name)):
            _show_scenario(console, results, name, title)
    _show_wrong(console, results)
    for name, why in results.skipped.items():
        console.print(f"[yellow]not measured[/]: {name}: {why}")
    console.print(_target_table(results))


def _show_scenario(console: Console, results: Results, name: str, title: str) -> None:
    if name == "think":
        console.print(_think_table(results, title))
        return
    place: Callable[[Case], str] = lambda case: f"{case.transport} {case.placement}"  # noqa: E731 - one of several
    columns: dict[str, Callable[[Case], str]] = {
        "uncontended": place,
        "hot": place,
        "fields": lambda case: f"{case.workload.fields:,} {place(case)}",
        "tasks": place,
        "read-only": place,
        "hash-size": lambda case: f"{case.workload.fields:,} fields",
        "processes": lambda case: f"{case.processes}",
        "mix": lambda case: case.workload.name,
        "delay": lambda case: f"+{case.delay:g} ms",
    }
    column = columns[name]
    if name in ("uncontended", "read-only", "fields", "hash-size", "delay"):
        console.print(_grid(results, name, f"{title}: microseconds (median)", column, "p50_us", lower=True))
        return
    console.print(_grid(results, name, f"{title}: operations a second", column, "rate", lower=False))
    if name in ("hot", "processes", "tasks"):
        console.print(_grid(results, name, f"{title}: p99 in ms", column, "p99_us", lower=True, scale=1e-3))
    if name in ("hot", "processes"):
        console.print(
            _grid(results, name, f"{title}: slowest / fastest process", column, "fairness", ratio=False)
        )


def _grid(
    results: Results,
    scenario: str,
    title: str,
    column: Callable[[Case], str],
    value: str,
    *,
    lower: bool = False,
    ratio: bool = True,
    scale: float = 1.0,
) -> Table:
    """Peers down, cases across; each value with its ratio to txstate's, and its spread over the rounds."""
    cells = {(_row(one.case), column(one.case)): one for one in results.of(scenario)}
    rows = {
        _row(one.case): _row(replace(one.case, peer=_OWN.get(scenario, "txstate"))) for one in cells.values()
    }
    heads = sorted(dict.fromkeys(head for _, head in cells), key=lambda head: head.startswith("file"))
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right")
    if ratio:
        table.add_column("txstate is faster by" if lower else "txstate does more by", justify="right")
    for name, own in rows.items():
        row = [_shown(cells[name, head], value, scale) if (name, head) in cells else "" for head in heads]
        if ratio:
            theirs = {head: cells[name, head].median(value) for head in heads if (name, head) in cells}
            ours = {head: cells[own, head].median(value) for head in heads if (own, head) in cells}
            row.append(_ratio(theirs, ours, lower=lower))
        table.add_row(name, *row)
    return table


def _row(case: Case) -> str:
    """What a line of a table is called; processes are named where they are not the columns."""
    title = PEERS[case.peer].title
    return (
        f"{title}, {case.processes} process{'es' if case.processes > 1 else ''}"
        if case.scenario == "hot"
        else title
    )


def _ratio(theirs: dict[str, float], ours: dict[str, float], *, lower: bool) -> str:
    """How much better txstate is: geometric means over the cases that both have, or of all if a file is compared."""
    common = theirs.keys() & ours.keys()
    if common:
        theirs, ours = ({head: each[head] for head in common} for each in (theirs, ours))
    if not theirs or not ours or not all((*theirs.values(), *ours.values())):
        return ""
    quotient = statistics.geometric_mean(theirs.values()) / statistics.geometric_mean(ours.values())
    return f"{quotient if lower else 1 / quotient:.2f} x"


def _shown(one: Measured, value: str, scale: float) -> str:
    middle = _number(one.median(value) * scale)
    low, high = one.spread(value)
    text = middle if len(one.rounds) == 1 else f"{middle} ({_number(low * scale)}-{_number(high * scale)})"
    if one.off_by:
        text = f"[red]{text} WRONG[/]"
    return text + (" [yellow]errors[/]" if one.failures else "")


def _number(value: float) -> str:
    if value >= 100:  # noqa: PLR2004 - three digits tell enough
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004 - the same


def _think_table(results: Results, title: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for head in ("", "place", "done in time", "attempts", "seconds", "beside: operations a second"):
        table.add_column(head, justify="left" if head == "" else "right")
    for one in results.of("think"):
        each = one.rounds[0]
        attempts = [thought[1] for thought in each.thoughts]
        seconds = [thought[0] for thought in each.thoughts]
        table.add_row(
            PEERS[one.case.peer].title,
            f"{one.case.transport} {one.case.placement}",
            f"{each.in_time} of {one.case.thoughts}",
            f"{statistics.median(attempts):.0f}, at most {max(attempts)}" if attempts else "",
            f"{statistics.median(seconds):.2f}, at most {max(seconds):.2f}" if seconds else "",
            _number(each.rate),
        )
    return table


def _show_wrong(console: Console, results: Results) -> None:
    """Who lost or doubled updates, and what errors came: one line a peer."""
    wrong: dict[str, int] = {}
    errors: dict[tuple[str, str], tuple[int, str]] = {}
    for one in results.measured:
        if one.off_by:
            wrong[one.case.peer] = wrong.get(one.case.peer, 0) + one.off_by
        for each in one.rounds:
            for kind, (number, example) in each.errors.items():
                key = one.case.peer, kind
                errors[key] = errors.get(key, (0, ""))[0] + number, example
    for peer, number in wrong.items():
        console.print(
            f"[red]{PEERS[peer].title} lost or doubled at least {number:,} updates that it acknowledged[/]"
        )
    for (peer, kind), (number, example) in errors.items():
        console.print(f"[yellow]{PEERS[peer].title}: {number:,} times {kind}[/], such as: {example[:200]}")
    if not wrong:
        console.print("No peer lost or doubled an update.")


def _target_table(results: Results) -> Table:
    table = Table(title="Targets", title_justify="left", header_style="bold")
    for head in ("", "measured", "target", "", "basis"):
        table.add_column(head, justify="right" if head in ("measured", "target") else "left")
    for outcome in outcomes(results):
        target = outcome.target
        table.add_row(target.title, *_judged(outcome), target.basis)
    return table


def _judged(outcome: Outcome) -> tuple[str, str, str]:
    target = outcome.target
    bound = f"{'>=' if target.at_least else '<='} {target.bound:g} {target.unit}".rstrip()
    if outcome.figure is None:
        return "", bound, "[yellow]not measured[/]"
    if math.isinf(outcome.figure):
        return "not all done", bound, "[red]miss[/]"
    figure = f"{outcome.figure:.3g} {target.unit}".rstrip()
    return figure, bound, "[green]pass[/]" if outcome.met else "[red]miss[/]"
