"""An attempt's turn: how it comes to it, how it notices, and how it gives it up without a commit.

What claims and lines are, and why, is told in `claims`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from txstate._effects import Constant, Lost, TooLate
from txstate._engine.armed import Armed, tail_behind
from txstate._engine.claims import NO_TURN, Claim, Turn, awaited, give_back, wake
from txstate._engine.outcome import GiveWay
from txstate._engine.readset import ReadSet

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from txstate._effects import Command, Steps
    from txstate._engine.armed import Tail
    from txstate._engine.attempt import Attempt
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings


class Handover:
    """What follows the EXEC of a call whose turn ends: wakes who waits longest.

    The socket's next call stands in line at once if somebody was. There is nothing to read ahead: it would be stale.

    Attributes:
        claims: what ends them; part of the commit.
        commands: what to send behind it.
    """

    def __init__(
        self, settings: Settings, session: Session, signature: Hashable, held: Sequence[str]
    ) -> None:
        self._settings, self._session = settings, session
        self._signature, self._held = signature, held
        self.claims = give_back(settings, held, session.slot)
        self.commands = Constant(wake(settings, held, session.slot))

    def take(self, replies: Sequence[object], _turn: Turn = NO_TURN) -> None:
        """Remember who was waited for."""
        read_set, lease = ReadSet(), self._settings.shortest_lease
        read_set.turn = Turn()
        read_set.turn.others = dict.fromkeys(awaited(self._held, replies), lease)
        self._session.finished = now = self._settings.clock()
        self._session.armed = Armed(self._signature, read_set, {}, None, now + lease)


def may_take_over(attempt: Attempt, armed: Armed, session: Session) -> bool:
    """Whether a socket's snapshot is of use to an attempt. If others were met there who are ahead, it stands in line."""
    if attempt.read_set.turn is not NO_TURN:
        return False  # it claims, or waits, in its first batch
    if not armed.until:
        return True
    settings, turn = attempt.settings, armed.read_set.turn
    now, lease = settings.clock(), 0.0 if turn.claim is None else turn.claim.lease / 1000
    session.called(now, late=lease / 2 if turn.held else math.inf)
    if turn.others and now < armed.until and attempt.gives_way:
        longest = min(settings.longest_wait, attempt.remaining() / 2)
        attempt.began = now
        attempt.read_set.turn = Turn(Claim.suiting(settings), turn.queue(session.waited, longest))
    return bool(turn.held) and now < turn.since + lease


def heed(attempt: Attempt, *, first: bool) -> None:
    """See whose turn it is, after the first batch of reads or a later one.

    Raises:
        Condemned: another's, and this attempt gives way.
    """
    turn, now = attempt.read_set.turn, attempt.settings.clock()
    if first and turn.line is not None:
        # The work begins now, and the next wait may be about as long.
        attempt.session.waited = attempt.waited = now - attempt.began
        attempt.began = now
    if turn.held and not turn.since:
        turn.since = now
    if turn.others and attempt.gives_way:
        raise attempt.condemn(GiveWay())


def follows(attempt: Attempt, session: Session) -> Tail | Handover | None:
    """What to send behind EXEC: what arms the socket, if that pays, or what passes the turn on, if it ends."""
    held = attempt.read_set.turn.held
    if not held or session.guest:  # a guest's turns are not the slot's owner's
        return tail_behind(attempt, session)
    lasts = attempt.read_set.turn.lasts(session, attempt.settings.clock())
    tail = tail_behind(attempt, session) if lasts else None
    return tail or Handover(attempt.settings, session, attempt.signature, held)


def ending(tail: Tail | Handover | None) -> Sequence[Command]:
    """The claims that end with the commit."""
    return tail.claims if isinstance(tail, Handover) else ()


def pass_on(attempt: Attempt) -> Steps[None]:
    """Give back the claims that no commit did, as others wait for them."""
    settings, held = attempt.settings, attempt.read_set.turn.held
    session = None if attempt.channel is None else attempt.channel.session
    if not held or session is None:
        return
    attempt.read_set.turn = Turn()
    commands = [*give_back(settings, held, session.slot), *wake(settings, held, session.slot)]
    try:
        yield from attempt.exchange(commands, attempt.remaining())
    except TooLate:
        pass  # they end by themselves
    except Lost as lost:
        if lost.interruption is not None:
            raise lost.interruption from None
