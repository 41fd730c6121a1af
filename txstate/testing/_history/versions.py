"""What the reads show: anomalies that need no cycle, the order of each list's elements, and the edges that follow.

The model is Adya's, the inference that of Elle (Kingsbury and Alvaro, VLDB 2020): because elements are unique and
only ever appended, a list read tells the order of the writes that made it. Knows nothing of time and processes.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, NamedTuple

from txstate.testing._history.anomalies import Finding
from txstate.testing._history.graph import Why
from txstate.testing._history.observed import Append, Read

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

    from txstate.testing._history.graph import Graph
    from txstate.testing._history.observed import History, Transaction


class _Seen(NamedTuple):
    """One read of an `ok` transaction; not `sound` when its own transaction contradicts it."""

    reader: Transaction
    elements: tuple[Hashable, ...]
    sound: bool


def connect(history: History, graph: Graph) -> Iterator[tuple[str, Finding]]:
    """Add the `ww`, `wr` and `rw` edges to the graph.

    Args:
        history: all of it.
        graph: its nodes are the transactions' numbers; gets no edges of `fail` transactions.

    Yields:
        each anomaly that shows without a cycle: its name and the evidence. To be consumed to the end.
    """
    reads: dict[Hashable, list[_Seen]] = {}
    for one in history.of_kind("ok"):
        for read, complaint in _internal(one):
            reads.setdefault(read.key, []).append(_Seen(one, read.elements, sound=complaint is None))
            if complaint is not None:
                yield "internal", Finding((one.id,), read.key, f"{one.id!r} read {read.key!r} as {complaint}")
    for key, seen in reads.items():
        yield from _List(key, seen, history.writers.get(key, {})).connect(graph)


def _internal(one: Transaction) -> Iterator[tuple[Read, str | None]]:
    """Each read of a transaction, and what is wrong with it in view of the transaction's own earlier operations."""
    read_before: dict[Hashable, tuple[Hashable, ...]] = {}
    own: dict[Hashable, tuple[Hashable, ...]] = {}  # appended since the key's last read
    to_come: dict[Hashable, list[Hashable]] = {}
    for operation in one.operations:
        if isinstance(operation, Append):
            to_come.setdefault(operation.key, []).append(operation.value)
    for operation in one.operations:
        key = operation.key
        if isinstance(operation, Append):
            own[key] = (*own.get(key, ()), operation.value)
            to_come[key].remove(operation.value)
            continue
        elements, added = operation.elements, own.pop(key, ())
        early = [value for value in to_come.get(key, ()) if value in elements]
        complaint = None
        if early:
            complaint = f"{shorten(elements)}, with {early[0]!r} that it appended only later"
        elif key in read_before and elements != read_before[key] + added:
            complaint = (
                f"{shorten(elements)}, where its own past makes it {shorten(read_before[key] + added)}"
            )
        elif added and elements[-len(added) :] != added:
            complaint = f"{shorten(elements)}, without its own {shorten(added)} at the end"
        read_before[key] = elements
        yield operation, complaint


