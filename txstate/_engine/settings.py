"""What one store's transactions have in common: names, limits, and where to report to."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from txstate._engine.slots import one_slot, tag_for
from txstate.errors import UsageError
from txstate.events import Counters
from txstate.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from txstate._effects import Channel
    from txstate._engine.group import Groups
    from txstate.durability import Durability
    from txstate.events import Event

logger: Final = logging.getLogger("txstate")

RESERVED: Final = "__txstate__:"
"""Tokens, and whatever else the library needs to keep on the server, live under this prefix of the namespace."""


def _random_id() -> str:
    return secrets.token_hex(12)


def _none(_signature: Hashable) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One store's settings, as the engine needs them.

    Args:
        namespace: prefix of every key.
        retry: the policy.
        timeout: seconds for one reply, and for connecting.
        durability: what a commit must have reached before its call returns.
        on_event: called with every event.
        counters: where to count.
        clustered: whether the data is spread over the slots of a cluster.
        groups: which calls share attempts; None: none do.
        retake: takes the idle channel that is armed for a signature. Never waits: None if there is none.
        take_idle: takes an idle channel for a signature that nobody has asked for lately: it does not pay to arm it. Never waits.
        patience: how many times one call gives way to another's claim, at most.
        shortest_lease: seconds that a claim lasts, at least.
        longest_wait: seconds that a call waits in line, or at the door, before it looks again, at most.
        interruptions: what is raised into a call from outside, and leaves it as itself.
        clock: monotonic seconds.
        random_id: a new, unguessable name part, from the operating system: it differs in a forked child too.

    Attributes:
        plain: whether commits ask for nothing beside: no durability, no slot, nobody to report to.
        token_ttl: seconds, as they are sent, that a token outlives its last use: far longer than anyone could still ask
            for it.
    """

    namespace: str = ""
    retry: Retry = field(default_factory=Retry)
    timeout: float = 5.0
    durability: Durability | None = None
    on_event: Callable[[Event], object] | None = None
    counters: Counters = field(default_factory=Counters)
    clustered: bool = False
    groups: Groups | None = None
    retake: Callable[[Hashable], Channel | None] = _none
    take_idle: Callable[[Hashable], Channel | None] = _none
    patience: int = 40
    shortest_lease: float = 0.02
    longest_wait: float = 1.0
    interruptions: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit)
    clock: Callable[[], float] = time.monotonic
    random_id: Callable[[], str] = _random_id
    token_ttl: bytes = field(init=False)
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ttl", b"%d" % max(3600, 10 * self.retry.deadline))
        plain = self.durability is None and self.on_event is None and not self.clustered
        object.__setattr__(self, "plain", plain)

    @property
    def reserved(self) -> str:
        """The prefix of the library's own keys."""
        return self.namespace + RESERVED

    def reserved_name(self, kind: str, slot: int | None, rest: str) -> str:
        """The name of one of the library's own keys, in the slot of the documents that it is for.

        Args:
            kind: what it is: ``"token"``, ``"claim"``.
            slot: of a cluster; None: there are no slots.
            rest: what tells it from others of its kind.
        """
        return f"{self.namespace}{RESERVED}{kind}:{tag_for(self.namespace, slot)}{rest}"

    def slot(self, keys: Iterable[str]) -> int | None:
        """The slot of these keys; None: there are no slots. See `slots.one_slot`.

        Raises:
            CrossSlotError: there are several.
        """
        if not self.clustered:
            return None
        return one_slot({key: self.redis_key(key) for key in keys})

    def redis_key(self, key: str) -> bytes:
        """The name of a document's hash.

        Raises:
            UsageError: it is not a str, can't be encoded, or is one of the library's own.
        """
        if not isinstance(key, str):
            raise UsageError(f"a key is a str, not {type(key).__name__} ({key!r}); nothing was applied")
        if key.startswith(RESERVED):
            raise UsageError(
                f"keys that start with {RESERVED!r} are the library's own, so {key!r} can't be used"
            )
        try:
            return (self.namespace + key).encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the key {key!r} can't be encoded as UTF-8: {error.reason}") from error

    def emit(self, event: Event) -> None:
        """Report an event. What a listener raises is logged: it must not decide a transaction's fate."""
        if self.on_event is not None:
            try:
                self.on_event(event)
            except Exception:
                logger.exception("on_event failed for %r", event)
