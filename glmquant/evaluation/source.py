"""Where logits come from: a model, seen as a function of token sequences.

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
    """Tokens ``[T]``, int64, and how many of the last positions' logits are wanted (at least one)."""

    tokens: NDArray[np.int64]
    num_logits: int


class LogitsSource(Protocol):
    """A model that answers queries."""

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        """For each query, in order, float32 ``[num_logits, V]``: what follows each of its last ``num_logits`` tokens.

        An answer may be overwritten once the next is asked for.
        """
