"""What `stress` shows people: a live display or plain lines while it runs, then a table and what it means.

Computes nothing that is not in the results; every sentence is drawn from their figures.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Protocol, Self

from rich import box
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from txstate.cli._stress.contenders import Name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console
    from rich.progress import TaskID

    from txstate.cli._stress.contest import Plan, Result
    from txstate.cli._stress.worker import Progress

_PIPE_WIDTH: Final = 120


class Display(Protocol):
    """What is shown while the contenders run."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self, name: Name) -> None:
        """This contender starts now."""

    def update(self, name: Name, progress: Progress, faults: int) -> None:
        """This is what it has done so far."""

    def end(self, result: Result) -> None:
        """It has finished."""


class Live:
    """Progress bars with running figures, for a terminal.

    Args:
        console: the terminal.
        plan: of the run.
    """

    def __init__(self, console: Console, plan: Plan) -> None:
        self._plan = plan
        self._began = 0.0
        self._bars = Bars(
            TextColumn("{task.description:<21}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
        )
        self._tasks: dict[Name, TaskID] = {}
        self._stack = ExitStack()
        console.print(heading(plan), highlight=False)

    def __enter__(self) -> Self:
        for name in Name:
            self._tasks[name] = self._bars.add_task(name.label, total=self._plan.seconds, figures="")
        self._stack.enter_context(self._bars)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, name: Name) -> None:
        """Begin with its bar."""
        self._began = time.monotonic()
        self._bars.update(self._tasks[name], figures="running")

    def update(self, name: Name, progress: Progress, faults: int) -> None:
        """Move its bar."""
        elapsed = time.monotonic() - self._began
        figures = f"{progress.acknowledged / elapsed:>7,.0f} txn/s  {progress.conflicts:,} conflicts"
        if faults:
            figures += f"  {faults} cuts  {progress.unknown} unknown"
        self._bars.update(self._tasks[name], completed=min(elapsed, self._plan.seconds), figures=figures)

    def end(self, result: Result) -> None:
        """Fill its bar."""
        figures = f"{result.txn_per_s:>7,.0f} txn/s  {verdict(result)}"
        self._bars.update(self._tasks[result.name], completed=self._plan.seconds, figures=figures)


class Lines:
    """One plain line when a contender has finished, for a pipe.

    Args:
        write: takes a line.
        plan: of the run.
    """

    def __init__(self, write: Callable[[str], object], plan: Plan) -> None:
        self._write = write
        write(heading(plan))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, name: Name) -> None:
        """Nothing to tell yet."""

    def update(self, name: Name, progress: Progress, faults: int) -> None:
        """A line for each report would be noise."""

    def end(self, result: Result) -> None:
        """Tell how it went."""
        self._write(
            f"{result.name.label}: {result.tally.acknowledged:,} acknowledged, "
            f"{result.txn_per_s:,.0f} txn/s, {verdict(result)}"
        )


def heading(plan: Plan) -> str:
    """What is about to be done."""
    faults = ", connections are cut while it runs" if plan.faults else ""
    return (
        f"{plan.workload}: {plan.processes} processes, {plan.seconds:g} s for each contender, "
        f"{plan.server}{faults} (seed {plan.seed})"
    )


def verdict(result: Result) -> str:
    """The outcome in a few words."""
    if not result.tally.acknowledged:
        return "nothing was acknowledged"
    if result.exact:
        return "all applied once"
    tally = result.tally
    found = {"lost": tally.lost, "doubled": tally.doubled, "torn": tally.torn}
    return ", ".join(f"{number:,} {what}" for what, number in found.items() if number)


def show(console: Console, plan: Plan, results: Sequence[Result]) -> None:
    """Print the table and the conclusion.

    Args:
        console: where to; without a terminal, nothing but plain lines is printed.
        plan: of the run.
        results: of all contenders.
    """
    plain = not console.is_terminal
    if plain:
        console.width = _PIPE_WIDTH
    tables = [_table(plan, results, plain=plain)]
    uncut = console.measure(tables[0], options=console.options.update(max_width=_PIPE_WIDTH)).minimum
    if uncut > console.width:
        tables = [_table(plan, [result], plain=plain) for result in results]
    if plain:  # the box of a terminal's table brings its own
        console.print()
    for table in tables:
        console.print(table)
    if plain:
        console.print()
    for sentence in conclusion(plan, results):
        console.print(sentence, highlight=False, soft_wrap=plain)


