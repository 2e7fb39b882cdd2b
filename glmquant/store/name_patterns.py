"""Numbers for modules whose names match a pattern, as PEFT's ``rank_pattern`` and ``alpha_pattern`` give them."""

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Final

from pydantic_core import SchemaError, SchemaValidator, core_schema

from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError

LONGEST_PATTERN: Final = 1000
MOST_PATTERNS: Final = 10_000
MOST_SECONDS: Final = 5.0
"""Of matching in all. A thousand honest patterns take a tenth of a second."""


class NamePatterns:
    """Regular expressions over module names; the first that matches counts.

    A pattern matches a name's end that begins after a dot, or all of it. They are matched by the engine of pydantic,
    which takes time in proportion to the name's length: Python's own could be made to run for years.

    Args:
        where: what errors name.
    """

    def __init__(self, numbers: Mapping[str, float], where: str) -> None:
        self._numbers, self._where, self._spent = numbers, where, 0.0

    def first(self, name: str) -> float | None:
        """The number of the first pattern that matches; None where none does.

        Raises:
            CheckpointError: a pattern that is none, or that is made to take time.
        """
        started = time.monotonic()
        for matcher, number in self._matchers:
            if matcher.isinstance_python(name):
                return number
            if self._spent + time.monotonic() - started > MOST_SECONDS:
                raise CheckpointError("the patterns take too long to match", where=self._where)
        self._spent += time.monotonic() - started
        return None

    @cached_property
    def _matchers(self) -> list[tuple[SchemaValidator, float]]:
        if len(self._numbers) > MOST_PATTERNS:
            raise CheckpointError(
                f"{len(self._numbers)} patterns", where=self._where, expected=f"up to {MOST_PATTERNS}"
            )
        return [(self._matcher(pattern), number) for pattern, number in self._numbers.items()]

    def _matcher(self, pattern: str) -> SchemaValidator:
        if len(pattern) > LONGEST_PATTERN:
            raise CheckpointError(f"a pattern of {len(pattern)} characters", where=self._where)
        try:
            return SchemaValidator(core_schema.str_schema(pattern=rf"^(?:.*\.)?(?:{pattern})$"))
        except SchemaError as error:
            raise CheckpointError(
                f"{shown(pattern)} is no pattern that can be matched here",
                where=self._where,
                expected="a module's name, or a regular expression without look-around and references",
                hint="write out the names it stands for",
            ) from error
