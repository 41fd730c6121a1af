"""An attempt's turn: how it comes to it, how it notices, and how it gives it up without a commit.

What claims and lines are, and why, is told in `claims`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from txstate._effects import Constant, Lost, TooLate
from txstate._engine.armed import Armed, tail_behind
from txstate._engine.claims import (
    NO_TURN,
    Claim,
    Turn,
    awaited,
    call_next,
    claim_names,
    give_back,
    open_door,
    shortest_kept,
)
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
    """What follows the EXEC of a call whose turn ends: lets in who waits at the door, and calls the next one there.

    The socket's next call stands in line at once if somebody was waiting. There is nothing to read ahead: it would be
    stale. The same one serves as long as the same documents are passed on.

    Attributes:
        claims: what ends them; part of the commit.
        commands: what to send behind it.
    """

    watches: ClassVar = False

    def __init__(
        self, settings: Settings, session: Session, signature: Hashable, held: list[str], tail: Tail | None
    ) -> None:
        self._settings, self._session, self._tail = settings, session, tail
        self._signature, self._held = signature, held
        self._for = session.slot, signature, held, tail
        self.claims = give_back(settings, held, session.slot)
        self.commands = Constant(
            open_door(settings, held, session.slot) + call_next(settings, held, session.slot)
        )

    def serves(self, session: Session, signature: Hashable, held: list[str], tail: Tail | None) -> bool:
        """Whether it would be made of the same."""
        return self._for == (session.slot, signature, held, tail)

    def take(self, replies: Sequence[object], _turn: Turn = NO_TURN) -> None:
        """Remember who was waited for."""
        read_set, lease = ReadSet(), self._settings.shortest_lease
        read_set.turn = Turn()
        read_set.turn.others = dict.fromkeys(awaited(self._held * 2, replies), lease)
        self._session.finished = now = self._settings.clock()
        self._session.armed = Armed(self._signature, read_set, {}, self._tail, now + lease)


class Opening:
    """What follows the first EXEC of a turn that goes on: arms the socket. Who was not handed its turn calls the next one.

    Attributes:
        claims: what makes them last; part of the commit.
        commands: what to send behind it.
    """

    watches: ClassVar = True

    def __init__(self, settings: Settings, session: Session, tail: Tail, turn: Turn) -> None:
        calls = [] if turn.handed else call_next(settings, turn.held, session.slot)
        self._tail, self._calls = tail, len(calls)
        self.claims = turn.last(settings, session.slot)
        self.commands = Constant((*calls, *tail.commands)) if calls else tail.commands

    def take(self, replies: Sequence[object], turn: Turn = NO_TURN) -> None:
        """Arm the session."""
        self._tail.take(replies[self._calls :], turn)


def may_take_over(attempt: Attempt, armed: Armed, session: Session) -> bool:
    """Whether a socket's snapshot is of use to an attempt. If others were met there who are ahead, it stands in line."""
    if attempt.read_set.turn is not NO_TURN:
        return False  # it claims, or waits, in its first batch
    if not armed.until:
        return True
    settings, turn = attempt.settings, armed.read_set.turn
    now = settings.clock()
    if stays(settings, session, turn, now):
        return True
    session.called(now, late=shortest_kept(settings) if turn.held else math.inf)
    if turn.others and now < armed.until and attempt.gives_way:
        longest = min(settings.longest_wait, settings.timeout / 2, attempt.left() / 2)
        attempt.began = now
        attempt.read_set.turn = Turn(
            Claim.suiting(settings, session.worked), turn.queue(settings, session.waited, longest)
        )
    return False


def stays(settings: Settings, session: Session, turn: Turn, now: float) -> bool:
    """Whether a call goes on with the turn that was kept for it, of which the session then takes note."""
    kept = shortest_kept(settings)
    if not turn.held or turn.others or now - turn.since >= kept:
        return False
    session.called(now, late=kept)
    return True


def line_up(attempt: Attempt) -> Steps[None]:
    """Get ready to stand in line, if the attempt is to: the wait itself is a part of its first batch."""
    settings, session, line = attempt.settings, attempt.session, attempt.read_set.turn.line
    if line is None or session.guest:
        return
    if attempt.member is not None:
        attempt.member.got_connected(lines_up=True)
    if line.left:
        # On its own: only the first commands of a batch may block, and nobody is to wait for this until then.
        yield from attempt.exchange(_passing_on(settings, line.left, session.slot), attempt.remaining())


