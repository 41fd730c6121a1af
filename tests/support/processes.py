"""What the operating system says of processes."""

from __future__ import annotations

import subprocess


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended yet."""
    command = ["/bin/ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return state not in {"", "Z", "Zs"}


def parent_of(pid: int) -> int:
    """The process that would be told of its end."""
    command = ["/bin/ps", "-o", "ppid=", "-p", str(pid)]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)
