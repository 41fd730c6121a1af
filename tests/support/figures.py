"""What a fault test reports: that its faults fired, and that nothing was lost, doubled or applied by half.

A test of one of the faults of docs/reliability.md is marked with its number, `@pytest.mark.fault(number=4)`, and calls
the fixture `figures` at its end. The figures are checked here, so a test whose faults did not fire fails.
`python -m tests.report` collects them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING, Final

import pytest
from support.ledger import Tally, total

from txstate import Stats
from txstate.testing import check_history

if TYPE_CHECKING:
    from support.ledger import Ledger
    from support.servers import ServerHandle

    from txstate.testing import Verdict

PROPERTY: Final = "figures"
"""Under this name each line is among a test report's user properties."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The figures of one test.

    Attributes:
        fault: its number, 1 to 25.
        test: the test's name, without parameters.
        server: name and version.
        fired: faults that took effect.
        attempted: calls made.
        acknowledged: calls that returned.
        unknown: calls that raised `CommitUnknown`.
        resolved: commits in doubt whose fate was found out.
        lost: acknowledged, but not applied. More than 0 only where `lost_to` says why that is nobody's fault.
        doubled: applied more than once.
        half_applied: transactions of which a part was applied.
        verdict: of the history checker; empty where there is no history.
        seed: of what was random; None: nothing was.
        lost_to: what the server itself lost it to.
    """

    fault: int
    test: str
    server: str
    fired: int
    attempted: int
    acknowledged: int
    unknown: int
    resolved: int
    lost: int
    doubled: int
    half_applied: int
    verdict: str
    seed: int | None
    lost_to: str

    def __str__(self) -> str:
        return ", ".join(f"{each.name} {getattr(self, each.name)}" for each in fields(self))


class Figures:
    """The fixture `figures`: called once by a fault test, when all has come to rest.

    Args:
        item: the test.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def __call__(
        self,
        server: ServerHandle,
        *ledgers: Ledger,
        fired: int,
        resolved: int | Stats = 0,
        seed: int | None = None,
        tally: Tally | None = None,
        verdict: Verdict | None = None,
        lost_to: str = "",
    ) -> Tally:
        """State them, check them, and hand them to the report.

        Args:
            server: what the test ran on.
            ledgers: of all its transactions; they are counted, and their history is judged.
            fired: how many faults took effect.
            resolved: commits in doubt whose fate was found out, or a store's statistics, which tell.
            seed: of what was random.
            tally: the count, for a test without ledgers.
            verdict: of the history checker, for a test without ledgers.
            lost_to: what the server itself may lose acknowledged transactions to (``"FLUSHDB"``). Such losses are
                reported, and all else still holds; there is no verdict then, as the checker would call them lost.

        Returns:
            The count.
        """
        if isinstance(resolved, Stats):
            resolved = resolved.resolved_committed + resolved.resolved_aborted
        errors = chain.from_iterable((*each.failed.items(), *each.unknown.items()) for each in ledgers)
        if lines := [f"{marker}: {error!r}" for marker, error in errors]:
            self._item.add_report_section("call", "what calls raised", "\n".join(lines))
        counted = total(ledgers) + (tally or Tally())
        if counted.applied and ledgers and not lost_to:
            verdict = check_history(chain.from_iterable(ledger.history() for ledger in ledgers))
        line = Line(
            fault=_number(self._item),
            test=getattr(self._item, "originalname", self._item.name),
            server=f"{server.kind} {server.version}",
            fired=fired,
            attempted=counted.attempted,
            acknowledged=counted.acknowledged,
            unknown=counted.unknown,
            resolved=resolved,
            lost=counted.lost,
            doubled=counted.doubled,
            half_applied=counted.torn,
            verdict="" if verdict is None else str(verdict.outcome),
            seed=seed,
            lost_to=lost_to,
        )
        assert fired > 0, f"its faults did not fire: {line}"
        assert counted.attempted > 0, f"it attempted nothing: {line}"
        assert (counted.doubled, counted.torn, counted.ghosts) == (0, 0, 0), str(line)
        assert counted.lost == 0 or lost_to, str(line)
        assert verdict is None or verdict.valid, f"{line}\n{verdict}"
        self._item.user_properties.append((PROPERTY, line))
        return counted


def require(item: pytest.Item) -> None:
    """Fail if this fault test, which has passed, did not state its figures."""
    if item.get_closest_marker("fault") is not None and all(
        name != PROPERTY for name, _ in item.user_properties
    ):
        pytest.fail("a fault test states its figures: call the fixture `figures`", pytrace=False)


def _number(item: pytest.Item) -> int:
    marker = item.get_closest_marker("fault")
    if marker is None or not isinstance(marker.kwargs.get("number"), int):
        pytest.fail("which fault is it? Mark the test with @pytest.mark.fault(number=...)", pytrace=False)
    number: int = marker.kwargs["number"]
    return number
