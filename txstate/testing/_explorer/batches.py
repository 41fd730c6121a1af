"""The batches that the engine sends, understood as far as a reader of timelines wants to know of them.

Decides nothing: what a batch means for its transaction is the engine's business.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from txstate._effects import ReplyError
from txstate._engine.claims import WAIT
from txstate._engine.session import client_flags
from txstate._engine.settings import RESERVED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from txstate._effects import Command

    Fields: TypeAlias = Mapping[str, str]

_RESERVED: Final = RESERVED.encode()
_CLAIM: Final = _RESERVED + b"claim:"
_VERSION: Final = b"__version__"
_READS: Final = frozenset({"HGETALL", "HMGET", "PTTL"})
_ON_DOCUMENTS: Final = _READS | {"HSET", "HDEL", "DEL", "PEXPIRE", "PERSIST"}


class Kind(enum.Enum):
    """What a batch is for."""

    CONNECT = "connects"
    COMMIT = "commits"
    RESOLVE = "asks what became of its commit"
    FENCE = "fences off its commit, and asks the documents"
    PROVE = "checks that what it has read still holds"
    READ = "reads"
    OTHER = "does something else"


class Batch:
    """A batch, and what the server made of it.

    Args:
        commands: what was sent.
        replies: what was answered; None if that is not known.

    Attributes:
        kind: what it is for.
        behind: of a commit, the commands behind its EXEC, which arm the connection; else all.
    """

    def __init__(self, commands: Sequence[Command], replies: Sequence[object] | None) -> None:
        self.commands, self.replies = commands, replies
        self.kind = kind_of(commands)
        self._end = commands.index(("EXEC",)) if self.kind is Kind.COMMIT else -1
        self.behind = commands[self._end + 1 :]

    @property
    def arms(self) -> bool:
        """Whether it is a commit that reads for the call after it."""
        return self.kind is Kind.COMMIT and bool(self.behind)

    @property
    def waits(self) -> bool:
        """Whether it stands in line first."""
        return self.commands[0][0] == WAIT

    @property
    def answer(self) -> object:
        """The reply to a commit's EXEC."""
        return None if self.replies is None else self.replies[self._end]

    @property
    def conflict(self) -> bool:
        """Whether it is a commit that met a conflict."""
        known = self.kind is Kind.COMMIT and self.replies is not None
        return known and (self.answer is None or self.answer == [b"stale"])

    @property
    def errors(self) -> list[ReplyError]:
        """The errors that answered a commit."""
        if self.kind is not Kind.COMMIT or self.replies is None:
            return []
        told = self.answer if isinstance(self.answer, list) else self.replies[: self._end + 1]
        return [reply for reply in told if isinstance(reply, ReplyError)]

    @property
    def applied(self) -> bool:
        """Whether it is a commit that the server has applied, at least in part."""
        return isinstance(self.answer, list) and not self.conflict

    @property
    def stale(self) -> bool:
        """Whether the server said that something watched was modified."""
        if self.replies is None or ("CLIENT", "INFO") not in self.behind:
            return False
        flags = client_flags(self.replies[self.commands.index(("CLIENT", "INFO"))])
        return flags is not None and b"d" in flags

    def written(self) -> Iterator[tuple[str, str, str]]:
        """Key, field and value of what a commit sets."""
        for command in self._transaction():
            if command[0] == "HSET":
                for name, value in zip(command[2::2], command[3::2], strict=True):
                    if name != _VERSION:
                        yield text(command[1]), text(name), text(value)

    def others(self) -> Iterator[tuple[str, str]]:
        """Key and verb of whatever else a commit does to documents."""
        for command in self._transaction():
            if command[0] not in ("SET", "HSET") and is_document(command[1]):
                yield text(command[1]), str(command[0])

    def loaded(self) -> Iterator[tuple[str, Fields]]:
        """What was read of each document; by a commit: behind it."""
        replies = self._replies_to_reads()
        for command, reply in zip(self.behind, replies, strict=False):
            if command[0] == "HGETALL" and isinstance(reply, dict | list):
                pairs = (
                    reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
                )
            elif command[0] == "HMGET" and isinstance(reply, list):
                pairs = zip(command[2:], reply, strict=True)
            else:
                continue
            yield text(command[1]), fields_of(pairs)

    def claims(self) -> list[str]:
        """The documents that it claims."""
        return [
            text(command[1]).partition(_CLAIM.decode())[2]
            for command in self.commands
            if command[0] == "SET" and _is_claim(command[1]) and "NX" in command
        ]

    def kept(self) -> list[str]:
        """The documents whose turn it keeps for its next call."""
        return [
            text(command[1]).partition(_CLAIM.decode())[2]
            for command in self._transaction()
            if command[0] == "SET" and _is_claim(command[1])
        ]

    def claimed(self) -> list[str]:
        """The documents that it finds claimed by others."""
        own = {
            command[2].partition(b" ")[0]
            for command in self.commands
            if command[0] == "SET" and _is_claim(command[1]) and isinstance(command[2], bytes)
        }
        found: list[str] = []
        for command, holders in zip(self.commands, self.replies or (), strict=False):
            if command[0] == "MGET" and isinstance(holders, list):
                found += [
                    text(name).partition(_CLAIM.decode())[2]
                    for name, holder in zip(command[1:], holders, strict=True)
                    if _is_claim(name) and holder is not None and holder.partition(b" ")[0] not in own
                ]
        return found

    def _transaction(self) -> Iterator[Command]:
        """What stands between MULTI and EXEC; what a script would do, as if it stood there."""
        for command in self.commands[1 : max(self._end, 0)]:
            if command[0] == "EVAL":
                yield from _in_script(command)
            else:
                yield command

    def _replies_to_reads(self) -> Sequence[Any]:
        if self.replies is None:
            return []
        if self.commands[0] == ("MULTI",) and self.kind is not Kind.COMMIT:
            # Read in a transaction of its own: the answers stand in EXEC's array.
            answers = self.replies[self.commands.index(("EXEC",))]
            return [None, *answers] if isinstance(answers, list) else []
        return self.replies[self._end + 1 :]


