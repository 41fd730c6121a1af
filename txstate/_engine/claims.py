"""Claims, lines and turns: how those who want the same document get it one after the other.

Optimistic commits alone starve whoever is slow, and waste the time of everybody else. So

1. after a few conflicts a call claims its keys: a key beside each document says who has the turn, and expires by itself;
2. everybody reads the claims along with the documents, and who sees another's stands in line: it blocks on the server;
3. the commit that ends a turn gives its claims back, and right behind it opens the door: who waits there claims and
   reads in that same round trip. Then it calls the next one of the line to the door, where it blocks again: the only one
   that watches whether the holder has gone;
4. who has got its turn otherwise, because it came first, its predecessor has gone or nobody was at the door yet, calls with
   its first commit;
5. a holder whose calls follow each other at once keeps its turn for a moment, and makes commits of one round trip:
   passing a turn on costs as much as several of them. Its claim lasts little longer than that: it may not come back;
6. who waits in vain looks for itself: the holder has died, or stands still.

So about one call is active at a time, and the order is that of arrival: the server's queue of blocked clients is the
queue lock of Mellor-Crummey and Scott (1991), the few commits of a turn are the bounded batches of cohort locks (Dice,
Marathe and Shavit, 2012). Sleeping instead, be it for a random or an estimated time, either polls or leaves the document
idle; contention managers for memory (Scherer and Scott, 2005) mind conflicts, but not what it costs to wake up.

Claims serve progress only. WATCH alone keeps safety, so a claim that expired, was lost, overwritten or ignored, and a
turn that was given twice or to nobody, can slow things down but never corrupt anything. No clock is compared between
hosts: leases are the server's.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from txstate._effects import ReplyError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from txstate._effects import Command
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings

CONFLICTS_BEFORE_CLAIM: Final = 2
WAIT: Final = "BZPOPMIN"
TURN = 0.0015
"""Seconds that a turn goes on for further commits. By time, and not by their number: what everybody waits for is the others'
turns, and what a turn costs beside its commits is the time that processes take to wake up."""
_PART: Final = 40
"""Of a long wait in line, of which a turn may last so much instead: where many wait, each of them costs the others that
time to wake up. So many that turns don't lengthen each other without end."""
_LONG: Final = 0.004
"""Seconds that a turn goes on at most."""
_LEASES: Final = 3
_LONGEST: Final = 2.0
_UNTOLD: Final = 0.1
"""Seconds that a claim is taken to last whose value doesn't tell."""
_DIGITS: Final = 9
"""Of a lease, at most: more were not written by this library."""
_SHORTEST: Final = 0.001
"""Seconds to wait at least: 0 would mean forever."""
_LAY_THERE: Final = (1.0, b"1")
"""The score, by RESP3 and RESP2, of a turn at which nobody was waiting when it was given."""
_LATE: Final = 0.005
"""Seconds beyond a lease in which its end is noticed."""
_KEPT: Final = 0.5
"""Of the shortest lease, how much a turn lasts that is kept for the next call: the system may let a process stand still
for a few milliseconds at any time."""
_STILL: Final = 0.25
"""Seconds after which a line that does not move has lost who was next."""
_QUEUES: Final = 3
"""How much longer than last time a line may take before something is wrong with it."""


class Claim(NamedTuple):
    """What a call claims keys with.

    Attributes:
        holder: names the call, or the socket on which one call follows the other.
        lease: milliseconds.
    """

    holder: bytes
    lease: int

    @classmethod
    def suiting(cls, settings: Settings, took: float = 0.0, before: Claim | None = None) -> Claim:
        """A claim whose lease suits an attempt that took so many seconds; by the same holder as the one before."""
        holder = settings.random_id().encode() if before is None else before.holder
        return cls(holder, round(1000 * max(min(_LEASES * took, _LONGEST), settings.shortest_lease)))

    def kept(self, settings: Settings) -> Claim:
        """The same between two calls: if the next one does not come at once, others may have the turn."""
        return Claim(self.holder, round(1000 * shortest_kept(settings)))

    @property
    def value(self) -> bytes:
        """What is kept on the server: who has the turn, and for how long at most."""
        return b"%b %d" % (self.holder, self.lease)


