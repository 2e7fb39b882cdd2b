"""Lists in files that pydantic validates, of which the first wrong item ends the validation.

It keeps an error of more than a kilobyte for every wrong item of a list: a file of a few MB would take gigabytes.
"""

from typing import Annotated, Final, TypeVar

from pydantic import FailFast, Field

T = TypeVar("T")
Several = Annotated[tuple[T, ...], FailFast()]
"""A tuple that is validated up to the first item that is wrong."""

MOST_NAMED: Final = 1 << 16
Named = Annotated[dict[str, T], Field(max_length=MOST_NAMED)]
"""An object of so few entries that an error for each does no harm; pydantic cannot stop at the first."""