def kind_of(commands: Sequence[Command]) -> Kind:
    """What a batch is for."""
    verbs = [command[0] for command in commands]
    if verbs[0] == "MULTI":
        inside = verbs[1 : verbs.index("EXEC")] if "EXEC" in verbs else verbs[1:]
        if not inside:
            return Kind.CONNECT
        if "SET" in inside or "EVAL" in inside:
            return Kind.COMMIT
    if verbs[:2] == ["EXPIRE", "GET"]:
        return Kind.RESOLVE
    if "SET" in verbs and "HGET" in verbs:
        return Kind.FENCE
    if not _READS.isdisjoint(verbs):
        return Kind.READ
    return Kind.PROVE if "EXISTS" in verbs else Kind.OTHER


def documents_in(commands: Sequence[Command]) -> list[str]:
    """The keys of documents that a batch names."""
    names: list[object] = []
    for command in commands:
        if command[0] == "WATCH":
            names += command[1:]
        elif command[0] in _ON_DOCUMENTS:
            names.append(command[1])
        elif command[0] == "EVAL":
            names += command[3 : 3 + int(command[2])]
    return [text(name) for name in names if is_document(name)]


def is_document(name: object) -> bool:
    """Whether a key on the server is a document, and not the library's own."""
    return isinstance(name, bytes) and _RESERVED not in name


def fields_of(pairs: Any) -> dict[str, str]:
    """The fields of a hash as texts, but for its version."""
    return {text(name): text(value) for name, value in pairs if name != _VERSION and value is not None}


def text(value: object) -> str:
    """For readers."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _is_claim(name: object) -> bool:
    return isinstance(name, bytes) and _CLAIM in name


def _in_script(command: Command) -> Iterator[Command]:
    """The commands that a guarded commit's script runs: behind its checks, each with its length before it."""
    arguments = command[3 + int(command[2]) :]
    checks, at = int(arguments[0]), 1
    while at < len(arguments):
        end = at + 1 + int(arguments[at])
        if checks == 0:
            yield text(arguments[at + 1]), *arguments[at + 2 : end]
        else:
            checks -= 1
        at = end
