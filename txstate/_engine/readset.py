"""The read set of an attempt, and the batches that extend it.

A batch watches the keys that are new, reads them, and validates everything read so far, in one round trip. There are
two ways to validate:

- `FlaggedBatch`: CLIENT INFO shows the flag ``d`` once a watched key was modified, and leaves the watches in place
  (6.2 and later). A key that expired shows only once it is touched, so EXISTS goes before it. *Clean* means: no
  ``d``, and as many keys exist as existed when they were read.
- `ExecutedBatch`, for a server that refuses CLIENT INFO: everything is read inside MULTI/EXEC, which answers nil if a
  key watched before was modified. EXEC also ends the watches, so they are placed again and everything is read once
  more behind them; both readings must agree. Then what the function sees was true at one moment (the first
  reading), and what EXEC will guard is the same (the second).

A batch is built, sent by whoever built it, and takes the replies. Nothing here does I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from txstate._effects import ReplyError
from txstate._engine.claims import NO_TURN, Turn, claim_names
from txstate._engine.outcome import passing
from txstate._engine.reads import DocRead, FieldTTLsRead, Read, Stale
from txstate._engine.session import (
    DIRTY,
    FieldTTLs,
    client_flags,
    has_volatile_fields,
    require_primary,
    role_of,
)
from txstate.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from txstate._effects import Command
    from txstate._engine.proof import Proof
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_MAY_FAIL: Final = ("token", "role", "keyspace", "info")
_CLAIMS: Final = ("claim", "claims", "wait")


class ReadSet:
    """What an attempt has read. What it consists of is replaced, never changed: an armed socket hands out the same again.

    Attributes:
        reads: in the order in which they were made.
        present: the keys watched, and whether each existed.
        names: their hash names.
        time: the server's clock in microseconds, once a batch has asked for it.
        unproven: it is older than the call, and was not validated since.
        proof: what validates it then, once that was needed.
        turn: whose turn it is.
    """

    reads: Sequence[Read] = ()
    time = 0
    unproven = False
    proof: Proof | None = None
    turn = NO_TURN

    def __init__(self, present: Mapping[str, bool] = _NOTHING, names: Mapping[str, bytes] = _NOTHING) -> None:
        self.present, self.names = present, names

    def volatile(self) -> list[FieldTTLsRead]:
        """The documents whose fields expire one by one."""
        if not self.reads:  # it came from an armed socket
            return []
        return [read for read in self.reads if isinstance(read, FieldTTLsRead) and read.volatile]

    def shelve(self) -> None:
        """Keep it for a later call, without what this call's function made of the documents: `reads` know that."""
        self.unproven = True
        self.reads = ()

    def batch(self, session: Session, reads: Sequence[Read], settings: Settings) -> Batch:
        """The batch that makes these reads and validates all."""
        kind = FlaggedBatch if session.flags else ExecutedBatch
        return kind(self, session, reads, settings)


