"""Pairs of pieces that join to a piece: what byte-pair encoding merges, found from the pieces alone."""

from collections.abc import Collection, Iterator
from typing import Final, TypeVar

from glmquant.core.budget import Budget

Piece = TypeVar("Piece", str, bytes)

MOST_BYTES: Final = 1 << 27
"""GLM-4's 150,000 tokens take a third of it."""

A_PAIR: Final = 64
CUTS_A_BYTE: Final = 64
"""Looking at a cut costs time, and so many of them about what a byte of a pair does."""


def merges_budget(where: object) -> Budget:
    """For all pieces of a tokenizer."""
    return Budget(MOST_BYTES, "bytes of merges", where)


def joined_pairs(piece: Piece, known: Collection[Piece], budget: Budget) -> Iterator[tuple[Piece, Piece]]:
    """Every cut of a piece into two that are known. Raises CheckpointError where the budget is spent."""
    budget.spend(len(piece) ** 2 // CUTS_A_BYTE)
    for cut in range(1, len(piece)):
        left, right = piece[:cut], piece[cut:]
        if left in known and right in known:
            budget.spend(len(piece) + A_PAIR)
            yield left, right
