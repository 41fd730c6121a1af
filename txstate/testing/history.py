"""A checker of histories: whether what clients saw of a store can have been strictly serializable.

`check_history` judges a list-append history: transactions that append unique elements to lists and read whole lists.
Owns the verdict. What the reads show, what time shows, and the search for cycles are modules of their own.

The idea is that of Elle (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations",
VLDB 2020), the names of the anomalies are Adya's (1999).
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any, Final

from txstate.testing._history.anomalies import NAMES, Cycle, Edge, Evidence, Finding
from txstate.testing._history.cycles import find_cycles
from txstate.testing._history.graph import Graph
from txstate.testing._history.observed import Read, parse
from txstate.testing._history.orders import connect_processes, connect_real_time
from txstate.testing._history.versions import connect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from txstate.testing._history.graph import Arc
    from txstate.testing._history.observed import History

__all__ = [
    "Cycle",
    "Edge",
    "Evidence",
    "Finding",
    "Illegal",
    "Ok",
    "Outcome",
    "Unknown",
    "Verdict",
    "check_history",
]

_SHOWN: Final = 3  # pieces of evidence of one name that a printed verdict holds


class Outcome(enum.StrEnum):
    """What a history shows. Not a bool: a history that shows nothing has not passed."""

    Ok = "Ok"
    """It can have been strictly serializable."""
    Illegal = "Illegal"
    """It can't; the anomalies say why."""
    Unknown = "Unknown"
    """It would look the same from a store that kept nothing: no `ok` read saw any element."""


Ok: Final = Outcome.Ok
Illegal: Final = Outcome.Illegal
Unknown: Final = Outcome.Unknown


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of a history. Printed, it shows the evidence.

    Attributes:
        outcome: `Ok`, `Illegal` or `Unknown`.
        anomalies: evidence by the name of the anomaly, the worst first; empty unless `Illegal`.
        transactions: how many the history has.
    """

    outcome: Outcome
    anomalies: dict[str, list[Evidence]]
    transactions: int

    @property
    def valid(self) -> bool:
        """Whether the outcome is `Ok`."""
        return self.outcome is Ok

    def __str__(self) -> str:
        head = f"{self.outcome}: {self.transactions} transactions"
        if self.outcome is Unknown:
            return f"{head}, and no read of an ok transaction saw any element; nothing can be said"
        lines = [head]
        for name, evidence in self.anomalies.items():
            lines.append(f"{name}: {len(evidence)}")
            for each in evidence[:_SHOWN]:
                lines += [f"  {line}" for line in str(each).splitlines()]
            if len(evidence) > _SHOWN:
                lines.append(f"  ... and {len(evidence) - _SHOWN} more")
        return "\n".join(lines)


def check_history(history: Iterable[Mapping[str, Any]]) -> Verdict:
    """Judge whether a history of transactions on append-only lists can have been strictly serializable.

    An illegal verdict is always right. A pass means that no order contradicts what was read, so let a history end
    with a transaction that reads every list: elements that no read saw can't contradict anything.

    Args:
        history: mappings, in any order, that are free to have more entries than these:

            * ``id``: unique;
            * ``type``: ``"ok"`` (took effect), ``"fail"`` (did not) or ``"info"`` (may have, at any time after its call);
            * ``process``: who ran it; a process runs one transaction at a time;
            * ``call``, ``ret``: when it began and ended, in nanoseconds of one monotonic clock; ``info`` and ``fail``
              ones may leave ``ret`` out;
            * ``txn``: a list of ``["append", key, element]`` and ``["r", key, list]``. An element is appended to its key
              once in the whole history. Reads of ``info`` and ``fail`` transactions are ignored.

            Ids, processes, keys and elements are hashable.

    Returns:
        the verdict, with every anomaly named. Cycles are named by the weakest level that they break: ``G0`` (writes
        alone), ``G1c`` (writes and reads), ``G-single`` (one read was overwritten; lost updates are among these),
        ``G-nonadjacent`` (several, never two in a row) or ``G2-item``; with ``-process`` or ``-realtime`` when it takes
        the order within a process, or of real time, to close them. Without cycles show ``internal`` (a transaction
        contradicts itself), ``duplicate-elements``, ``garbage`` (nobody appended it), ``G1a`` (an aborted append was
        read), ``G1b`` (an intermediate one) and ``incompatible-order`` (two reads can't be of the same list).

    Raises:
        ValueError: the history is malformed: the message names the transaction.
    """
    parsed = parse(history)
    graph = Graph(len(parsed.transactions))
    anomalies: dict[str, list[Evidence]] = {name: [] for name in NAMES}
    for name, finding in connect(parsed, graph):
        anomalies[name].append(finding)
    connect_processes(parsed, graph)
    connect_real_time(parsed, graph)
    for found in find_cycles(graph):
        anomalies[found.name].append(Cycle(found.name, tuple(_edge(parsed, arc) for arc in found.arcs)))
    anomalies = {name: evidence for name, evidence in anomalies.items() if evidence}
    return Verdict(_outcome(parsed, anomalies), anomalies, len(parsed.transactions))


def _outcome(history: History, anomalies: Mapping[str, list[Evidence]]) -> Outcome:
    if anomalies:
        return Illegal
    operations = (each for one in history.of_kind("ok") for each in one.operations)
    return Ok if any(isinstance(each, Read) and each.elements for each in operations) else Unknown


def _edge(history: History, arc: Arc) -> Edge:
    """An edge with its evidence in words."""
    earlier, later = history.transactions[arc.source], history.transactions[arc.target]
    if arc.why is None:
        text = f"{earlier.id!r} returned at {earlier.ended}, {later.id!r} was called at {later.call}"
        if arc.kind == "process":
            text += f", both by process {earlier.process!r}"
        return Edge(earlier.id, later.id, arc.kind, None, text)
    key, before, after, seen = arc.why
    if arc.kind == "wr":
        text = f"{later.id!r} read {key!r} up to {after!r}, which {earlier.id!r} appended"
    elif arc.kind == "ww":
        text = f"{later.id!r} appended {after!r} to {key!r} after {before[0]!r} of {earlier.id!r}"
    else:
        extent = f"up to {before[0]!r}" if before else "empty"
        text = f"{earlier.id!r} read {key!r} {extent}, without {after!r}, which {later.id!r} appended"
    if not seen:
        text += " (no read saw it, so it comes after all that were seen)"
    return Edge(earlier.id, later.id, arc.kind, key, text)
