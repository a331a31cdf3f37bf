"""The `natsdisc` command. Only `main` is here, so that a missing extra is told in one line."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]

_EXTRA = ("click", "rich")


def main() -> None:
    """Run the command line and exit with its code; 2 when the `cli` extra is not installed."""
    try:
        from .app import cli
        from .output import prepare
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write("natsdisc: the command line is an extra: pip install 'natsdisc[cli]'\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    prepare()
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    try:
        if not ignored:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli(prog_name="natsdisc")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # From here on nothing is left to close: Ctrl-C may end the process as it stands.
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)
