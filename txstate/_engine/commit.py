"""The commit: what it sends, and what its answer means.

``MULTI; SET token number; HSET ...; HDEL ...; EXEC`` in one round trip. Nothing in between can fail halfway: every
document was read under WATCH, so its type is known; increments were added up on this side; TTLs were checked when
they were asked for. From EXEC's first byte on the commit is in doubt, until EXEC's own reply has been parsed.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final, NoReturn

from txstate._codec import VERSION_FIELD, decode_name
from txstate._docs import KEEP
from txstate._effects import NOTHING, Lost, ReplyError, Unreachable
from txstate._engine.confirm import confirm, confirmation_of
from txstate._engine.guarded import guarded_verdict, guarded_write
from txstate._engine.outcome import Committed, Conflict, Outage, Partial, Refused, failure, verdict
from txstate._engine.resolve import Evidence, Finding, resolve
from txstate._engine.state import State
from txstate.errors import CommitUnknown
from txstate.events import InDoubt, Resolved
from txstate.resolution import Resolution

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from txstate._docs import Changes, Record
    from txstate._effects import Command, Steps
    from txstate._engine.attempt import Attempt
    from txstate._engine.session import Session

_MULTI: Final[Command] = ("MULTI",)
_EXEC: Final[Command] = ("EXEC",)
_KEY: Final = attrgetter("key")


def commit(attempt: Attempt) -> Steps[Committed | Conflict | Outage | Refused]:
    """Write what the attempt changed, if anything.

    From the moment when EXEC may leave until its fate is known, `attempt.doubt` holds the evidence: whoever is
    interrupted in between hands it to `interrupted`.

    Returns:
        What came of it; a commit in doubt has been resolved.

    Raises:
        CommitUnknown: it could not be resolved, or was applied in part.
        BaseException: an interruption, whatever the driver threw.
    """
    attempt.require_quiet()
    for record in attempt.documents.records.values():
        if record.pending:
            yield from _read_pending(attempt)
            break
    changes = _changes(attempt)
    if changes:
        return (yield from _write(attempt, changes))
    yield from attempt.prove()
    attempt.rearm()
    return Committed()


def _write(
    attempt: Attempt, changes: Mapping[Record, Changes]
) -> Steps[Committed | Conflict | Outage | Refused]:
    """Send the transaction, with the tail that arms the socket behind it."""
    keys = list(map(_KEY, changes))
    footing = _footing(attempt, keys)
    if not isinstance(footing, tuple):
        return footing
    session, left = footing
    number = session.next_id()
    writes = _writes(attempt, session, changes, number)
    volatile = attempt.read_set.volatile() if attempt.read_set.reads else ()
    commands = [_MULTI, *(guarded_write(volatile, writes) if volatile else writes), _EXEC]
    # Half of what is left of the call at most, so that as much remains to resolve in.
    soon, broken = max(0.001, left / 2), None
    confirmation = confirmation_of(attempt.settings.durability, soon / 2)
    tail = attempt.tail(session)
    attempt.doubt = Evidence(session.token, number, _versions(attempt, changes))
    try:
        replies: Sequence[object] = yield from attempt.exchange(
            [*commands, *confirmation.commands] if confirmation.commands else commands,
            min(attempt.settings.timeout + confirmation.seconds, soon),
            NOTHING if tail is None else tail.commands,
        )
    except Lost as lost:
        if not lost.sent:
            attempt.doubt = None
        replies = lost.replies
        if len(replies) >= len(commands):
            _settle(attempt, changes, _judged(replies[: len(commands)], keys, guarded=bool(volatile)))
        if lost.interruption is not None:
            raise lost.interruption from None
        if len(replies) < len(commands):
            return (yield from _in_doubt(attempt, lost)) if lost.sent else Outage(lost)
        tail, broken = None, lost
    session.watching = tail is not None
    outcome = _judged(replies[: len(commands)], keys, guarded=bool(volatile))
    _settle(attempt, changes, outcome)
    if isinstance(outcome, Partial):
        assert attempt.in_part is not None  # noqa: S101 - set just now
        raise attempt.in_part
    behind = replies[len(commands) :]
    if tail is not None and isinstance(outcome, (Committed, Conflict)):
        tail.take(behind[len(confirmation.commands) :])
    if confirmation.commands and isinstance(outcome, Committed):
        return Committed(confirmation.shortfall(behind, broken))
    return outcome


def _footing(attempt: Attempt, keys: Sequence[str]) -> tuple[Session, float] | Outage | Refused:
    """Where to commit, and the seconds left; or why it can't be, as far as that is known before anything is sent."""
    try:
        session, left = attempt.session, attempt.time_left()
    except Unreachable as error:
        return Outage(error)
    if session.token_error is not None:
        return failure(session.token_error, "committing", keys)
    durability = attempt.settings.durability
    unable = None if durability is None else session.objection(durability)
    return (session, left) if unable is None else Refused(unable)


