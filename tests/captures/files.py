"""Where captures are kept."""

from pathlib import Path
from typing import Final

from tests.captures.normal import normal

DIRECTORY: Final = Path(__file__).parents[2] / "docs" / "captures"


def stored(name: str, columns: int) -> Path:
    """A session's file."""
    return DIRECTORY / f"{name}-{columns}.txt"


def write_if_changed(name: str, columns: int, capture: str) -> bool:
    """Whether it says something else than what is stored, and was written."""
    path = stored(name, columns)
    if path.exists() and normal(path.read_text(encoding="utf-8")) == normal(capture):
        return False
    path.write_text(capture, encoding="utf-8", newline="\n")
    return True
