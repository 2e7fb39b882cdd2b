"""The checkpoint as a source of logits: float32, one block in memory at a time.

Shape suffixes: D hidden, R rows whose logits are wanted, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.matmul import float32_products
from glmquant.core.parallel import over_strips
from glmquant.evaluation.baseline_cache import Rows
from glmquant.evaluation.source import Logits, Query
from glmquant.glm.linear import Linear
from glmquant.glm.model import ModelSource
from glmquant.glm.rotary import rms_norm
from glmquant.progress import Progress, silent
from glmquant.streaming.activations import ActivationStore, embed_sequences
from glmquant.streaming.forward import Forward, last_rows, walk


class BaselineSource:
    """Answers queries with the model's weights, whatever their dtype, computed in float32.

    All sequences go through a block while the next one loads. Memory: a block in float32, two as stored, the residual
    stream of all sequences as far as ``store`` goes, then the head as stored and one query's logits. With a ``cache``,
    the blocks run once for the same queries and checkpoint. ``store.device`` computes.
    """

    def __init__(
        self,
        model: ModelSource,
        progress: Progress = silent,
        cache: Rows | None = None,
        store: ActivationStore | None = None,
    ) -> None:
        self._model, self._progress, self._cache = model, progress, cache
        self._store = store or ActivationStore()

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        """See :class:`glmquant.evaluation.source.LogitsSource`.

        Raises:
            CalibrationError: token ids outside the vocabulary.
            CheckpointError: activations that are not finite.
        """
        if not queries:
            return
        rows = self._rows(queries)
        config = self._model.config
        device = self._store.device
        with torch.inference_mode():
            gain_D, head = self._model.final_norm().to(device), self._model.head().to(device)
        for index in range(len(queries)):
            with torch.inference_mode(), float32_products(device, exact=True):
                answer = _logits(head, rms_norm(rows[index].to(device), gain_D, config.rms_norm_eps))
            yield answer.to(CPU).numpy()

    def _rows(self, queries: Sequence[Query]) -> list[Tensor]:
        rows = self._cache.read(queries) if self._cache else None
        if rows is None:
            rows = self._last_rows(queries)
            if self._cache:
                self._cache.write(queries, rows)
        return rows

    def _last_rows(self, queries: Sequence[Query]) -> list[Tensor]:
        """Each query's last hidden states, ``[R, D]``, before the final norm."""
        model, layers, device = self._model, self._model.config.num_hidden_layers, self._store.device
        tokens = [query.tokens for query in queries]
        with torch.inference_mode(), float32_products(device, exact=True):
            activations = embed_sequences(tokens, model.embedding(), model.config, self._store)
            walk(
                model.block,
                range(layers),
                [activations],
                Forward(),
                device=device,
                progress=self._progress,
                stage="baseline, block by block",
                total=layers,
            )
            rows = last_rows(activations, [query.num_logits for query in queries], list(map(len, tokens)))
            activations.hidden.close()
        return rows


def _logits(head: Linear, x_RD: Tensor) -> Tensor:
    """``[R, V]``; the head is converted to float32 some rows at a time, since in one piece it would be the largest
    thing in memory."""
    vocabulary, columns = head.weight.shape
    logits_RV = torch.empty(len(x_RD), vocabulary, device=x_RD.device)

    def fill(part: slice) -> None:
        logits_RV[:, part] = head.rows(part)(x_RD)

    over_strips(fill, vocabulary, columns, x_RD.device)
    return logits_RV
