"""The commit: what it sends, and what its answer means.

``MULTI; SET token number; HSET ...; HDEL ...; EXEC`` in one round trip. Nothing in between can fail halfway: every
document was read under WATCH, so its type is known; increments were added up on this side; TTLs were checked when
they were asked for. From EXEC's first byte on the commit is in doubt, until EXEC's own reply has been parsed.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from txstate._documents.codec import decode_name
from txstate._effects import NOTHING, Lost, Unreachable
from txstate._engine.armed import rearm
from txstate._engine.carried import carried
from txstate._engine.claims import NO_TURN
from txstate._engine.confirm import UNCONFIRMED, confirmation_of
from txstate._engine.doubt import in_doubt, settle
from txstate._engine.guarded import guarded_verdict, guarded_write
from txstate._engine.outcome import APPLIED, Committed, Conflict, Outage, Partial, Refused, failure, verdict
from txstate._engine.resolve import Evidence
from txstate._engine.shared import carry_others, is_carried
from txstate._engine.state import RUNNING, Condemned
from txstate._engine.turns import follows, pass_on, with_commit
from txstate._engine.writeset import commands_of, write_set

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate._effects import Command, Steps
    from txstate._engine.armed import Tail
    from txstate._engine.attempt import Attempt
    from txstate._engine.claims import Turn
    from txstate._engine.confirm import Confirmation
    from txstate._engine.first_read import FirstRead
    from txstate._engine.group import Member
    from txstate._engine.outcome import Apart
    from txstate._engine.relay import Relay
    from txstate._engine.session import Session
    from txstate._engine.turns import Handover, Opening
    from txstate._engine.writeset import Write

MULTI: Final[Command] = ("MULTI",)
EXEC: Final[Command] = ("EXEC",)
_KEY: Final = attrgetter("record.key")
LEAST: Final = 0.001
"""Seconds that a commit's reply may take at least."""


def commit(attempt: Attempt) -> Steps[Committed | Conflict | Outage | Apart | Refused]:
    """Write what the attempt changed, if anything, and what those have changed that it carries.

    From the moment when EXEC may leave until its fate is known, `attempt.doubt` holds the evidence: whoever is
    interrupted in between hands it to `doubt.interrupted`.

    Returns:
        What came of it; a commit in doubt has been resolved.

    Raises:
        Condemned: the attempt is over already.
        CommitUnknown: it could not be resolved, or was applied in part.
        BaseException: an interruption, whatever the driver threw.
    """
    if attempt.state is not RUNNING:
        raise Condemned
    attempt.require_quiet()
    if attempt.documents.pending:
        yield from _read_pending(attempt)
    writes = attempt.writes = write_set(attempt)
    member, relay = attempt.member, None
    if member is not None and member.group is not None:
        if is_carried(attempt):
            return (yield from carried(attempt))
        relay = yield from _carry_others(attempt, member)
        if relay is not None:
            writes = relay.writes()
    if writes:
        return (yield from _write(attempt, writes, relay))
    yield from attempt.prove()
    if attempt.read_set.turn.held:
        yield from pass_on(attempt)
    rearm(attempt)
    return APPLIED


def _carry_others(attempt: Attempt, leader: Member) -> Steps[Relay | None]:
    """Let those that wait run, and take what they write."""
    try:
        session = attempt.session
    except Unreachable:
        return None
    if not attempt.writes and (attempt.number > 1 or not session.flags):
        # If they only read, too, they need a proof: there would be none, or it might fail again, and all would wait for that.
        return None
    return (yield from carry_others(attempt, leader, lambda: Evidence(session.token, session.next_id())))


