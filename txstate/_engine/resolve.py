"""Finding out what became of a commit whose reply was lost.

Looking for a trace of the commit is not enough: the old EXEC may still be under way and run after the look. So the
transaction writes its token *and* watches it, and the resolver touches it: EXPIRE marks every WATCH on the token
dirty without changing its value. After it, the old EXEC either has run, and GET shows its number, or it never will.
EXPIRE can be repeated, can arrive late, and works when the server is out of memory.

If the token is gone (evicted, flushed, lost in a failover), it can't tell. Then a *fence* is written in its place, which
stops the old EXEC just as well, and the written documents are looked at: if each still has the version that was
read, the commit was not applied. A document without a version of its own can't testify.

In a cluster the token is in the slot of the documents and moves with it, and the resolver asks whoever owns the slot now.
What it finds there holds for the old EXEC at the old owner too, because of two invariants:

- A node executes an EXEC only while it owns the slot of every key in it, the token's first of all (or imports the slot,
  has all of the keys, and was asked to by ASKING). Until the slot comes back, a late EXEC is refused by MOVED or ASK.
- If the slot comes back, so does the token, and its arrival marks the old WATCH dirty; so had its leaving. A slot that
  moves key by key is refilled by RESTORE, one that moves at once by replication: both touch what is watched.

So once the resolver has touched the token at its owner, or has found another value in it there, the old EXEC is stopped
everywhere. While the slot migrates, a token that has left already is answered by ASK, never by "absent": the target is
asked then. A replica that was promoted without the token, because replication is asynchronous, is a token that is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from txstate._documents.codec import VERSION_FIELD
from txstate._effects import Connect, Lost, ReplyError, Send, Sleep, Unreachable
from txstate._engine.outcome import passing
from txstate._engine.settings import RESERVED
from txstate.errors import UsageError
from txstate.resolution import Resolution

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from txstate._effects import Channel, Command, Steps
    from txstate._engine.settings import Settings
    from txstate._engine.writeset import Write

_FENCE: Final = b"fence"
_PAUSES: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


class Evidence(NamedTuple):
    """What there is to resolve a commit by.

    Attributes:
        token: the name of the token.
        number: what the commit wrote into it.
        names: the documents' hashes.
        writes: what was written to them.
    """

    token: bytes
    number: bytes
    names: Mapping[str, bytes] = MappingProxyType({})
    writes: Sequence[Write] = ()

    @property
    def versions(self) -> list[tuple[bytes, bytes]]:
        """For each document written, its hash and the version it had; none if one has no version of its own."""
        if not all(write.record.has_version for write in self.writes):
            return []
        return [(self.names[record.key], b"%d" % record.version) for record, _, _ in self.writes]

    def __str__(self) -> str:
        return f"{self.number.decode()}@{self.token.decode()}"

    @classmethod
    def parse(cls, text: object) -> Evidence:
        """Read what `str` gave, of whatever namespace: views share connections, and a token is its connection's.

        Raises:
            UsageError: it is not the token of a `CommitUnknown`.
        """
        number, _, token = text.partition("@") if isinstance(text, str) else ("", "", "")
        if not number.isdecimal() or f"{RESERVED}token:" not in token:
            raise UsageError(f"{text!r} is not the token of a CommitUnknown")
        return cls(token.encode(), number.encode())


@dataclass(slots=True)
class Finding:
    """What a resolution found out.

    Attributes:
        resolution: the answer.
        interruption: one that arrived meanwhile; to be raised, whatever the answer.
        reason: why it is unknown, if it is.
    """

    resolution: Resolution = Resolution.UNKNOWN
    interruption: BaseException | None = None
    reason: BaseException | None = None


def resolve(
    channel: Channel, evidence: Evidence, settings: Settings, until: float, finding: Finding
) -> Steps[None]:
    """Find out, for certain, and enter it into the finding.

    Repeats until there is an answer. A first interruption is noted and leaves at most one `timeout` to go on, a second
    one ends the search.

    Args:
        channel: a place in the pool; what it is connected to doesn't matter.
        evidence: the commit.
        settings: the store's.
        until: when to stop, on the settings' clock.
        finding: where the answer is entered; it may hold an interruption already.
    """
    asked = 0
    while (left := until - settings.clock()) > 0:
        timeout = min(left, settings.timeout)
        try:
            if asked:
                yield Sleep(min(_PAUSES[min(asked, len(_PAUSES)) - 1], left))
            asked += 1
            if not channel.connected:
                yield Connect(channel, timeout)
                settings.counters.add(connections=1)
            finding.resolution = yield from _ask(channel, evidence, settings, timeout)
        except GeneratorExit:
            channel.drop()
            raise
        except BaseException as error:  # noqa: BLE001 - sorted here; none of them ends the search by itself
            channel.drop()
            finding.reason = error
            interruption = error.interruption if isinstance(error, Lost) else _interruption(error)
            if interruption is not None:
                if finding.interruption is not None:
                    return
                finding.interruption = interruption
                until = min(until, settings.clock() + settings.timeout)
            elif not _may_pass(error):
                return
        else:
            return


def _interruption(error: BaseException) -> BaseException | None:
    """The error itself, if it is none."""
    return None if isinstance(error, Exception) else error


def _may_pass(error: BaseException) -> bool:
    """Whether asking once more may help."""
    return isinstance(error, Unreachable | Lost) or (isinstance(error, ReplyError) and passing(error))


def _ask(channel: Channel, evidence: Evidence, settings: Settings, timeout: float) -> Steps[Resolution]:
    """Touch the token, and look at it."""
    touched, value = yield from _exchange(
        channel,
        [("EXPIRE", evidence.token, settings.token_ttl), ("GET", evidence.token)],
        settings,
        timeout,
    )
    if touched == 1 and value == evidence.number:
        return Resolution.COMMITTED
    if touched == 1 and value is not None and value != _FENCE:
        return Resolution.NOT_COMMITTED
    return (yield from _fence(channel, evidence, settings, timeout))


def _fence(channel: Channel, evidence: Evidence, settings: Settings, timeout: float) -> Steps[Resolution]:
    """Stop the old EXEC without its token, and let the documents testify.

    NX, so that a token which the old EXEC wrote after all is never overwritten.
    """
    versions = evidence.versions
    if not versions:
        return Resolution.UNKNOWN
    commands: list[Command] = [
        ("SET", evidence.token, _FENCE, "NX", "EX", settings.token_ttl),
        ("GET", evidence.token),
        *(("HGET", name, VERSION_FIELD) for name, _ in versions),
    ]
    _, value, *found = yield from _exchange(channel, commands, settings, timeout)
    if value == evidence.number:
        return Resolution.COMMITTED
    if value == _FENCE and found == [version for _, version in versions]:
        return Resolution.NOT_COMMITTED
    return Resolution.UNKNOWN


def _exchange(
    channel: Channel, commands: Sequence[Command], settings: Settings, timeout: float
) -> Steps[list[object]]:
    settings.counters.add(round_trips=1)
    replies: list[object] = yield Send(channel, commands, timeout)
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise reply
    return replies