class Batch(ABC):
    """One round trip of reading.

    Args:
        known: the read set so far; extended by `take`.
        session: where the batch will be sent.
        reads: what is to be read.
        settings: the store's.
    """

    def __init__(self, known: ReadSet, session: Session, reads: Sequence[Read], settings: Settings) -> None:
        self.known, self.session, self.reads = known, session, reads
        self.first = not known.present
        self.commands: list[Command] = []
        self._marks: dict[str, int] = {}
        self._new = {read.key: read.name for read in reads if read.key not in known.present}
        self._claimable = sorted(self._new)
        self._claims = claim_names(settings, self._new, session.slot)
        self.patience = self._wait(settings)
        if not session.token_set and self.first:
            self._mark("token", "SET", session.token, b"%d" % session.commits, "NX", "EX", settings.token_ttl)
        if session.watching and self.first:
            self._mark("unwatch", "UNWATCH")
        if known.turn.claim is not None and not session.guest:
            self._claim()
        self._compose()

    @abstractmethod
    def _compose(self) -> None:
        """Add the commands that read and validate."""

    @abstractmethod
    def take(self, replies: Sequence[object]) -> dict[Read, Exception]:
        """Validate, and load what was read.

        Returns:
            The reads whose key holds something unreadable, with the error. They are watched like the others.

        Raises:
            Stale: the attempt is over: something read was modified.
            ReplyError: the server refused.
        """

    def asks_for_field_ttls(self, replies: Sequence[object]) -> bool:
        """Whether any document that was read could have fields which expire one by one. The session takes note of it."""
        if self.session.field_ttls is FieldTTLs.NONE:
            return False
        if "keyspace" not in self._marks:
            return self.session.field_ttls is FieldTTLs.UNCOUNTED
        self.session.calm = not has_volatile_fields(replies[self._marks["keyspace"]])
        return not self.session.calm

    def _mark(self, name: str, *command: bytes | str) -> None:
        self._marks[name] = len(self.commands)
        self.commands.append(command)

    def _wait(self, settings: Settings) -> Sequence[float]:
        """Stand in line, before anything else: who waits has nothing yet that could be lost. Returns for how long."""
        turn = self.known.turn
        patience: list[float] = []
        if turn.line is not None and self.first:
            turn.vain = self.session.guest
            for wait, seconds in () if turn.vain else turn.line.waits(settings, self.session.slot):
                self._mark(f"wait {len(patience)}", *wait)
                patience.append(seconds)
        return patience

    def _claim(self) -> None:
        """Take the turn."""
        for command in self.known.turn.claiming(self._claimable, self._claims):
            self._mark(f"claim {len(self.commands)}", *command)

    def _ask(self, reads: Iterable[Read]) -> None:
        for read in reads:
            self.commands.extend(read.commands())

    def _ask_server(self) -> None:
        """What is wanted to know once for each batch, beside the documents."""
        if self.reads and (self.known.unproven or not self.known.time):
            self._mark("time", "TIME")
        if self.session.role is not None and (self.first or self.known.unproven):
            self._mark("role", *self.session.role)
        if self._claims:
            self._mark("claims", "MGET", *self._claims)
        if self.session.field_ttls is FieldTTLs.COUNTED and any(
            isinstance(read, DocRead) for read in self.reads
        ):
            self._mark("keyspace", "INFO", "keyspace")

    def _heed_server(self, replies: Sequence[object]) -> None:
        """Look at everything but the documents."""
        for name, position in self._marks.items():
            reply = replies[position]
            if isinstance(reply, ReplyError):
                kind = name.split()[0]
                # While a slot migrates, claims are refused that nobody holds: they serve progress only.
                if kind not in _CLAIMS and (passing(reply) or kind not in _MAY_FAIL):
                    raise reply
        if "token" in self._marks:
            refused = replies[self._marks["token"]]
            self.session.token_error = refused if isinstance(refused, ReplyError) else None
            self.session.token_set = self.session.token_error is None
        if "role" in self._marks:
            role = role_of(replies[self._marks["role"]])
            if role is not None:
                require_primary(role)
        if self.patience:
            self.known.turn.came(replies[: len(self.patience)])
        if "claims" in self._marks:
            self._heed_claims(replies[self._marks["claims"]])
        if "time" in self._marks:
            self.known.time = microseconds(replies[self._marks["time"]])

    def _heed_claims(self, holders: object) -> None:
        if isinstance(holders, list) and any(holders):
            if self.known.turn is NO_TURN:
                self.known.turn = Turn()
            self.known.turn.see(self._claimable, holders)

    def _load(self, reads: Sequence[Read], replies: Sequence[object]) -> dict[Read, Exception]:
        """Hand each read its replies."""
        unreadable: dict[Read, Exception] = {}
        position = 0
        for read in reads:
            answers = replies[position : position + read.replies]
            position += read.replies
            try:
                read.take(answers)
            except CodecError as error:
                unreadable[read] = error
            except ReplyError as error:
                if error.code != "WRONGTYPE":
                    raise
                unreadable[read] = error
        return unreadable

    def _extend(self, unreadable: dict[Read, Exception]) -> None:
        """Enter what was read into the read set."""
        known = self.known
        new = {read.key: read.present or read in unreadable for read in self.reads if read.key in self._new}
        known.present = {**known.present, **new}
        known.names = {**known.names, **self._new}
        known.reads = [*known.reads, *(read for read in self.reads if read not in unreadable)]
        known.proof = None


