"""The group of all commands, and how each of their failures ends the process."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

import natsdisc
from natsdisc.errors import DiscoveryError

from .demo import demo
from .demo_worker import demo_worker
from .failure import ExitCode, Failure
from .ls import ls
from .register import register
from .run import Stopped
from .serve import serve
from .watch import watch

__all__ = ["cli"]


class _Group(click.Group):
    """Turns what a command raises into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DiscoveryError as error:
            raise Failure.of(error) from error
        except Stopped as stopped:
            ctx.exit(stopped.exit_code)
        except KeyboardInterrupt:
            ctx.exit(ExitCode.INTERRUPTED)
        except BrokenPipeError:
            # The reader has what it wanted. What is still buffered must not fail at the interpreter's end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(ExitCode.FINE)
        except OSError as error:
            raise Failure(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(natsdisc.__version__, prog_name="natsdisc", message="%(prog)s %(version)s")
def cli() -> None:
    """Service discovery for Python microservices on NATS JetStream.

    \b
    Exit codes:
      0    fine; also when Ctrl-C or SIGTERM ends watch, register, serve or
           demo --keep, and when the reader of a pipe has left
      1    the registry refused, or something else failed
      2    a bad command line: options, names, transports, contexts
      3    no server answers, it has no JetStream, or it refuses this user
      130  interrupted by Ctrl-C before it was done (143: by SIGTERM)
    """


for _command in (demo, serve, ls, watch, register, demo_worker):
    cli.add_command(_command)
