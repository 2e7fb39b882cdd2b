"""A model as a function from token sequences to logits.

Shape suffixes: T tokens of a sequence, V vocabulary.
"""

import hashlib
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


def update_with_queries(digest: "hashlib._Hash", queries: Sequence[Query]) -> None:
    """Adds to a hash the tokens asked, and what is wanted of them."""
    for query in queries:
        wanted = f"{query.num_logits} routed" if query.routed else query.num_logits
        digest.update(f"{len(query.tokens)} {wanted}\0".encode() + query.tokens.astype("<i8").tobytes())


def digest_of(queries: Sequence[Query]) -> str:
    """sha256 of the tokens asked, and of what is wanted of them."""
    digest = hashlib.sha256()
    update_with_queries(digest, queries)
    return digest.hexdigest()


class LogitsSource(Protocol):
    """A model that answers queries."""

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        """For each query, in order, the logits at its last ``num_logits`` positions: float32 ``[num_logits, V]``; of
        several ranks, for each that this one answers (:mod:`glmquant.evaluation.share`).

        An array may be overwritten when the next is requested.
        """
