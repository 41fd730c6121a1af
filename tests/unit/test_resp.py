"""RESP, read however the stream was cut into pieces."""

from __future__ import annotations

import pytest

from txstate.testing import ReplyError
from txstate.testing._proxy.resp import ProtocolError, Scanner, command_of, value_of


@pytest.mark.parametrize(
    ("frame", "value"),
    [
        (b"+OK\r\n", b"OK"),
        (b":-7\r\n", -7),
        (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
        (b"$0\r\n\r\n", b""),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"_\r\n", None),
        (b"*0\r\n", []),
        (b"*2\r\n*2\r\n:1\r\n*0\r\n$1\r\na\r\n", [[1, []], b"a"]),
        (b"#t\r\n", True),
        (b",1.5\r\n", 1.5),
        (b",inf\r\n", float("inf")),
        (b"(3492890328409238509324850943850943825024385\r\n", 3492890328409238509324850943850943825024385),
        (b"=8\r\ntxt:a\r\nb\r\n", b"a\r\nb"),
        (b"%2\r\n+a\r\n:1\r\n*1\r\n:2\r\n~1\r\n_\r\n", {b"a": 1, "[2]": [None]}),
        (b"|1\r\n+ttl\r\n*1\r\n:3\r\n$1\r\na\r\n", b"a"),
        (b"*2\r\n|1\r\n+x\r\n%0\r\n:1\r\n:2\r\n", [1, 2]),
        (b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", [b"invalidate", [b"k"]]),
    ],
)
def test_frames_end_where_they_end_however_the_stream_is_cut(frame: bytes, value: object) -> None:
    stream = frame * 2 + b"+next\r\n"
    for cut in range(len(stream) + 1):
        scanner = Scanner()
        frames = []
        for piece in (stream[:cut], stream[cut:]):
            scanner.feed(piece)
            while (found := scanner.next()) is not None:
                frames.append(found)
        assert frames == [frame, frame, b"+next\r\n"]
        assert scanner.rest() == b""
    assert value_of(frame) == value


def test_errors_are_values() -> None:
    for frame in (b"-ERR no\r\n", b"!6\r\nERR no\r\n"):
        value = value_of(frame)
        assert isinstance(value, ReplyError)
        assert str(value) == "ERR no"


@pytest.mark.parametrize("junk", [b"hello\r\n", b"$x\r\n", b"*?\r\n", b"$?\r\n"])
def test_what_is_no_reply_is_refused(junk: bytes) -> None:
    scanner = Scanner()
    scanner.feed(junk)
    with pytest.raises(ProtocolError):
        scanner.next()


def test_requests_may_be_typed_by_hand() -> None:
    scanner = Scanner(inline=True)
    scanner.feed(b"PING\r\n\r\nset k  v\r\n" + b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
    frames = []
    while (frame := scanner.next()) is not None:
        frames.append(command_of(frame))
    assert frames == [[b"PING"], [], [b"set", b"k", b"v"], [b"GET", b"k"]]
