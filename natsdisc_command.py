"""The program `natsdisc`, outside of the package: Ctrl-C while that is imported must end in silence."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """Import the command line, with Ctrl-C at its default, and run it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from natsdisc.cli import main as run

    run()
