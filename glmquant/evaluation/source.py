"""A model as a function from token sequences to logits.

Shape suffixes: T tokens of a sequence, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Query:
    """What a model is asked.

    Attributes:
        tokens: int64 ``[T]``.
        num_logits: of how many last positions logits are wanted; at least one.
        routed: the experts that the tokens meet are wanted, too.
    """

    tokens: NDArray[np.int64]
    num_logits: int
    routed: bool = False


class LogitsSource(Protocol):
    """A model that answers queries."""

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        """For each query, in order, the logits at its last ``num_logits`` positions: float32 ``[num_logits, V]``.

        An array may be overwritten when the next is requested.
        """
