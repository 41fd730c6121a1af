"""One attempt that carries the transactions of several calls: each function runs on the result of the one before.

What is passed on from one to the next are the documents as they would be stored, so a call that raises, is cancelled
or falls out before it passes them on leaves no trace. What goes to the server is all that was passed on, as one. Each
transaction gets versions of its own; only the last one of each document is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from txstate._documents.codec import VERSION_FIELD
from txstate._documents.doc import Record
from txstate._engine.writeset import Write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from txstate._documents.doc import Changes
    from txstate._engine.armed import Wanted
    from txstate._engine.attempt import Attempt
    from txstate._engine.group import Member
    from txstate._engine.resolve import Evidence

MOST: Final = 64
"""Transactions of one attempt, at most: other processes want their turn too."""

LONGEST: Final = 0.025
"""Seconds after which an attempt takes up no more transactions: the older what it read, the likelier a conflict."""


class _State(NamedTuple):
    """One document between two functions.

    Attributes:
        raw: its fields as they would be stored.
        exists: whether there is one.
        highest: the highest version that it ever had, a deleted one included.
        changes: all that was done to it since it was read.
    """

    raw: Mapping[bytes, bytes | None]
    exists: bool
    highest: int
    changes: Changes | None = None

    def after(self, write: Write) -> _State:
        """The same after one more transaction."""
        changes = write.changes if self.changes is None else self.changes.then(write.changes)
        if not write.changes.exists:
            return _State({}, exists=False, highest=self.highest, changes=changes)
        raw = write.changes.apply(self.raw)
        raw[VERSION_FIELD] = b"%d" % write.version
        return _State(raw, exists=True, highest=max(self.highest, write.version), changes=changes)


class _Passed(NamedTuple):
    """What one function leaves to the next. Replaced as a whole: whose changes are in it is always known.

    Attributes:
        states: the documents.
        aboard: the calls, but for the leader, whose outcome depends on the commit.
    """

    states: Mapping[str, _State]
    aboard: tuple[Member, ...] = ()


class Relay:
    """The documents as they are handed on within one attempt.

    Args:
        attempt: the leader's, whose own function has run.
        leader: the call that commits for all.
        evidence: what the commit can be resolved by, as far as that is known before it is sent.
        read: the documents, as the attempt has read them.
        started: when, on the settings' clock.

    Attributes:
        turn: whose function runs, or may; None: nobody's, the leader has taken it back.
        deserted: whether one whose outcome is the commit's has left without it.
    """

    deserted = False

    def __init__(
        self,
        attempt: Attempt,
        leader: Member,
        evidence: Evidence,
        read: Mapping[str, Record],
        started: float,
    ) -> None:
        self.leader, self.started = leader, started
        self._attempt: Attempt | None = attempt
        self._evidence = evidence
        self.turn: Member | None = leader
        self._time = attempt.read_set.time
        self._read = {key: record.as_read() for key, record in read.items()}
        self._others = [write for write in attempt.writes if write.record.key not in read]
        self._passed = _Passed(
            {key: _State(record.raw(), record.existed, record.version) for key, record in self._read.items()}
        )
        self.pass_on(None, attempt.writes)

    @property
    def evidence(self) -> Evidence:
        """What the commit can be resolved by."""
        return (self._attempt and self._attempt.doubt) or self._evidence

    @property
    def aboard(self) -> tuple[Member, ...]:
        """The calls that have passed on the documents, but for the leader."""
        return self._passed.aboard

    def has_room(self, now: float) -> bool:
        """Whether one more may run its function."""
        return len(self.aboard) + 1 < MOST and now - self.started < LONGEST

    def spares(self, wanted: Wanted) -> dict[str, Record]:
        """The documents for the next function, as if it had read them."""
        return {key: self._record(key, fields) for key, fields in wanted.items()}

    @property
    def present(self) -> dict[str, bool]:
        """Which documents exist, for the next function."""
        return {key: state.exists for key, state in self._passed.states.items()}

    @property
    def time(self) -> int:
        """What new versions start from: after all that a deleted document ever had."""
        gone = (state.highest + 1 for state in self._passed.states.values() if not state.exists)
        return max(self._time, *gone, 0)

    def end(self) -> None:
        """All have been told. Only the evidence is kept, so that nothing is left to the garbage collector."""
        self._evidence = self.evidence
        self._attempt = None
        self._passed = _Passed({})

    def pass_on(self, member: Member | None, writes: Sequence[Write]) -> None:
        """A function has run: what it wrote is what the next one reads.

        Args:
            member: whose outcome depends on the commit from now on; None: the leader, which knows.
            writes: empty for one that only read, or raised.
        """
        states, aboard = self._passed
        if writes:
            changed = {
                write.record.key: states[write.record.key].after(write)
                for write in writes
                if write.record.key in states
            }
            states = {**states, **changed}
        self._passed = _Passed(states, aboard if member is None else (*aboard, member))

    def writes(self) -> list[Write]:
        """All transactions as one."""
        return self._others + [
            Write(self._read[key], state.changes, state.highest if state.exists else 0)
            for key, state in self._passed.states.items()
            if state.changes is not None
        ]

    def _record(self, key: str, fields: Sequence[str] | None) -> Record:
        state, record = self._passed.states[key], Record(key)
        record.asked = fields
        if fields is None:
            record.load(exists=state.exists, fields=state.raw, whole=True)
            return record
        # What a partial document shows must not depend on what others did to the rest of it.
        names = {VERSION_FIELD, *(record.missing(fields) or ())}
        record.load(exists=state.exists, fields={name: state.raw.get(name) for name in names}, whole=False)
        return record
