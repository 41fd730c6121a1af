"""The straight way of a transaction on one document: an `update` or `put`, most of all one that is repeated.

It goes on by what its connection is armed with, or by a first read. It sends what `commit` would send, and judges it
alike, but builds nothing that such a transaction does not need: no attempt, no read set, no pursuit. For what it costs,
beside the round trip, is the number of steps that Python takes, all of them cold, as the server has just had the
processor. Whatever is unusual goes on the long way (`transaction`) from where it stands, with the attempt that it would
have been from the beginning.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from txstate._documents.changes import KEEP
from txstate._documents.codec import VERSION_FIELD, VERSION_LAST
from txstate._documents.doc import Doc
from txstate._effects import LARGE, Lost, Onward, Send
from txstate._engine.armed import signature_of
from txstate._engine.claims import NO_TURN
from txstate._engine.commit import EXEC, LEAST, MULTI, Sent
from txstate._engine.documents import OVER
from txstate._engine.first_read import first_read
from txstate._engine.outcome import APPLIED, GiveWay, Outage, verdict
from txstate._engine.pursuit import first_attempt
from txstate._engine.resolve import Evidence
from txstate._engine.session import PROMPT
from txstate._engine.state import COMMITTED
from txstate._engine.transaction import ended, judging, onward, raised, transact
from txstate._engine.turns import come_in, in_turn, lines_up, stays
from txstate._engine.writeset import Write
from txstate.errors import TxStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from txstate._documents.doc import Changes, Record
    from txstate._effects import Channel, Command, Steps
    from txstate._engine.armed import Armed, Tail, Wanted
    from txstate._engine.attempt import Attempt
    from txstate._engine.claims import Turn
    from txstate._engine.first_read import FirstRead
    from txstate._engine.group import Member
    from txstate._engine.session import Session
    from txstate._engine.settings import Settings
    from txstate._engine.transaction import Rest
    from txstate._engine.turns import Handover, Opening

_new: Final = tuple.__new__
"""Makes an effect, without a call to its class's own `__new__`, which is Python."""

_APPLIED: Final = [b"OK", 0]
"""What EXEC answers to SET and to HSET of fields that are there: nothing but a transaction that was applied."""

_SIZE: Final = 4
"""Commands of the transaction itself: MULTI, SET of the token, HSET, EXEC."""


class Noted(Protocol):
    """A function that is about one document, and what was learned of it that whoever called it may need.

    Attributes:
        key: the document.
        attempt: the latest one; None: none was needed so far.
        committed: of a commit for which none was needed, the token and the number in it.
    """

    key: str
    attempt: Attempt | None
    committed: tuple[bytes, bytes] | None

    def on(self, doc: Doc, /) -> Any:
        """Call it."""

    def __call__(self, attempt: Attempt, /) -> Any:
        """Call it in an attempt that has the document."""


class _UnusualError(Exception):
    """Something is not as it most often is."""


