"""What can go wrong with a step: for each fault when it is possible, and how it is made to happen on a real server.

Each is one choice of a schedule. A fault leaves the transaction with what it would really see (a lost connection, an
interruption), and the server with what it would really have got.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from txstate._effects import Lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from txstate._drivers.sync import SyncChannel
    from txstate.testing._explorer.actor import Actor
    from txstate.testing._explorer.driver import Step
    from txstate.testing._explorer.record import Entry
    from txstate.testing._explorer.stage import Stage


_ONCE: Final = ("",)
_SHORT: Final = 3


class Scene(Protocol):
    """What a mishap needs of the run that it happens in.

    Attributes:
        stage: where the run is played.
        record: what has happened so far; its last entry is the step at hand.
    """

    stage: Stage
    record: list[Entry]

    def documents_of(self, actor: Actor, step: Step) -> list[str]:
        """The keys that the actor has used in this run, this step included."""

    def hold(self, actor: Actor, link: SyncChannel, step: Step) -> None:
        """Keep a request from arriving; it must be delivered before the end."""

    def holds_for(self, actor: Actor) -> bool:
        """Whether a request of this actor is held."""

    def deliver(self, actor: Actor) -> Entry:
        """Let the oldest request held of this actor arrive."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """One kind of fault.

    Attributes:
        told: how a timeline puts it.
        offers: in which variants it is possible at a step.
        perform: makes it happen; returns the replies, or raises what the transaction sees.
    """

    told: str
    offers: Callable[[Scene, Actor, Step], Iterable[str]]
    perform: Callable[[Scene, Actor, Step, str], list[object]]


def outsider(function: Callable[..., object]) -> Mishap:
    """Another client, that does something of the user's choice before the step."""

    def perform(run: Scene, _actor: Actor, step: Step, _detail: str) -> list[object]:
        function(run.stage.store)
        return step.send()

    return Mishap("before it, another client did this", _to_data, perform)


def _always(_run: Scene, _actor: Actor, _step: Step) -> Iterable[str]:
    return _ONCE


def _to_data(_run: Scene, _actor: Actor, step: Step) -> Iterable[str]:
    return () if step.proves else _ONCE


def _to_commit(_run: Scene, _actor: Actor, step: Step) -> Iterable[str]:
    return _ONCE if step.commits else ()


def _to_other_requests(_run: Scene, _actor: Actor, step: Step) -> Iterable[str]:
    return () if step.commits or step.proves else _ONCE


def _to_documents(run: Scene, actor: Actor, step: Step) -> Iterable[str]:
    return () if step.proves else run.documents_of(actor, step)


def _while_held(run: Scene, actor: Actor, step: Step) -> Iterable[str]:
    """Positions inside of a short batch that is not a transaction: the resolver's, for example."""
    if step.proves or step.commands[0] == ("MULTI",) or not run.holds_for(actor):
        return ()
    return [str(position) for position in range(1, min(len(step.commands), _SHORT))]


def _drop_reply(run: Scene, _actor: Actor, step: Step, _detail: str) -> list[object]:
    run.record[-1].replies = step.send()
    raise _lost("the connection broke before the reply came")


def _drop_request(_run: Scene, _actor: Actor, _step: Step, _detail: str) -> list[object]:
    raise _lost("the connection broke while the request was under way")


def _cut(_run: Scene, _actor: Actor, step: Step, _detail: str) -> list[object]:
    step.channel.cut()
    return step.send()


def _late(run: Scene, actor: Actor, step: Step, _detail: str) -> list[object]:
    link = step.channel.cut()
    if link is not None:
        run.hold(actor, link, step)
    raise _lost("no reply came in time")


def _inside(run: Scene, actor: Actor, step: Step, detail: str) -> list[object]:
    position = int(detail)
    replies = step.channel.exchange(step.commands[:position], step.timeout)
    run.record[-1].arrived = run.deliver(actor)
    return replies + step.channel.exchange(step.commands[position:], step.timeout)


def _interrupt(run: Scene, actor: Actor, step: Step, _detail: str) -> list[object]:
    run.record[-1].replies = step.send()
    raise Lost([], sent=True, cause=interruption_of(actor))


def interruption_of(actor: Actor) -> BaseException:
    """What an interruption is to it."""
    return asyncio.CancelledError() if actor.asynchronous else KeyboardInterrupt()


def _only_to_pauses(_run: Scene, _actor: Actor, _step: Step) -> Iterable[str]:
    return ()


def _foreign_write(run: Scene, _actor: Actor, step: Step, detail: str) -> list[object]:
    run.stage.rewrite(detail)
    return step.send()


def _expiry(run: Scene, _actor: Actor, step: Step, detail: str) -> list[object]:
    run.stage.expire(detail)
    return step.send()


def _restart(run: Scene, _actor: Actor, step: Step, _detail: str) -> list[object]:
    run.record[-1].replies = step.send()
    run.stage.restart()
    raise _lost("the server was killed before its reply came")


def _lost(what: str) -> Lost:
    return Lost([], sent=True, cause=ConnectionError(f"{what} (injected)"))


INTERRUPT: Final = "interrupt"
IMPATIENCE: Final = "impatience"
"""The fault by which a call that waits for others of its process gives up, or goes on without them."""

MISHAPS: Final = {
    "drop_reply": Mishap("the server did this, and its reply was lost", _always, _drop_reply),
    "drop_request": Mishap("this never reached the server", _always, _drop_request),
    "cut": Mishap("before it, the connection was cut", _always, _cut),
    INTERRUPT: Mishap("the server did this, and the caller was interrupted", _always, _interrupt),
    "late_exec": Mishap("this was held up, and its sender gave it up", _to_commit, _late),
    "late_request": Mishap("this was held up, and its sender gave it up", _to_other_requests, _late),
    "foreign_write": Mishap("before it, another client wrote", _to_documents, _foreign_write),
    "expiry": Mishap("before it, this key expired", _to_documents, _expiry),
    IMPATIENCE: Mishap("its patience with the others of its process ran out", _only_to_pauses, _interrupt),
    "restart": Mishap(
        "the server did this, and was killed and restarted before it answered", _always, _restart
    ),
}

INSIDE: Final = "inside"
"""Where the request that was held up may arrive, besides between two steps: no fault of its own."""
INSIDE_MISHAP: Final = Mishap(
    "in the middle of it, the request that was held up arrived", _while_held, _inside
)
