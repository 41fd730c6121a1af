"""After a fork the child must not touch the parent's sockets: not write to them, not shut them down, not say goodbye."""

from __future__ import annotations

import logging
import os
import weakref
from typing import Final, Protocol


class Forgetful(Protocol):
    """What has something to forget in a forked child."""

    def forget(self) -> None:
        """Let go of everything inherited, leaving the parent's connections as they are."""


_inherited: Final[weakref.WeakSet[Forgetful]] = weakref.WeakSet()


def forget_in_children(driver: Forgetful) -> None:
    """Call its `forget` in every process forked from now on."""
    _inherited.add(driver)


def _after_fork() -> None:
    for driver in list(_inherited):
        try:
            driver.forget()
        except OSError:
            # One socket that is in a bad state must not keep the others from being forgotten.
            logging.getLogger("txstate").exception("a connection inherited by fork could not be let go")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