class _List:
    """One key: its reads, the order that they prove, and its writers."""

    def __init__(
        self, key: Hashable, reads: Sequence[_Seen], writers: Mapping[Hashable, Transaction]
    ) -> None:
        self.key, self.reads, self.writers = key, reads, writers
        whole = (seen for seen in reads if seen.sound and not _doubled(seen.elements))
        self.longest = max(whole, key=lambda seen: len(seen.elements), default=None)
        self.order = () if self.longest is None else self.longest.elements
        self.strays = [(place, each) for place, each in enumerate(self.order) if self._live(each) is None]

    def connect(self, graph: Graph) -> Iterator[tuple[str, Finding]]:
        readers: dict[int, list[Transaction]] = {}  # by how many elements they saw
        ordered = True
        for seen in self.reads:
            agrees = self.order[: len(seen.elements)] == seen.elements
            for element in self._strays(seen.elements, agrees=agrees):
                yield self._aborted_or_garbage(seen.reader, element)
            if doubled := _doubled(seen.elements):
                yield "duplicate-elements", self._finding(seen, f"with {doubled[0]!r} more than once")
                ordered = False
            elif seen.sound:
                if self.longest is not None and not agrees:
                    yield "incompatible-order", self._incompatible(seen, self.longest)
                    ordered = False
                writer = self._writer(seen.elements)
                if writer is not None:
                    graph.add("wr", writer.number, seen.reader.number, Why(self.key, (), seen.elements[-1]))
                if writer not in (None, seen.reader) and self._final(writer) != seen.elements[-1]:
                    yield "G1b", self._intermediate(seen, writer)
                else:
                    readers.setdefault(len(seen.elements), []).append(seen.reader)
        if ordered:  # reads that contradict one another prove no order
            self._connect_read(graph, readers)
            self._connect_unread(graph, readers.get(len(self.order), []))

    def _strays(self, elements: tuple[Hashable, ...], *, agrees: bool) -> list[Hashable]:
        """The elements that no transaction of the graph appended."""
        if agrees:
            return [each for place, each in self.strays if place < len(elements)]
        return [each for each in dict.fromkeys(elements) if self._live(each) is None]

    def _connect_read(self, graph: Graph, readers: Mapping[int, Iterable[Transaction]]) -> None:
        """Edges to the writer of each element that was read."""
        for place, element in enumerate(self.order):
            writer = self._live(element)
            if writer is None:
                continue
            why = Why(self.key, self.order[max(place - 1, 0) : place], element)
            previous = self._writer(self.order[:place])
            if previous is not None:
                graph.add("ww", previous.number, writer.number, why)
            for reader in readers.get(place, ()):
                graph.add("rw", reader.number, writer.number, why)

    def _connect_unread(self, graph: Graph, readers: Iterable[Transaction]) -> None:
        """Edges to the writers of what no read saw: each such element comes after all that were read."""
        read = set(self.order)
        unread = {
            writer.number: Why(self.key, self.order[-1:], element, seen=False)
            for element, writer in self.writers.items()
            if element not in read and writer.kind != "fail"
        }
        last = self._writer(self.order)
        if last is not None:
            graph.add_all("ww", [last.number], unread)
        graph.add_all("rw", list({reader.number: None for reader in readers}), unread)

    def _live(self, element: Hashable) -> Transaction | None:
        """Who appended the element, if that transaction is in the graph."""
        writer = self.writers.get(element)
        return None if writer is None or writer.kind == "fail" else writer

    def _writer(self, elements: tuple[Hashable, ...]) -> Transaction | None:
        return self._live(elements[-1]) if elements else None

    def _final(self, writer: Transaction) -> Hashable:
        """The last element that a transaction appended here."""
        appended = (
            each.value
            for each in reversed(writer.operations)
            if isinstance(each, Append) and each.key == self.key
        )
        return next(appended)

    def _finding(self, seen: _Seen, what: str, *others: Transaction) -> Finding:
        ids = tuple(each.id for each in (seen.reader, *others))
        return Finding(
            ids, self.key, f"{seen.reader.id!r} read {self.key!r} as {shorten(seen.elements)}, {what}"
        )

    def _aborted_or_garbage(self, reader: Transaction, element: Hashable) -> tuple[str, Finding]:
        writer = self.writers.get(element)
        text = f"{reader.id!r} read {element!r} in {self.key!r}, "
        if writer is None:
            return "garbage", Finding((reader.id,), self.key, text + "which nobody appended")
        return "G1a", Finding(
            (reader.id, writer.id), self.key, text + f"which {writer.id!r} appended, and that failed"
        )

    def _incompatible(self, seen: _Seen, longest: _Seen) -> Finding:
        pairs = enumerate(zip(seen.elements, longest.elements, strict=False))
        place, (here, there) = next(each for each in pairs if each[1][0] != each[1][1])
        return self._finding(
            seen,
            f"with {here!r} at place {place}, where {longest.reader.id!r} read {there!r}",
            longest.reader,
        )

    def _intermediate(self, seen: _Seen, writer: Transaction) -> Finding:
        last, final = seen.elements[-1], self._final(writer)
        return self._finding(seen, f"up to {last!r}, but {writer.id!r} appended {final!r} after that", writer)


def shorten(elements: Sequence[Hashable], most: int = 8) -> str:
    """A list as it is printed: its end, where lists differ."""
    hidden = "..., " if len(elements) > most else ""
    return f"[{hidden}{', '.join(map(repr, elements[-most:]))}]"


def _doubled(elements: Sequence[Hashable]) -> list[Hashable]:
    """The elements that are there more than once."""
    if len(set(elements)) == len(elements):
        return []
    return [each for each, times in collections.Counter(elements).items() if times > 1]
