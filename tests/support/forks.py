"""Work in a forked child. Knows nothing of stores."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 30  # seconds: a child that waits for what is its parent's must not wait for ever


def in_child(work: Callable[[], object]) -> None:
    """Fork, do it in the child, and wait until it has ended well."""
    if (child := os.fork()) == 0:
        code = 1
        signal.alarm(_PATIENCE)
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0
