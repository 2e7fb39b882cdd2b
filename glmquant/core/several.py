"""Lists in files that pydantic validates, of which the first wrong item ends the validation.

It keeps an error of more than a kilobyte for every wrong item of a list: a file of a few MB would take gigabytes.
"""

from typing import Annotated, Any, Final, TypeVar

from pydantic import BeforeValidator, FailFast

T = TypeVar("T")
Several = Annotated[tuple[T, ...], FailFast()]
"""A tuple that is validated up to the first item that is wrong."""

MOST_NAMED: Final = 1 << 16


def _few(values: Any) -> Any:
    if isinstance(values, dict) and len(values) > MOST_NAMED:
        raise ValueError(f"at most {MOST_NAMED:,} entries, and there are {len(values):,}")
    return values


Named = Annotated[dict[str, T], BeforeValidator(_few)]
"""An object of so few entries that an error for each does no harm; pydantic cannot stop at the first."""