def _judged(
    replies: Sequence[object], keys: Sequence[str], *, guarded: bool
) -> Committed | Conflict | Outage | Refused | Partial:
    outcome = verdict(replies, keys)
    return guarded_verdict(replies[-1], keys) if guarded and isinstance(outcome, Committed) else outcome


def _settle(
    attempt: Attempt,
    changes: Mapping[Record, Changes],
    outcome: Committed | Conflict | Outage | Refused | Partial,
) -> None:
    """Enter the server's verdict into the attempt: nothing is in doubt any more."""
    if isinstance(outcome, Committed):
        attempt.state = State.COMMITTED
        for record, change in changes.items():
            record.committed_version = _new_version(attempt, record) if change.exists else 0
        attempt.written = tuple(map(_KEY, changes))
        return
    attempt.doubt = None
    if isinstance(outcome, Partial):
        attempt.in_part = _applied_in_part(outcome.replies)
    if not isinstance(outcome, Conflict) and attempt.channel is not None:
        attempt.channel.drop()


def interrupted(attempt: Attempt, interruption: BaseException) -> Steps[NoReturn]:
    """Raise the interruption; its cause says so if the write may have happened.

    Raises:
        BaseException: always the interruption.
    """
    if attempt.in_part is not None:
        raise interruption from attempt.in_part
    evidence = attempt.doubt
    if evidence is None:
        raise interruption
    if attempt.state is State.COMMITTED:
        raise interruption from _unknown(evidence, Resolution.COMMITTED, None)
    if attempt.finding is None:
        yield from _resolve(attempt, evidence, Finding(interruption=interruption))
    finding = attempt.finding
    assert finding is not None  # noqa: S101 - resolved now or before
    if finding.resolution is Resolution.NOT_COMMITTED:
        raise interruption
    raise interruption from _unknown(evidence, finding.resolution, finding.reason)


def explain(attempt: Attempt | None, interruption: BaseException) -> None:
    """Say in an interruption's cause that the transaction was applied, if it struck after that was known."""
    if (
        attempt is not None
        and attempt.written
        and interruption.__cause__ is None
        and attempt.doubt is not None
    ):
        interruption.__cause__ = _unknown(attempt.doubt, Resolution.COMMITTED, None)


def _in_doubt(attempt: Attempt, lost: Lost) -> Steps[Committed | Conflict | Outage | Refused]:
    """Resolve a commit whose reply was lost."""
    evidence, finding = attempt.doubt, Finding()
    assert evidence is not None  # noqa: S101 - set by the only caller
    yield from _resolve(attempt, evidence, finding)
    if finding.interruption is not None:
        raise finding.interruption
    if finding.resolution is Resolution.UNKNOWN:
        raise _unknown(evidence, finding.resolution, finding.reason or lost)
    if finding.resolution is Resolution.NOT_COMMITTED:
        attempt.doubt = None
        return Outage(lost)
    _settle(attempt, _changes(attempt), Committed())
    assert attempt.channel is not None  # noqa: S101 - it was resolved on it
    return Committed((yield from confirm(attempt.channel, evidence, attempt.settings, attempt.left())))