def _table(plan: Plan, results: Sequence[Result], *, plain: bool) -> Table:
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=not plain)
    table.add_column(str(plan.workload))
    for result in results:
        table.add_column(result.name.label, justify="right")
    for label, cells in _rows(plan, results):
        table.add_row(label, *cells)
    return table


def _rows(plan: Plan, results: Sequence[Result]) -> list[tuple[str, list[Text]]]:
    def figures(pick: Callable[[Result], float], form: str = ",d", style: str = "") -> list[Text]:
        return [Text(format(pick(result), form), style if pick(result) else "") for result in results]

    rows = [
        ("acknowledged", figures(lambda result: result.tally.acknowledged)),
        ("applied", figures(lambda result: result.tally.applied)),
        ("lost", figures(lambda result: result.tally.lost, style="bold red")),
        ("doubled", figures(lambda result: result.tally.doubled, style="bold red")),
        ("torn", figures(lambda result: result.tally.torn, style="bold red")),
        ("unknown", figures(lambda result: result.tally.unknown, style="yellow")),
        ("failed", figures(lambda result: result.tally.failed, style="yellow")),
        ("conflicts", figures(lambda result: result.conflicts)),
        ("attempts", figures(lambda result: result.attempts)),
        ("txn/s", figures(lambda result: result.txn_per_s, ",.0f")),
        ("p50 ms", figures(lambda result: result.p50_ms, ",.2f")),
        ("p99 ms", figures(lambda result: result.p99_ms, ",.2f")),
        ("max ms", figures(lambda result: result.max_ms, ",.2f")),
    ]
    if plan.faults:
        rows.append(("connections cut", figures(lambda result: result.faults)))
    totals = [result.total for result in results]
    if any(totals):
        rows.append(("money in the bank", [_money(total) for total in totals]))
    optional = {"torn", "failed"}
    return [
        (label, cells) for label, cells in rows if label not in optional or any(c.plain != "0" for c in cells)
    ]


def _money(total: tuple[int, int] | None) -> Text:
    if total is None:
        return Text("")
    before, after = total
    return Text(
        f"{after:,}" if after == before else f"{after:,} of {before:,}", "" if after == before else "bold red"
    )


def conclusion(plan: Plan, results: Sequence[Result]) -> list[str]:
    """What the figures mean, a sentence for each contender."""
    own, *peers = results
    sentences = [_own(own)]
    for peer in peers:
        sentence = f"{peer.name.label}: {_peer(peer)}"
        if own.txn_per_s and own.exact and peer.txn_per_s and not peer.tally.lost:
            ratio = own.txn_per_s / peer.txn_per_s
            sentence += f" {peer.txn_per_s:,.0f} transactions/s; txstate made {ratio:.2f} times as many."
        sentences.append(sentence)
    if plan.faults:
        sentences.append(f"{sum(result.faults for result in results)} connections were cut in all.")
    sentences += [
        f"{result.name.label}: {kind}, {times:,} times, for example: {example}"
        for result in results
        for kind, (times, example) in result.errors.items()
    ]
    return sentences


def _own(result: Result) -> str:
    tally = result.tally
    if not tally.acknowledged:
        return "txstate: nothing was acknowledged, so nothing is shown."
    if not result.exact:
        return f"txstate: {verdict(result)} out of {tally.acknowledged:,} acknowledged updates. This must not happen."
    unknown = f" It said of {tally.unknown:,} that their fate is unknown." if tally.unknown else ""
    return (
        f"txstate: each of {tally.acknowledged:,} acknowledged updates is in the store exactly once.{unknown}"
    )


def _peer(result: Result) -> str:
    tally = result.tally
    if not tally.acknowledged:
        return "nothing was acknowledged."
    if result.exact:
        return f"each of {tally.acknowledged:,} acknowledged updates was applied exactly once in this run."
    parts = []
    if tally.lost:
        share = tally.lost / tally.acknowledged
        parts.append(f"{tally.lost:,} of {tally.acknowledged:,} acknowledged updates ({share:.2%}) are lost")
    if tally.doubled:
        parts.append(f"{tally.doubled:,} of {tally.acknowledged:,} were applied twice")
    if not parts:
        parts.append(f"{tally.torn:,} were applied in part")
    return " and ".join(parts) + "."
