"""Rules: which commands an action is for, how often it may still fire, and waiting until it did.

`Armed` is the proxy's side of a rule and `Rule` the test's. Carrying an action out is the connection's business.
"""

from __future__ import annotations

import collections
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from txstate._checks import check_count, check_seconds
from txstate.errors import UsageError
from txstate.testing._proxy.endpoint import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from txstate.testing._proxy.faults import Action, Command
    from txstate.testing._proxy.loop import Loop


class Rule:
    """A rule of a `FaultProxy`, made by its `inject`. Usable from any thread."""

    def __init__(self, armed: Armed, loop: Loop) -> None:
        self._armed, self._loop = armed, loop

    @property
    def fired(self) -> int:
        """How many times the action took effect."""
        return self._armed.fired

    def wait(self, timeout: float = 5.0, *, times: int = 1) -> None:
        """Wait until the action took effect.

        Args:
            timeout: seconds.
            times: how many times at least, counted from the rule's beginning.

        Raises:
            TimeoutError: it did not.
            UsageError: the rule's own `where` raised; the cause is chained.
        """
        check_seconds("timeout=", timeout, zero=True)
        check_count("times=", times, 0)
        armed = self._armed
        with armed.changed:
            armed.changed.wait_for(lambda: armed.fired >= times or armed.error, timeout)
            if armed.error is not None:
                raise UsageError(f"the predicate of {self!r} raised") from armed.error
            if armed.fired < times:
                raise TimeoutError(f"{self!r} has not fired {times} times within {timeout} s")

    def held(self, timeout: float = 5.0) -> Held:
        """Take the next request that this rule made late, in the order in which it did.

        Args:
            timeout: seconds to wait for it.

        Raises:
            TimeoutError: there was none.
        """
        check_seconds("timeout=", timeout, zero=True)
        armed = self._armed
        with armed.changed:
            if not armed.changed.wait_for(lambda: armed.held, timeout):
                raise TimeoutError(f"{self!r} has made nothing late within {timeout} s")
            return armed.held.popleft()

    def release(self) -> None:
        """Let go what `HoldRequest` or `HoldReply` keeps at this moment. Later matches are kept anew."""
        self._loop.call(self._armed.release)

    def cancel(self) -> None:
        """Match nothing more, and forget what was matched but has not taken effect. What is kept is let go."""
        self._loop.call(self._armed.cancel)

    def __repr__(self) -> str:
        return f"<rule {self._armed.action} on {self._armed.text}, fired {self.fired} times>"


class Held:
    """A request that is late: the client is cut off from it, and the server has not seen it yet.

    Attributes:
        connection: the ordinal of the connection that it came from.
        commands: the commands in it, the one that matched first.
        data: its bytes.
    """

    def __init__(
        self,
        loop: Loop,
        commands: tuple[Command, ...],
        data: bytes,
        *,
        send: Callable[[], None],
        discard: Callable[[], None],
    ) -> None:
        self.connection = commands[0].connection
        self.commands = commands
        self.data = data
        self.answer: Future[tuple[object, ...]] = Future()
        self._loop, self._send, self._discard = loop, send, discard
        self._decided = ""

    def send(self) -> None:
        """Send it to the server, without waiting. Does nothing the second time.

        Raises:
            UsageError: it was discarded.
        """
        self._decide("sent", self._send)

    def deliver(self, timeout: float = 5.0) -> tuple[object, ...]:
        """Send it to the server and wait until everything is answered; the connection is closed then.

        When the wait ends early, call it again to wait on: it is sent once only.

        Args:
            timeout: seconds to wait.

        Returns:
            One reply for each of `commands`: bytes, int, float, bool, None, lists, dicts, and `ReplyError` for what
            the server refused.

        Raises:
            TimeoutError: no answer yet. It was sent, and may run any time.
            ConnectionError: the server ended the connection, before it was sent or before all was answered.
            UsageError: it was discarded.
        """
        check_seconds("timeout=", timeout, zero=True)
        self.send()
        try:
            return self.answer.result(timeout)
        except TimeoutError as error:
            raise TimeoutError(
                f"{self.commands[0].name} was sent, but the server has not answered within {timeout} s"
            ) from error

    def discard(self) -> None:
        """Close the server's side: the server never sees it. Does nothing the second time.

        Raises:
            UsageError: it was sent.
        """
        self._decide("discarded", self._discard)

    def _decide(self, what: str, act: Callable[[], None]) -> None:
        def decide() -> None:
            if self._decided not in {"", what}:
                raise UsageError(f"this request was {self._decided} already")
            if not self._decided:
                self._decided = what
                act()

        self._loop.call(decide)


class Armed:
    """The proxy's side of a rule. For the loop's thread; `fired`, `held` and `error` under `changed` for others.

    Args:
        action: what it does.
        command: the name in upper case, or None for any.
        connection: the connection's ordinal, or None for any.
        nth: which command of its name on its connection, counted from 1, or None for any.
        where: what else must hold.
        skip: how many matches pass unharmed first.
        times: how often it may fire; None: always.
        on_held: called with what was made late.
    """

    def __init__(
        self,
        action: Action,
        *,
        command: str | None = None,
        connection: int | None = None,
        nth: int | None = None,
        where: Callable[[Command], bool] | None = None,
        skip: int = 0,
        times: int | None = 1,
        on_held: Callable[[Held], None] | None = None,
    ) -> None:
        self.action = action
        self.on_held = on_held
        self.command, self.connection, self.nth, self.where = command, connection, nth, where
        self.skip = skip
        self.remaining = times
        self.gate = Gate()
        self.active = True
        self.changed = threading.Condition()
        self.fired = 0
        self.held: collections.deque[Held] = collections.deque()
        self.error: Exception | None = None

    @property
    def text(self) -> str:
        """What it is for, for messages."""
        name = self.command or "any command"
        ordinal = "" if self.nth is None else f" {self.nth}"
        return f"{name}{ordinal} of {'any connection' if self.connection is None else self.connection}"

    def claims(self, command: Command) -> bool:
        """Whether the action is for this command; if so, one of its times is used up."""
        if not self.active or self.remaining == 0:
            return False
        if (
            self.command not in {None, command.name}
            or self.connection not in {None, command.connection}
            or self.nth not in {None, command.nth}
        ):
            return False
        try:
            if self.where is not None and not self.where(command):
                return False
        except Exception as error:  # noqa: BLE001 - a test's code: `wait` and the proxy's `close` raise it
            self.active = False
            with self.changed:
                self.error = error
                self.changed.notify_all()
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.remaining is not None:
            self.remaining -= 1
        return True

    def give_back(self) -> None:
        """The command was matched, but its connection ended before the action took effect."""
        if self.remaining is not None:
            self.remaining += 1

    def fire(self, held: Held | None = None) -> None:
        """The action took effect."""
        with self.changed:
            self.fired += 1
            if held is not None:
                self.held.append(held)
            self.changed.notify_all()
        if held is not None and self.on_held is not None:
            self.on_held(held)

    def release(self) -> None:
        """Open the gate for what waits at it; what comes later finds a new one."""
        gate, self.gate = self.gate, Gate()
        gate.open()

    def cancel(self) -> None:
        """Be as if it had never been, from now on."""
        self.active = False
        self.gate.open()
