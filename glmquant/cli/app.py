"""The command line's frame: options of every command, errors, exit codes, and the entry point.

Exit codes: 0 passed, 1 an accuracy limit was missed, 2 bad input, 3 the check was inconclusive, 4 no limit
was judged, 130 interrupted.
"""

import gc
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from glmquant import __version__
from glmquant.cli.commands import COMMANDS
from glmquant.cli.spelling import as_told
from glmquant.errors import GlmQuantError

BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
OBJECTS_BETWEEN_COLLECTIONS: Final = 10_000
"""In a process of our own. At Python 3.11's 700, collecting takes 0.08 s of the 2 s of torch's import, which makes half
a million objects and no garbage. To delete when torch is imported faster than that."""


class Commands(TyperGroup):
    """Commands whose errors and interrupts become a message and an exit code; usage errors are Typer's, with 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except GlmQuantError as error:
            if ctx.params["debug"]:
                raise
            print(f"glmquant: {as_told(error)}", file=sys.stderr)
            raise typer.Exit(BAD_INPUT) from None


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in COMMANDS:
    app.command()(command)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take a GLM checkpoint to a small, fast, proven ONNX model: calibrate, quantize, export, check."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``glmquant`` command; exits."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    app(None if arguments is None else list(arguments))
