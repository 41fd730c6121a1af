"""The orders that clients saw: within one process, and in real time.

Knows nothing of what the transactions read and wrote.
"""

from __future__ import annotations

import collections
import itertools
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from txstate.testing._history.graph import Graph
    from txstate.testing._history.observed import History, Transaction

# At one instant a call and a return are in no order: the call counts as first, so that there is no edge.
_CALL: Final = 0
_RETURN: Final = 1


def connect_processes(history: History, graph: Graph) -> None:
    """Add a `process` edge from each `ok` transaction to the next one of its process."""
    places: dict[int, tuple[int, int]] = {}  # the process and the place in it
    for process, ran in enumerate(history.by_process("ok")):
        places |= {one.number: (process, place) for place, one in enumerate(ran)}
        for earlier, later in itertools.pairwise(ran):
            graph.add("process", earlier.number, later.number)

    def precedes(one: int, other: int) -> bool:
        if one not in places or other not in places:
            return False
        (process, place), (other_process, other_place) = places[one], places[other]
        return process == other_process and place < other_place

    graph.imply("process", precedes)


def connect_real_time(history: History, graph: Graph) -> None:
    """Add `realtime` edges: whatever returned before another's call reaches it by a path of them.

    A sweep over the calls and returns holds a buffer of what has completed and is not yet followed by a completed
    one, so there are about as many edges as transactions times how many ran at once. An `info` transaction may take
    effect at any time after its call: it follows others, and none follows it.
    """
    ended = {one.number: one.ended for one in history.of_kind("ok")}
    begun = {one.number: one.call for one in history.of_kind("ok", "info")}
    graph.imply("realtime", lambda one, other: one in ended and other in begun and ended[one] < begun[other])
    buffer: collections.deque[tuple[int, Transaction]] = (
        collections.deque()
    )  # with the step at which each returned
    waiting: list[Transaction] = []  # called since the buffer last changed
    called: dict[Transaction, int] = {}
    for step, (kind, one) in enumerate(_events(history)):
        if kind == _CALL:
            called[one] = step
            waiting.append(one)
            continue
        graph.add_all(
            "realtime", [each.number for _, each in buffer], {each.number: None for each in waiting}
        )
        waiting.clear()
        while buffer and buffer[0][0] < called[one]:  # these point to it, so it stands for them
            buffer.popleft()
        buffer.append((step, one))
    graph.add_all("realtime", [each.number for _, each in buffer], {each.number: None for each in waiting})


def _events(history: History) -> list[tuple[int, Transaction]]:
    timed = [(one.call, _CALL, one) for one in history.of_kind("ok", "info")]
    timed += [(one.ended, _RETURN, one) for one in history.of_kind("ok")]
    timed.sort(key=lambda event: event[:2])
    return [(kind, one) for _, kind, one in timed]
