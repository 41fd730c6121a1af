"""A run as a text to read: who did what, what went wrong, which value was lost.

Decides nothing: what is remarkable here need not be wrong, and only the invariant says what is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from txstate.testing._explorer.batches import Kind, documents_in, text
from txstate.testing._explorer.mishaps import INSIDE, INSIDE_MISHAP
from txstate.testing._explorer.schedule import DELIVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from txstate.testing._explorer.batches import Batch
    from txstate.testing._explorer.mishaps import Mishap
    from txstate.testing._explorer.record import Entry, Outcome

_LONGEST: Final = 60


@dataclass(frozen=True, slots=True)
class Timeline:
    """One run, to be printed.

    Args:
        record: what happened.
        names: what to call the transactions.
        mishaps: the faults there were to choose from.
        outcomes: what came of the transactions, those that ended.
        documents: what was stored in the end.
        problem: what was wrong with that.
    """

    record: Sequence[Entry]
    names: Sequence[str]
    mishaps: Mapping[str, Mishap]
    outcomes: Sequence[Outcome | None]
    documents: Mapping[str, Mapping[str, str]]
    problem: str

    def __str__(self) -> str:
        width = max(map(len, self.names))
        lines = ["what happened:"]
        for number, entry in enumerate(self.record, 1):
            name = self.names[entry.choice.actor].ljust(width)
            fault = _fault(entry, self.mishaps)
            lines.append(
                f"  {number:3}  {name}  {_story(entry.batch)}" + (f"   <-- {fault}" if fault else "")
            )
        for name, outcome in zip(self.names, self.outcomes, strict=True):
            lines.append(f"       {name.ljust(width)}  {'did not end' if outcome is None else outcome}")
        lines.append("in the end:" if self.documents else "in the end: no documents")
        for key, fields in self.documents.items():
            lines.append(f"  {key} = {_shown(fields)}")
        remarks = list(_remarks(self.record, self.names))
        if remarks:
            lines += ["to be noted:", *(f"  {remark}" for remark in remarks)]
        return "\n".join([*lines, f"wrong: {self.problem}"])


class _Read(NamedTuple):
    step: int
    call: int
    fields: Mapping[str, str]


class _Write(NamedTuple):
    step: int
    actor: int
    value: str


def _fault(entry: Entry, mishaps: Mapping[str, Mishap]) -> str:
    event, detail = entry.choice.event, entry.choice.detail
    if event == DELIVER:
        return "the request that was held up arrives" + ("" if entry.error is None else f": {entry.error}")
    if event == INSIDE:
        arrived = "" if entry.arrived is None else f": {_story(entry.arrived.batch)}"
        return f"{INSIDE_MISHAP.told} after {detail} commands{arrived}"
    if event:
        return f"{mishaps[event].told} ({event}{' ' + detail if detail else ''})"
    return "" if entry.error is None else str(entry.error)


def _story(batch: Batch) -> str:
    """What a batch does, and what the server made of it."""
    parts = [_deed(batch)]
    if claims := batch.claims():
        parts.append(f"claims {', '.join(claims)}")
    if kept := batch.kept():
        parts.append(f"keeps its turn on {', '.join(kept)}")
    if claimed := batch.claimed():
        parts.append(f"finds {', '.join(claimed)} claimed by another")
    if batch.stale and batch.kind is not Kind.COMMIT:
        parts.append("which is no longer what it had read" if batch.kind is Kind.READ else "it does not")
    return "; ".join(parts)


def _deed(batch: Batch) -> str:
    kind, replies = batch.kind, batch.replies
    found = ", ".join(f"{key} = {_shown(fields)}" for key, fields in batch.loaded())
    if kind is Kind.COMMIT:
        behind = f", and with it reads {found} for what comes next" if found else ""
        return f"commits {_writes_told(batch)}{_verdict(batch)}{behind}"
    if kind is Kind.RESOLVE and replies is not None:
        return f"{kind.value}: touched {text(replies[0])}, number {text(replies[1])}"
    if kind is Kind.READ:
        before = "stands in line, then " if batch.waits else ""
        return f"{before}reads {found or ', '.join(documents_in(batch.commands))}"
    if kind is Kind.OTHER:
        keys = ", ".join(documents_in(batch.commands))
        return " ".join(str(command[0]) for command in batch.commands) + (f" of {keys}" if keys else "")
    return str(kind.value)


def _writes_told(batch: Batch) -> str:
    told: dict[str, list[str]] = {}
    for key, field, value in batch.written():
        told.setdefault(key, []).append(f"{field} = {value}")
    for key, verb in batch.others():
        told.setdefault(key, []).append(verb)
    return "; ".join(f"{key}: {', '.join(changes)}" for key, changes in told.items())


def _verdict(batch: Batch) -> str:
    if batch.replies is None:
        return ""
    if batch.conflict:
        return " -> conflict, not applied"
    return f" -> {'; '.join(map(str, batch.errors))}" if batch.errors else " -> applied"


def _remarks(record: Sequence[Entry], names: Sequence[str]) -> Iterator[str]:
    """Writes that replaced what their writer can't have known, and calls that were applied more than once."""
    story = _Remarks(names)
    for step, entry in _in_order(record):
        yield from story.after(step, entry)
    yield from story.at_the_end()


