"""Work in a forked child. Knows nothing of stores."""

from __future__ import annotations

import os
import pickle
import signal
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_PATIENCE = 30  # seconds: a child that waits for what is its parent's must not wait for ever


def in_child(function: Callable[[], T]) -> T:
    """What a function returns in a forked child; raises what it raises."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: that is what is tested
        child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_PATIENCE)  # a child that hangs ends, and the test fails
            try:
                result: tuple[Any, BaseException | None] = function(), None
            except BaseException as error:  # noqa: BLE001 - handed on to the parent
                result = None, error
            with open(writer, "wb") as pipe:  # noqa: PTH123 - a descriptor is no path
                pickle.dump(result, pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - same
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    assert answer, f"the child ended without an answer: {os.waitstatus_to_exitcode(status)}"
    value, raised = pickle.loads(answer)  # noqa: S301 - our own child's
    if raised is not None:
        raise raised
    return cast("T", value)
