"""Who is answered when: one after the other, in the order they came, and no more waiting than was agreed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import Lock

from glmquant.serve.wire import BUSY, ApiError


class Line:
    """A line before one counter.

    Args:
        longest: how many may wait while one is answered.
    """

    def __init__(self, longest: int) -> None:
        self._longest, self._inside, self._counter = longest, 0, Lock()

    @property
    def waiting(self) -> int:
        """How many wait, beside the one that is answered."""
        return max(0, self._inside - 1)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for one's turn, which lasts as long as the context. Raises ApiError where the line is full."""
        if self._inside > self._longest:
            raise ApiError(BUSY, f"{self._longest} requests wait already; try again later", code="queue_full")
        self._inside += 1
        try:
            async with self._counter:
                yield
        finally:
            self._inside -= 1
