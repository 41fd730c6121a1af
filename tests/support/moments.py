"""Interrupts a call in the library at any one of the moments in which Python looks for signals, by their number.

These are: where a function begins, or a generator goes on; where a function written in C returns; and where a loop jumps back.
"""

from __future__ import annotations

import dis
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import txstate

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

KINDS = {"call", "return of C", "jump back"}

_LIBRARY = str(Path(txstate.__file__).parent)
_YIELDS = dis.opmap["YIELD_VALUE"]
_JUMPS_BACK = {
    code for name, code in dis.opmap.items() if "JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name
}


def interrupted(at: int, call: Callable[[], object]) -> tuple[str, BaseException | None]:
    """Make a call, and interrupt it at the moment with a number, counted from 0.

    Returns:
        Where that was, beginning with which of the `KINDS` it was (empty: it came not to it), and by what the call ended.
    """
    interrupter = Interrupter(at)
    try:
        with interrupter:
            call()
    except KeyboardInterrupt as interruption:
        _let_go(interruption)
        return interrupter.place, interruption
    return interrupter.place, None


def _let_go(error: BaseException | None) -> None:
    """Forget the frames that an exception holds: a place of the pool that was lost in one is free again after that."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__context__


def _is_ours(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(_LIBRARY)


class _Counting:
    """Counts moments, and raises KeyboardInterrupt at one of them."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.place = ""

    def __enter__(self) -> None:
        """Begin to look."""

    def __exit__(self, *_: object) -> None:
        """Look no more. May be called again."""

    def _pass(self, frame: FrameType, kind: str) -> None:
        if self._left == 0:
            self.__exit__()
            code = frame.f_code
            self.place = (
                f"{kind} in {code.co_qualname}, line {frame.f_lineno} of {Path(code.co_filename).name}"
            )
            raise KeyboardInterrupt
        self._left -= 1


if sys.version_info >= (3, 12):
    # Not by tracing: that of Python 3.13 misses most jumps of code which it has not met before.
    _SEEN = sys.monitoring
    _TOOL = 3
    _AFTER_A_SUBGENERATOR = 2  # argument of RESUME, in its lowest two bits; from there on nobody looks

    class Interrupter(_Counting):
        """By `sys.monitoring`. It is told of all threads; only the one that made this is interrupted."""

        def __enter__(self) -> None:
            self._thread = threading.get_ident()
            events = _SEEN.events
            _SEEN.use_tool_id(_TOOL, __name__)
            _SEEN.register_callback(_TOOL, events.PY_START, self._began)
            _SEEN.register_callback(_TOOL, events.PY_RESUME, self._began)
            _SEEN.register_callback(_TOOL, events.C_RETURN, self._returned)
            # An exception that is raised from JUMP lands at the jump's target, where a `with` may have ended.
            _SEEN.register_callback(_TOOL, events.INSTRUCTION, self._comes_to)
            _SEEN.set_events(_TOOL, events.PY_START | events.PY_RESUME | events.CALL | events.INSTRUCTION)

        def __exit__(self, *_: object) -> None:
            if _SEEN.get_tool(_TOOL) is not None:
                _SEEN.set_events(_TOOL, 0)
                _SEEN.free_tool_id(_TOOL)

        def _began(self, code: CodeType, offset: int) -> None:
            frame = sys._getframe(1)
            looks = code.co_code[offset + 1] & 3 < _AFTER_A_SUBGENERATOR
            if looks and (_is_ours(frame) or _is_ours(frame.f_back)):
                self._meet(frame, "call")

        def _returned(self, _code: CodeType, _offset: int, _function: object, _argument: object) -> None:
            frame = sys._getframe(1)
            if _is_ours(frame):
                self._meet(frame, "return of C")

        def _comes_to(self, code: CodeType, offset: int) -> object:
            frame = sys._getframe(1)
            if code.co_code[offset] not in _JUMPS_BACK or not _is_ours(frame):
                return _SEEN.DISABLE
            self._meet(frame, "jump back")
            return None

        def _meet(self, frame: FrameType, kind: str) -> None:
            if threading.get_ident() == self._thread and not _in_a_finalizer(frame):
                self._pass(frame, kind)

    def _in_a_finalizer(frame: FrameType | None) -> bool:
        """What __del__ raises goes nowhere: it is no moment of the call that dropped the object."""
        while frame is not None and frame.f_code.co_name != "__del__":
            frame = frame.f_back
        return frame is not None

else:

    class Interrupter(_Counting):
        """By tracing and profiling, which don't see that a class was called."""

        def __enter__(self) -> None:
            self._tracer = sys.gettrace()
            sys.setprofile(self._profile)
            sys.settrace(self._trace)

        def __exit__(self, *_: object) -> None:
            sys.settrace(self._tracer)
            sys.setprofile(None)

        def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
            code = frame.f_code
            # What __del__ raises goes nowhere: it is no moment of the call that dropped the object.
            if code.co_name == "__del__":
                return None
            if event == "call" and _is_ours(frame.f_back) and not _is_ours(frame):
                self._pass(frame, "call")
            # A generator expression is also "called" to be closed, where nobody looks for signals.
            if not _is_ours(frame) or code.co_name == "<genexpr>":
                return None
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
            # Nor does anybody look when something is thrown into a generator: it goes on where it had yielded.
            thrown_into = frame.f_lasti >= 0 and code.co_code[frame.f_lasti] == _YIELDS
            if event == "call" and not thrown_into:
                self._pass(frame, "call")
            if event == "opcode" and code.co_code[frame.f_lasti] in _JUMPS_BACK:
                self._pass(frame, "jump back")
            return self._trace

        def _profile(self, frame: FrameType, event: str, _: object) -> None:
            if event == "c_return" and _is_ours(frame):
                self._pass(frame, "return of C")
