"""What the engine asks of a driver, and how a driver tells that it failed.

The engine is written as generators that yield these effects and receive their results. A driver performs them:
over sockets, over asyncio, or one at a time under the explorer. This module imports nothing of the package.

Effects are named tuples: a transaction makes a handful of them, and a frozen dataclass costs three times as much
to build.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from txstate._engine.session import Session

T = TypeVar("T")

Command: TypeAlias = "tuple[bytes | str, ...] | Bulky"
"""One Redis command: its name and its arguments. No numbers: hiredis crashes on one if a signal handler raises."""

Patience: TypeAlias = Sequence[float]
"""Seconds for which each of the first commands of a batch may block on the server, at most."""

LARGE: Final = 2**18
"""Bytes from which on a value is worth not being copied."""


class Bulky(list[bytes | str]):
    """A command with more in it than should be copied on its way. No tuple, so that hiredis refuses to pack it."""


class Constant(tuple[Command, ...]):  # noqa: SLOT001 - a tuple can't have slots
    """Commands that are sent again and again in the same words.

    Attributes:
        packed: their bytes, kept by whoever packs them first.
        wakes: whether they let others go on, who may need the same processor.
    """

    packed: bytes = b""
    wakes = False


NOTHING: Final = Constant()


class Channel(Protocol):
    """One place in the connection pool, held by one attempt at a time.

    It is connected by a `Connect` effect and by nothing else: a channel never reconnects in silence, because a
    transaction that went on over a new connection would have lost its WATCH.
    """

    session: Session | None
    """The engine's notes on the connected socket; None until it has been proved."""

    hot: bool
    """Whether the signature that it was acquired for has been asked for lately: then arming it pays."""

    @property
    def node(self) -> Hashable:
        """Of a cluster, the one that it is, or was last, connected to; None: there is no cluster."""

    @property
    def connected(self) -> bool:
        """Whether there is a socket, as far as is known without I/O."""

    def serves(self, slot: int | None) -> bool:
        """Whether what it is connected to owns a slot, as far as is known without I/O."""

    def quiet(self) -> bool:
        """Whether nothing has arrived that nobody asked for, such as the end of the stream."""

    def drop(self) -> None:
        """Close the socket, without I/O, and forget the session; the place is kept."""

    def release(self) -> None:
        """Give the place back to the pool, with its socket if it is connected."""

    def abandon(self) -> None:
        """Give the place back with another channel in it: somebody may still be waiting for something on this one.

        Closes the socket, and the one that a connect which is under way may still bring.
        """


class Mailbox(Protocol):
    """Where one call waits for the others of its process. Made by the driver, as it is the one that waits."""

    def put(self) -> None:
        """Wake who waits, or who will wait next. Never blocks; may be called by any thread of the driver's."""


class Acquire(NamedTuple):
    """Wait for a channel of the pool, best the one armed for this signature.

    In a cluster it is connected, now or by `Connect`, to the node that serves the slot at that time.
    Fails with `Exhausted` after `timeout` seconds. With `first`, before all others that wait.
    """

    timeout: float
    signature: Hashable = None
    slot: int | None = None
    first: bool = False


class Connect(NamedTuple):
    """Connect and authenticate the channel. Fails with `Unreachable` or `ReplyError`."""

    channel: Channel
    timeout: float


class Send(NamedTuple):
    """Send a pipeline of commands, and read a reply for each. Fails with `Lost`.

    The first ones may block on the server, one after the other, each for as long at most as `patience` has for it. A server that has nothing else to do notices the end of that late, by up to 100 ms (the pace of its timer): if no
    reply has come by then, the driver sends it something more to do.
    """

    channel: Channel
    head: Sequence[Command]
    timeout: float
    tail: Constant = NOTHING
    patience: Patience = ()

    @property
    def commands(self) -> Sequence[Command]:
        """All of them."""
        return [*self.head, *self.tail] if self.tail else self.head


class Call(NamedTuple):
    """Call a function of the user, awaiting what it returns under asyncio. Fails as the function does."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class Sleep(NamedTuple):
    """Do nothing for a while."""

    seconds: float


class Park(NamedTuple):
    """Wait until something is put into the mailbox. Results in whether it was, within `timeout` seconds.

    It tells no more than that it is worth looking: what has changed stands elsewhere, so that nothing is lost with an
    interruption.
    """

    mailbox: Mailbox
    timeout: float


Effect: TypeAlias = Acquire | Connect | Send | Call | Sleep | Park
Steps: TypeAlias = Generator[Effect, Any, T]


class Onward(NamedTuple):
    """What steps return that are at their end, but whose result is that of others: the driver goes on with those.

    Unlike `yield from` it leaves nobody in between whom an interruption could hit instead of who knows what to do.

    Attributes:
        steps: they have begun.
        effect: the first that they have asked for.
    """

    steps: Steps[Any]
    effect: Effect


class ReplyError(Exception):
    """An error reply of the server; replies hold it as a value.

    Attributes:
        code: the first word, which is what errors are classified by.
    """

    @property
    def code(self) -> str:
        """The error's first word, for example ``"OOM"``."""
        return str(self).partition(" ")[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReplyError) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def advance(steps: Steps[Any], argument: Any, error: BaseException | None) -> tuple[Steps[Any], Effect]:
    """Go on with steps, or with those that they hand over to. Returns who goes on, and what they ask for.

    Args:
        steps: they wait, or have not begun.
        argument: what their last effect resulted in.
        error: what it failed by; None: it did not.

    Raises:
        StopIteration: they are at their end; its value is their result.
        BaseException: whatever they raise.
    """
    try:
        return steps, steps.send(argument) if error is None else steps.throw(error)
    except StopIteration as stop:
        if isinstance(stop.value, Onward):
            return stop.value.steps, stop.value.effect
        raise


class Exhausted(Exception):  # noqa: N818 - a signal between two layers, named for what happened
    """No channel became free in time."""


class Unreachable(Exception):  # noqa: N818 - as above
    """No connection could be made; the cause is chained.

    Attributes:
        timed_out: whether it could not be made in the time that there was.
    """

    timed_out = False


class TooLate(Unreachable):
    """The call's deadline has passed, so nothing was tried any more."""

    timed_out = True


class Lost(Exception):  # noqa: N818 - as above
    """The connection failed, or was given up by an interruption, before every reply had been read.

    Attributes:
        replies: those that had been read.
        sent: whether a byte of the batch may have left this process.
        cause: the error, or the interruption.
    """

    def __init__(self, replies: Sequence[object], *, sent: bool, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.replies, self.sent, self.cause = replies, sent, cause

    @property
    def interruption(self) -> BaseException | None:
        """The cause, if it is an interruption (`KeyboardInterrupt`, `CancelledError`) and no error."""
        return None if isinstance(self.cause, Exception) else self.cause
