"""Several calls of one process, stepped one effect at a time over a scripted wire: what threads or tasks do in any order.

A call that waits for others is woken through its mailbox, or by the time running out, as the test decides.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from support.scripted import Wire, kind_of

from txstate._effects import Park, Send
from txstate._engine.group import Groups
from txstate._engine.transaction import transact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from txstate._documents.doc import Doc
    from txstate._effects import Effect
    from txstate._engine.settings import Settings
    from txstate.tx import Tx


class Box:
    """A mailbox that nobody blocks on."""

    def __init__(self) -> None:
        self.full = False

    def put(self) -> None:
        self.full = True


class OneCall:
    """One call of `update`, on documents that it names beforehand.

    Attributes:
        effect: what it wants next; None: it has come to its end.
        result: what it returned: the first document, as committed.
        error: what it raised.
        runs: how often its function was called.
    """

    def __init__(
        self,
        wire: Wire,
        settings: Settings,
        function: Callable[[Tx], object],
        wanted: Mapping[str, Sequence[str] | None],
    ) -> None:
        self._wire, self._wanted = wire, wanted
        self.result: Any = None
        self.error: BaseException | None = None
        self.runs = 0
        body = wire.body(function)

        def counted(attempt: Any) -> object:
            self.runs += 1
            return body(attempt)

        def finish(attempt: Any, _: object) -> Any:
            record = attempt.documents.records[next(iter(wanted))]
            version = record.committed_version
            return record.snapshot(record.version if version is None else version)

        self._steps = transact(settings, counted, wanted=wanted, finish=finish)
        self.effect: Effect | None = None
        self._advance(lambda: next(self._steps))

    @property
    def parked(self) -> bool:
        """Whether it waits for others, and none has woken it."""
        return isinstance(self.effect, Park) and not self._box.full

    @property
    def ended(self) -> bool:
        return self.effect is None

    def run(self, until: str | None = None) -> OneCall:
        """Go on to the end, or until it waits for others, or is about to send a batch of this kind."""
        while self.effect is not None and not self.parked:
            if isinstance(self.effect, Send) and kind_of(self.effect.commands) == until:
                break
            self.step()
        return self

    def step(self) -> None:
        """Perform the effect that it wants."""
        effect = self.effect
        assert effect is not None
        if isinstance(effect, Park):
            assert self._box.full, "nobody has woken it"
            self._box.full = False
            self._advance(lambda: self._steps.send(True))
            return
        try:
            argument = self._wire._perform(effect)
        except BaseException as error:  # noqa: BLE001 - as in the real drivers: the engine decides
            raised = error
            self._advance(lambda: self._steps.throw(raised))
        else:
            self._advance(lambda: self._steps.send(argument))

    def run_out(self) -> OneCall:
        """The time of its wait runs out."""
        assert isinstance(self.effect, Park)
        self._wire.now += self.effect.timeout
        self._advance(lambda: self._steps.send(False))
        return self

    def interrupt(self, interruption: BaseException | None = None) -> OneCall:
        """It is interrupted while it waits, or while its function runs."""
        raised = interruption or KeyboardInterrupt()
        self._advance(lambda: self._steps.throw(raised))
        return self

    @property
    def _box(self) -> Box:
        assert isinstance(self.effect, Park)
        assert isinstance(self.effect.mailbox, Box)
        return self.effect.mailbox

    def _advance(self, go: Callable[[], Effect]) -> None:
        try:
            self.effect = go()
        except StopIteration as stop:
            self.effect, self.result = None, stop.value
        except BaseException as error:  # noqa: BLE001 - kept for the test
            self.effect, self.error = None, error


class Together(Wire):
    """A wire whose calls share attempts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.groups = Groups(threading.Lock, Box, lambda: self.now)
        self.settings = replace(self.settings, groups=self.groups)

    def call(
        self,
        function: Callable[[Tx], object],
        wanted: Mapping[str, Sequence[str] | None] | None = None,
        *,
        settings: Settings | None = None,
    ) -> OneCall:
        """Begin a transaction on these documents; by default on all fields of "k"."""
        return OneCall(self, settings or self.settings, function, wanted or {"k": None})

    def update(self, function: Callable[[Doc], object]) -> OneCall:
        """Begin an update of "k"."""
        return self.call(lambda tx: function(tx.get("k")))

    def all_waiting(self, *functions: Callable[[Doc], object]) -> list[OneCall]:
        """Begin updates of which the first leads, and is about to commit or to call the others."""
        leader, *others = (self.update(function) for function in functions)
        for other in others:
            assert other.run().parked
        return [leader, *others]
