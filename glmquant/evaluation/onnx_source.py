"""Logits of the exported model from ONNX Runtime: whole sequences, in left-padded batches of similar length.

Shape suffixes: B batch, T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence

from glmquant.data.sequences import length_batches, padded
from glmquant.evaluation.source import Logits, Query
from glmquant.runtime.model import OnnxModel

TOKENS_AT_ONCE = 1024
LOGITS_AT_ONCE = 1 << 26


class OnnxSource:
    """Answers queries through ONNX Runtime.

    Memory: a batch of ``TOKENS_AT_ONCE`` tokens (or one sequence), and up to ``LOGITS_AT_ONCE`` logits held until they
    are due.
    """

    def __init__(self, model: OnnxModel) -> None:
        self._model = model

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        for stretch in self._stretches(queries):
            answers: dict[int, Logits] = {}
            for batch in length_batches([len(query.tokens) for query in stretch], TOKENS_AT_ONCE):
                answers.update(zip(batch, self._answer([stretch[i] for i in batch]), strict=True))
            for index in range(len(stretch)):
                yield answers.pop(index)

    def _stretches(self, queries: Sequence[Query]) -> Iterator[list[Query]]:
        """Consecutive queries whose logits may be held together, so that they can be batched out of order."""
        allowed = max(1, LOGITS_AT_ONCE // self._model.info.vocab_size)
        stretch: list[Query] = []
        held = 0
        for query in queries:
            if stretch and held + query.num_logits > allowed:
                yield stretch
                stretch, held = [], 0
            stretch.append(query)
            held += query.num_logits
        if stretch:
            yield stretch

    def _answer(self, batch: list[Query]) -> list[Logits]:
        tokens_BT, mask_BT = padded([query.tokens for query in batch], self._model.info.pad_id)
        logits_BTV = self._model.forward(tokens_BT, mask_BT, keep=max(query.num_logits for query in batch))
        # Copied, since a view would keep the whole batch's logits alive for a few rows.
        return [
            rows if len(batch) == 1 else rows.copy()
            for rows in (logits_V[-query.num_logits :] for logits_V, query in zip(logits_BTV, batch, strict=True))
        ]
