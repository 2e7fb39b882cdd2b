"""The checkpoint as a source of logits: float32, one block in memory at a time.

Shape suffixes: D hidden, R rows whose logits are wanted, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.matmul import float32_products
from glmquant.core.parallel import over_strips
from glmquant.evaluation.baseline_cache import Answers, AnswerStore
from glmquant.evaluation.routing import RouteRecorder, Routes
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
    ) -> None:
        self._model, self._progress, self._cache = model, progress, cache
        self._store = store or ActivationStore()
        self.routes: Routes | None = None

    def logits(self, queries: Sequence[Query]) -> Iterator[Logits]:
        """See :class:`glmquant.evaluation.source.LogitsSource`.

        Raises:
            CalibrationError: token ids outside the vocabulary.
            CheckpointError: activations that are not finite.
        """
        if not queries:
            return
        answers = self._answers(queries)
        rows, self.routes = answers.rows, answers.routes
        config = self._model.config
        device = self._store.device
        with torch.inference_mode():
            gain_D, head = self._model.final_norm().to(device), self._model.head().to(device)
        for index in range(len(queries)):
            with torch.inference_mode(), float32_products(device, exact=True):
                answer = _logits(head, rms_norm(rows[index].to(device), gain_D, config.rms_norm_eps))
            yield answer.to(CPU).numpy()

    def _answers(self, queries: Sequence[Query]) -> Answers:
        answers = self._cache.read(queries) if self._cache else None
        if answers is None:
            answers = self._computed(queries)
            if self._cache:
                self._cache.write(queries, answers)
        return answers

    def _computed(self, queries: Sequence[Query]) -> Answers:
        """By one pass through the blocks."""
        model, layers, device = self._model, self._model.config.num_hidden_layers, self._store.device
        tokens = [query.tokens for query in queries]
        routed = {number: len(query.tokens) for number, query in enumerate(queries) if query.routed}
        recorder = RouteRecorder(model.config, routed) if routed else None
        with torch.inference_mode(), float32_products(device, exact=True):
            activations = embed_sequences(tokens, model.embedding(), model.config, self._store)
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
            rows = last_rows(activations, [query.num_logits for query in queries], list(map(len, tokens)))
            activations.hidden.close()
        return Answers(rows, None if recorder is None else recorder.routes)


def _logits(head: Linear, x_RD: Tensor) -> Tensor:
    """``[R, V]``; the head is converted to float32 some rows at a time, since in one piece it would be the largest
    thing in memory."""
    vocabulary, columns = head.weight.shape
    logits_RV = torch.empty(len(x_RD), vocabulary, device=x_RD.device)

    def fill(part: slice) -> None:
        logits_RV[:, part] = head.rows(part)(x_RD)

    over_strips(fill, vocabulary, columns, x_RD.device)
    return logits_RV
