"""Logits of the exported model from ONNX Runtime: whole sequences, in left-padded batches of similar length.

Shape suffixes: B batch, T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence

from glmquant.core.ranks import ALONE, Ranks
from glmquant.data.sequences import padded
from glmquant.evaluation.share import Share
from glmquant.evaluation.source import Logits, Query
from glmquant.runtime.model import OnnxModel


class OnnxSource:
    """Answers queries through ONNX Runtime.

    Memory: a batch of :data:`~glmquant.evaluation.share.TOKENS_AT_ONCE` tokens (or one sequence), and up to
    ``LOGITS_AT_ONCE`` logits held until they are due.

    Args:
        ranks: who share the queries; each has the model opened.
    """

    def __init__(self, model: OnnxModel, ranks: Ranks = ALONE) -> None:
        self._model, self._share = model, Share(ranks, model.info.vocab_size)

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        for batches in self._share.batches(queries):
            answers: dict[int, Logits] = {}
            for batch in batches:
                answers.update(zip(batch, self._answer([queries[number] for number in batch]), strict=True))
            for number in sorted(answers):
                yield answers.pop(number)

    def _answer(self, batch: list[Query]) -> list[Logits]:
        tokens_BT, mask_BT = padded([query.tokens for query in batch], self._model.info.pad_id)
        logits_BTV = self._model.forward(tokens_BT, mask_BT, keep=max(query.num_logits for query in batch))
        # Copied, since a view would keep the whole batch's logits alive for a few rows.
        return [
            rows if len(batch) == 1 else rows.copy()
            for rows in (logits_V[-query.num_logits :] for logits_V, query in zip(logits_BTV, batch, strict=True))
        ]
