"""An attempt's turn: how it comes to it, how it notices, and how it gives it up without a commit.

What claims and lines are, and why, is told in `claims`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from txstate._effects import Constant, Lost, Send, TooLate
from txstate._engine.armed import Armed, tail_behind
from txstate._engine.claims import (
    NO_TURN,
    Claim,
    Turn,
    awaited,
    call_next,
    claim_names,
    give_back,
    longest,
    open_door,
    shortest_kept,
)
from txstate._engine.outcome import GiveWay

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from txstate._effects import Channel, Command, Steps
    from txstate._engine.armed import Tail
    from txstate._engine.attempt import Attempt
    from txstate._engine.claims import Line
    from txstate._engine.group import Member
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
        self,
        settings: Settings,
        session: Session,
        signature: Hashable,
        held: Sequence[str],
        tail: Tail | None,
    ) -> None:
        self._settings, self._session, self._tail = settings, session, tail
        self._signature, self._held = signature, held
        self._for = session.slot, signature, held, tail
        self.claims = give_back(settings, held, session.slot)
        doors = open_door(settings, held, session.slot)
        self._expiries = [*range(1, 2 * len(held), 2), *range(len(doors) + 1, len(doors) + 2 * len(held), 2)]
        self.commands = Constant(doors + call_next(settings, held, session.slot))
        self.commands.wakes = True
        self._lingered: Sequence[object] = ()
        self._left = NO_TURN

    def serves(self, session: Session, signature: Hashable, held: Sequence[str], tail: Tail | None) -> bool:
        """Whether it would be made of the same."""
        return self._for == (session.slot, signature, held, tail)

    def take(self, replies: Sequence[object], _turn: Turn = NO_TURN) -> None:
        """Remember who was waited for."""
        lease, lingered = self._settings.shortest_lease, [replies[i] for i in self._expiries]
        if lingered != self._lingered:
            self._lingered, self._left = lingered, Turn()
            self._left.others = dict.fromkeys(awaited([*self._held, *self._held], lingered), lease)
        self._session.finished = now = self._settings.clock()
        self._session.armed = Armed.met(self._signature, {}, self._tail, self._left, now + lease)


class Opening:
    """What follows the first EXEC of a turn that goes on: arms the socket. Who was not handed its turn calls the next one.

    The same one serves as long as the same documents are claimed alike.

    Attributes:
        claims: what makes them last; part of the commit.
        commands: what to send behind it.
        claimed: see `Turn`.
    """

    watches: ClassVar = True

    def __init__(self, settings: Settings, session: Session, tail: Tail, turn: Turn) -> None:
        assert turn.claim is not None  # noqa: S101 - else nothing would be held
        calls = [] if turn.handed else call_next(settings, turn.held, session.slot)
        self._settings, self._slot = settings, session.slot
        self._for = tail, turn.claim, turn.held, turn.handed
        self._tail, self._calls = tail, len(calls)
        self.claims = turn.last(settings, session.slot)
        self.claimed = [turn.claim.kept(settings).value] * len(turn.held)
        self.commands = tail.commands
        if calls:
            self.commands = Constant((*calls, *tail.commands))
            self.commands.wakes = True

    def serves(self, tail: Tail, turn: Turn) -> bool:
        """Whether it would be made of the same."""
        return self._for == (tail, turn.claim, turn.held, turn.handed)

    def take(self, replies: Sequence[object], turn: Turn = NO_TURN) -> None:
        """Arm the session."""
        self._tail.take(replies[self._calls :] if self._calls else replies, turn)

    def farewell(self, turn: Turn) -> Sequence[Command]:
        """What gives the turn back that is kept for the next call; nothing when it may be another's by now."""
        if self._settings.clock() - turn.since >= shortest_kept(self._settings):
            return ()
        return _passing_on(self._settings, turn.held, self._slot)


class Entry:
    """How a call comes to its turn by what armed the socket before: it waits, claims and reads, all in one batch.

    The same one serves as long as calls wait alike. If there is anything unusual about the documents, nothing is taken
    over, and the attempt reads them as always.

    Attributes:
        commands: what to send.
        patience: see `Send`.
    """

    def __init__(self, settings: Settings, session: Session, tail: Tail, claim: Claim, line: Line) -> None:
        self._for = tail, claim, line
        waits, self.patience = zip(*line.waits(settings, session.slot), strict=True)
        self._keys = sorted(tail.wanted)
        self._claimed = [claim.value] * len(self._keys)
        claims = Turn(claim, line).claiming(self._keys, claim_names(settings, self._keys, session.slot))
        own: list[Command] = [*waits, *claims]
        self._tail, self._own = tail, len(own)
        self.commands = Constant((*own, *tail.commands))

    def serves(self, tail: Tail, turn: Turn) -> bool:
        """Whether it would be made of the same."""
        return self._for == (tail, turn.claim, turn.line)

    def take(self, replies: Sequence[object], turn: Turn) -> Armed | None:
        """What was read, with the turn, which takes in what came of it; None: nothing to be taken over."""
        session = self._tail.session
        turn.came(replies[: len(self.patience)])
        turn.claimed = self._claimed
        self._tail.expect(replies[self._own + 1])
        self._tail.take(replies[self._own :], turn)
        turn.claimed = ()
        armed, session.armed = session.armed, None
        if armed is None:
            return None
        if armed.turn is turn:
            turn.held = self._keys
            return armed
        turn.held, turn.others, armed.turn = armed.turn.held, armed.turn.others, turn
        return None if turn.others else armed


