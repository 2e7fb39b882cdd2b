"""What a frozen backbone makes of texts: one vector each, computed block by block.

Shape suffixes: E texts, B batch, T tokens, D hidden size.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glmquant.data.sequences import Ids, length_batches
from glmquant.errors import CheckpointError
from glmquant.glm.block import block_forward, rms_norm, rotary
from glmquant.glm.classifier import Backbone
from glmquant.progress import Progress, silent
from glmquant.store.safetensors_file import read_safetensors, write_safetensors

TOKENS_AT_ONCE = 2048
HIDDEN_AT_ONCE = 1 << 27
"""Hidden values that wait between blocks: 512 MiB in float32. More texts pass through the blocks in several turns."""


def pooled_features(
    backbone: Backbone, ids: Sequence[Ids], *, cache: Path | None = None, progress: Progress = silent
) -> Tensor:
    """The last token's final hidden state of each sequence, behind the last norm: float32 ``[E, D]``.

    Memory: one block in float32 beside its stored form, and ``HIDDEN_AT_ONCE`` hidden values; before the first block,
    the embedding instead.

    Args:
        cache: an existing directory. Turns that an unfinished run with the same sequences left there are not computed
            again.

    Raises:
        CheckpointError: token ids outside the vocabulary, or activations that are not finite.
    """
    config = backbone.config
    features_ED = torch.empty(len(ids), config.hidden_size)
    turns = list(_turns([len(sequence) for sequence in ids], config.hidden_size))
    steps = config.num_hidden_layers
    for number, batches in enumerate(turns):
        members = [index for batch in batches for index in batch]
        path = None if cache is None else cache / f"features-{number:05}.safetensors"
        if path is not None and path.exists():
            features_ED[members] = read_safetensors(path)["features"].read()
        else:
            done = number * steps
            report = _Steps(progress, done, len(turns) * steps)
            features_ED[members] = _one_turn(backbone, ids, batches, report)
            if path is not None:
                unfinished = path.with_suffix(".unfinished")
                write_safetensors(unfinished, {"features": features_ED[members]})
                unfinished.rename(path)
    progress("features", len(turns) * steps, len(turns) * steps)
    return features_ED


class _Steps:
    """Progress over all turns."""

    def __init__(self, progress: Progress, done: int, total: int) -> None:
        self._progress, self._done, self._total = progress, done, total

    def __call__(self) -> None:
        self._progress("features", self._done, self._total)
        self._done += 1


def _turns(lengths: Sequence[int], hidden_size: int) -> Iterator[list[list[int]]]:
    """Batches, as many at a time as may wait between blocks."""
    turn: list[list[int]] = []
    held = 0
    for batch in length_batches(lengths, TOKENS_AT_ONCE):
        values = len(batch) * lengths[batch[0]] * hidden_size
        if turn and held + values > HIDDEN_AT_ONCE:
            yield turn
            turn, held = [], 0
        turn.append(batch)
        held += values
    if turn:
        yield turn


@torch.inference_mode()
def _one_turn(backbone: Backbone, ids: Sequence[Ids], batches: Sequence[Sequence[int]], report: _Steps) -> Tensor:
    config = backbone.config
    hidden = _embed(backbone, ids, batches)
    for layer in range(config.num_hidden_layers):
        report()
        block = backbone.block(layer).floating()
        for i, x_BTD in enumerate(hidden):
            # Padding is on the right, where causal attention never looks.
            rope = rotary(config, torch.arange(x_BTD.shape[1]).unsqueeze(0))
            hidden[i] = block_forward(x_BTD, block, config, rope)
        del block  # before the next one is read: one block in memory
    pooled = [last_tokens(hidden.pop(0), [len(ids[index]) for index in batch]) for batch in batches]
    features_ED = rms_norm(torch.cat(pooled), backbone.final_norm(), config.rms_norm_eps)
    if not torch.isfinite(features_ED).all():
        raise CheckpointError(
            "the model's activations are not finite",
            expected="finite values in float32",
            hint="check the checkpoint: its weights are damaged or belong to another architecture",
        )
    return features_ED


def _embed(backbone: Backbone, ids: Sequence[Ids], batches: Sequence[Sequence[int]]) -> list[Tensor]:
    embedding_VD = backbone.embedding()
    return [embedding_VD[right_padded([ids[index] for index in batch], len(embedding_VD))].float() for batch in batches]


def right_padded(ids: Sequence[Ids], vocabulary: int) -> Tensor:
    """Sequences side by side, zeros behind them: int64 ``[B, T]``.

    Raises:
        CheckpointError: ids that are no row of the embedding.
    """
    rows_BT = np.zeros((len(ids), max(map(len, ids))), dtype=np.int64)
    for row, sequence in enumerate(ids):
        rows_BT[row, : len(sequence)] = sequence
    if rows_BT.min() < 0 or rows_BT.max() >= vocabulary:
        raise CheckpointError(
            f"token ids from {rows_BT.min()} to {rows_BT.max()}",
            expected=f"ids from 0 to {vocabulary - 1}",
            hint="the tokenizer does not belong to the checkpoint",
        )
    return torch.from_numpy(rows_BT)


def last_tokens(x_BTD: Tensor, lengths: Sequence[int]) -> Tensor:
    """The hidden state ``[B, D]`` of each row's last token, rows padded on the right."""
    return x_BTD[torch.arange(len(lengths)), torch.tensor(lengths) - 1]
