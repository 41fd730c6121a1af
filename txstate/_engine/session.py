"""One connected socket as the engine knows it: its token, its watches, and what the server lets it do.

A token is a key on the server that belongs to one socket. Every commit on that socket writes its own number into
it, and watches it: that is what a lost reply is resolved by (`resolve`). It has a random name and is never used by
another socket, so memory on the server is proportional to the connections. In a cluster a token has to share the slot
of the documents, so a socket has one in each slot that it has lately worked in.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final

from txstate._effects import NOTHING, Connect, ReplyError, Send
from txstate._engine.confirm import PROBES, objection
from txstate._engine.outcome import because, divided, passing, refusal
from txstate.errors import ServerRefused

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from txstate._effects import Channel, Command, Steps
    from txstate._engine.armed import Armed
    from txstate._engine.claims import Claim
    from txstate._engine.settings import Settings
    from txstate._engine.turns import Entry, Handover, Opening
    from txstate.durability import Durability
    from txstate.errors import TxStateError

DIRTY: Final = b"d"
"""The flag of a client of whom a watched key was modified."""

_VOLATILE_FIELDS: Final = re.compile(rb"(?:subexpiry|keys_with_volatile_items)=[1-9]")
_TOKENS: Final = 32
"""How many slots a session keeps its tokens of, at most, beside the one that it works in."""

_LOOSE: Final = 256
"""How many signatures are remembered of documents whose encoding tells nothing."""

_FRESH: Final = 60.0
"""Seconds for which the expiry of a token, an hour at least, is left as it is: to set it anew costs the server as much as a
command of its own."""

PROMPT: Final = 0.002
"""Seconds between two calls within which the second counts as made at once."""
_TRUSTED: Final = 4
_HARDLY: Final = 8192
_CREDIT: Final = 16
"""How many times as often as it takes to be trusted are held in a process's favour at most, each time that it does not come
back at once: one pause after many turns, as at the end of a job, is no reason to begin anew with turns of one commit."""
_AMENDS: Final = 64
"""How many times as often as it takes to be trusted again a process has to come back at once for that to become easier:
what a mistake has cost the others, they have got back by then."""
_WATCH, _FIELD_TTL = 2, 5
"""Of the replies to the proof of a connection, those to what names the token."""
_ROLES: Final = (b"master", b"slave", b"replica", b"sentinel")


class FieldTTLs(enum.Enum):
    """How it is known whether the fields of a hash may expire one by one."""

    NONE = "the server has no such thing"
    COUNTED = "INFO keyspace counts the hashes that have such fields"
    UNCOUNTED = "the server has it, but doesn't let us see the count: each document is asked"


class Session:
    """The engine's notes on one socket.

    Attributes:
        slot: of a cluster, in which it works now; None: there are no slots.
        guest: whether the node only imports that slot. What is created there might still be at the owner, which could
            then not hand it over: no claims are left.
        for_once: whether it is proven for the reading only that it was made for.
        token: the name of its token, in this slot.
        token_set: whether the token is known to be on the server.
        token_error: why it could not be set, if so: reading goes on, a commit does not.
        watching: whether keys may still be watched from an attempt that did not end in EXEC.
        flags: whether CLIENT INFO tells if a watched key was modified.
        role: the command that tells whether the server is a primary; None if none is allowed.
        field_ttls: see `FieldTTLs`.
        packed: whether the encodings of documents that are read for the first time have shown so far that none does.
        calm: whether the last count of documents with such fields, if one was needed, was 0.
        loose: signatures of transactions whose documents have encodings that do not show that no field expires.
        fresh: until when the expiry of its token need not be set again, by the settings' clock; 0: a commit sets it. Once that
            was applied, a minute after it began.
        lasts: for how long that was set, as it was sent.
        armed: a snapshot that is watched already.
        asked: what a first read asks beside the document; none: it was not made yet.
        claim: what its last call that stood in line at once claimed with.
        entry: what that sent.
        opening: what its last turn that went on began with.
        handover: what its last turn was passed on by.
        finished: when its last turn ended, or was kept for the next call; by the settings' clock.
        prompt: how many times in a row the next call came at once after that.
        trusted: how many times it takes to be given longer turns: twice as many, each time that was a mistake.
        waited: seconds of its last wait in a line.
        worked: seconds from the beginning of the last attempt that committed, or from its turn, to its EXEC.
        probed: what the server answered to the `PROBES` of durability.
    """

    __slots__ = (
        "armed",
        "asked",
        "calm",
        "claim",
        "commits",
        "entry",
        "field_ttls",
        "finished",
        "flags",
        "for_once",
        "fresh",
        "guest",
        "handover",
        "lasts",
        "loose",
        "opening",
        "packed",
        "probed",
        "prompt",
        "role",
        "slot",
        "token",
        "token_error",
        "token_set",
        "tokens",
        "trusted",
        "waited",
        "watching",
        "worked",
    )

    def __init__(self, token: bytes, slot: int | None = None) -> None:
        self.token, self.slot = token, slot
        self.token_set = False
        self.token_error: ReplyError | None = None
        self.watching = self.guest = self.for_once = False
        self.flags = False
        self.role: Command | None = None
        self.field_ttls = FieldTTLs.NONE
        self.packed = self.calm = True
        self.loose: set[Hashable] = set()
        self.fresh, self.lasts = 0.0, b""
        self.armed: Armed | None = None
        self.asked = NOTHING
        self.claim: Claim | None = None
        self.entry: Entry | None = None
        self.opening: Opening | None = None
        self.handover: Handover | None = None
        self.probed: Sequence[object] = ()
        self.commits = 0
        self.finished = self.waited = self.worked = 0.0
        self.prompt, self.trusted = 0, _TRUSTED
        self.tokens: dict[int | None, tuple[bytes, bool, ReplyError | None]] = {}

    def work_in(self, slot: int | None, settings: Settings) -> None:
        """Work in a slot from now on, with a token there: the one used last time, or a new one.

        A token whose place is taken by others is not used again, under any circumstances; a new one has a new name.
        """
        if slot == self.slot:
            return
        self.tokens[self.slot] = self.token, self.token_set, self.token_error
        kept = self.tokens.pop(slot, None)
        if len(self.tokens) > _TOKENS:
            del self.tokens[next(iter(self.tokens))]
        self.slot, self.fresh = slot, 0.0
        self.token, self.token_set, self.token_error = kept or (_new_token(settings, slot), False, None)

    def called(self, now: float, *, late: float) -> None:
        """The next call has come; whether it came at once decides how long its turns may last.

        Args:
            now: by the settings' clock.
            late: seconds from which on others were kept waiting by a turn that was left lying.
        """
        pause = now - self.finished
        if pause < PROMPT and self.trusted == _TRUSTED:
            self.prompt += 1  # as most often
            return
        self.prompt = self.prompt + 1 if pause < PROMPT else min(self.prompt, _CREDIT * self.trusted) // 2
        if pause > late:
            self.trusted = min(2 * self.trusted, _HARDLY)
        elif self.prompt >= _AMENDS * self.trusted > _AMENDS * _TRUSTED:
            self.trusted, self.prompt = self.trusted // 2, self.trusted

    def note_loose(self, signature: Hashable) -> None:
        """Remember that a document's encoding tells nothing."""
        if len(self.loose) >= _LOOSE:
            self.loose.clear()
        self.loose.add(signature)

    def next_id(self) -> bytes:
        """A value for the token that it has never had: a counter suffices, as the token's name is random."""
        self.commits += 1
        return b"%d" % self.commits

    def stamp(self, number: bytes, lasts: bytes, now: float) -> Command:
        """What writes a commit's number into the token, and says how long that lasts, unless it was said lately.

        Args:
            number: by `next_id`.
            lasts: seconds, as they are sent.
            now: or earlier, by the settings' clock.
        """
        if now < self.fresh and self.lasts == lasts:
            return ("SET", self.token, number, "KEEPTTL")  # it is watched, so it is there
        self.fresh, self.lasts = 0.0, lasts
        return ("SET", self.token, number, "EX", lasts)

    def stamped(self, since: float) -> None:
        """Such a commit was applied; it was stamped then, or later."""
        if not self.fresh:
            self.fresh = since + _FRESH

    def farewell(self) -> Sequence[Command]:
        """What gives back the turn that is kept for the next call, as there won't be one; nothing where there is no such turn."""
        armed, opening = self.armed, self.opening
        if armed is None or armed.tail is None or opening is None:
            return ()
        return opening.farewell(armed.turn) if opening.serves(armed.tail, armed.turn) else ()

    def objection(self, durability: Durability | None) -> TxStateError | None:
        """Why nothing can be committed here so that it is as durable as this; None: it can."""
        return objection(durability, self.probed)


