"""A reading that can be repeated: again and again while its failures may pass, until the deadline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from txstate._effects import Acquire, Exhausted, Lost, ReplyError, Send, Sleep, Unreachable
from txstate._engine.outcome import divided, misnamed, passing, refusal
from txstate._engine.pursuit import telling, unavailable
from txstate._engine.session import connect
from txstate.retry import Pacing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from txstate._effects import Channel, Command, Steps
    from txstate._engine.settings import Settings

T = TypeVar("T")


def repeated(
    settings: Settings,
    once: Callable[[Channel, float], Steps[T]],
    slot: int | None = None,
    deadline: float | None = None,
    *,
    since: float | None = None,
    failed: Lost | None = None,
) -> Steps[T]:
    """Do it over a connection of the pool, again and again while the failures may pass and time is left.

    Args:
        settings: the store's.
        once: does it, on a connected channel and within so many seconds.
        slot: of a cluster, that it is about.
        deadline: on the settings' clock, if it is a part of something longer.
        since: when that began, on the same clock; None: now.
        failed: what came of a first attempt, if there was one.

    Raises:
        ServerRefused, StoreUnavailable: as documented there.
    """
    started = settings.clock() if since is None else since
    deadline = started + settings.retry.deadline if deadline is None else deadline
    trouble = _Trouble(settings, started, deadline)
    if failed is not None:
        _raise_final(failed, clustered=settings.clustered)
        yield from trouble.met(failed)
    channel: Channel | None = None
    try:
        while True:
            try:
                if channel is None:
                    channel = yield Acquire(deadline - settings.clock(), None, slot)
                    if channel.session is not None and channel.session.guest:
                        # What is not there yet would read as absent: only a transaction sees that, by its token.
                        channel.drop()
                timeout = max(0.001, min(settings.timeout, deadline - settings.clock()))
                if channel.session is None:
                    yield from connect(channel, settings, timeout, slot, reads=True)
                else:
                    channel.session.armed = None
                return (yield from once(channel, timeout))
            except (Exhausted, Unreachable, Lost, ReplyError) as error:
                _raise_final(error, clustered=settings.clustered)
                if channel is not None and not divided(error):
                    channel.drop()
                yield from trouble.met(error)
    finally:
        if channel is not None:
            if channel.session is not None and channel.session.for_once:
                channel.drop()
            channel.release()


class _Trouble:
    """What has kept a reading from its end so far.

    Args:
        settings: the store's.
        started: when the call began, by the settings' clock.
        deadline: when it must have ended.
    """

    pacing: Pacing | None = None
    cause: Exception | None = None
    failures = 0

    def __init__(self, settings: Settings, started: float, deadline: float) -> None:
        self._settings, self._started, self._deadline = settings, started, deadline

    def met(self, error: Exhausted | Unreachable | Lost | ReplyError) -> Steps[None]:
        """Wait after a failure that may pass.

        Raises:
            StoreUnavailable: there is no time or no attempt left, or no connection was free.
        """
        settings = self._settings
        self.failures += 1
        settings.counters.add(disruptions=1)
        self.pacing = self.pacing or Pacing(settings.retry, self._started, settings.clock)
        pause = self.pacing.after_outage(error, self._deadline - settings.clock())
        self.cause = telling(error, self.cause)
        if pause is None or isinstance(error, Exhausted):
            raise unavailable(self.cause, self.failures, settings.clock() - self._started) from self.cause
        if pause > 0:
            yield Sleep(pause)


def _raise_final(error: Exception, *, clustered: bool) -> None:
    """Raise what trying again can't mend."""
    if not clustered and (refused := misnamed(error)):
        raise refused from error
    if isinstance(error, Lost) and error.interruption is not None:
        raise error.interruption from None
    if isinstance(error, ReplyError) and not passing(error):
        raise refusal(error, "reading") from error


def exchange(
    settings: Settings, channel: Channel, commands: Sequence[Command], timeout: float
) -> Steps[list[Any]]:
    """Send a batch and read its replies; if anything goes wrong, the socket is not used again."""
    settings.counters.add(round_trips=1)
    try:
        replies: list[Any] = yield Send(channel, commands, timeout)
    except BaseException:
        channel.drop()
        raise
    return replies


def required(reply: Any, doing: str) -> Any:
    """The reply, unless it is an error."""
    if isinstance(reply, ReplyError):
        if passing(reply):
            raise reply
        raise refusal(reply, doing)
    return reply