def change(  # noqa: C901, PLR0912, PLR0915 - one way, and each turn of it costs a call
    settings: Settings,
    noted: Noted,
    fields: Sequence[str] | None,
    finish: Callable[[Record, Any], Any],
) -> Steps[Any]:
    """Run a function on one document, until an attempt of it commits.

    Args:
        settings: the store's.
        noted: the function, and the key of its document.
        fields: fetch only these.
        finish: makes the call's result of the document and of what the function returned.

    Returns:
        What `finish` returned.

    Raises:
        BaseException: as `transact`.
    """
    key, began, groups, signature = noted.key, settings.clock(), settings.groups, None
    wanted: Wanted = {key: fields}
    if settings.plain:
        signature = (settings.namespace, (key, None)) if fields is None else _signature(settings, wanted)
    channel: Channel | None = None if signature is None else settings.retake(signature)
    cold = channel is None
    if channel is None:
        channel = None if signature is None else settings.take_idle(signature)
        if channel is None:
            return onward(_long(settings, noted, wanted, finish))
    deadline = began + settings.retry.deadline
    session: Session = channel.session  # type: ignore[assignment]  # one that is armed has it, and what arms it
    armed: Armed = session.armed  # type: ignore[assignment]
    member = doc = changes = result = waits = in_line = None
    behind: Tail | FirstRead | Opening | Handover | None = None
    came: Sequence[object] = ()
    number, version, turn, size = b"", 0, NO_TURN, _SIZE
    failed: list[Any] = [None]  # a local of its own would make a cycle with its traceback
    try:
        tail: Any  # what arms the socket, or the first read that stands for it where nothing does
        if cold:
            timeout = min(settings.timeout, settings.retry.deadline)
            first = yield from first_read(settings, channel, signature, wanted, timeout)
            if first is None:
                raise _UnusualError
            armed = tail = first
        else:
            tail = armed.tail
        if tail is None or not tail.simple:
            raise _UnusualError
        if groups is not None and not cold:
            member, tail.leader = tail.leader or groups.alone(signature, wanted), None
            if not groups.lead(member, deadline):
                raise _UnusualError
        if armed.until:
            turn = armed.turn
            if began < turn.ends and began - session.finished < PROMPT:
                session.prompt += 1  # as `called` would
            elif not stays(settings, session, turn, began):
                waits = lines_up(settings, session, armed, began, deadline - began)
                if waits is None:
                    raise _UnusualError
        if not (cold or channel.quiet()):  # last, as other threads go on meanwhile: they are to find a leader
            raise _UnusualError
        session.armed = None
        if waits is not None:
            turn = in_line = waits
            there = yield from come_in(settings, channel, tail, turn, began, member=member)
            if there is None:
                raise _UnusualError
            armed = there
        record = armed.spares[key]
        doc = Doc(record)
        result = noted.on(doc)
        now = settings.clock()
        left = deadline - now
        changes = None if record.pending or left <= 0 else record.changes()
        if (
            changes is None
            or record.version == VERSION_LAST
            or (member is not None and member.group is not None)
        ):
            raise _UnusualError
        delete_first, values, unset, exists, ttl = changes
        if delete_first or unset or not exists or ttl is not KEEP or sum(map(len, values.values())) >= LARGE:
            raise _UnusualError
        number, version = session.next_id(), record.version + 1
        if version < tail.least:  # noqa: PLR1730 - `max` is a call
            version = tail.least
        digits = b"%d" % version
        tail.before = number, digits, version
        commands: Sequence[Command] = (
            MULTI,
            session.stamp(number, settings.token_ttl, began),
            ("HSET", tail.names[key], VERSION_FIELD, digits, *chain.from_iterable(values.items())),
            EXEC,
        )
        behind = tail
        if turn is not NO_TURN and (now >= turn.ends or session.prompt < session.trusted):
            session.worked = now - (began if in_line is None else turn.since)
            behind = in_turn(settings, session, signature, turn, tail, now=now)
            commands = (*commands[:-1], *behind.claims, EXEC)
            size = len(commands)
        timeout = min(settings.timeout, max(LEAST, left / 2))
        came = yield _new(Send, (channel, commands, timeout, behind.commands, ()))
        answer = came[size - 1]
        if answer != _APPLIED and verdict(came[:size], (key,)) is not APPLIED:
            raise _UnusualError
        if not session.fresh:
            session.stamped(began)
        record.committed_version = version
        noted.committed = session.token, number
        session.watching = behind.watches
        behind.take(came[size:], turn)
        value = finish(record, result)
        record.guard = OVER
        back, channel = channel, None
        back.release()
        if groups is not None and member is not None and groups.resign(member):
            tail.leader = member  # after the connection, as whoever leads next takes that
        settings.counters.add_repeat()
        return value  # noqa: TRY300 - as above
    except GeneratorExit:
        if doc is not None:
            armed.spares[key].guard = OVER
        if channel is not None:
            channel.drop()  # a reply may be on its way
        _give_back(channel, member)
        raise
    except _UnusualError:
        pass
    except BaseException as error:  # noqa: BLE001 - the long way knows what to do about each
        failed[0] = error
    if doc is None and failed[0] is None and channel is not None and in_line is None and not cold:
        _give_back(channel, member)
        return onward(_long(settings, noted, wanted, finish))
    rest: Any = None
    while True:  # once, and once more for each interruption that strikes here
        try:
            if rest is not None:
                return Onward(rest, rest.throw(failed[0]))
            stand = _Stand(
                signature,
                wanted,
                began,
                channel,
                session,
                armed,
                cold,
                in_line,
                member,
                doc,
                result,
                changes,
                version,
                number,
                came,
                size,
                behind,
            )
            begun = _begun(settings, noted, stand, failed)
            rest = _long(settings, noted, wanted, finish, begun)
            return Onward(rest, next(rest))
        except StopIteration as stop:
            return stop.value
        except settings.interruptions as interruption:
            if noted.attempt is None or not noted.attempt.pursued:
                rest = None  # nobody takes care of it yet
            elif rest is None or not rest.gi_suspended:
                raise
            failed[0] = interruption


