"""What a frozen backbone makes of texts: one vector each, computed block by block.

Shape suffixes: I texts, D hidden.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from glmquant.core.files import write_atomically
from glmquant.core.matmul import float32_products
from glmquant.core.ranks import ALONE, Ranks
from glmquant.data.sequences import Ids, length_batches
from glmquant.glm.model import ModelSource
from glmquant.glm.rotary import rms_norm
from glmquant.progress import Progress, silent
from glmquant.store.safetensors_file import read_safetensors, write_safetensors
from glmquant.streaming.activations import TOKENS_AT_ONCE, ActivationStore, embed_sequences
from glmquant.streaming.forward import Forward, last_rows, walk

HIDDEN_AT_ONCE = 1 << 27
"""Hidden values that pass through the blocks together: 512 MiB in float32. More texts take several turns, each of
which a run that is taken up again finds done."""


def pooled_features(
    source: ModelSource,
    ids: Sequence[Ids],
    *,
    cache: Path | None = None,
    store: ActivationStore | None = None,
    progress: Progress = silent,
    ranks: Ranks = ALONE,
) -> Tensor:
    """The last token's final hidden state of each sequence, behind the last norm: float32 ``[I, D]``.

    Memory: one block in float32 beside its stored form and the next one, and ``HIDDEN_AT_ONCE`` hidden values as far
    as ``store`` goes; before the first block, the embedding instead.

    Args:
        cache: an existing directory. Turns that an unfinished run with the same sequences left there are not computed
            again.
        store: where activations may lie, and the device that computes.
        ranks: who share the batches; each gets all features.

    Raises:
        CalibrationError: token ids outside the vocabulary.
        CheckpointError: activations that are not finite.
    """
    config = source.config
    features_ID = torch.empty(len(ids), config.hidden_size)
    turns = list(_turns([len(sequence) for sequence in ids], config.hidden_size))
    layers = config.num_hidden_layers
    for number, members in enumerate(turns):
        path = None if cache is None else cache / f"features-{number:05}.safetensors"
        if path is not None and path.exists():
            features_ID[members] = read_safetensors(path)["features"].read()
            continue
        told = _Told(progress, number * layers, len(turns) * layers)
        features_ID[members] = _one_turn(source, [ids[member] for member in members], store, told, ranks)
        if path is not None:
            with write_atomically(path) as unfinished:
                write_safetensors(unfinished, {"features": features_ID[members]})
    progress("features", len(turns) * layers, len(turns) * layers)
    return features_ID


class _Told:
    """Progress over all turns."""

    def __init__(self, progress: Progress, before: int, total: int) -> None:
        self._progress, self._before, self._total = progress, before, total

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._progress("features", self._before + done, self._total)


def _turns(lengths: Sequence[int], hidden_size: int) -> Iterator[list[int]]:
    """Sequences, as many at a time as may pass together."""
    turn: list[int] = []
    held = 0
    for batch in length_batches(lengths, TOKENS_AT_ONCE):
        values = len(batch) * lengths[batch[0]] * hidden_size
        if turn and held + values > HIDDEN_AT_ONCE:
            yield turn
            turn, held = [], 0
        turn += batch
        held += values
    if turn:
        yield turn


@torch.inference_mode()
def _one_turn(
    source: ModelSource, ids: Sequence[Ids], store: ActivationStore | None, told: Progress, ranks: Ranks
) -> Tensor:
    config, store = source.config, store or ActivationStore()
    lengths = [len(sequence) for sequence in ids]
    with float32_products(store.device, exact=True):
        activations = embed_sequences(ids, source.embedding(), config, store, ranks)
        layers = config.num_hidden_layers
        walk(source.block, range(layers), [activations], Forward(), device=store.device, progress=told, total=layers)
    last = last_rows(activations, [1] * len(ids), lengths)
    activations.hidden.close()
    parts = ranks.gather({member: last[member] for batch in activations.batches for member in batch.members})
    rows = {member: row_1D for part in parts for member, row_1D in part.items()}
    last_ID = torch.cat([rows[member] for member in range(len(ids))])
    return rms_norm(last_ID, source.final_norm(), config.rms_norm_eps)