class _Remarks:
    """What everybody knew, and what was written, up to some step."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._known: dict[int, list[tuple[str, _Read]]] = {index: [] for index in range(len(names))}
        self._behind: dict[int, list[tuple[str, _Read]]] = {}
        self._writes: dict[tuple[str, str], _Write] = {}
        self._history: list[tuple[str, str, _Write]] = []
        self._applied: dict[tuple[int, int], int] = {}

    def after(self, step: int, entry: Entry) -> Iterator[str]:
        """Go on by one batch."""
        batch, actor, call = entry.batch, entry.choice.actor, entry.call
        found = [(key, _Read(step, call, fields)) for key, fields in batch.loaded()]
        # What a commit had read behind it counts, unless the connection was not used for that, but read anew.
        behind = self._behind.pop(actor, [])
        if batch.kind is not Kind.READ:
            self._known[actor] += [(key, read._replace(call=call)) for key, read in behind]
        if batch.kind is not Kind.COMMIT:
            self._known[actor] += found
            return
        self._behind[actor] = found
        if not batch.applied:
            # What a losing attempt has read counts no more; other reads of the same function do.
            self._known[actor] = [(key, read) for key, read in self._known[actor] if read.call != call]
            return
        for key, field, value in batch.written():
            yield from self._overwritten(key, field, _Write(step, actor, value))
        if first := self._applied.get((actor, call)):
            yield f"{self._names[actor]} was applied twice by one call: at step {first} and at step {step}"
        self._applied.setdefault((actor, call), step)
        self._known[actor] = []

    def _overwritten(self, key: str, field: str, write: _Write) -> Iterator[str]:
        before = self._writes.get((key, field))
        self._writes[key, field] = write
        self._history.append((key, field, write))
        if before is None or before.actor == write.actor:
            return
        stale = [read for name, read in self._known[write.actor] if name == key and read.step < before.step]
        if stale:
            yield (
                f"{key}: {field} = {before.value}, written by {self._names[before.actor]} at step {before.step}, was "
                f"overwritten with {write.value} by {self._names[write.actor]} at step {write.step}, which had read "
                f"{field} = {stale[-1].fields.get(field, 'nothing')} at step {stale[-1].step}"
            )

    def at_the_end(self) -> Iterator[str]:
        """What a transaction read in two calls, and found changed, without writing it after that."""
        for actor, known in self._known.items():
            first: dict[str, _Read] = {}
            for key, read in known:
                before = first.setdefault(key, read)
                if before.call == read.call or before.fields == read.fields:
                    continue
                between = [
                    f"{self._names[write.actor]} wrote {field} = {write.value} at step {write.step}"
                    for name, field, write in self._history
                    if name == key and before.step < write.step < read.step and write.actor != actor
                ]
                yield (
                    f"{key}: {self._names[actor]} read {_shown(before.fields)} at step {before.step}; "
                    f"{', '.join(between) or 'others changed it'}; then {self._names[actor]}, in another call, read "
                    f"{_shown(read.fields)} at step {read.step}, and wrote nothing. If it wanted to write what it had "
                    "worked out from the first reading, that update is lost"
                )


def _in_order(record: Iterable[Entry]) -> Iterator[tuple[int, Entry]]:
    for step, entry in enumerate(record, 1):
        if entry.arrived is not None:
            yield step, entry.arrived
        yield step, entry


def _shown(fields: Mapping[str, str]) -> str:
    inner = ", ".join(f"{name}: {value}" for name, value in fields.items())
    return f"{{{inner if len(inner) <= _LONGEST else inner[:_LONGEST] + '...'}}}"
