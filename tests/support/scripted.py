"""A driver for the engine without I/O: replies come from a script, and what was sent is recorded.

What the script leaves open is answered from a few dicts, the way a server would on which nobody else works. It is no
proof of anything about servers; it shows what the engine sends, and what it makes of what it gets.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from txstate._effects import Acquire, Call, Connect, Lost, Park, ReplyError, Send, Sleep, advance
from txstate._engine.settings import Settings
from txstate._engine.transaction import transact
from txstate.retry import Retry
from txstate.tx import Tx

if TYPE_CHECKING:
    from txstate._drivers.sync import SyncDriver
    from txstate._effects import Command, Effect, Steps
    from txstate._engine.session import Session
    from txstate.events import Event

T = TypeVar("T")

Answer: TypeAlias = (
    Mapping[str, object]
    | Sequence[object]
    | BaseException
    | Callable[[Sequence["Command"]], Sequence[object]]
)
"""All replies to a batch; or only those to some commands, by name; or what is thrown; or a function of the batch."""

Fields: TypeAlias = Mapping[str, int | bytes]
"""What a document holds: ints, or JSON."""

QUEUED = b"QUEUED"
CLEAN = b"id=1 addr=127.0.0.1:5 name= db=0 flags=N watch=2 user=default"
DIRTY = CLEAN.replace(b"flags=N", b"flags=xd")
TIME = 1_700_000_000_000_000


class ScriptedChannel:
    """A place in the pool.

    Attributes:
        unread: whether a batch was sent whose replies were not read.
        abandoned: whether the pool put another channel into its place.
    """

    def __init__(self, wire: Wire) -> None:
        self.session: Session | None = None
        self.connected = self.hot = False
        self.unread = self.abandoned = False
        self._wire = wire

    @property
    def armed(self) -> Hashable:
        armed = None if self.session is None else self.session.armed
        return None if armed is None else armed.signature

    def serves(self, slot: int | None) -> bool:
        return True

    def quiet(self) -> bool:
        return self.connected

    def drop(self) -> None:
        self.session, self.connected, self.unread = None, False, False

    def release(self) -> None:
        self._wire.idle.append(self)

    def abandon(self) -> None:
        self.drop()
        self.abandoned = True
        self._wire.idle.append(ScriptedChannel(self._wire))


class Wire:
    """Performs effects from a script.

    Attributes:
        hashes: the documents on the server, by hash name.
        strings: the tokens.
        now: the clock; every round trip takes `latency` seconds, and a sleep what it says.
        effects: all performed or failed, in order.
        channels: all handed out.
        interruptions: what is thrown into which effect, by its number, counted from 0.
        arms: whether every signature counts as asked for again and again.
        delivers: whether a batch that is interrupted takes effect on the server all the same.
    """

    def __init__(
        self,
        documents: Mapping[str, Fields] | None = None,
        /,
        *,
        latency: float = 0.001,
        deadline: float = 10.0,
        **more: Fields,
    ) -> None:
        self.hashes = {key.encode(): stored(fields) for key, fields in {**(documents or {}), **more}.items()}
        self.strings: dict[bytes, bytes] = {}
        self.now, self.latency = 0.0, latency
        self.effects: list[Effect] = []
        self.channels: list[ScriptedChannel] = []
        self.idle: list[ScriptedChannel] = []
        self.events: list[Event] = []
        self.settings = Settings(
            retry=Retry(deadline=deadline),
            timeout=1.0,
            clock=lambda: self.now,
            random_id=self._next_id,
            on_event=self.events.append,
            retake=self._retake,
        )
        self.script: dict[str, deque[Answer]] = defaultdict(deque)
        self.interruptions: dict[int, BaseException] = {}
        self.delivers = False
        self.arms = False
        self._ids = 0

    def next(self, kind: str, *answers: Answer) -> None:
        """Script what the next batches of this kind are answered with: `kind_of`, or "connect", or "acquire"."""
        self.script[kind].extend(answers)

    def transact(self, function: Callable[[Tx], Any], *, settings: Settings | None = None) -> Any:
        """Run a function as a transaction of the engine."""
        return self.run(transact(settings or self.settings, self.body(function)))

    def body(self, function: Callable[[Tx], T]) -> Callable[[Any], T]:
        """The function as the engine calls it."""
        return lambda attempt: function(Tx(attempt, cast("SyncDriver", self)))

    def run(self, steps: Steps[T]) -> T:
        """Run a generator of the engine to its end, as the real drivers do."""
        argument: Any = None
        error: BaseException | None = None
        while True:
            try:
                steps, effect = advance(steps, argument, error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            argument = error = None
            try:
                argument = self._perform(effect)
            except BaseException as raised:  # noqa: BLE001 - as in the real drivers: the engine decides
                error = raised

    def batches(self, kind: str | None = None) -> list[Sequence[Command]]:
        """The batches sent, or tried to be sent; of one kind, or all but the proofs of a new connection.

        Numbers are bytes in them, however they were passed.
        """
        sent = [effect.commands for effect in self.effects if isinstance(effect, Send)]
        return [
            [tuple(_number_as_bytes(part) for part in command) for command in batch]
            for batch in sent
            if (kind_of(batch) != "proof" if kind is None else kind_of(batch) == kind)
        ]

    def kinds(self) -> list[str]:
        """The kinds of the batches sent, but for proofs."""
        return [kind_of(batch) for batch in self.batches()]

    def slept(self) -> list[float]:
        """The pauses made."""
        return [effect.seconds for effect in self.effects if isinstance(effect, Sleep)]

    def assert_settled(self) -> None:
        """Every channel that was handed out is back, exactly once, and fit to be used again."""
        held = [channel for channel in self.channels if channel not in self.idle and not channel.abandoned]
        assert not held, "a channel was leaked"
        assert len(set(map(id, self.idle))) == len(self.idle), "a channel was released twice"
        assert not any(channel.unread for channel in self.idle), (
            "a channel with unread replies went to the pool"
        )

    def default(
        self, commands: Sequence[Command], override: Mapping[str, object] | None = None
    ) -> list[object]:
        """What a server alone with this client would answer."""
        override = override or {}
        replies: list[object] = []
        queue: list[Command] | None = None
        for command in commands:
            if command[0] == "EXEC" and queue is not None:
                replies.append(
                    override["EXEC"]
                    if "EXEC" in override
                    else [self._answer(queued, override) for queued in queue]
                )
                queue = None
            elif queue is not None:
                queue.append(command)
                replies.append(QUEUED)
            else:
                replies.append(self._answer(command, override))
                queue = [] if command[0] == "MULTI" else None
        return replies

    # The effects.

    def _perform(self, effect: Effect) -> Any:
        self.effects.append(effect)
        assert len(self.effects) < 20_000, "the engine loops"
        interruption = self.interruptions.get(len(self.effects) - 1)
        if interruption is not None:
            self._interrupt(effect, interruption)
        if isinstance(effect, Call):
            return effect.function(*effect.args)
        if isinstance(effect, Sleep):
            self.now += effect.seconds
            return None
        if isinstance(effect, Park):
            self.now += effect.timeout
            return False
        self.now += self.latency
        if isinstance(effect, Acquire):
            return self._take(effect)
        assert isinstance(effect, Connect | Send)
        channel = cast("ScriptedChannel", effect.channel)
        if isinstance(effect, Connect):
            self._scripted("connect", ())
            channel.connected = True
            return None
        return self._exchange(channel, effect.commands)

    def _exchange(self, channel: ScriptedChannel, commands: Sequence[Command]) -> list[object]:
        assert channel.connected, "sent over a channel that is not connected"
        assert not channel.unread, "a second batch while the replies to the first are unread"
        channel.unread = True
        replies = self._scripted(kind_of(commands), commands)
        channel.unread = False
        assert len(replies) == len(commands)
        return list(replies)

    def _retake(self, signature: Hashable) -> Any:
        for channel in self.idle:
            if channel.armed == signature:
                self.idle.remove(channel)
                channel.hot = self.arms
                return channel
        return None

    def _take(self, wanted: Acquire) -> ScriptedChannel | None:
        self._scripted("acquire", ())
        if not self.idle:
            self.channels.append(ScriptedChannel(self))
            self.idle.append(self.channels[-1])
        taken = self.idle.pop()
        taken.hot = self.arms and wanted.signature is not None
        if taken.session is not None and taken.armed != wanted.signature:
            taken.session.armed = None
        return taken

    def _scripted(self, kind: str, commands: Sequence[Command]) -> Sequence[object]:
        answer: Answer = self.script[kind].popleft() if self.script[kind] else {}
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, Mapping):
            return self.default(commands, answer)
        return answer(commands) if callable(answer) else answer

    def _interrupt(self, effect: Effect, interruption: BaseException) -> None:
        if isinstance(effect, Send):
            cast("ScriptedChannel", effect.channel).unread = True
            if self.delivers:
                self.default(effect.commands)
            if not isinstance(interruption, GeneratorExit):
                raise Lost([], sent=True, cause=interruption)
        raise interruption

    def _next_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

    # The dicts.

    def _answer(self, command: Command, override: Mapping[str, object]) -> object:
        name, args = str(command[0]), command[1:]
        if name in override:
            return override[name]
        handler = getattr(self, f"_do_{name.lower()}", None)
        return b"OK" if handler is None else handler(*args)

    def _do_hgetall(self, name: bytes) -> dict[bytes, bytes]:
        return dict(self.hashes.get(name, {}))

    def _do_hmget(self, name: bytes, *fields: bytes) -> list[bytes | None]:
        return [self.hashes.get(name, {}).get(field) for field in fields]

    def _do_hget(self, name: bytes, field: bytes) -> bytes | None:
        return self.hashes.get(name, {}).get(field)

    def _do_hset(self, name: bytes, *pairs: bytes) -> int:
        self.hashes.setdefault(name, {}).update(zip(pairs[::2], pairs[1::2], strict=True))
        return 1

    def _do_hdel(self, name: bytes, *fields: bytes) -> int:
        return len([self.hashes[name].pop(field) for field in fields])

    def _do_del(self, *names: bytes) -> int:
        found = [self.hashes.pop(name, None) or self.strings.pop(name, None) for name in names]
        return sum(value is not None for value in found)

    def _do_object(self, _subcommand: str, name: bytes) -> bytes | None:
        return b"listpack" if name in self.hashes else None

    def _do_exists(self, *names: bytes) -> int:
        return sum(name in self.hashes or name in self.strings for name in names)

    def _do_set(self, name: bytes, value: bytes, *options: object) -> bytes | None:
        if "NX" in options and name in self.strings:
            return None
        self.strings[name] = value
        return b"OK"

    def _do_get(self, name: bytes) -> bytes | None:
        return self.strings.get(name)

    def _do_mget(self, *names: bytes) -> list[bytes | None]:
        return [self.strings.get(name) for name in names]

    def _do_expire(self, name: bytes, _seconds: bytes) -> int:
        return int(name in self.strings)

    def _do_pttl(self, name: bytes) -> int:
        return -1 if name in self.hashes else -2

    def _do_bzpopmin(self, _name: bytes, seconds: bytes) -> None:
        self.now += float(seconds)

    def _do_time(self) -> list[bytes]:
        seconds, micros = divmod(TIME, 1_000_000)
        return [b"%d" % seconds, b"%d" % micros]

    def _do_role(self) -> list[object]:
        return [b"master", 0, []]

    def _do_hello(self) -> dict[bytes, object]:
        return {b"server": b"valkey", b"role": b"master"}

    def _do_client(self, _info: str) -> bytes:
        return CLEAN

    def _do_info(self, _section: str) -> bytes:
        return b"# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0,subexpiry=0\r\n"

    def _do_hpexpiretime(self, _name: bytes, _fields: str, count: int, *_: bytes) -> list[int]:
        return [-1] * int(count)

    def _do_wait(self, *_: object) -> int:
        return 2

    def _do_waitaof(self, *_: object) -> list[int]:
        return [1, 2]

    def _do_eval(self, *_: object) -> bytes:
        return b"written"

    def _do_type(self, name: bytes) -> bytes:
        return b"hash" if name in self.hashes else b"none"


def kind_of(commands: Sequence[Command]) -> str:
    """What the engine sends a batch for."""
    names = [str(command[0]) for command in commands]
    if not names:
        return "none"
    if names[:2] == ["MULTI", "EXEC"]:
        return "proof"
    if names[0] == "MULTI" and names[1] in ("SET", "EVAL"):
        return "commit"
    if "WATCH" in names or "CLIENT" in names:
        return "read"
    kinds = {"EXPIRE": "ask", "SET": "fence", "TYPE": "type"}
    return kinds.get(names[0], "plain")


def stored(fields: Fields, version: int = 7) -> dict[bytes, bytes]:
    """A hash as it is stored; the fields' values are ints, or the bytes themselves."""
    raw = {
        name.encode(): value if isinstance(value, bytes) else b"%d" % value for name, value in fields.items()
    }
    return {b"__version__": b"%d" % version, **raw}


def lost(*replies: object, sent: bool = True) -> Lost:
    """A connection that broke."""
    return Lost(replies, sent=sent, cause=ConnectionError("broken"))


def _number_as_bytes(part: bytes | str) -> bytes | str:
    return part.encode() if isinstance(part, str) and part.isdecimal() else part


def error(text: str) -> ReplyError:
    """An error reply."""
    return ReplyError(text)
