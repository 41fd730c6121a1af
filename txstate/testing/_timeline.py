"""A run as a text to read: who did what, what went wrong, which value was lost.

Understands the batches that the engine sends, as far as a reader wants to know of them. Decides nothing: what is
remarkable here need not be wrong, and only the invariant says what is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from txstate._effects import ReplyError
from txstate.testing._mishaps import INSIDE, INSIDE_MISHAP
from txstate.testing._run import documents_in
from txstate.testing._schedule import DELIVER
from txstate.testing._stage import is_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from txstate._effects import Command
    from txstate.testing._mishaps import Mishap
    from txstate.testing._report import Outcome
    from txstate.testing._run import Entry

_VERSION: Final = b"__version__"
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
            lines.append(f"  {number:3}  {name}  {_story(entry)}" + (f"   <-- {fault}" if fault else ""))
        for name, outcome in zip(self.names, self.outcomes, strict=True):
            lines.append(f"       {name.ljust(width)}  {'did not end' if outcome is None else outcome}")
        lines.append("in the end:")
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
        arrived = "" if entry.arrived is None else f": {_story(entry.arrived)}"
        return f"{INSIDE_MISHAP.told} after {detail} commands{arrived}"
    if event:
        return f"{mishaps[event].told} ({event}{' ' + detail if detail else ''})"
    return "" if entry.error is None else str(entry.error)


def _story(entry: Entry) -> str:
    """What a batch does, and what the server made of it."""
    commands, replies = entry.commands, entry.replies
    verbs = [command[0] for command in commands]
    if verbs[:2] == ["MULTI", "EXEC"]:
        return "connects"
    if verbs[0] == "MULTI" and "SET" in verbs:
        return f"commits {_writes_told(commands)}{_verdict(replies)}"
    if verbs[:2] == ["EXPIRE", "GET"]:
        answer = "" if replies is None else f": touched {replies[0]}, number {_text(replies[1])}"
        return f"asks what became of its commit{answer}"
    if "SET" in verbs and "HGET" in verbs:
        return "fences off its commit, and asks the documents"
    keys = documents_in(commands)
    if replies is None or not keys:
        return f"reads {', '.join(keys)}" if keys else " ".join(map(str, verbs))
    found = ", ".join(f"{key} = {_shown(fields)}" for key, fields in _loaded(commands, replies))
    return f"reads {found}" if found else f"{' '.join(map(str, verbs))} of {', '.join(keys)}"


def _remarks(record: Sequence[Entry], names: Sequence[str]) -> Iterator[str]:
    """Writes that replaced what their writer can't have known, and calls that were applied more than once."""
    reads: dict[int, list[tuple[str, _Read]]] = {}
    writes: dict[tuple[str, str], _Write] = {}
    applied: dict[tuple[int, int], int] = {}
    for step, entry in _in_order(record):
        actor = entry.choice.actor
        known = reads.setdefault(actor, [])
        if _is_commit(entry):
            if entry.replies is None or not isinstance(entry.replies[-1], list):
                # What a losing attempt has read counts no more; other reads of the same function do.
                reads[actor] = [(key, read) for key, read in known if read.call != entry.call]
                continue
            for key, field, value in _written(entry.commands):
                before = writes.get((key, field))
                stale = [read for name, read in known if name == key and before and read.step < before.step]
                if before and stale and before.actor != actor:
                    yield (
                        f"{key}: {field} = {before.value}, written by {names[before.actor]} at step {before.step}, was "
                        f"overwritten with {value} by {names[actor]} at step {step}, which had read {field} = "
                        f"{stale[-1].fields.get(field, 'nothing')} at step {stale[-1].step}"
                    )
                writes[key, field] = _Write(step, actor, value)
            if first := applied.get((actor, entry.call)):
                yield f"{names[actor]} was applied twice by one call: at step {first} and at step {step}"
            applied.setdefault((actor, entry.call), step)
            reads[actor] = []
        elif entry.replies is not None:
            known += [
                (key, _Read(step, entry.call, fields))
                for key, fields in _loaded(entry.commands, entry.replies)
            ]
    for actor, known in reads.items():
        yield from _changed_meanwhile(names[actor], known)


def _changed_meanwhile(name: str, known: Sequence[tuple[str, _Read]]) -> Iterator[str]:
    """What a transaction read in two calls, and found changed, without writing it."""
    first: dict[str, _Read] = {}
    for key, read in known:
        before = first.setdefault(key, read)
        if before.call != read.call and before.fields != read.fields:
            yield (
                f"{key}: {name} read {_shown(before.fields)} at step {before.step}, and {_shown(read.fields)} at step "
                f"{read.step}, in another call: others wrote in between, and it changed nothing after that"
            )


def _in_order(record: Iterable[Entry]) -> Iterator[tuple[int, Entry]]:
    for step, entry in enumerate(record, 1):
        if entry.arrived is not None:
            yield step, entry.arrived
        yield step, entry


def _is_commit(entry: Entry) -> bool:
    verbs = [command[0] for command in entry.commands]
    return verbs[0] == "MULTI" and "SET" in verbs


def _writes_told(commands: Sequence[Command]) -> str:
    told: dict[str, list[str]] = {}
    for key, field, value in _written(commands):
        told.setdefault(key, []).append(f"{field} = {value}")
    for command in commands:
        if command[0] not in ("MULTI", "SET", "HSET", "EXEC"):
            name = command[1] if len(command) > 1 else b""
            told.setdefault(_text(name) if is_document(name) else "all", []).append(str(command[0]))
    return "; ".join(f"{key}: {', '.join(changes)}" for key, changes in told.items())


def _verdict(replies: Sequence[object] | None) -> str:
    if replies is None:
        return ""
    answer = replies[-1]
    if answer is None:
        return " -> conflict"
    errors = [
        reply for reply in (answer if isinstance(answer, list) else replies) if isinstance(reply, ReplyError)
    ]
    return f" -> {'; '.join(map(str, errors))}" if errors else " -> applied"


def _written(commands: Sequence[Command]) -> Iterator[tuple[str, str, str]]:
    """Key, field and value of what a commit sets."""
    for command in commands:
        if command[0] == "HSET":
            for name, value in zip(command[2::2], command[3::2], strict=True):
                if name != _VERSION:
                    yield _text(command[1]), _text(name), _text(value)


def _loaded(commands: Sequence[Command], replies: Sequence[object]) -> Iterator[tuple[str, dict[str, str]]]:
    """What a batch has read, document by document."""
    if commands[0] == ("MULTI",) and isinstance(replies[len(commands) - 1], list):
        replies = [None, *_items(replies[len(commands) - 1]), None]
    for command, reply in zip(commands, replies, strict=False):
        if command[0] == "HGETALL" and isinstance(reply, dict | list):
            pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        elif command[0] == "HMGET" and isinstance(reply, list):
            pairs = zip(command[2:], reply, strict=True)
        else:
            continue
        yield (
            _text(command[1]),
            {_text(name): _text(value) for name, value in pairs if name != _VERSION and value is not None},
        )


def _items(reply: Any) -> list[object]:
    return list(reply)


def _shown(fields: Mapping[str, str]) -> str:
    inner = ", ".join(f"{name}: {value}" for name, value in fields.items())
    return f"{{{inner if len(inner) <= _LONGEST else inner[:_LONGEST] + '...'}}}"


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