def may_take_over(attempt: Attempt, armed: Armed, session: Session) -> bool:
    """Whether a socket's snapshot is of use to an attempt. If others were met there who are ahead, it stands in line."""
    if attempt.read_set.turn is not NO_TURN:
        return False  # it claims, or waits, in its first batch
    if not armed.until:
        return True
    settings = attempt.settings
    now = settings.clock()
    if stays(settings, session, armed.turn, now):
        return True
    session.called(now, late=shortest_kept(settings) if armed.turn.held else math.inf)
    turn = lines_up(settings, session, armed, now, attempt.left()) if attempt.gives_way else None
    if turn is not None:
        attempt.began, attempt.read_set.turn = now, turn
    elif armed.turn.held and not armed.turn.others:
        # Too late for the turn that was kept. Its claim, if it is still there, is not another's; and it is for this call to
        # let in who has lined up meanwhile, as nobody else may.
        attempt.read_set.turn = Turn(armed.turn.claim)
    return False


def lines_up(settings: Settings, session: Session, armed: Armed, now: float, left: float) -> Turn | None:
    """What a call that comes now begins with, if others were met on its socket who are ahead; None: they are not.

    Args:
        settings: the store's.
        session: where.
        armed: what the call before has left there.
        now: by the settings' clock.
        left: seconds until the call's deadline.
    """
    if not armed.turn.others or now >= armed.until or not settings.patience:
        return None
    claim = session.claim = Claim.suiting(settings, session.worked, session.claim)
    limit = min(settings.longest_wait, settings.timeout / 2, left / 2)
    return Turn(claim, armed.turn.queue(settings, session.waited, limit))


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
    """Stand in line by what armed the socket before. See `Entry`.

    Raises:
        Condemned: it is another's turn.
    """
    settings, session, turn = attempt.settings, attempt.session, attempt.read_set.turn
    if turn.line is None or session.guest:
        return
    if attempt.member is not None:
        attempt.member.got_connected(lines_up=True)
    entry = entry_by(settings, session, tail, turn)
    session.watching = True
    replies = yield from attempt.exchange((), attempt.remaining(), entry.commands, entry.patience)
    armed = entry.take(replies, turn)
    if armed is not None:
        attempt.read_set, attempt.documents.spares, attempt.tail = armed.read_set, armed.spares, armed.tail
        attempt.read_set.turn = turn
    heed(attempt, first=True)
    turn.line = None


def entry_by(settings: Settings, session: Session, tail: Tail, turn: Turn) -> Entry:
    """How a call comes to its turn that stands in line."""
    entry = session.entry
    if entry is None or not entry.serves(tail, turn):
        assert turn.claim is not None  # noqa: S101 - who stands in line claims
        assert turn.line is not None  # noqa: S101 - and has one
        entry = session.entry = Entry(settings, session, tail, turn.claim, turn.line)
    return entry


def come_in(
    settings: Settings, channel: Channel, tail: Tail, turn: Turn, began: float, *, member: Member | None
) -> Steps[Armed | None]:
    """The same for who goes the straight way (`straight`).

    Args:
        settings: the store's.
        channel: where.
        tail: what armed it.
        turn: the call's.
        began: when it did, by the settings' clock.
        member: its place among those of its process that want the same.

    Returns:
        What was read; None: nothing to go on with.

    Raises:
        BaseException: whatever the driver throws. The socket is not to be used again.
    """
    session: Session = channel.session  # type: ignore[assignment]  # one that is armed has it
    session.called(began, late=math.inf)
    if member is not None:
        member.got_connected(lines_up=True)
    entry = entry_by(settings, session, tail, turn)
    session.watching = True
    settings.counters.add(round_trips=1)
    replies = yield Send(
        channel, (), min(settings.timeout, settings.retry.deadline), entry.commands, entry.patience
    )
    armed = entry.take(replies, turn)
    turn.since = now = settings.clock()
    session.waited = now - began
    if member is not None:
        member.got_connected()
    if turn.others:
        return None
    turn.line = None
    return armed if turn.held else None


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
        if turn.ends:
            return tail
        opening = session.opening
        if opening is None or not opening.serves(tail, turn):
            opening = session.opening = Opening(settings, session, tail, turn)
        turn.ends, turn.claimed = turn.since + longest(session), opening.claimed
        return opening
    last, made_of = session.handover, (session, signature, turn.held, tail)
    if last is None or not last.serves(*made_of):
        last = session.handover = Handover(settings, *made_of)
    return last


def with_commit(tail: Tail | Opening | Handover | None) -> Sequence[Command]:
    """What the commit does to the claims that are held: they end with it, or are made to last for the turn."""
    return () if tail is None else tail.claims


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
