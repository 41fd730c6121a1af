"""Learning how many replicas and disks have a commit: WAIT or WAITAOF behind its EXEC, and what they answer.

They count on the connection that wrote, and only there: on others they reported a replica that was stopped. After a
resolution, the connection that resolved has written too: EXPIRE on the token stands behind the EXEC in the stream to
the replicas, so whoever has confirmed the one has the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from txstate._effects import Lost, ReplyError, Send
from txstate._engine.outcome import refusal
from txstate.durability import Fsync, Replicas
from txstate.errors import NotDurable, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from txstate._effects import Channel, Command, Steps
    from txstate._engine.resolve import Evidence
    from txstate._engine.settings import Settings
    from txstate.durability import Durability
    from txstate.errors import TxStateError


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Less than was asked for.

    Attributes:
        asked: what the commit had to reach.
        replicas: how many replicas have confirmed it; None if there was no answer.
        local: whether the server's own disk has it; None if there was no answer, or it was not asked.
        reason: why there was no answer.
    """

    asked: Durability
    replicas: int | None = None
    local: bool | None = None
    reason: BaseException | None = None

    def error(self, result: object) -> NotDurable:
        """What the caller gets."""
        if self.replicas is None:
            found = f"nobody could be asked who has it ({self.reason})"
        else:
            found = f"confirmed by {self.replicas} replicas in time"
            if self.local is not None:
                found += f", {'' if self.local else 'not '}on the server's own disk"
        error = NotDurable(
            f"applied, but less durable than {self.asked}: {found}. It counts, unless a failover or a power cut loses "
            "it; don't apply it again",
            result=result,
            replicas=self.replicas,
            local=self.local,
        )
        error.__cause__ = self.reason
        return error


class Confirmation:
    """What is sent behind a write to learn who has it; nothing, unless that is asked for.

    Args:
        asked: how durable it has to be.
        seconds: how long to wait for that.

    Attributes:
        commands: none or one.
        seconds: how long the answer may take, beyond the time of a reply.
    """

    __slots__ = ("_asked", "commands", "seconds")

    def __init__(self, asked: Durability | None, seconds: float) -> None:
        self._asked, self.seconds = asked, seconds
        # At least 1: the server takes 0 for forever.
        limit = b"%d" % max(1, int(seconds * 1000))
        self.commands: Sequence[Command] = () if asked is None else ((*_waiting(asked), limit),)

    def shortfall(self, replies: Sequence[object], broken: BaseException | None = None) -> Shortfall | None:
        """What is missing; None: nothing.

        Args:
            replies: to the commands, and to others behind them; none if the connection broke before.
            broken: how it broke.
        """
        asked, answer = self._asked, replies[0] if replies else broken
        if asked is None:
            return None
        if isinstance(asked, Fsync) and isinstance(answer, list):
            found = Shortfall(asked, answer[1], bool(answer[0]) if asked.local else None)
            return found if answer[1] < asked.replicas or found.local is False else None
        if isinstance(asked, Replicas) and isinstance(answer, int):
            return Shortfall(asked, answer) if answer < asked.n else None
        reason = answer if isinstance(answer, BaseException) else ReplyError(f"TXSTATE answered {answer!r}")
        return Shortfall(asked, reason=reason)


UNCONFIRMED: Final = Confirmation(None, 0.0)


def confirmation_of(asked: Durability | None, most: float) -> Confirmation:
    """What to send for this durability, waiting for no more than so many seconds."""
    return UNCONFIRMED if asked is None else Confirmation(asked, max(0.001, min(asked.timeout, most)))


def confirm(channel: Channel, evidence: Evidence, settings: Settings, most: float) -> Steps[Shortfall | None]:
    """Ask for a commit that was found by its token, on the connection that found it.

    Args:
        channel: that connection.
        evidence: the commit.
        settings: the store's.
        most: seconds left.

    Raises:
        BaseException: an interruption.
    """
    confirmation = confirmation_of(settings.durability, most)
    if not confirmation.commands:
        return None
    settings.counters.add(round_trips=1)
    touch: list[Command] = [("EXPIRE", evidence.token, settings.token_ttl), ("GET", evidence.token)]
    try:
        touched, value, *answer = yield Send(
            channel,
            [*touch, *confirmation.commands],
            max(0.0, min(settings.timeout, most)) + confirmation.seconds,
        )
    except Lost as lost:
        channel.drop()
        if lost.interruption is not None:
            raise lost.interruption from None
        return confirmation.shortfall([], lost)
    if touched != 1 or value != evidence.number:
        return confirmation.shortfall([], ReplyError(f"TXSTATE its token answered {touched!r}, {value!r}"))
    return confirmation.shortfall(answer)


PROBES: Final[Sequence[Command]] = (
    ("WAIT", "0", "1"),
    ("WAITAOF", "0", "0", "1"),
    ("WAITAOF", "1", "0", "1"),
)
"""Sent on each new connection: the commands themselves, asking for nothing that takes time."""


def objection(durability: Durability | None, probed: Sequence[object]) -> TxStateError | None:
    """Why a server can't do what is asked, before anything is written; None: it can.

    Args:
        durability: what is asked for.
        probed: its replies to `PROBES`.
    """
    if durability is None:
        return None
    answer = probed[1 + durability.local] if isinstance(durability, Fsync) else probed[0]
    if not isinstance(answer, ReplyError):
        return None
    if answer.code == "NOPERM":
        return refusal(answer, f"asking for {durability}")
    return UsageError(
        f"this server can't do {durability}: it answered {str(answer)!r}. Fsync needs Redis 7.2 or later, or Valkey, and "
        "its own disk `appendonly yes`; nothing was applied"
    )


def _waiting(durability: Durability) -> Command:
    if isinstance(durability, Fsync):
        return "WAITAOF", "1" if durability.local else "0", b"%d" % durability.replicas
    return "WAIT", b"%d" % durability.n