class Line(NamedTuple):
    """Where to wait for a turn.

    Attributes:
        key: the document.
        seconds: for how long in the line: longer than it ever takes, if all goes well; 0: it stays at the door.
        door: for how long at the door: a little longer than a turn is kept between two calls, or, the second time, than
            the claim that it found there can last.
        left: claims to give back first: who waits holds none but on earlier keys, so that no two wait for each other.
    """

    key: str
    seconds: float
    door: float
    left: tuple[str, ...] = ()

    def waits(self, settings: Settings, slot: int | None) -> Iterator[tuple[Command, float]]:
        """What to block on, one after the other, before anything is claimed or read; each with its seconds.

        In one batch: whoever is called goes to the door without coming home first.
        """
        for where, seconds in (("line", self.seconds), ("door", self.door)):
            if seconds:
                name = settings.reserved_name(where, slot, self.key).encode()
                yield (WAIT, name, b"%.3f" % seconds), seconds


class Turn:
    """What an attempt knows of the claims on its keys.

    Attributes:
        claim: what its call claims them with; None: it doesn't.
        line: where it waits before it reads; None: it doesn't.
        kept: the keys that an earlier attempt of this call has claimed, but for those that are given back in line.
        held: the keys whose claim is its call's.
        since: when they were claimed, by the settings' clock.
        handed: whether its predecessor has passed it on, and called somebody else to the door.
        vain: whether it can't wait on the server.
        others: the keys whose claim is another's, and how many seconds that may last.
        ends: when it ends, by the settings' clock; 0: with its first commit.
        claimed: what is read where the claims are, as long as nobody else has claimed; none: it is not known.
    """

    # What few turns come to have.
    line: Line | None = None
    held: Sequence[str] = ()
    others: Mapping[str, float] = MappingProxyType({})
    vain = handed = False
    since = ends = 0.0
    claimed: Sequence[object] = ()

    def __init__(
        self, claim: Claim | None = None, line: Line | None = None, kept: Collection[str] = ()
    ) -> None:
        self.claim = claim
        if line is not None:
            self.line = line
            kept = set(kept).difference(line.left) if kept else kept
        self.kept = kept

    def claiming(self, keys: Iterable[str], names: Iterable[bytes]) -> Iterator[Command]:
        """The commands that claim, or make a claim last that the call holds already."""
        if self.claim is not None:
            lease = b"%d" % self.claim.lease
            for key, name in zip(keys, names, strict=True):
                yield ("SET", name, self.claim.value, "NX", "PX", lease)
                if key in self.kept:
                    yield ("PEXPIRE", name, lease)

    def see(self, keys: Sequence[str], values: Sequence[object]) -> None:
        """Take in what is claimed."""
        own = None if self.claim is None else self.claim.holder
        for key, value in zip(keys, values, strict=True):
            if isinstance(value, bytes):
                holder, _, lease = value.partition(b" ")
                if holder == own:
                    self.held = [*self.held, key]
                else:
                    tells = lease.isdigit() and len(lease) <= _DIGITS
                    self.others = {**self.others, key: int(lease) / 1000 if tells else _UNTOLD}

    def came(self, waits: Sequence[object]) -> None:
        """Take in what ended the waits, the one at the door the last."""
        self.vain = ReplyError in map(type, waits)
        self.handed = type(waits[-1]) is list and waits[-1][-1] not in _LAY_THERE

    def lasts(self, session: Session, now: float) -> bool:
        """Whether the turn goes on after the commit that is about to leave: a burst costs less than as many turns.

        Only for who has come back at once the last times: everybody waits for who doesn't.

        Args:
            session: knows how many times in a row it came back at once, and how many it takes.
            now: by the settings' clock.
        """
        ends = self.ends or self.since + longest(session)
        return now < ends and session.prompt >= session.trusted and self.claim is not None

    def last(self, settings: Settings, slot: int | None) -> list[Command]:
        """Make the claims last for the rest of the turn; part of its first commit. None of it can fail.

        Not renewed by the others: so they are as cheap as without a turn. Whoever has claimed meanwhile, because this
        commit came late, loses by it what it would lose anyway.
        """
        assert self.claim is not None  # noqa: S101 - else nothing would be held
        kept = self.claim.kept(settings)
        lease = b"%d" % kept.lease
        return [("SET", name, kept.value, "PX", lease) for name in claim_names(settings, self.held, slot)]

    def after(self, keys: Iterable[str], values: Sequence[object]) -> Turn:
        """The turn as it is after a commit, given who has claimed the keys now: most often nothing has changed."""
        if values == self.claimed:
            return self
        turn = Turn(self.claim)
        turn.since, turn.handed = self.since, self.handed
        turn.see(sorted(keys), values)
        return turn

    def queue(self, settings: Settings, waited: float, longest: float) -> Line:
        """Where to wait: for the first claim that is another's.

        Whoever has been at the door in vain stays there once: for as long as the claim lasts which it found.

        Args:
            settings: the store's.
            waited: seconds of the last wait: the line is about as long as that.
            longest: seconds that are left for both.
        """
        key, lease = min(self.others.items())
        left = tuple(held for held in self.held if held > key)
        if self.line is not None and self.line.key == key and self.line.seconds:
            seconds, door = 0.0, lease + _LATE
        else:
            door = min(shortest_kept(settings) + _LATE, longest / 2)
            seconds, enough = _STILL, max(lease, _QUEUES * waited)
            while seconds < enough:
                seconds *= 2  # in steps, so that most often it is the same as last time
            seconds = max(_SHORTEST, min(seconds, longest - door))
        return Line(key, seconds, max(_SHORTEST, min(door, longest)), left)


