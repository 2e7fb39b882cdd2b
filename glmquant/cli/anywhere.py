"""Options that may stand anywhere on the line, whatever the command."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

DEBUG: Final = ("--debug",)
QUIET: Final = ("--quiet", "-q")
HELP: Final = (
    "Anywhere on the line: --quiet (-q) shows no progress and no notes, --debug shows a traceback with an error."
)

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


def to_the_front(arguments: Sequence[str]) -> list[str]:
    """The arguments with those options before all else; what follows ``--`` is no option."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    moved = [word for word in arguments[:end] if word in (*DEBUG, *QUIET)]
    kept = [word for word in arguments[:end] if word not in (*DEBUG, *QUIET)]
    return [*moved, *kept, *arguments[end:]]


def set_quiet(quiet: bool) -> None:
    """For the command that follows."""
    _quiet.set(quiet)


def is_quiet() -> bool:
    """Whether the user wants neither progress nor notes."""
    return _quiet.get()
