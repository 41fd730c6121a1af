"""Group commit: calls of one process that want the same documents at once share an attempt.

The first call *leads*: it has the connection. Others that begin with the same reads wait until its function has run;
then the turn passes from one to the next (`relay`), each in its own thread or task, and one EXEC commits for all. Who comes
while it is on its way waits for the next one, which the first of them leads. A call on its own pays for a look
into a dict.

Nobody waits for long for a function of somebody else, which may be slow, or itself wait for a lock that a waiting
caller holds: the leader takes the turn back, and who waits for the leader goes on by itself. Both decide only who
commits together; what is promised does not depend on it.

What others may change of a member is changed under the registry's lock, one store at a time. An interruption between
two of them delays somebody by `PATIENCE`, and does no other harm.
"""

from __future__ import annotations

import enum
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from txstate._effects import Park

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from contextlib import AbstractContextManager

    from txstate._effects import Mailbox, Steps
    from txstate._engine.armed import Wanted
    from txstate._engine.attempt import Attempt
    from txstate._engine.outcome import Shared
    from txstate._engine.relay import Relay
    from txstate._engine.resolve import Finding

PATIENCE: Final = 0.1
"""Seconds that a call waits for another one's function, at most."""

_PASSES: Final = 4
"""Times that a thread or task may have to wait for the processor before others see that it got on."""

QUEUEING: Final = 1.0
"""Seconds that it waits for another one to get a connection, or its turn on the server. Longer: it would have to queue for
one itself, and a crowd that does so keeps the connections from those who would have carried it."""

_PENANCE: Final = 1.0
"""Seconds for which calls don't wait for each other after one of them has shown that it can't share an attempt."""

_REMEMBERED: Final = 256
"""Signatures of such calls, at most."""


class Place(enum.Enum):
    """Where a call stands."""

    LEADS = "has the connection, and commits for all"
    WAITS = "for its turn, or to lead"
    RUNS = "its function runs"
    OUT = "on its own, or at its end"


LEADS, WAITS, RUNS, OUT = Place


class Group:
    """The calls that want the same documents now.

    Attributes:
        leader: who commits for all.
        waiting: who waits, in order.
        relay: the leader's attempt, while it carries others.
        progress: when the last one of them got on.
    """

    __slots__ = ("leader", "progress", "relay", "waiting")

    def __init__(self, leader: Member, now: float) -> None:
        self.leader = leader
        self.waiting: deque[Member] = deque()
        self.relay: Relay | None = None
        self.progress = now


class Member:
    """One call among those of its process that want the same documents.

    Attributes:
        place: where it stands.
        wanted: what it began with.
        until: its deadline.
        group: None until there are two.
        connected: whether it has a connection and does not stand in line on it, if it leads.
        mailbox: where it waits; None until it has to.
        relay: the attempt that has carried its function; None if it leads.
        outcome: what the commit came to, for one that was carried.
    """

    place = LEADS
    group: Group | None = None
    connected = False
    mailbox: Mailbox | None = None
    relay: Relay | None = None
    outcome: Shared | None = None
    finding: Finding | None = None

    def __init__(self, groups: Groups, signature: Hashable, wanted: Wanted, until: float) -> None:
        self.groups, self.signature, self.wanted, self.until = groups, signature, wanted, until

    @property
    def aboard(self) -> bool:
        """Whether its outcome is the leader's commit's."""
        return self.outcome is not None or (self.relay is not None and self in self.relay.aboard)

    def wake(self) -> None:
        """Tell it to look where it stands."""
        if self.mailbox is not None:
            self.mailbox.put()

    def got_connected(self, *, lines_up: bool = False) -> None:
        """It has a connection, or stands in line on it: if it leads, those that it will carry go on waiting."""
        self.connected = not lines_up
        if self.group is not None and self.place is LEADS:
            self.group.progress = self.groups.clock()

    def leave(self) -> None:
        """Its call, or its attempt on another's connection, is over: whoever waits for it goes on. May be repeated."""
        if self.place is not OUT:
            self.groups.leave(self)

    def settle(self, finding: Finding | None, outcome: Shared) -> bool:
        """Tell those that this leader's attempt has carried what its commit came to. May be repeated.

        Args:
            finding: how that was found out, if its reply was lost.
            outcome: for each of them.

        Returns:
            Whether one of them has left, and may ask the server later.
        """
        group = self.group
        relay = None if group is None else group.relay
        if group is None or relay is None:
            return False
        for member in self.groups.end(group, relay, finding, outcome):
            member.wake()
        relay.end()
        group.relay = None
        return relay.deserted


