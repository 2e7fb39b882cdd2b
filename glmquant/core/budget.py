"""Work and memory that a description from a stranger may ask for, counted before they are spent."""

from collections.abc import Iterable
from typing import Final

from glmquant.errors import CheckpointError

MOST_JSON_VALUES: Final = 1 << 22
"""A vocabulary of 150,000 pieces with its merges has about a million; each takes some 70 bytes once it is read."""


class Budget:
    """So much of something, for one file.

    Args:
        amount: of what.
        what: is counted, for the error: ``merges``.
        where: what asks for it.
    """

    def __init__(self, amount: int, what: str, where: object) -> None:
        self._left, self._amount, self._what, self._where = amount, amount, what, where

    def spend(self, amount: int) -> None:
        """Raises CheckpointError once more is asked for than there is; nothing of that is to be made then."""
        self._left -= amount
        if self._left < 0:
            raise CheckpointError(
                f"the file asks for too many {self._what}",
                where=self._where,
                expected=f"at most {self._amount:,}, several times what any published model has",
            )


def product(sizes: Iterable[int], limit: int) -> int | None:
    """Of sizes that are not negative; None as soon as it is beyond ``limit``, however many are left."""
    total = 1
    for size in sizes:
        total *= min(size, limit + 1)
        if total > limit:
            return None
    return total


def require_few_values(raw: bytes, where: object) -> None:
    """To be asked before JSON or YAML is parsed: that it makes no more values than memory is good for.

    Raises:
        CheckpointError: a small file of a great many empty objects, say.
    """
    Budget(MOST_JSON_VALUES, "values", where).spend(sum(map(raw.count, (b",", b"[", b"{"))))