class _Stand(NamedTuple):
    """Where a transaction stands that leaves the straight way.

    Attributes:
        cold: whether it began with a first read.
        turn: for which it stood in line; None: it did not.
        doc: what its function was given; None: it did not come to that.
        result: what that returned.
        changes: what is to be written, as far as that is known.
        version: with that, if it was sent, or was about to be; 0: it was not.
        number: what that writes into the token.
        came: the replies to it.
        size: commands of the transaction itself.
        behind: what followed it.
    """

    signature: Hashable
    wanted: Wanted
    began: float
    channel: Channel | None
    session: Session
    armed: Armed
    cold: bool
    turn: Turn | None
    member: Member | None
    doc: Doc | None
    result: Any
    changes: Changes | None
    version: int
    number: bytes
    came: Sequence[object]
    size: int
    behind: Tail | FirstRead | Opening | Handover | None

    @property
    def in_flight(self) -> bool:
        """Whether something was sent, or about to be, and nothing was made of the reply."""
        return self.version > 0 or (self.doc is None and (self.cold or self.turn is not None))


def _begun(settings: Settings, noted: Noted, stand: _Stand, failed: list[Any]) -> tuple[Attempt, Rest | None]:
    """The attempt that it would have been, and what is left of it; None: all but to take a connection.

    Args:
        settings: the store's.
        noted: told of the attempt.
        stand: where it stands.
        failed: what was raised, and is now the attempt's business; None: something is unusual.
    """
    channel, session, turn = stand.channel, stand.session, stand.turn
    error: BaseException | None = failed[0]
    failed[0] = None
    attempt = first_attempt(settings, stand.began)
    attempt.channel, attempt.signature, attempt.member = channel, stand.signature, stand.member
    if stand.doc is not None:
        attempt.read_set, attempt.tail = stand.armed.read_set, stand.armed.tail
        attempt.documents.hand_over(stand.wanted, stand.doc, stand.armed.spares[noted.key])
    elif turn is not None:
        attempt.read_set.turn = turn
    if turn is not None and turn.since:
        attempt.began, attempt.waited = turn.since, session.waited
    noted.attempt = attempt
    if stand.version and stand.changes is not None:
        record = stand.armed.spares[noted.key]
        attempt.writes, attempt.round_trips = (Write(record, stand.changes, stand.version),), 1
        attempt.doubt = Evidence(session.token, stand.number, attempt.read_set.names, attempt.writes)
    if noted.committed is not None:
        attempt.state, attempt.written = COMMITTED, (noted.key,)
    elif error is not None and channel is not None and stand.in_flight:
        channel.drop()  # a reply may be on its way
    return attempt, _rest(attempt, session, stand, error)


def _rest(attempt: Attempt, session: Session, stand: _Stand, error: BaseException | None) -> Rest | None:
    """What is left of it; None: all but to take a connection."""
    if error is not None and not isinstance(error, Lost):
        return raised(error)
    if stand.version:
        sent = Sent(attempt.writes, stand.size, stand.behind, attempt.read_set.turn)
        return judging(attempt, session, sent, stand.came if error is None else error, stand.result)
    if stand.doc is not None:
        return ended(attempt, stand.result)
    if error is not None:
        return raised(error.interruption or attempt.condemn(Outage(error)))
    return raised(attempt.condemn(GiveWay())) if attempt.read_set.turn.others else None


def _long(
    settings: Settings,
    noted: Noted,
    wanted: Wanted,
    finish: Callable[[Record, Any], Any],
    begun: tuple[Attempt, Rest | None] | None = None,
) -> Steps[Any]:
    """The same on the long way, from its beginning or from where it stands."""

    def finished(attempt: Attempt, result: Any) -> Any:
        return finish(attempt.documents.records[noted.key], result)

    return transact(settings, noted, wanted=wanted, plain=True, finish=finished, begun=begun)


def _signature(settings: Settings, wanted: Wanted) -> Hashable:
    """See `signature_of`; None: the long way will say what is wrong with the fields."""
    try:
        return signature_of(settings, wanted)
    except TxStateError:
        return None


def _give_back(channel: Channel | None, member: Member | None) -> None:
    """Others may have the connection, and lead; in this order, as whoever leads next takes it."""
    try:
        if channel is not None:
            channel.release()
    finally:
        if member is not None:
            member.leave()