def _resolve(attempt: Attempt, evidence: Evidence, finding: Finding) -> Steps[None]:
    settings, channel = attempt.settings, attempt.channel
    assert channel is not None  # noqa: S101 - a commit has one
    settings.counters.add(in_doubt=1)
    settings.emit(InDoubt(token=str(evidence), attempt=attempt.number))
    until = attempt.deadline
    if finding.interruption is not None:
        until = min(until, settings.clock() + settings.timeout)
    channel.drop()
    yield from resolve(channel, evidence, settings, until, finding)
    attempt.finding = finding
    counter = {
        Resolution.COMMITTED: "resolved_committed",
        Resolution.NOT_COMMITTED: "resolved_aborted",
        Resolution.UNKNOWN: "unknown",
    }[finding.resolution]
    settings.counters.add(**{counter: 1})
    settings.emit(Resolved(token=str(evidence), resolution=finding.resolution))


def _changes(attempt: Attempt) -> dict[Record, Changes]:
    changes = {}
    for record in attempt.documents.records.values():
        change = record.changes()
        if change is not None:
            changes[record] = change
    return changes


def _read_pending(attempt: Attempt) -> Steps[None]:
    """Fetch the fields that were incremented without having been read."""
    wanted = {
        record.key: [decode_name(name) for name in pending]
        for record in attempt.records.values()
        if (pending := record.pending_increments())
    }
    if wanted:
        yield from attempt.read(wanted)


def _new_version(attempt: Attempt, record: Record) -> int:
    """Grows with every commit, and by the clock after a deletion, so that no version ever comes back."""
    version, time = record.version + 1, attempt.read_set.time
    return version if version > time else time  # noqa: FURB136 - max() costs more than the rest


def _versions(attempt: Attempt, changes: Mapping[Record, Changes]) -> tuple[tuple[bytes, bytes], ...] | None:
    """What the documents written can testify with; None if one has no version of its own."""
    names, versions = attempt.read_set.names, []
    for record in changes:
        if not record.has_version:
            return None
        versions.append((names[record.key], b"%d" % record.version))
    return tuple(versions)


def _writes(
    attempt: Attempt, session: Session, changes: Mapping[Record, Changes], number: bytes
) -> list[Command]:
    """The commands of the transaction, the token's own the first."""
    writes: list[Command] = [("SET", session.token, number, "EX", attempt.settings.token_ttl)]
    for record, change in changes.items():
        name = attempt.read_set.names[record.key]
        if change.delete_first:
            writes.append(("DEL", name))
        if not change.exists:
            continue
        version = b"%d" % _new_version(attempt, record)
        # HSET before HDEL: a hash that loses its last field is gone, and its TTL with it.
        writes.append(("HSET", name, VERSION_FIELD, version, *change.set))
        if change.unset:
            writes.append(("HDEL", name, *change.unset))
        if change.ttl is None:
            writes.append(("PERSIST", name))
        elif change.ttl is not KEEP:
            writes.append(("PEXPIRE", name, b"%d" % change.ttl))
    if attempt.read_set.held:
        writes.append(("DEL", *attempt.read_set.held))
    return writes


def _applied_in_part(replies: Sequence[object]) -> CommitUnknown:
    answers = [answer for reply in replies for answer in (reply if isinstance(reply, list) else [reply])]
    errors = ", ".join(str(answer) for answer in answers if isinstance(answer, ReplyError)) or repr(
        answers[-1]
    )
    return CommitUnknown(
        f"the server executed only a part of the transaction, or not as one ({errors}): were this user's rights "
        "changed while it was connected? Look at the documents; it was not, and will not be, tried again",
        token=None,
        known=Resolution.UNKNOWN,
        replies=replies,
    )


def _unknown(evidence: Evidence, known: Resolution, reason: BaseException | None) -> CommitUnknown:
    if known is Resolution.COMMITTED:
        message = "interrupted, but the transaction was applied (once)"
    else:
        message = (
            "no answer to the commit, and what became of it could not be found out: it was applied once or not at "
            "all. Ask store.resolve(error.token) before doing it again"
        )
        message += (
            f" ({type(reason).__name__}: {reason})" if reason is not None else " (the evidence is gone)"
        )
    error = CommitUnknown(message, token=str(evidence), known=known)
    error.__cause__ = reason
    return error
