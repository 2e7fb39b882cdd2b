"""Which queries of a check this rank answers.

What a model makes of a query depends, in its last bits, on the batch the query is in. So batches are made of all
queries, whatever the number of ranks, and dealt as a whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glmquant.core.ranks import ALONE, Ranks
from glmquant.data.sequences import length_batches
from glmquant.evaluation.source import Query

TOKENS_AT_ONCE = 1024
LOGITS_AT_ONCE = 1 << 26


@dataclass(frozen=True)
class Share:
    """A rank's part of the batches that ONNX Runtime is given; of one rank alone, all of them.

    Attributes:
        vocab_size: width of the logits.
    """

    ranks: Ranks = ALONE
    vocab_size: int = 1

    def batches(self, queries: Sequence[Query]) -> Iterator[list[list[int]]]:
        """Stretch by stretch of the queries, this rank's batches, as numbers of queries. All logits of a stretch may be
        held together, so that they can be batched out of order."""
        before = 0
        for stretch in self._stretches(queries):
            alike = length_batches([len(queries[number].tokens) for number in stretch], TOKENS_AT_ONCE)
            yield [
                [stretch[index] for index in batch]
                for place, batch in enumerate(alike, start=before)
                if place % self.ranks.count == self.ranks.rank
            ]
            before += len(alike)

    def numbers(self, queries: Sequence[Query]) -> list[int]:
        """Those of this rank's queries, ascending."""
        return sorted(number for batches in self.batches(queries) for batch in batches for number in batch)

    def _stretches(self, queries: Sequence[Query]) -> Iterator[range]:
        allowed = max(1, LOGITS_AT_ONCE // self.vocab_size)
        start = held = 0
        for number, query in enumerate(queries):
            if number > start and held + query.num_logits > allowed:
                yield range(start, number)
                start, held = number, 0
            held += query.num_logits
        if queries:
            yield range(start, len(queries))
