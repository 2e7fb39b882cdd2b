"""How long-running work tells how far it is. The command line draws it; the library is silent by default."""

from typing import Protocol


class Progress(Protocol):
    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of ``stage`` (words a user can read) are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """Tells nobody."""
