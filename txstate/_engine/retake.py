"""How a repeated transaction begins: on the connection that is armed for its first read.

What `Attempt.begin` comes to then, but without what that needs only because it may have to wait, or to send something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from txstate._engine.armed import signature_of
from txstate._engine.claims import NO_TURN
from txstate._engine.turns import stays

if TYPE_CHECKING:
    from txstate._effects import Channel
    from txstate._engine.armed import Armed, Wanted
    from txstate._engine.attempt import Attempt
    from txstate._engine.session import Session


def retake(attempt: Attempt, wanted: Wanted) -> bool:
    """Begin on an armed connection, if the attempt has not begun, and hand out what is read ahead there. Does no I/O.

    Args:
        attempt: what this is for.
        wanted: what its function asks for.

    Returns:
        Whether all of it is there. If not, `Attempt.read` goes on from here: most often nothing has happened.

    Raises:
        UsageError, CodecError: what is wanted are no fields' names.
    """
    settings = attempt.settings
    if attempt.signature is not None or attempt.channel is not None or not settings.plain:
        return False
    attempt.check_write()
    attempt.require_quiet()
    signature, groups = signature_of(settings, wanted), settings.groups
    channel: Channel | None = settings.retake(signature)
    if channel is None:
        return False
    attempt.channel = channel
    session: Session = channel.session  # type: ignore[assignment]  # one that is armed has it, and what arms it
    armed: Armed = session.armed  # type: ignore[assignment]
    usual, tail = attempt.read_set.turn is NO_TURN, armed.tail
    if usual and groups is not None:
        attempt.member = member = (tail and tail.leader) or groups.alone(signature, wanted)
        if tail is not None:
            tail.leader = None
        usual = groups.lead(member, attempt.deadline)
    if usual and armed.until:
        usual = stays(settings, session, armed.turn, settings.clock())
    # The look at the socket comes last, as other threads go on meanwhile: they are to find a leader.
    if not usual or not channel.quiet():
        _give_back(attempt)
        return False
    attempt.signature, session.armed = signature, None
    attempt.read_set, attempt.documents.spares, attempt.tail = armed.read_set, armed.spares, tail
    return attempt.documents.hand_out(wanted)


def _give_back(attempt: Attempt) -> None:
    """In this order: whoever leads next takes the connection."""
    channel, attempt.channel = attempt.channel, None
    if channel is not None:
        channel.release()
    member, attempt.member = attempt.member, None
    if member is not None:
        member.leave()
