"""What a store does outside of transactions: reading, and resolving a token.

Each is one round trip that can be repeated, so a passing failure is met by trying again until the deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from txstate._docs import Record
from txstate._effects import Acquire, Exhausted, Lost, ReplyError, Send, Sleep, Unreachable
from txstate._engine.outcome import divided, misnamed, passing, refusal
from txstate._engine.pursuit import telling, unavailable
from txstate._engine.reads import TTLRead, read_of
from txstate._engine.resolve import Evidence, Finding, resolve
from txstate._engine.session import connect, require_primary, role_of
from txstate._engine.slots import slot_of
from txstate.errors import CrossSlotError, WrongType
from txstate.retry import Pacing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate._effects import Channel, Command, Steps
    from txstate._engine.reads import Read
    from txstate._engine.settings import Settings
    from txstate._snapshot import Snapshot
    from txstate.resolution import Resolution

T = TypeVar("T")


def get_many(
    settings: Settings, keys: Sequence[str], fields: Sequence[str] | None
) -> Steps[dict[str, Snapshot | None]]:
    """Read documents, all from the same moment, in one round trip.

    Raises:
        WrongType: a key holds no hash.
        CodecError: the version in a hash is none.
        CrossSlotError: they are in several slots of a cluster.
        ServerRefused, StoreUnavailable: as documented there.
    """
    records, reads = reading(settings, keys, fields)
    if reads:
        try:
            slot = settings.slot(read.key for read in reads)
        except CrossSlotError as error:
            advice = f"{error}. Where they need not be of one moment, get_each reads each on its own"
            raise CrossSlotError(advice, keys=error.keys) from None
        yield from repeated(settings, lambda channel, timeout: _read(settings, channel, reads, timeout), slot)
    settings.counters.add(reads=1)
    return snapshots(records)


def ttl(settings: Settings, key: str) -> Steps[float | None]:
    """Seconds until the document expires; None: it does not, or there is none.

    Raises:
        ServerRefused, StoreUnavailable: as documented there.
    """
    read = TTLRead(key, settings.redis_key(key))
    slot = settings.slot([key])
    yield from repeated(settings, lambda channel, timeout: _read(settings, channel, [read], timeout), slot)
    settings.counters.add(reads=1)
    return None if read.left is None else read.left / 1000


def resolve_token(settings: Settings, token: str) -> Steps[Resolution]:
    """What became of a `CommitUnknown`.

    Raises:
        UsageError: it is not the token of one.
        StoreUnavailable: no connection was free within the deadline.
        BaseException: an interruption.
    """
    evidence = Evidence.parse(token, settings.reserved)
    slot = slot_of(evidence.token) if settings.clustered else None
    started = settings.clock()
    try:
        channel: Channel = yield Acquire(settings.retry.deadline, None, slot, first=True)
    except Exhausted as error:
        raise unavailable(error, 1, settings.clock() - started) from error
    finding = Finding()
    try:
        yield from resolve(channel, evidence, settings, started + settings.retry.deadline, finding)
    finally:
        channel.drop()
        channel.release()
    if finding.interruption is not None:
        raise finding.interruption
    return finding.resolution


def _read(settings: Settings, channel: Channel, reads: Sequence[Read], timeout: float) -> Steps[None]:
    """Read in one MULTI/EXEC: one moment for all, expiries included."""
    session = channel.session
    assert session is not None  # noqa: S101 - `repeated` connects
    before: list[Command] = [("UNWATCH",)] if session.watching else []
    asked = [command for read in reads for command in read.commands()]
    role = [session.role] if session.role is not None else []
    atomic = len(asked) > 1
    commands = [*before, *([("MULTI",), *asked, ("EXEC",)] if atomic else asked), *role]
    replies = yield from exchange(settings, channel, commands, timeout)
    if role:
        name = role_of(replies[-1])
        if name is not None:
            require_primary(name)
    answers = replies[len(before) :]
    if atomic:
        session.watching = False
        for queued in answers[: len(asked) + 1]:
            required(queued, f"reading {', '.join(repr(read.key) for read in reads)}")
        answers = required(answers[len(asked) + 1], "reading")
    yield from take(settings, channel, reads, answers, timeout)


def take(
    settings: Settings, channel: Channel, reads: Sequence[Read], answers: Sequence[object], timeout: float
) -> Steps[None]:
    """Hand each read its answers.

    Raises:
        WrongType, CodecError, ServerRefused: as documented there.
        ReplyError: a failure that may pass.
    """
    position = 0
    for read in reads:
        try:
            read.take(answers[position : position + read.replies])
        except ReplyError as error:
            if passing(error):
                raise
            if error.code != "WRONGTYPE":
                raise refusal(error, f"reading {read.key!r}", [read.key]) from error
            (found,) = yield from exchange(settings, channel, [("TYPE", read.name)], timeout)
            raise WrongType(read.key, required(found, f"reading {read.key!r}").decode()) from error
        position += read.replies


def reading(
    settings: Settings, keys: Sequence[str], fields: Sequence[str] | None
) -> tuple[list[Record], list[Read]]:
    """Records for these documents, and the reads that load them.

    Raises:
        UsageError: a key can't be used.
        CodecError: a field can't.
    """
    records = [Record(key) for key in dict.fromkeys(keys)]
    return records, [
        read_of(record, settings.redis_key(record.key), record.missing(fields)) for record in records
    ]


def snapshots(records: Sequence[Record]) -> dict[str, Snapshot | None]:
    """What was read, by key; None for what does not exist."""
    return {record.key: record.snapshot(record.version) if record.existed else None for record in records}


def repeated(
    settings: Settings,
    once: Callable[[Channel, float], Steps[T]],
    slot: int | None = None,
    deadline: float | None = None,
) -> Steps[T]:
    """Do it over a connection of the pool, again and again while the failures may pass and time is left.

    Args:
        settings: the store's.
        once: does it, on a connected channel and within so many seconds.
        slot: of a cluster, that it is about.
        deadline: on the settings' clock, if it is a part of something longer.

    Raises:
        ServerRefused, StoreUnavailable: as documented there.
    """
    started = settings.clock()
    deadline = started + settings.retry.deadline if deadline is None else deadline
    pacing: Pacing | None = None
    channel: Channel | None = None
    attempts = 0
    cause: Exception | None = None
    try:
        while True:
            attempts += 1
            try:
                if channel is None:
                    channel = yield Acquire(deadline - settings.clock(), None, slot)
                    if channel.session is not None and channel.session.guest:
                        # What is not there yet would read as absent: only a transaction sees that, by its token.
                        channel.drop()
                timeout = max(0.001, min(settings.timeout, deadline - settings.clock()))
                if channel.session is None:
                    yield from connect(channel, settings, timeout, slot)
                else:
                    channel.session.armed = None
                return (yield from once(channel, timeout))
            except (Exhausted, Unreachable, Lost, ReplyError) as error:
                _raise_final(error, clustered=settings.clustered)
                if channel is not None and not divided(error):
                    channel.drop()
                settings.counters.add(disruptions=1)
                pacing = pacing or Pacing(settings.retry, started, settings.clock)
                pause = pacing.after_outage(error, deadline - settings.clock())
                cause = telling(error, cause)
                if pause is None or isinstance(error, Exhausted):
                    raise unavailable(cause, attempts, settings.clock() - started) from cause
                if pause > 0:
                    yield Sleep(pause)
    finally:
        if channel is not None:
            channel.release()


def _raise_final(error: Exception, *, clustered: bool) -> None:
    """Raise what trying again can't mend."""
    if not clustered and (refused := misnamed(error)):
        raise refused from error
    if isinstance(error, Lost) and error.interruption is not None:
        raise error.interruption from None
    if isinstance(error, ReplyError) and not passing(error):
        raise refusal(error, "reading") from error


def exchange(
    settings: Settings, channel: Channel, commands: Sequence[Command], timeout: float
) -> Steps[list[Any]]:
    """Send a batch and read its replies; if anything goes wrong, the socket is not used again."""
    settings.counters.add(round_trips=1)
    try:
        replies: list[Any] = yield Send(channel, commands, timeout)
    except BaseException:
        channel.drop()
        raise
    return replies


def required(reply: Any, doing: str) -> Any:
    """The reply, unless it is an error."""
    if isinstance(reply, ReplyError):
        if passing(reply):
            raise reply
        raise refusal(reply, doing)
    return reply