def line_up_by(attempt: Attempt, tail: Tail) -> Steps[None]:
    """Stand in line, claim, and read by what armed the socket before, all in one batch: most of it is packed already.

    If there is anything unusual about the documents, nothing is taken over, and the attempt reads them as always.

    Raises:
        Condemned: it is another's turn.
    """
    settings, session, turn = attempt.settings, attempt.session, attempt.read_set.turn
    line = turn.line
    if line is None or session.guest:
        return
    if attempt.member is not None:
        attempt.member.got_connected(lines_up=True)
    commands, patience = map(list, zip(*line.waits(settings, session.slot), strict=True))
    commands += turn.claiming(sorted(tail.wanted), claim_names(settings, tail.wanted, session.slot))
    session.watching = True
    replies = yield from attempt.exchange(commands, attempt.remaining(), tail.commands, patience)
    tail.take(replies[len(commands) :], turn)
    armed, session.armed = session.armed, None
    if armed is not None:
        attempt.read_set, attempt.documents.spares, attempt.tail = armed.read_set, armed.spares, armed.tail
        met = attempt.read_set.turn
        turn.held, turn.others = list(met.held), dict(met.others)
        attempt.read_set.turn = turn
    turn.came(replies[: len(patience)])
    heed(attempt, first=True)
    turn.line = None


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
        if attempt.member is not None:
            attempt.member.got_connected()
    if turn.held and not turn.since:
        turn.since = now
    if turn.others and attempt.gives_way:
        raise attempt.condemn(GiveWay())


def follows(attempt: Attempt, session: Session) -> Tail | Opening | Handover | None:
    """What to send behind EXEC: what arms the socket, if that pays, or what passes the turn on, if it ends."""
    turn, settings = attempt.read_set.turn, attempt.settings
    now = settings.clock()
    if turn is not NO_TURN:
        session.worked = now - attempt.began
    if not turn.held or session.guest:  # a guest's turns are not the slot's owner's
        return tail_behind(attempt, session)
    return in_turn(settings, session, attempt.signature, turn, tail_behind(attempt, session), now=now)


def in_turn(
    settings: Settings, session: Session, signature: Hashable, turn: Turn, tail: Tail | None, *, now: float
) -> Tail | Opening | Handover:
    """What to send behind EXEC by who has the turn.

    Args:
        settings: the store's.
        session: where.
        signature: of the call.
        turn: its own.
        tail: what would arm the socket; None: that does not pay.
        now: by the settings' clock.
    """
    if tail is not None and turn.lasts(session, now):
        return tail if turn.lasting else Opening(settings, session, tail, turn)
    last, made_of = session.handover, (session, signature, turn.held, tail)
    if last is None or not last.serves(*made_of):
        last = session.handover = Handover(settings, *made_of)
    return last


def with_commit(tail: Tail | Opening | Handover | None) -> Sequence[Command]:
    """What the commit does to the claims that are held: they end with it, or are made to last for the turn."""
    return tail.claims if isinstance(tail, Opening | Handover) else ()


def pass_on(attempt: Attempt) -> Steps[None]:
    """Give back the claims that no commit did, as others wait for them.

    Not as a guest: to open a door creates a key, and there that could keep the slot from moving.
    """
    settings, held = attempt.settings, attempt.read_set.turn.held
    session = None if attempt.channel is None else attempt.channel.session
    if not held or session is None or session.guest:
        return
    attempt.read_set.turn = Turn()
    try:
        yield from attempt.exchange(_passing_on(settings, held, session.slot), attempt.remaining())
    except TooLate:
        pass  # they end by themselves
    except Lost as lost:
        if lost.interruption is not None:
            raise lost.interruption from None


def _passing_on(settings: Settings, held: Sequence[str], slot: int | None) -> list[Command]:
    """What gives claims back that were of no use, to who is at the door, or else in line."""
    return give_back(settings, held, slot) + open_door(settings, held, slot) + call_next(settings, held, slot)
