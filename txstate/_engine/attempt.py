"""One attempt of one transaction: its connection, its documents, and whether it may go on.

Everything that a function sees was true at one moment: the keys are watched before they are read, and each batch of
reads validates all earlier ones (`readset`). If something was modified meanwhile, the attempt is *condemned* before
the function sees the value, and what the function then does no longer matters.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from txstate._effects import NOTHING, Acquire, Exhausted, Lost, ReplyError, Send, TooLate, Unreachable
from txstate._engine.armed import signature_of
from txstate._engine.claims import NO_TURN, Turn
from txstate._engine.documents import OVER, Documents
from txstate._engine.first_read import begin_by_first_read
from txstate._engine.outcome import Apart, Conflict, GiveWay, Outage, failure, refusal
from txstate._engine.proof import Proof
from txstate._engine.reads import DocRead, FieldTTLsRead, Read, Stale, TTLRead, read_of
from txstate._engine.readset import ReadSet
from txstate._engine.session import connect, waits_for_the_rest
from txstate._engine.shared import meet, wait_for_turn
from txstate._engine.state import COMMITTED, CONDEMNED, ENDED, RUNNING, Standing
from txstate._engine.turns import heed, line_up, line_up_by, may_take_over
from txstate.errors import UsageError, WrongType

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from txstate._documents.doc import Doc
    from txstate._effects import Channel, Command, Constant, Patience, Steps
    from txstate._engine.armed import Tail, Wanted
    from txstate._engine.group import Member
    from txstate._engine.resolve import Evidence, Finding
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings
    from txstate._engine.writeset import Write
    from txstate.errors import CommitUnknown


class Attempt(Standing):
    """One run of a transaction's function.

    Args:
        settings: the store's.
        number: 1 for the first attempt of a call.
        deadline: when the call must have ended, on the settings' clock.
        channel: a place in the pool that the last attempt of this call left behind, if any.

    Attributes:
        callbacks: what to call once it has committed; None: nothing.
        doubt: what a commit that was sent can be resolved by; None while none was sent, or it had no effect.
        finding: what became of it, once that has been looked for.
        written: the keys that the commit wrote.
        in_part: the error for a commit that was applied in part.
        slot: of a cluster, in which all its documents are; None: there are no slots, or it has not asked for any yet.
        signature: the first thing that this call asked for; armed sockets are found by it.
        began: when it did, by the settings' clock; if it waited for its turn, when it got it.
        waited: seconds that this took.
        gives_way: whether another's claim ends the attempt.
        member: its call's place among those of this process that want the same; None: it is on its own.
        apart: whether it has to be.
        writes: what its function has changed, once it has come to its end.
        ttls: those that the function has asked for.
        tail: what armed the snapshot that it began with, if one did.
        bulky: whether the commit sends too much for it to be read back behind EXEC.
        pursued: whether its call takes care of what becomes of it.
        busy: whether a batch is under way that nobody else's may get mixed up with.
        round_trips: batches sent.
    """

    # What few attempts come to have.
    callbacks: list[tuple[Callable[..., Any], tuple[Any, ...]]] | None = None
    ttls: Mapping[str, TTLRead] = MappingProxyType({})
    member: Member | None = None
    apart = bulky = pursued = busy = False
    writes: Sequence[Write] = ()
    doubt: Evidence | None = None
    finding: Finding | None = None
    written: tuple[str, ...] = ()
    in_part: CommitUnknown | None = None
    _session: Session | None = None
    tail: Tail | None = None
    round_trips, waited = 0, 0.0

    def __init__(
        self,
        settings: Settings,
        number: int,
        deadline: float,
        channel: Channel | None,
        *,
        slot: int | None = None,
        signature: Hashable = None,
        began: float = 0.0,
        turn: Turn | None = None,
        gives_way: bool = True,
    ) -> None:
        self.settings, self.number, self.deadline = settings, number, deadline
        self.channel, self.signature, self.slot = channel, signature, slot
        self.documents = Documents()
        self.began, self.gives_way = began, gives_way
        self.read_set = ReadSet()
        if turn is not None:
            self.read_set.turn = turn

    @property
    def session(self) -> Session:
        """The session that this attempt reads and commits on.

        Raises:
            Unreachable: its socket is gone, and the watches with it.
        """
        channel, known = self.channel, self._session
        session = None if channel is None else channel.session
        if session is None or (known is not None and session is not known):
            raise Unreachable("the connection that held the watches is gone")
        self._session = session
        return session

    def wanted(self, before: Wanted) -> Wanted:
        """What the next attempt is to fetch in its first round trip: what the function asked for.

        Args:
            before: what this one fetched for the same reason. If the function did not come to its end, it counts still.
        """
        asked = self.documents.asked
        if self.state is not CONDEMNED:
            return asked
        # The attempt before may have gone to another slot.
        return {**{key: before[key] for key in before if self.settings.slot([key]) == self.slot}, **asked}

    # What the user's side calls.

    def local(self, key: str, fields: Sequence[str] | None) -> Doc | None:
        """The document, if what is wanted of it is here already."""
        self.check_write()
        return self.documents.local(key, fields)

    def read(self, wanted: Wanted, *, prefetch: bool = False) -> Steps[None]:
        """Fetch what is not here yet, in one round trip.

        Args:
            wanted: what the function asks for.
            prefetch: nobody asked yet: a document that can't be read is left out until the function does.

        Raises:
            Condemned: the attempt is over.
            WrongType: a key holds no hash.
            CodecError: the version in a hash is none.
            ServerRefused: the server won't let us read.
        """
        yield from self._guarded(self._read(wanted, prefetch=prefetch), tuple(wanted))

    def prove(self, came: Sequence[object] | BaseException | None = None) -> Steps[None]:
        """Validate what an armed socket had read before this call began, unless something has since.

        Args:
            came: what the proof came to, if it was sent already.

        Raises:
            Condemned: it no longer holds.
        """
        if self.read_set.unproven:
            yield from self._guarded(self._prove(came), tuple(self.read_set.present))

    def ttl(self, key: str) -> Steps[float | None]:
        """Seconds until the document expires, own writes included; None: it doesn't."""
        self.check_write()
        if key not in self.ttls:
            read = TTLRead(key, self.settings.redis_key(key))
            self._settle([key])
            yield from self._guarded(self._fetch([read], wanted={}, prefetch=False), (key,))
            self.ttls = {**self.ttls, key: read}
        left = self.ttls[key].left
        if key in self.documents.records:
            left = self.documents.records[key].ttl_after(left)
        return None if left is None else left / 1000

    def begin(self, wanted: Wanted) -> Steps[None]:  # noqa: C901 - each transaction comes by, and a call costs
        """Take a channel, and the snapshot that it is armed with, if that is what this call asks for.

        Raises:
            Condemned: no channel became free.
            CrossSlotError: the keys are in several slots of a cluster.
        """
        if self.settings.clustered and wanted:
            self._settle(wanted)
        again = self.signature is not None
        if not again and wanted:
            self.signature = signature_of(self.settings, wanted)
        waits = meet(self, wanted, again=again)
        if waits is not None and (yield from wait_for_turn(self, waits)):
            return
        try:
            channel: Channel = yield Acquire(self.left(), self.signature, self.slot)
        except Exhausted as error:
            raise self.condemn(Outage(error)) from error
        if self.state is not RUNNING:
            channel.release()
            self.refuse()
        self.channel, session = channel, channel.session
        if self.member is not None and session is not None:
            self.member.got_connected()
        if session is not None and self.slot is not None:
            session.work_in(self.slot, self.settings)
        if session is None or session.armed is None:
            return
        armed, session.armed = session.armed, None
        if not channel.quiet():
            channel.drop()
        elif armed.signature == self.signature:
            if may_take_over(self, armed, session):
                self.read_set, self.documents.spares, self.tail = armed.read_set, armed.spares, armed.tail
            elif armed.tail is not None and self.read_set.turn.line is not None:
                steps = line_up_by(self, armed.tail)
                yield from steps if self.busy else self._guarded(steps, tuple(wanted))

    # The round trips.

    def left(self) -> float:
        """Seconds until the call's deadline."""
        return self.deadline - self.settings.clock()

    def time_left(self) -> float:
        """The same, while there are any.

        Raises:
            TooLate: the call's deadline has passed.
        """
        left = self.deadline - self.settings.clock()
        if left <= 0:
            raise TooLate("the deadline has passed")
        return left

    def remaining(self) -> float:
        """Seconds that the next reply may take.

        Raises:
            TooLate: the call's deadline has passed.
        """
        return min(self.time_left(), self.settings.timeout)

    def exchange(
        self, commands: Sequence[Command], timeout: float, tail: Constant = NOTHING, patience: Patience = ()
    ) -> Steps[list[Any]]:
        """Send a batch and read its replies; if anything goes wrong, the socket is not used again."""
        channel = self.channel
        assert channel is not None  # noqa: S101 - an invariant of the engine
        self.round_trips += 1
        try:
            replies: list[Any] = yield Send(channel, commands, timeout, tail, patience)
        except BaseException:
            if self.channel is channel:
                channel.drop()
            raise
        return replies

    def release(self) -> None:
        """Give the channel back to the pool, if there is one."""
        channel = self._let_go()
        if channel is not None:
            channel.release()

    def end(self) -> Channel | None:
        """End it, and count it. Returns the channel, if it was not released, for the next attempt."""
        counters = self.settings.counters
        if self.state is COMMITTED:
            counters.add_attempt(self.round_trips, "commits" if self.written else "reads")
        elif isinstance(self.verdict, (GiveWay, Apart)):
            counters.add(round_trips=self.round_trips)
        else:
            counters.add_attempt(self.round_trips, None)
        self.state = ENDED
        self.documents.guard_by(OVER)
        return None if self.channel is None else self._let_go()

    def require_quiet(self) -> None:
        """Raise if a read is in flight: one batch at a time on a connection.

        Raises:
            UsageError: in another thread, or in a task that the function did not wait for.
        """
        if self.busy:
            raise UsageError(
                "a read of this transaction is still in flight: a Tx is for one thread at a time, and an async "
                "function must await all that it started; nothing was applied"
            )

    def _let_go(self) -> Channel | None:
        channel, self.channel = self.channel, None
        if channel is not None and self.busy:
            # A read was left behind: its reply, or the connection that it waits for, must not become another's.
            channel.abandon()
            return None
        return channel

    def _guarded(self, steps: Steps[None], keys: Sequence[str]) -> Steps[None]:
        """Read, and sort what goes wrong: what may pass condemns the attempt, so that the function can't go on."""
        self.check_write()
        self.require_quiet()
        self.busy = True
        try:
            yield from steps
        except (Exhausted, Unreachable) as error:
            raise self.condemn(Outage(error)) from error
        except Lost as error:
            if error.interruption is not None:
                raise error.interruption from None
            raise self.condemn(Outage(error)) from error
        except Stale as stale:
            if stale.of_socket and self.channel is not None:
                self.channel.drop()
            raise self.condemn(Conflict()) from None
        except ReplyError as error:
            outcome = failure(error, f"reading {', '.join(map(repr, keys))}", keys)
            if isinstance(outcome, Outage):
                if self.channel is not None and not waits_for_the_rest(self.channel, error):
                    self.channel.drop()
                raise self.condemn(outcome) from error
            self.documents.refuse(keys)
            raise outcome.error from error
        finally:
            self.busy = False

    def _settle(self, keys: Iterable[str]) -> None:
        """Settle in the slot of these keys, before anything is sent.

        What the last attempt of this call had read says where to begin, but the function may go elsewhere this time.

        Raises:
            CrossSlotError: they are not all in one slot, or the function works in another one already.
        """
        slot = self.settings.slot(keys)
        if slot == self.slot:
            return
        if self.documents.asked or self.ttls:
            self.settings.slot([*self.documents.asked, *self.ttls, *keys])
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.release()
        self.slot, self.signature, self._session, self.tail = slot, None, None, None
        turn, self.read_set, self.documents.spares = self.read_set.turn, ReadSet(), {}
        if turn.claim is not None:
            self.read_set.turn = Turn(turn.claim)

    def _read(self, wanted: Wanted, *, prefetch: bool) -> Steps[None]:
        # Names first: one that can't be used is refused before anything is done.
        hashes = list(map(self.settings.redis_key, wanted))
        if self.settings.clustered:
            self._settle(wanted)
        if self.channel is None:
            yield from self.begin(wanted) if prefetch else begin_by_first_read(self, wanted)
            if not prefetch and self.documents.hand_out(wanted):
                return
        reads: list[Read] = []
        for name, (key, fields) in zip(hashes, wanted.items(), strict=True):
            record, names = (self.documents.suspect if prefetch else self.documents.ask)(key, fields)
            if names != ():
                reads.append(read_of(record, name, names))
        if reads:
            yield from self._fetch(reads, wanted=wanted, prefetch=prefetch)

    def _fetch(self, reads: Sequence[Read], *, wanted: Wanted, prefetch: bool) -> Steps[None]:
        if self.channel is None:
            yield from self.begin({})
        assert self.channel is not None  # noqa: S101 - begun
        if self.channel.session is None and not self.read_set.present:
            yield from connect(self.channel, self.settings, self.remaining(), self.slot)
            if self.member is not None:
                self.member.got_connected()
        if not self.read_set.present and self.read_set.turn.line is not None:
            yield from line_up(self)
        unreadable, field_ttls = yield from self._extend(reads)
        fetched = [read for read in reads if isinstance(read, DocRead) and read not in unreadable]
        if field_ttls:
            asks = [
                FieldTTLsRead(read.key, read.name, names) for read in fetched if (names := read.field_names())
            ]
            if asks:
                yield from self._extend(asks)
        for read in fetched:
            if prefetch:
                self.documents.spare(read.record, wanted[read.key])
            else:
                self.documents.adopt(read.record)
        if unreadable and not prefetch:
            yield from self._explain(*next(iter(unreadable.items())))

    def _prove(self, came: Sequence[object] | BaseException | None) -> Steps[None]:
        if isinstance(came, BaseException):
            raise came
        session, read_set = self.session, self.read_set
        proof = read_set.proof = read_set.proof or Proof(session, read_set.names.values())
        if came is None:
            came = yield from self.exchange((), self.remaining(), proof.commands)
        proof.take(came, sum(read_set.present.values()))
        read_set.unproven = False

    def _extend(self, reads: Sequence[Read]) -> Steps[tuple[dict[Read, Exception], bool]]:
        """One round trip. Returns what is unreadable, and whether fields that expire are to be looked for."""
        session = self.session
        batch = self.read_set.batch(session, reads, self.settings)
        # What armed it ends with its watches: an interruption may have kept this attempt from taking that over.
        session.watching, session.armed = True, None
        replies = yield from self.exchange(batch.commands, self.remaining(), patience=batch.patience)
        unreadable = batch.take(replies)
        if self.read_set.turn is not NO_TURN:
            heed(self, first=batch.first)
        return unreadable, batch.asks_for_field_ttls(replies)

    def _explain(self, read: Read, error: Exception) -> Steps[None]:
        """Raise for a document that was asked for and can't be read."""
        if not isinstance(error, ReplyError):
            raise error
        (found,) = yield from self.exchange([("TYPE", read.name)], self.remaining())
        if isinstance(found, ReplyError):
            raise refusal(error, f"reading {read.key!r}", [read.key]) from error
        raise WrongType(read.key, found.decode())
