"""The third driver of the engine, beside those over sockets and over asyncio: whoever performs its effects decides when.

Owns what the engine is handed: channels and drivers. When a step is taken, and what goes wrong with it, is decided
elsewhere (`run`).
"""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from txstate._drivers.pool import Place
from txstate._effects import NOTHING, Call, Lost, Send, advance
from txstate.testing._explorer.batches import Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from txstate._drivers.pool import Pool
    from txstate._drivers.sync import SyncChannel
    from txstate._effects import Command, Effect, Patience, Steps
    from txstate.testing._explorer.stage import Stage

T = TypeVar("T")


class Abandoned(BaseException):
    """Takes an actor out of its transaction, because the run is over before it has ended."""


class Performer(Protocol):
    """Performs the effects of a driver, when it is time."""

    def enter(self) -> None:
        """A call on the store begins, perhaps inside of another one's function."""

    def leave(self) -> None:
        """It has ended."""

    @property
    def pool(self) -> Pool[Channel, Any]:
        """Its connections."""

    def perform(self, effect: Effect) -> Any:
        """Perform an effect of the engine, but for calls."""


class Channel(Place):
    """One place in the pool of one actor. See `txstate._effects.Channel`."""

    def __init__(self, stage: Stage, release: Callable[[Channel], object]) -> None:
        super().__init__()
        self.link: SyncChannel | None = None
        self._stage, self._release = stage, release

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self.link is not None

    def connect(self, timeout: float) -> None:
        """Get a connection."""
        self.link, self.session = self._stage.link(timeout), None

    def exchange(self, commands: Sequence[Command], timeout: float, patience: Patience = ()) -> list[object]:
        """Send a batch and read its replies."""
        if self.link is None:
            raise Lost([], sent=False, cause=ConnectionError("the connection is gone"))
        return self.link.exchange(commands, timeout, NOTHING, patience)

    def cut(self) -> SyncChannel | None:
        """Lose the connection, without noticing yet. Returns what is left of it."""
        link, self.link = self.link, None
        return link

    def drop(self) -> None:
        """Close the connection; the stage will use it again, cleaned."""
        self.link = self.session = None

    def release(self) -> None:
        """Give the place back."""
        self._release(self)

    def abandon(self) -> None:
        """Give the place back; nothing else can be under way on it."""
        self.drop()
        self.release()

    def quiet(self) -> bool:
        """Whether nothing has arrived that nobody asked for."""
        return self.link is not None


@dataclass(slots=True)
class Step:
    """A batch of commands that is about to leave.

    Attributes:
        call: the number of the call on the store that it belongs to.
        patience: seconds for which each of its first commands may block.
    """

    channel: Channel
    commands: Sequence[Command]
    timeout: float
    call: int
    patience: Patience = field(default=(), kw_only=True)

    def send(self) -> list[object]:
        """Send it, and read the replies."""
        return self.channel.exchange(self.commands, self.timeout, self.patience)

    @property
    def proves(self) -> bool:
        """Whether it is a new connection's proof of rights: nobody else can tell when that happens."""
        return kind_of(self.commands) is Kind.CONNECT

    @property
    def commits(self) -> bool:
        """Whether it is a commit."""
        return kind_of(self.commands) is Kind.COMMIT


class Box:
    """A mailbox that nobody blocks on: whoever waits for it is not chosen to move."""

    __slots__ = ("full",)

    def __init__(self) -> None:
        self.full = False

    def put(self) -> None:
        """It may move."""
        self.full = True


@dataclass(slots=True)
class Pause(Step):
    """A moment in which others of the same process may come first, though nothing is sent.

    Attributes:
        mailbox: what it waits for; None: for nothing, it is about to call the store.
        late: whether its time has run out.
    """

    mailbox: Box | None
    late: bool = False

    @property
    def ready(self) -> bool:
        """Whether it may move."""
        return self.mailbox is None or self.mailbox.full or self.late

    def take(self) -> bool:
        """It moves. Returns whether something was put into the mailbox."""
        if self.mailbox is None or not self.mailbox.full:
            return False
        self.mailbox.full = False
        return True


class _Stepped:
    """The loop of both drivers, written once: as a coroutine, which for the sync one never has to wait."""

    def __init__(self, actor: Performer) -> None:
        self._actor = actor

    @property
    def pool(self) -> Pool[Channel, Any]:
        """The connections of the transaction that plays now."""
        return self._actor.pool

    def take_idle(self, signature: Hashable) -> Channel | None:
        """See `Pool.take_idle`."""
        return self._actor.pool.take_idle(signature)

    async def _loop(self, steps: Steps[T]) -> T:
        self._actor.enter()
        argument: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    steps, effect = advance(steps, argument, error)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                argument = error = None
                try:
                    argument = await self._perform(effect)
                except Abandoned:
                    steps.close()
                    raise
                except BaseException as raised:  # noqa: BLE001 - the engine decides about every one of them
                    error = raised
        finally:
            self._actor.leave()

    async def _perform(self, effect: Effect) -> Any:
        """Perform an effect, when it is time."""
        raise NotImplementedError


class SteppedDriver(_Stepped):
    """Performs effects when the director says so."""

    def run(self, steps: Steps[T]) -> T:
        """Run a generator of the engine to its end. Whatever fails enters it by `throw`."""
        try:
            self._loop(steps).send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        raise AssertionError("a sync driver has nothing to wait for")

    async def _perform(self, effect: Effect) -> Any:
        return effect.function(*effect.args) if isinstance(effect, Call) else self._actor.perform(effect)

    def close(self) -> None:
        """The stage keeps the connections."""


class AsyncSteppedDriver(_Stepped):
    """The same under asyncio. An actor's other tasks go on before each step, and stand still during it."""

    async def run(self, steps: Steps[T]) -> T:
        """Run a generator of the engine to its end. Whatever fails enters it by `throw`."""
        return await self._loop(steps)

    async def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Call):
            result = effect.function(*effect.args)
            return await result if inspect.isawaitable(result) else result
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as cancelled:
            if isinstance(effect, Send):
                raise Lost([], sent=False, cause=cancelled) from cancelled
            raise
        return self._actor.perform(effect)

    async def aclose(self) -> None:
        """The stage keeps the connections."""
