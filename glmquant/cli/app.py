"""The command line's frame: options of every command, errors, exit codes, and the entry point.

Exit codes: 0 passed, 1 an accuracy limit was missed, 2 bad input, or a disk, memory, device or network that failed,
3 the check was inconclusive, 4 it judged nothing, or there were no hashes to verify by, 70 a fault of glmquant itself,
130 interrupted, 143 terminated. A reader of stdout that wants no more (``| head``) changes none of them.
"""

import gc
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from glmquant import __version__
from glmquant.cli import anywhere
from glmquant.cli.commands import COMMANDS
from glmquant.cli.endings import settle, stopping_at_sigterm, tell
from glmquant.cli.help import EXIT_CODES, epilog
from glmquant.cli.printing import show
from glmquant.cli.several import one_of_several, require_ranked
from glmquant.cli.streams import open_streams

OBJECTS_BETWEEN_COLLECTIONS: Final = 10_000
"""In a process of our own. At Python 3.11's 700, collecting takes 0.08 s of the 2 s of torch's import, which makes half
a million objects and no garbage. To delete when torch is imported faster than that."""


class Commands(TyperGroup):
    """Commands whose errors and interrupts become a message and an exit code; usage errors are Typer's, with 2."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except BaseException as error:
            raise _exit_of(error, debug=False) from None

    def resolve_command(self, ctx: Any, args: Any) -> Any:
        found = super().resolve_command(ctx, args)
        require_ranked(found[0])
        return found

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, anywhere.to_the_front(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            with one_of_several(ctx.params["debug"]):
                return super().invoke(ctx)
        except BaseException as error:
            raise _exit_of(error, debug=ctx.params["debug"]) from None


def _exit_of(error: BaseException, *, debug: bool) -> BaseException:
    """Typer's own exceptions carry an exit code; any other gets one."""
    if isinstance(error, SystemExit) or hasattr(error, "exit_code"):
        return error
    return typer.Exit(tell(error, debug=debug))


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)
for command in COMMANDS:
    app.command(epilog=epilog(command.__name__.replace("_", "-")))(command)


def _version(value: bool) -> None:
    if value:
        show(f"glmquant {__version__}")
        raise typer.Exit


@app.callback(epilog=f"{anywhere.HELP}\n\n{EXIT_CODES}")
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no notes.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take a GLM checkpoint to a small, fast, proven ONNX model: calibrate, quantize, export, check."""
    anywhere.set_quiet(quiet)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``glmquant`` command; exits."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    open_streams()
    with stopping_at_sigterm():
        sys.exit(settle(_code_of(arguments)))


def _code_of(arguments: Sequence[str] | None) -> int:
    try:
        app(None if arguments is None else list(arguments))
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 0
    except BaseException as error:  # Typer itself, or between two of its steps
        return tell(error)
    return 0
