"""One run of all transactions under one schedule: exactly one of them moves at a time.

The actors pass on a baton: whoever is about to send a batch asks the guide what happens next, wakes that actor, and
waits for its own turn. So going on with the same actor costs no switch of threads.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from txstate._effects import Lost
from txstate.errors import UsageError
from txstate.testing._explorer.batches import documents_in
from txstate.testing._explorer.driver import Abandoned, Pause
from txstate.testing._explorer.mishaps import (
    IMPATIENCE,
    INSIDE,
    INSIDE_MISHAP,
    INTERRUPT,
    Mishap,
    interruption_of,
)
from txstate.testing._explorer.record import Entry
from txstate.testing._explorer.schedule import DELIVER, Choice, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from txstate._drivers.sync import SyncChannel
    from txstate.testing._explorer.actor import Actor
    from txstate.testing._explorer.driver import Step
    from txstate.testing._explorer.schedule import Guide
    from txstate.testing._explorer.stage import Stage

_MOST_STEPS: Final = 1000
_PATIENCE: Final = 60.0


class Endless(Exception):  # noqa: N818 - a finding, named for what happened
    """The transactions went on and on."""


class Stuck(UsageError):  # noqa: N818 - a finding, as above
    """A transaction waits for something that can't happen while it is explored."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What limits the choices.

    Attributes:
        mishaps: the faults that may happen, by name.
        faults: how many of them in one run.
        preemptions: how often a transaction that could go on has to give way to another one; None: no limit.
    """

    mishaps: Mapping[str, Mishap]
    faults: int
    preemptions: int | None


class _Held(NamedTuple):
    actor: Actor
    link: SyncChannel
    step: Step


class Run:
    """Plays all actors once.

    Args:
        stage: where.
        actors: who.
        guide: makes the choices.
        bounds: limits them.

    Attributes:
        record: what happened, in order.
        cut: whether the bound on preemptions left out a choice.
    """

    def __init__(self, stage: Stage, actors: Sequence[Actor], guide: Guide, bounds: Bounds) -> None:
        self.stage = stage
        self.record: list[Entry] = []
        self.cut = False
        self._actors, self._guide, self._bounds = actors, guide, bounds
        self._unstarted = list(actors)
        self._current: Actor | None = None
        self._chosen = Choice(0)
        self._faults = self._preemptions = 0
        self._held: list[_Held] = []
        self._documents: dict[int, dict[str, None]] = {actor.index: {} for actor in actors}
        self._failure: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    @property
    def schedule(self) -> Schedule:
        """The choices that were made."""
        return Schedule(tuple(entry.choice for entry in self.record))

    def play(self) -> None:
        """From the first request to the last; held ones are delivered before the end.

        Raises:
            Endless: it did not end within a thousand steps.
            Stuck: an actor does not come back.
            ScheduleDiverged: the guide could not follow its schedule.
            NotYet: the stage has to be prepared for it.
            BaseException: an outsider failed, or the caller was interrupted.
        """
        for actor in self._actors:
            actor.prepare(self)
        self._guide.begin()
        try:
            self._wake_next()
            self._wait()
        except Stuck as error:
            self._fail(error)
            raise
        except BaseException as error:  # noqa: BLE001 - raised again once nobody moves any more
            self._fail(error)
            self._wait()
        if self._failure is not None:
            self._unwind()
            raise self._failure

    # What actors call, each in its own thread.

    def exchange(self, actor: Actor, step: Step) -> list[object]:
        """Wait until it is this actor's turn; then send, or see it go wrong."""
        if self._failure is not None:
            raise Abandoned
        actor.step = step
        if step.proves:
            # Nobody else can tell when this happens, so only its own faults are choices.
            self._guarded(lambda: self._choose([actor], alone=True))
        else:
            self._guarded(self._wake_next)
            actor.gate.acquire()
            if self._failure is not None:
                raise Abandoned
        return self._perform(actor, step, self._chosen)

    def pause(self, actor: Actor, pause: Pause) -> bool:
        """Let others move first, until somebody has woken this actor, or its time has run out."""
        if self._failure is not None:
            raise Abandoned
        actor.step = pause
        self._guarded(self._wake_next)
        actor.gate.acquire()
        if self._failure is not None:
            raise Abandoned
        entry = Entry(self._chosen, pause.call, pause.commands, [])
        self.record.append(entry)
        if self._chosen.event == INTERRUPT:
            raise interruption_of(actor)
        if self._chosen.event == IMPATIENCE or pause.late:
            actor.process.now += pause.timeout
            return False
        return pause.take()

    def left(self) -> None:
        """An actor has ended."""
        if self._failure is None:
            try:
                self._wake_next()
            except BaseException as error:  # noqa: BLE001 - raised in the thread that plays
                self._fail(error)
            else:
                return
        self._done.release()

    # What mishaps call.

    def documents_of(self, actor: Actor, step: Step) -> list[str]:
        """The keys that the actor has used in this run, this step included."""
        return list(dict.fromkeys((*self._documents[actor.index], *documents_in(step.commands))))

    def hold(self, actor: Actor, link: SyncChannel, step: Step) -> None:
        """Keep a request from arriving; it must be delivered before the end."""
        self._held.append(_Held(actor, link, step))

    def holds_for(self, actor: Actor) -> bool:
        """Whether a request of this actor is held."""
        return any(held.actor is actor for held in self._held)

    def deliver(self, actor: Actor) -> Entry:
        """Let the oldest request held of this actor arrive."""
        held = next(held for held in self._held if held.actor is actor)
        self._held.remove(held)
        entry = Entry(Choice(actor.index, DELIVER), held.step.call, held.step.commands)
        try:
            entry.replies = held.link.exchange(held.step.commands, held.step.timeout)
        except Lost as lost:
            entry.error = lost
        return entry

    # Helpers

    def _perform(self, actor: Actor, step: Step, choice: Choice) -> list[object]:
        entry = Entry(choice, step.call, step.commands)
        self.record.append(entry)
        self._documents[actor.index].update(dict.fromkeys(documents_in(step.commands)))
        try:
            if not choice.event:
                entry.replies = step.send()
            elif choice.event == INSIDE:
                entry.replies = INSIDE_MISHAP.perform(self, actor, step, choice.detail)
            else:
                mishap = self._bounds.mishaps[choice.event]
                entry.replies = mishap.perform(self, actor, step, choice.detail)
        except Lost as lost:
            entry.error = lost
            raise
        except BaseException as error:
            self._fail(error)
            raise Abandoned from error
        return entry.replies

    def _wake_next(self) -> None:
        """Pass the baton on: to an actor, or at the end to whoever plays the run."""
        if self._unstarted:
            self._unstarted.pop(0).gate.release()
            return
        while True:
            movable = [actor for actor in self._actors if actor.step is not None and not _waits(actor)]
            if not movable and not self._held:
                movable = self._next_to_be_late()
            if not movable and not self._held:
                self._done.release()
                return
            choice = self._choose(movable)
            actor = self._actors[choice.actor]
            if choice.event != DELIVER:
                self._current = actor
                actor.gate.release()
                return
            self.record.append(self.deliver(actor))

    def _next_to_be_late(self) -> list[Actor]:
        """Nobody moves, so time passes, until the first wait ends."""
        waiting = [actor for actor in self._actors if _waits(actor)]
        if not waiting:
            return []
        late = min(waiting, key=lambda actor: cast("Pause", actor.step).timeout)
        cast("Pause", late.step).late = True
        return [late]

    def _choose(self, movable: Sequence[Actor], *, alone: bool = False) -> Choice:
        if len(self.record) == _MOST_STEPS:
            raise Endless(f"it did not end within {_MOST_STEPS} steps")
        choice = self._guide.choose(self._choices(movable, alone=alone))
        self._preemptions += self._preempts(choice, movable)
        self._faults += choice.event not in ("", DELIVER, INSIDE)
        self._chosen = choice
        return choice

    def _choices(self, movable: Sequence[Actor], *, alone: bool) -> list[Choice]:
        """What may happen next, the plainest first: the same actor goes on."""
        ordered = sorted(movable, key=lambda actor: actor is not self._current)
        choices = [Choice(actor.index) for actor in ordered]
        if self._held and not alone:
            late = dict.fromkeys(held.actor for held in self._held)
            choices += [Choice(actor.index, DELIVER) for actor in late]
            choices += self._offers(ordered, INSIDE, INSIDE_MISHAP)
        if self._faults < self._bounds.faults:
            waiting = [] if alone else [actor for actor in self._actors if _waits(actor)]
            for name, mishap in self._bounds.mishaps.items():
                choices += self._offers([*ordered, *waiting], name, mishap)
        limit = self._bounds.preemptions
        if limit is None or self._preemptions < limit or alone:
            return choices
        kept = [choice for choice in choices if not self._preempts(choice, movable)]
        self.cut = self.cut or len(kept) < len(choices)
        return kept

    def _offers(self, actors: Sequence[Actor], name: str, mishap: Mishap) -> Iterator[Choice]:
        for actor in actors:
            assert actor.step is not None  # noqa: S101 - it can move
            if isinstance(actor.step, Pause):
                if name in (INTERRUPT, IMPATIENCE) and actor.step.mailbox is not None:
                    yield Choice(actor.index, name)
                continue
            for detail in mishap.offers(self, actor, actor.step):
                yield Choice(actor.index, name, detail)

    def _preempts(self, choice: Choice, movable: Sequence[Actor]) -> bool:
        """Whether the current actor could go on, and has to give way."""
        current = self._current
        return (
            current is not None
            and choice.event != DELIVER
            and choice.actor != current.index
            and current in movable
        )

    def _guarded(self, work: Callable[[], object]) -> None:
        """Do what must not fail inside of a transaction."""
        try:
            work()
        except BaseException as error:
            self._fail(error)
            raise Abandoned from error

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error

    def _wait(self) -> None:
        """Until the baton comes back."""
        steps = -1
        while not self._done.acquire(timeout=_PATIENCE):
            if steps == len(self.record):
                raise Stuck(
                    f"for {_PATIENCE:.0f} s no transaction has moved: one waits for something else than its store, "
                    "perhaps for another transaction. While it is explored, only one of them runs at a time"
                )
            steps = len(self.record)

    def _unwind(self) -> None:
        """Take all actors out of their transactions."""
        for actor in self._actors:
            if actor.step is not None:
                actor.gate.release()
                self._wait()


def _waits(actor: Actor) -> bool:
    """Whether it can't move unless another one wakes it."""
    return isinstance(actor.step, Pause) and not actor.step.ready