NO_TURN: Final = Turn()
"""Of those who neither claim nor have met a claim; never changed."""
NO_TURN.claimed = (None,)  # what is asked at a glance is about one document


def longest(session: Session) -> float:
    """Seconds that a turn on this socket lasts at most."""
    return max(TURN, min(session.waited / _PART, _LONG))


def claim_names(settings: Settings, keys: Iterable[str], slot: int | None = None) -> list[bytes]:
    """Where the claims on these documents are kept, in the order of the keys."""
    return [settings.reserved_name("claim", slot, key).encode() for key in sorted(keys)]


def give_back(settings: Settings, keys: Sequence[str], slot: int | None) -> list[Command]:
    """Give claims back; part of the commit. None of it can fail."""
    return [("DEL", *claim_names(settings, keys, slot))] if keys else []


def shortest_kept(settings: Settings) -> float:
    """Seconds for which a turn is kept for the next call."""
    return _KEPT * settings.shortest_lease


def open_door(settings: Settings, keys: Sequence[str], slot: int | None) -> list[Command]:
    """Let in who waits at the doors of these; behind the commit that ends the turn.

    Who comes later, and finds the turn lying there, is told so: whoever is called to the door now may be itself.
    """
    doors = _let_one_pass(settings, "door", keys, slot)
    return [*doors, *(("ZADD", name, "XX", "1", "turn") for _, name, *_ in doors[::2])]


def call_next(settings: Settings, keys: Sequence[str], slot: int | None) -> list[Command]:
    """Call who waits longest for each of these to its door; behind `open_door`, or a first commit."""
    return _let_one_pass(settings, "line", keys, slot)


def _let_one_pass(settings: Settings, where: str, keys: Sequence[str], slot: int | None) -> list[Command]:
    """Wake who waits there the longest.

    There is one turn at most in a place, however often it is given. If nobody takes it, it lies there for a while for
    who is on the way: then PEXPIRE answers 1.
    """
    linger = b"%d" % round(1000 * settings.shortest_lease)
    names = [settings.reserved_name(where, slot, key).encode() for key in keys]
    return [command for name in names for command in (("ZADD", name, "0", "turn"), ("PEXPIRE", name, linger))]


def awaited(keys: Sequence[str], lingered: Sequence[object]) -> list[str]:
    """Those of the keys for which somebody was waiting, by what PEXPIRE answered about their turns."""
    return [key for key, lingers in zip(keys, lingered, strict=True) if lingers == 0]
