"""What a store does outside of transactions: reading, and resolving a token.

Each is one round trip that can be repeated, so a passing failure is met by trying again until the deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from txstate._documents.codec import VERSION_FIELD, decode_version
from txstate._documents.doc import Record
from txstate._documents.snapshot import Snapshot
from txstate._effects import Acquire, Exhausted, Lost, ReplyError, Send
from txstate._engine.armed import names_of
from txstate._engine.outcome import passing, refusal
from txstate._engine.pursuit import unavailable
from txstate._engine.reads import TTLRead, pairs, read_of
from txstate._engine.repeated import exchange, repeated, required
from txstate._engine.resolve import Evidence, Finding, resolve
from txstate._engine.session import is_primary, require_primary, role_of
from txstate._engine.slots import slot_of
from txstate.errors import CrossSlotError, WrongType
from txstate.resolution import Resolution

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from txstate._effects import Channel, Command, Steps
    from txstate._engine.reads import Read
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings


def get(settings: Settings, key: str, fields: Sequence[str] | None) -> Steps[Snapshot | None]:
    """Read one document, in one round trip: by one command, which is of one moment by itself, on a connection that is there.

    Whatever is unusual is left to `_get_many`.

    Raises:
        BaseException: as `get_many`.
    """
    name = settings.redis_key(key)
    names = None if fields is None else names_of(key, fields)
    started, failed = settings.clock(), None
    channel = None if settings.clustered else settings.take_idle(None)
    if channel is not None:
        try:
            session: Session = channel.session  # type: ignore[assignment]  # an idle one that was taken has it
            if session.role is not None:
                asked: list[Command] = [("UNWATCH",)] if session.watching else []
                at = len(asked)
                asked += [("HGETALL", name)] if names is None else [("HMGET", name, *names), ("EXISTS", name)]
                asked.append(session.role)
                try:
                    replies = yield Send(channel, asked, min(settings.timeout, settings.retry.deadline))
                except BaseException:
                    channel.drop()
                    raise
                if at and replies[0] == b"OK":
                    session.watching = False
                raw = _fields(replies[at], names, replies[-2])
                if raw is not None and is_primary(replies[-1]):
                    settings.counters.add_get()
                    if not raw:
                        return None
                    version = decode_version(raw.get(VERSION_FIELD), key=key)
                    return Snapshot(key, version, raw, whole=names is None)
                settings.counters.add(round_trips=1)
        except Lost as lost:
            settings.counters.add(round_trips=1)
            failed = lost
        finally:
            channel.release()
    found = yield from _get_many(settings, [key], fields, since=started, failed=failed)
    return found[key]


def _fields(
    reply: object, names: Sequence[bytes] | None, exists: object
) -> Mapping[bytes, bytes | None] | None:
    """The fields of a document, none of one that is missing; None: the replies don't tell.

    Args:
        reply: of HGETALL, or of HMGET.
        names: what HMGET asked for.
        exists: the reply of EXISTS, which came after HMGET. It may be of another moment, and counts only if HMGET has
            found nothing: then the document was missing at that moment, or something has happened in between.
    """
    if names is None:
        return pairs(reply) if isinstance(reply, dict | list) else None
    if not isinstance(reply, list):
        return None
    if reply.count(None) < len(reply):
        return dict(zip(names, reply, strict=True))
    return {} if exists == 0 else None


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
    if len(keys) == 1:
        return {keys[0]: (yield from get(settings, keys[0], fields))}
    return (yield from _get_many(settings, keys, fields))


def _get_many(
    settings: Settings,
    keys: Sequence[str],
    fields: Sequence[str] | None,
    *,
    since: float | None = None,
    failed: Lost | None = None,
) -> Steps[dict[str, Snapshot | None]]:
    """The same, whatever is usual or not.

    Args:
        settings: the store's.
        keys: their keys.
        fields: fetch only these of each.
        since: when the call began, by the settings' clock; None: now.
        failed: what came of a first attempt, if there was one.
    """
    records, reads = reading(settings, keys, fields)
    if reads:
        try:
            slot = settings.slot(read.key for read in reads)
        except CrossSlotError as error:
            advice = f"{error}. Where they need not be of one moment, get_each reads each on its own"
            raise CrossSlotError(advice, keys=error.keys) from None

        def read(channel: Channel, timeout: float) -> Steps[None]:
            return _read(settings, channel, reads, timeout)

        yield from repeated(settings, read, slot, since=since, failed=failed)
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


def resolve_token(settings: Settings, token: str | None) -> Steps[Resolution]:
    """What became of a `CommitUnknown`.

    Raises:
        UsageError: it is not the token of one.
        StoreUnavailable: no connection was free within the deadline.
        BaseException: an interruption.
    """
    if token is None:
        return Resolution.UNKNOWN  # it was applied in part, and there is nothing more to be found out
    evidence = Evidence.parse(token)
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
    if atomic or (before and replies[0] == b"OK"):
        session.watching = False
    if atomic:
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