def connect(
    channel: Channel, settings: Settings, timeout: float, slot: int | None = None, *, reads: bool = False
) -> Steps[Session]:
    """Connect the channel if need be, and prove on the new socket that transactions work there.

    With MULTI refused by an ACL, the commands behind it would run outside of any transaction; so each connection
    first shows that an empty one is taken.

    Args:
        channel: where.
        settings: the store's.
        timeout: seconds that connecting, and the reply, may take.
        slot: of a cluster, in which it will work.
        reads: it is for reading without a token: that the slot is on its way is then no reason to go to where it goes, as a
            document that is still here would be missing there.

    Raises:
        Unreachable: no connection.
        Lost: it broke at once.
        ReplyError: the server refuses for now (`passing`).
        ServerRefused: it refuses for good.
        UsageError: it can't do what the store's durability asks for.
    """
    if not channel.connected:
        try:
            yield Connect(channel, timeout)
        except ReplyError as error:
            if passing(error):
                raise
            raise refusal(error, "connecting") from error
        settings.counters.add(connections=1)
    session = Session(_new_token(settings, slot), slot)
    session.guest = not channel.serves(slot)
    try:
        replies = yield Send(channel, _proof(session.token), timeout)
        settings.counters.add(round_trips=1)
        if reads and isinstance(replies[_WATCH], ReplyError) and replies[_WATCH].code == "ASK":
            # It is the token that is not here, and nobody needs it. How fields expire is not told, either.
            session.for_once = True
            replies[_WATCH] = replies[_FIELD_TTL] = b""
        _judge(session, replies, settings)
    except BaseException:
        channel.drop()
        raise
    channel.session = session
    return session


