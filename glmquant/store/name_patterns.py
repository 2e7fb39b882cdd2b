"""Numbers for modules whose names match a pattern, as PEFT's ``rank_pattern`` and ``alpha_pattern`` give them."""

import time
from collections.abc import Collection, Mapping
from typing import Final

from pydantic_core import SchemaError, SchemaValidator, core_schema

from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError

LONGEST: Final = 1000
MOST_SECONDS: Final = 5.0
"""Of matching in all. A thousand honest patterns over as many names take one."""


def first_matches(patterns: Mapping[str, float], names: Collection[str], where: str) -> dict[str, float]:
    """For each name the number of the first pattern that matches it; names that none matches are left out.

    A pattern is a regular expression that matches a name from its beginning or after a dot, and to its end. They are
    matched by pydantic's engine, which takes time in proportion to the name's length: Python's own could be made to run
    for years. A compiled pattern may take 10 MB, so that one at a time is kept.

    Args:
        where: what errors name.

    Raises:
        CheckpointError: a pattern that is none, or patterns that are made to take time.
    """
    found: dict[str, float] = {}
    end = time.monotonic() + MOST_SECONDS
    for pattern, number in patterns.items():
        if len(found) == len(names):
            break
        matcher = _matcher(pattern, where)
        for name in names:
            if name not in found and matcher.isinstance_python(name):
                found[name] = number
            if time.monotonic() > end:
                raise CheckpointError("the patterns take too long to match", where=where, expected="a pattern a module")
    return found


def _matcher(pattern: str, where: str) -> SchemaValidator:
    if len(pattern) > LONGEST:
        raise CheckpointError(f"a pattern of {len(pattern)} characters", where=where, expected=f"up to {LONGEST}")
    try:
        return SchemaValidator(core_schema.str_schema(pattern=rf"^(?:.*\.)?(?:{pattern})$"))
    except SchemaError as error:
        raise CheckpointError(
            f"{shown(pattern)} is no pattern that can be matched here",
            where=where,
            expected="a module's name, or a regular expression without look-around and references",
            hint="write out the names it stands for",
        ) from error
