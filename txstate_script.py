"""The script `txstate`: its command line, imported in such a way that Ctrl-C has nothing to say meanwhile.

Stands outside of the package, because importing anything of a package imports the package, which takes the longest.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line. Until it is there, an interrupt ends the process by its signal, as shells expect it."""
    former = signal.getsignal(signal.SIGINT)
    if former is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from txstate.cli import main as run  # noqa: PLC0415 - this is what takes so long

    signal.signal(signal.SIGINT, former)
    run()
