"""The checkpoint as a source of logits: float32, one block in memory at a time.

Shape suffixes: D hidden, R rows whose logits are wanted, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.matmul import float32_products
from glmquant.core.parallel import over_strips
from glmquant.core.ranks import Ranks
from glmquant.evaluation.baseline_cache import Answers, AnswerStore
from glmquant.evaluation.routing import RouteRecorder, Routes
from glmquant.evaluation.share import Share
from glmquant.evaluation.source import Logits, Query
from glmquant.glm.linear import Linear
from glmquant.glm.model import ModelSource
from glmquant.glm.rotary import rms_norm
from glmquant.progress import Progress, silent
from glmquant.streaming.activations import ActivationStore, embed_sequences
from glmquant.streaming.forward import Forward, last_rows, walk

Rows = dict[int, Tensor]
"""By number of a query: the residual stream at its last tokens, float32 ``[num_logits, D]``."""


class BaselineSource:
    """Answers queries with the model's weights, whatever their dtype, computed in float32.

    All sequences go through a block while the next one loads. Memory: a block in float32, two as stored, the residual
    stream of all sequences as far as ``store`` goes, then the head as stored and one query's logits. With a ``cache``,
    the blocks run once for the same queries and checkpoint. ``store.device`` computes.

    Of several ranks, each passes some of the batches through the blocks, and gets the hidden states of those queries
    that it answers; the first one reads and writes the cache.

    Args:
        share: of the queries that are answered; everything by default.

    Attributes:
        routes: the experts that the tokens of the routed ones of the queries last answered met, in their order; None
            where none was routed.
    """

    def __init__(
        self,
        model: ModelSource,
        progress: Progress = silent,
        cache: AnswerStore | None = None,
        store: ActivationStore | None = None,
        share: Share | None = None,
    ) -> None:
        self._model, self._progress, self._cache = model, progress, cache
        self._store, self._share = store or ActivationStore(), share or Share()
        self.routes: Routes | None = None

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        """See :class:`glmquant.evaluation.source.LogitsSource`.

        Raises:
            CalibrationError: token ids outside the vocabulary.
            CheckpointError: activations that are not finite.
        """
        if not queries:
            return
        rows, self.routes = self._answers(queries)
        config = self._model.config
        device = self._store.device
        with torch.inference_mode():
            gain_D, head = self._model.final_norm().to(device), self._model.head().to(device)
        for number in sorted(rows):
            with torch.inference_mode(), float32_products(device, exact=True):
                answer = _logits(head, rms_norm(rows[number].to(device), gain_D, config.rms_norm_eps))
            yield answer.to(CPU).numpy()

    def _answers(self, queries: Sequence[Query]) -> tuple[Rows, Routes | None]:
        """Of the queries that this rank answers the rows, of all that are routed the experts."""
        ranks, cache = self._share.ranks, self._cache
        kept = cache.read(queries) if cache is not None and ranks.is_first else None
        if ranks.broadcast(kept is not None):
            rows = {} if kept is None else dict(enumerate(kept.rows))
            routes = ranks.broadcast(None if kept is None else kept.routes)
        else:
            rows, own = self._computed(queries)
            routes = None if own is None else Routes.joined(ranks.gather(own))
            if cache is not None:
                whole = _dealt(rows, queries, [list(range(len(queries)))] + [[]] * (ranks.count - 1), ranks)
                if ranks.is_first:
                    cache.write(queries, Answers([whole[number] for number in range(len(queries))], routes))
        return _dealt(rows, queries, ranks.gather(self._share.numbers(queries)), ranks), routes

    def _computed(self, queries: Sequence[Query]) -> tuple[Rows, Routes | None]:
        """By one pass through the blocks, of this rank's batches."""
        model, layers, device = self._model, self._model.config.num_hidden_layers, self._store.device
        tokens = [query.tokens for query in queries]
        routed = {number: len(query.tokens) for number, query in enumerate(queries) if query.routed}
        recorder = RouteRecorder(model.config, routed) if routed else None
        with torch.inference_mode(), float32_products(device, exact=True):
            activations = embed_sequences(tokens, model.embedding(), model.config, self._store, self._share.ranks)
            walk(
                model.block,
                range(layers),
                [activations],
                Forward(on_experts=None if recorder is None else recorder.note),
                device=device,
                progress=self._progress,
                stage="baseline, block by block",
                total=layers,
            )
            last = last_rows(activations, [query.num_logits for query in queries], list(map(len, tokens)))
            activations.hidden.close()
        rows = {member: last[member] for batch in activations.batches for member in batch.members}
        return rows, None if recorder is None else recorder.routes


def _dealt(rows: Rows, queries: Sequence[Query], wanted: Sequence[Sequence[int]], ranks: Ranks) -> Rows:
    """The rows that this rank wants, from whoever has them.

    Args:
        rows: by query, those that this rank has.
        wanted: the queries that each rank wants rows of.
    """
    if ranks.count == 1:
        return {number: rows[number] for number in wanted[0]}
    dealt: Rows = {}
    for numbers, rows_ND in ranks.exchange([_packed(rows, each) for each in wanted]):
        dealt |= zip(numbers, rows_ND.split([queries[number].num_logits for number in numbers]), strict=True)
    return dealt


def _packed(rows: Rows, wanted: Sequence[int]) -> tuple[list[int], Tensor]:
    numbers = [number for number in wanted if number in rows]
    return numbers, torch.cat([rows[number] for number in numbers]) if numbers else torch.empty(0, 0)


def _logits(head: Linear, x_RD: Tensor) -> Tensor:
    """``[R, V]``; the head is converted to float32 some rows at a time, since in one piece it would be the largest
    thing in memory."""
    vocabulary, columns = head.weight.shape
    logits_RV = torch.empty(len(x_RD), vocabulary, device=x_RD.device)

    def fill(part: slice) -> None:
        logits_RV[:, part] = head.rows(part)(x_RD)

    over_strips(fill, vocabulary, columns, x_RD.device)
    return logits_RV
