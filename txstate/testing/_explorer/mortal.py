"""A server that can be killed and comes back with everything that it had acknowledged.

An embedded server's guard gives up on one that keeps being killed, and rightly so. This one is started here, and ends
with this process, however that ends: a shell holds a pipe to us and kills the server when the pipe closes.
"""

from __future__ import annotations

import subprocess
import time
from typing import Final
from urllib.parse import quote

from txstate.embedded import find_server
from txstate.embedded.home import ask, temporary_directory
from txstate.errors import StoreUnavailable

_START: Final = 10.0
_SCRIPT: Final = """
folder="$1"; shift
"$@" >/dev/null 2>&1 &
server=$!
read -r last_word || rm_folder=1
kill -9 $server
wait $server 2>/dev/null
[ -z "$rm_folder" ] || rm -rf "$folder"
"""


class MortalServer:
    """A server with an append-only file that is synced on each write.

    Raises:
        StoreUnavailable: there is no server, or it does not start.
    """

    def __init__(self) -> None:
        self._folder = temporary_directory()
        self._socket = str(self._folder / "socket")
        self._command = [
            *("sh", "-c", _SCRIPT, "sh", str(self._folder), str(find_server())),
            *("--port", "0", "--unixsocket", self._socket, "--unixsocketperm", "700"),
            *("--dir", str(self._folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        ]
        self._start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{quote(self._socket)}"

    def restart(self) -> None:
        """Kill it by SIGKILL, and start it again.

        Raises:
            StoreUnavailable: it does not come back.
        """
        self._shell.communicate(b"stay\n")
        self._start()

    def close(self) -> None:
        """Kill it, and remove its folder."""
        self._shell.communicate()

    def _start(self) -> None:
        self._shell = subprocess.Popen(self._command, stdin=subprocess.PIPE)  # noqa: S603 - our own shell script
        deadline = time.monotonic() + _START
        while not ask(self._socket, "PING").startswith("+PONG"):
            if time.monotonic() > deadline:
                self.close()
                raise StoreUnavailable(
                    f"the server to be killed and restarted did not answer within {_START:.0f} s"
                )
            time.sleep(0.002)