def _new_token(settings: Settings, slot: int | None) -> bytes:
    return settings.reserved_name("token", slot, settings.random_id()).encode()


def _proof(token: bytes) -> list[Command]:
    return [
        ("MULTI",),
        ("EXEC",),
        ("WATCH", token),
        ("UNWATCH",),
        ("CLIENT", "INFO"),
        ("HPEXPIRETIME", token, "FIELDS", "1", "f"),
        ("INFO", "keyspace"),
        ("ROLE",),
        ("HELLO",),
        *PROBES,
    ]


def _judge(session: Session, replies: Sequence[object], settings: Settings) -> None:
    multi, execute, watch, unwatch, info, field_ttl, keyspace, role, hello, *session.probed = replies
    for reply in replies:
        if isinstance(reply, ReplyError) and passing(because(reply)):
            raise because(reply)
    for reply in (multi, execute, watch, unwatch):
        if isinstance(reply, ReplyError):
            raise refusal(
                because(reply),
                f"proving that MULTI, EXEC, WATCH and UNWATCH are allowed, on keys {settings.reserved!r}*",
            )
    if execute != []:
        raise ServerRefused(
            f"EXEC of an empty MULTI answered {execute!r} where a server answers with an empty array: something "
            "between here and the server does not pass transactions through; nothing was applied",
            code="EXEC",
        )
    session.flags = client_flags(info) is not None
    if not isinstance(field_ttl, ReplyError):
        counted = not isinstance(keyspace, ReplyError)
        session.field_ttls = FieldTTLs.COUNTED if counted else FieldTTLs.UNCOUNTED
    for command, reply in ((("ROLE",), role), (("HELLO",), hello)):
        name = role_of(reply)
        if name is not None:
            session.role = command
            require_primary(name)
            break
    unable = session.objection(settings.durability)
    if unable is not None:
        raise unable


def waits_for_the_rest(channel: Channel, error: ReplyError) -> bool:
    """Whether the documents of an attempt are on their way to the node that it works on: there it goes on.

    The owner is left when they are split up: the token that it still has would keep it from sending us there.
    """
    return channel.session is not None and channel.session.guest and divided(error)


def client_flags(info: object) -> bytes | None:
    """The flags in a reply of CLIENT INFO; None if it shows none.

    The key must match exactly: a client may be named ``flags=N``, but no name has a space.
    """
    if not isinstance(info, bytes) or (start := info.find(b" flags=")) < 0:
        return None
    return info[start + 7 :].split(None, 1)[0]


def is_clean(info: object) -> bool:
    """Whether a reply of CLIENT INFO is that of a client with no flag to show, as most are: no watched key was modified.

    Over TCP or a unix socket; any other reply is for `client_flags`.
    """
    return type(info) is bytes and (b" flags=N " in info or b" flags=U " in info)


def role_of(reply: object) -> bytes | None:
    """The server's role in a reply of ROLE, or of HELLO; None if it shows none."""
    if isinstance(reply, dict):
        reply = [item for pair in reply.items() for item in pair]
    if not isinstance(reply, list) or not reply:
        return None
    found = reply[0] if reply[0] in _ROLES else reply[reply.index(b"role") + 1] if b"role" in reply else None
    return found if found in _ROLES else None


def is_primary(reply: object) -> bool:
    """Whether a reply of ROLE, or of HELLO, shows a server that takes writes."""
    if type(reply) is list and reply:
        return reply[0] == b"master" or role_of(reply) == b"master"
    return role_of(reply) == b"master"


def require_primary(role: bytes) -> None:
    """Refuse to read from a replica, or from a demoted primary: its data may be stale.

    Raises:
        ReplyError: with the code READONLY, which passes once the connections go to the new primary.
    """
    if role != b"master":
        raise ReplyError(f"READONLY the server is a {role.decode()}, not a primary: its data may be stale")


def has_volatile_fields(keyspace: object) -> bool:
    """Whether a reply of INFO keyspace tells of hashes whose fields may expire; so it is taken if it is no answer."""
    return not isinstance(keyspace, bytes) or _VOLATILE_FIELDS.search(keyspace) is not None
