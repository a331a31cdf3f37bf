"""The group of all commands, and how each of their failures ends the process."""

from __future__ import annotations

import traceback
from typing import Any

import click

import natsdisc
from natsdisc.errors import DiscoveryError

from .acl import acl
from .credentials import hidden
from .demo import demo
from .demo_worker import demo_worker
from .doctor import doctor
from .drain import disable, drain, enable
from .export import export
from .failure import ExitCode, Failure
from .history import history
from .ls import ls
from .output import discard, say_text
from .prune import prune
from .register import register
from .run import Stopped
from .serve import serve
from .status import status
from .top import top
from .tree import tree
from .ui import ui
from .unregister import unregister
from .watch import watch

__all__ = ["cli"]


# A group of commands was named, and none of them; click 8.1 has no such error.
_NO_COMMAND: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _Group(click.Group):
    """Turns what a command raises into one line and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            say_text(ctx.get_help(), err=True)
            ctx.exit(ExitCode.USAGE)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise Failure.of_usage(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except _NO_COMMAND as error:
            say_text(error.message, err=True)
            ctx.exit(ExitCode.USAGE)
        except click.UsageError as error:
            raise Failure.of_usage(error) from error
        except DiscoveryError as error:
            raise Failure.of(error) from error
        except Stopped as stopped:
            ctx.exit(stopped.exit_code)
        except KeyboardInterrupt:
            ctx.exit(ExitCode.INTERRUPTED)
        except BrokenPipeError:
            # The reader has what it wanted. Buffered output must not fail at the interpreter's end.
            discard()
            ctx.exit(ExitCode.FINE)
        except OSError as error:
            discard()
            raise Failure(str(error)) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            # Python would write the traceback as it is, with all that others wrote in it.
            say_text(hidden("".join(traceback.format_exception(error)).rstrip()), err=True)
            ctx.exit(ExitCode.FAILED)


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
    doctor exits with 1 for anything that is broken, register -- COMMAND as COMMAND does.

    \b
    Completion of commands and options, in ~/.bashrc (bash), ~/.zshrc (zsh) or
    ~/.config/fish/completions/natsdisc.fish (fish):
      eval "$(_NATSDISC_COMPLETE=bash_source natsdisc)"
      eval "$(_NATSDISC_COMPLETE=zsh_source natsdisc)"
      _NATSDISC_COMPLETE=fish_source natsdisc | source
    """


for _command in (
    demo,
    serve,
    ls,
    tree,
    ui,
    watch,
    top,
    register,
    unregister,
    drain,
    disable,
    enable,
    history,
    export,
    status,
    doctor,
    prune,
    acl,
    demo_worker,
):
    cli.add_command(_command)