def _write(
    attempt: Attempt, writes: Sequence[Write], relay: Relay | None
) -> Steps[Committed | Conflict | Outage | Refused]:
    """Send the transaction, with the tail that arms the socket behind it."""
    settings, read_set = attempt.settings, attempt.read_set
    footing = _footing(attempt, list(map(_KEY, writes)))
    if not isinstance(footing, tuple):
        return footing
    session, left = footing
    number = session.next_id() if relay is None else relay.evidence.number
    planned = _commands(attempt, session, writes, number)
    # After the commands: nothing is read ahead that they show to be large.
    tail, turn = follows(attempt, session), read_set.turn
    planned += with_commit(tail)
    volatile = read_set.volatile() if read_set.reads else ()
    commands = [MULTI, *(guarded_write(volatile, planned) if volatile else planned), EXEC]
    # Half of what is left of the call at most, so that as much remains to resolve in.
    soon = max(LEAST, left / 2)
    confirmation = confirmation_of(settings.durability, soon / 2)
    sent = Sent(writes, len(commands), tail, turn, guarded_verdict if volatile else verdict, confirmation)
    attempt.doubt = Evidence(session.token, number, read_set.names, writes)
    came: Sequence[object] | Lost
    try:
        came = yield from attempt.exchange(
            [*commands, *confirmation.commands] if confirmation.commands else commands,
            min(settings.timeout + confirmation.seconds, soon),
            NOTHING if tail is None else tail.commands,
        )
    except Lost as lost:
        came = lost
    return (yield from judged(attempt, session, sent, came))


class Sent(NamedTuple):
    """A commit that was sent.

    Attributes:
        writes: what it writes, of this call and of those that it carries.
        size: commands of the transaction itself, whose replies decide.
        tail: what followed it, if anything.
        turn: the attempt's.
        judge: tells what the replies mean.
        confirmation: what asked, in between, how durable it is.
    """

    writes: Sequence[Write]
    size: int
    tail: Tail | FirstRead | Opening | Handover | None
    turn: Turn = NO_TURN
    judge: Callable[[Sequence[object], Sequence[str]], Committed | Conflict | Outage | Refused | Partial] = (
        verdict
    )
    confirmation: Confirmation = UNCONFIRMED


def judged(
    attempt: Attempt, session: Session, sent: Sent, came: Sequence[object] | Lost
) -> Steps[Committed | Conflict | Outage | Refused]:
    """What came of a commit that was sent.

    Args:
        attempt: its `doubt` holds the evidence.
        session: where it was sent.
        sent: what.
        came: the replies, or how the connection broke.

    Raises:
        CommitUnknown: it could not be resolved, or was applied in part.
        BaseException: the interruption that broke the connection.
    """
    writes, size, tail, turn, judge, confirmation = sent
    broken, replies = (came, came.replies) if isinstance(came, Lost) else (None, came)
    keys = list(map(_KEY, writes))
    if broken is not None:
        tail = None
        if not broken.sent:
            attempt.doubt = None
        if len(replies) >= size:
            settle(attempt, judge(replies[:size], keys))
        if broken.interruption is not None:
            raise broken.interruption from None
        if len(replies) < size:
            return (yield from in_doubt(attempt, broken)) if broken.sent else Outage(broken)
    session.watching = tail is not None and tail.watches
    outcome = judge(replies[:size], keys)
    if isinstance(outcome, Committed):
        session.stamped(attempt.began)
    settle(attempt, outcome)
    if isinstance(outcome, Partial):
        assert attempt.in_part is not None  # noqa: S101 - set just now
        raise attempt.in_part
    behind = replies[size:]
    if tail is not None and isinstance(outcome, (Committed, Conflict)):
        tail.take(behind[len(confirmation.commands) :] if confirmation.commands else behind, turn)
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


def _read_pending(attempt: Attempt) -> Steps[None]:
    """Fetch the fields that were incremented without having been read."""
    wanted = {
        record.key: [decode_name(name) for name in pending]
        for record in attempt.documents.records.values()
        if (pending := record.pending_increments())
    }
    if wanted:
        yield from attempt.read(wanted)


def _commands(attempt: Attempt, session: Session, writes: Sequence[Write], number: bytes) -> list[Command]:
    """The commands of the transaction, the token's own the first."""
    commands = [session.stamp(number, attempt.settings.token_ttl, attempt.began)]
    commands += commands_of(attempt, writes)
    return commands