def microseconds(time: object) -> int:
    """A reply of TIME.

    Raises:
        ReplyError: it is none.
    """
    if not isinstance(time, list):
        raise ReplyError(f"TXSTATE TIME answered {time!r}")
    seconds, micros = time
    return int(seconds) * 1_000_000 + int(micros)


class FlaggedBatch(Batch):
    """Validated by the flags of CLIENT INFO."""

    def _compose(self) -> None:
        watched = [self.session.token] if self.first else []
        watched.extend(self._new.values())
        if watched:
            self._mark("watch", "WATCH", *watched)
        self._again = self.known.volatile()
        self._start = len(self.commands)
        self._ask(self.reads)
        self._ask(self._again)
        self._ask_server()
        self._mark("exists", "EXISTS", self.session.token, *self.known.names.values(), *self._new.values())
        self._mark("info", "CLIENT", "INFO")

    def take(self, replies: Sequence[object]) -> dict[Read, Exception]:
        """Validate, and load what was read."""
        self._heed_server(replies)
        unreadable = self._load([*self.reads, *self._again], replies[self._start :])
        self._extend(unreadable)
        flags = client_flags(replies[self._marks["info"]])
        expected = sum(self.known.present.values()) + self.session.token_set
        if flags is not None and DIRTY in flags:
            raise Stale
        if flags is None or replies[self._marks["exists"]] != expected:
            raise Stale(of_socket=True)
        self.known.unproven = False
        return unreadable


class ExecutedBatch(Batch):
    """Validated by EXEC, for a server that refuses CLIENT INFO."""

    def _compose(self) -> None:
        self._all = [*self.known.reads, *self.reads]
        self._mark("multi", "MULTI")
        self._ask(self._all)
        self._ask([_Presence(self.session.token)])
        self._mark("exec", "EXEC")
        self._mark("watch", "WATCH", self.session.token, *self.known.names.values(), *self._new.values())
        self._start = len(self.commands)
        self._ask(self._all)
        self._ask([_Presence(self.session.token)])
        self._ask_server()

    def take(self, replies: Sequence[object]) -> dict[Read, Exception]:
        """Validate, and load what was read."""
        for reply in replies[self._marks["multi"] : self._marks["exec"]]:
            if isinstance(reply, ReplyError):
                raise reply
        answers = replies[self._marks["exec"]]
        if answers is None:
            raise Stale
        self._heed_server(replies)
        if not isinstance(answers, list):
            raise answers if isinstance(answers, ReplyError) else Stale(of_socket=True)
        again = replies[self._start : self._start + len(answers)]
        position = 0
        for read in self._all:
            before = answers[position : position + read.replies]
            after = again[position : position + read.replies]
            position += read.replies
            if not read.same(before, after):
                raise Stale
        if answers[-1] != again[-1] or answers[-1] != int(self.session.token_set):
            raise Stale(of_socket=True)
        unreadable = self._load(self._all, answers)
        self._extend(unreadable)
        return unreadable


class _Presence(Read):
    """Whether a key exists; for the token."""

    __slots__ = ()

    def __init__(self, name: bytes) -> None:
        super().__init__("", name)

    def commands(self) -> Sequence[Command]:
        return [("EXISTS", self.name)]

    def take(self, replies: Sequence[object]) -> None:
        self.present = replies[0] == 1
