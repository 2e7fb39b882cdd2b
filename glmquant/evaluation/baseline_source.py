"""The checkpoint as a source of logits: float32, one block in memory at a time.

Shape suffixes: B batch, T tokens, D hidden size, R rows whose logits are wanted, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.matmul import float32_products
from glmquant.core.parallel import over_strips
from glmquant.data.sequences import length_batches
from glmquant.errors import CheckError
from glmquant.evaluation.baseline_cache import BaselineCache
from glmquant.evaluation.source import Logits, Query
from glmquant.glm.block import Linear, block_forward, rms_norm, rotary
from glmquant.glm.model import ModelSource
from glmquant.progress import Progress, silent
from glmquant.streaming.activations import Room, SampleTensor
from glmquant.streaming.prefetch import blocks_ahead

TOKENS_AT_ONCE = 2048


class BaselineSource:
    """Answers queries with the model's weights, whatever their dtype, computed in float32.

    All sequences go through a block while the next one loads. Memory: a block in float32, two as stored, the hidden
    states of all sequences as far as ``room`` goes, then the head as stored and one query's logits. With a ``cache``,
    the blocks run once for the same queries and checkpoint. ``room.device`` computes.
    """

    def __init__(
        self,
        model: ModelSource,
        progress: Progress = silent,
        cache: BaselineCache | None = None,
        room: Room | None = None,
    ) -> None:
        self._model, self._progress, self._cache, self._room = model, progress, cache, room or Room()

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        if not queries:
            return
        rows = self._rows(queries)
        config = self._model.config
        device = self._room.device
        with torch.inference_mode():
            gain_D, head = self._model.final_norm().to(device), self._model.lm_head().to(device)
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
        config = self._model.config
        batches = length_batches([len(query.tokens) for query in queries], TOKENS_AT_ONCE)
        layers, device = range(config.num_hidden_layers), self._room.device
        with torch.inference_mode(), float32_products(device, exact=True):
            hidden = self._embed(queries, batches)
            for layer, stored in blocks_ahead(self._model.block, layers):
                block = stored.to(device).floating()
                for states in hidden:
                    # Padding is on the right, where causal attention never looks.
                    rope = rotary(config, torch.arange(states.shape[1], device=device).unsqueeze(0))
                    states.write(states.all, block_forward(states.read(states.all), block, config, rope))
                self._progress("baseline, block by block", layer + 1, len(layers))
                del stored, block
            rows = [torch.empty(0)] * len(queries)
            for batch in batches:
                states = hidden.pop(0)
                for x_TD, index in zip(states.read(states.all), batch, strict=True):
                    length = len(queries[index].tokens)
                    rows[index] = x_TD[length - queries[index].num_logits : length].to(CPU, copy=True)
                states.close()
        return rows

    def _embed(self, queries: Sequence[Query], batches: Sequence[Sequence[int]]) -> list[SampleTensor]:
        embedding_VD = self._model.embedding()
        vocabulary = len(embedding_VD)
        hidden = []
        for batch in batches:
            tokens_BT = np.zeros((len(batch), len(queries[batch[0]].tokens)), dtype=np.int64)
            for row, index in enumerate(batch):
                tokens_BT[row, : len(queries[index].tokens)] = queries[index].tokens
            if tokens_BT.min() < 0 or tokens_BT.max() >= vocabulary:
                raise CheckError(
                    f"token ids from {tokens_BT.min()} to {tokens_BT.max()}",
                    expected=f"ids from 0 to {vocabulary - 1}",
                    hint="the tokenizer is not the baseline's; use the one in its own directory",
                )
            states = self._room.tensor((*tokens_BT.shape, embedding_VD.shape[1]), torch.float32)
            states.write(states.all, embedding_VD[torch.from_numpy(tokens_BT)].float())
            hidden.append(states)
        return hidden


def _logits(head: Linear, x_RD: Tensor) -> Tensor:
    """``[R, V]``; the head is converted to float32 some rows at a time, since in one piece it would be the largest
    thing in memory."""
    vocabulary, columns = head.weight.shape
    logits_RV = torch.empty(len(x_RD), vocabulary, device=x_RD.device)

    def fill(part: slice) -> None:
        logits_RV[:, part] = head.rows(part)(x_RD)

    over_strips(fill, vocabulary, columns, x_RD.device)
    return logits_RV