class Groups:
    """All groups of a store and its views.

    Args:
        lock: makes a lock.
        mailbox: makes a mailbox.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        lock: Callable[[], AbstractContextManager[object]],
        mailbox: Callable[[], Mailbox],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mailbox, self.clock = mailbox, clock
        self._make_lock = lock
        self._lock = lock()
        self._leaders: dict[Hashable, Member] = {}
        self._misfits: OrderedDict[Hashable, float] = OrderedDict()
        self._lag = 0.0

    def enter(self, attempt: Attempt, wanted: Wanted) -> Member | None:
        """Lead a group, or wait in one. None: it would not pay."""
        # Who asks for more durability than the leader would not get it.
        signature = attempt.settings.durability, attempt.signature
        if self._misfits and self._is_misfit(signature):
            return None
        member = Member(self, signature, wanted, attempt.deadline)
        with self._lock:
            leader = self._leaders.setdefault(signature, member)
            if leader.place is OUT and leader.group is not None:  # on its way out: see `resign`
                self._follow(leader, leader.group)
                leader = self._leaders.setdefault(signature, member)
            if leader is member:
                return member
            if leader.group is None and leader.place is not OUT:
                leader.group = Group(leader, self.clock())
            group = leader.group
            if leader.place is OUT or group is None:  # it has left, if only in this very moment: see `resign`
                self._leaders[signature] = member
                return member
            if self.is_stalled(group):
                if leader.place is LEADS and self.clock() < leader.until:
                    return None
                # An interruption has kept it from saying that it is over.
                self._leaders[signature] = member
                return member
            member.group, member.place, member.mailbox = group, WAITS, self.mailbox()
            group.waiting.append(member)
        return member

    def alone(self, signature: Hashable, wanted: Wanted) -> Member:
        """One for `lead`: it asks for no durability, and has a connection.

        Args:
            signature: as of the attempts that it would be.
            wanted: the same.
        """
        member = Member(self, (None, signature), wanted, 0.0)
        member.place, member.connected = OUT, True
        if len(self._leaders) > _REMEMBERED:
            with self._lock:
                for other in list(self._leaders.values()):
                    if other.place is OUT and other.group is None:  # else it is on its way out: see `resign`
                        self._leaders.pop(other.signature, None)
        return member

    def lead(self, member: Member, until: float) -> bool:
        """Lead a group, if nobody else does; whether it does.

        Without the lock, as a call on its own does nothing else: a member that has left stays in its place among the
        leaders, and leads again.

        Args:
            member: one by `alone`.
            until: its deadline.
        """
        member.place, member.until = LEADS, until
        leader = self._leaders.setdefault(member.signature, member)
        return leader is member or (leader.place is OUT and self._succeed(leader, member))

    def _succeed(self, former: Member, member: Member) -> bool:
        """Take the place of one that has left; whether it was still to be had."""
        with self._lock:
            if self._leaders.get(member.signature) is not former or former.place is not OUT:
                return False
            if former.group is not None:
                return False  # it is those that wait in it who follow
            self._leaders[member.signature] = member
            return True

    def resign(self, leader: Member) -> bool:
        """Leave a group that was led so. Returns whether nobody was in it, so that the member may lead again."""
        leader.place = OUT  # before it looks who has come: who comes looks in the other order
        if leader.group is None:
            return True
        with self._lock:
            self._follow(leader, leader.group)
        return False

    def leave(self, member: Member) -> None:
        """See `Member.leave`."""
        with self._lock:
            place, group, member.place = member.place, member.group, OUT
            if place is LEADS:
                self._follow(member, group)
            elif group is not None and place is WAITS and member in group.waiting:
                group.waiting.remove(member)
            elif group is not None and group.relay is not None and group.relay.turn is member:
                self._call(group, group.relay)

    def begin(self, group: Group, relay: Relay) -> None:
        """The leader's function has run: the turn goes to those that wait."""
        with self._lock:
            group.relay = relay
            self._call(group, relay)

    def end(self, group: Group, relay: Relay, finding: Finding | None, outcome: Shared) -> tuple[Member, ...]:
        """The leader's attempt is over. Returns those whose outcome is its commit's; nobody joins them any more."""
        with self._lock:
            relay.turn = None
            group.progress = self.clock()
            for member in relay.aboard:
                member.finding, member.outcome = finding, outcome
            return relay.aboard

    def desert(self, member: Member) -> Shared | None:
        """A member waits no more for its outcome. Returns it, if it has come in this very moment."""
        with self._lock:
            if member.outcome is None and member.relay is not None:
                member.relay.deserted = True
            return member.outcome

    def pass_on(self, member: Member, attempt: Attempt) -> bool:
        """A member's function has run, and its turn passes to the next. Returns whether it still was its turn."""
        group, relay = member.group, member.relay
        with self._lock:
            if group is None or relay is None or relay.turn is not member:
                return False
            relay.pass_on(member, attempt.writes)
            self._call(group, relay)
        return True

    def take_back(self, group: Group, relay: Relay, member: Member) -> None:
        """Go on without a member whose function takes too long."""
        with self._lock:
            if relay.turn is member:
                member.place = OUT
                self._call(group, relay)
        self.set_apart(member)

    def set_apart(self, member: Member) -> None:
        """Let calls like this one not wait for each other for a while."""
        with self._lock:
            self._misfits[member.signature] = self.clock() + _PENANCE
            self._misfits.move_to_end(member.signature)
            if len(self._misfits) > _REMEMBERED:
                self._misfits.popitem(last=False)

    def is_stalled(self, group: Group) -> bool:
        """Whether those that wait have waited long for nothing."""
        longest = self.patience if group.leader.connected else QUEUEING / PATIENCE * self.patience
        return self.clock() - group.progress >= longest

    @property
    def patience(self) -> float:
        """Seconds that a call waits for another one's function, at most.

        Where threads and tasks wait long for the processor, so does that function.
        """
        return PATIENCE + _PASSES * self._lag

    def wait(self, mailbox: Mailbox, seconds: float) -> Steps[bool]:
        """Park, and note how much later than it was due a wait ended."""
        until = self.clock() + seconds
        came: bool = yield Park(mailbox, seconds)
        if not came:
            self._lag = max(0.0, self.clock() - until)
        return came

    def forget(self) -> None:
        """Start anew in a forked child, which has only one of the parent's threads."""
        self._lock = self._make_lock()
        self._misfits.clear()
        self._lag = 0.0
        leaders, self._leaders = self._leaders, {}
        for leader in leaders.values():
            leader.place, group = OUT, leader.group
            if group is not None:
                group.waiting.clear()
                if group.relay is not None:
                    group.relay.turn = None

    def _is_misfit(self, signature: Hashable) -> bool:
        until = self._misfits.get(signature)
        if until is not None and self.clock() > until:
            with self._lock:
                self._misfits.pop(signature, None)
            return False
        return until is not None

    def _follow(self, leader: Member, group: Group | None) -> None:
        """Whoever waits longest leads."""
        if self._leaders.get(leader.signature) is not leader:
            return
        if group is None or not group.waiting:
            del self._leaders[leader.signature]
            return
        group.progress = self.clock()
        member = group.leader = group.waiting.popleft()
        self._leaders[leader.signature] = member
        member.place = LEADS
        member.wake()

    def _call(self, group: Group, relay: Relay) -> None:
        """Give the turn to whoever waits longest, or at the end to the leader."""
        group.progress = self.clock()
        member = relay.leader
        if group.waiting and relay.has_room(group.progress):
            member = group.waiting.popleft()
            member.relay, member.place = relay, RUNS
        relay.turn = member
        member.wake()
