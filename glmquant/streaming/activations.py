"""Activations of all sequences on their way through the model, in memory or on the disk.

Shape suffixes: S samples, L tokens of a sample, B sequences of a batch, T tokens, D hidden, W any width, V vocabulary.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.direct_io import read_at, write_at
from glmquant.core.ranks import ALONE, Ranks
from glmquant.data.sequences import Ids, length_batches, padded
from glmquant.errors import CalibrationError
from glmquant.glm.config import GlmConfig
from glmquant.glm.parts import Context
from glmquant.glm.rotary import Rotary, rotary
from glmquant.store.tensors import byte_view

TOKENS_AT_ONCE = 2048
LEAF_BATCHES = 8


@dataclass(frozen=True)
class Batch:
    """Sequences that pass through the model side by side.

    Attributes:
        members: numbers of the sequences, in the order of the batch's rows.
        length: tokens of each row, padding on the right included.
        start: tokens of all batches before this one.
    """

    members: tuple[int, ...]
    length: int
    start: int

    @property
    def num_tokens(self) -> int:
        return len(self.members) * self.length


class ActivationTensor:
    """Values ``[B, T, W]`` of every batch, one batch behind the other, read and written a batch at a time.

    Where it lies in a file, that is read and written, never mapped: what a process holds is what it asked for.

    Args:
        place: bytes to lie in, at least as many as the values take; or a file.
        device: where what is read is wanted; the values lie in the processor's memory or on the disk.
    """

    def __init__(self, width: int, dtype: torch.dtype, place: Tensor | BinaryIO, device: torch.device = CPU) -> None:
        self.width, self.dtype, self._device = width, dtype, device
        self._in_use: Future[int] | None = None
        self._values: Tensor | None = None
        self._file: BinaryIO | None = None
        if isinstance(place, Tensor):
            whole = place.numel() // (width * dtype.itemsize)
            self._values = place[: whole * width * dtype.itemsize].view(dtype).view(whole, width)
        else:
            self._file = place

    def read(self, batch: Batch) -> Tensor:
        """``[B, T, W]`` on the device; where that is the processor, as :meth:`stored`."""
        return self.stored(batch).to(self._device)

    def stored(self, batch: Batch) -> Tensor:
        """``[B, T, W]``: the tensor's own memory, or a copy of what the file holds."""
        shape = (len(batch.members), batch.length, self.width)
        if self._values is not None:
            return self._values[batch.start : batch.start + batch.num_tokens].view(shape)
        out = torch.empty(shape, dtype=self.dtype)
        read_at(self._opened, byte_view(out), self._offset(batch))
        return out

    def keep_until(self, done: Future[int]) -> None:
        """The values stay as they are until then: a write waits."""
        self._in_use = done

    def write(self, batch: Batch, values: Tensor) -> None:
        if self._in_use is not None:
            self._in_use.result()
            self._in_use = None
        if self._values is not None:
            self.stored(batch).copy_(values)
        else:
            write_at(self._opened, byte_view(values.to(CPU, self.dtype).contiguous()), self._offset(batch))

    @property
    def _opened(self) -> BinaryIO:
        assert self._file is not None
        return self._file

    def _offset(self, batch: Batch) -> int:
        return batch.start * self.width * self.dtype.itemsize

    def close(self) -> None:
        self._values = None
        if self._file is not None:
            self._file.close()


class ActivationStore:
    """Where activations may lie: in memory up to ``budget`` bytes, in files of ``directory`` beyond.

    The files have no name: nothing is left of them when the process ends, however it ends.

    Attributes:
        device: what computes with them.
    """

    def __init__(self, budget: float = math.inf, directory: Path | None = None, device: torch.device = CPU) -> None:
        self._left, self._directory, self.device = budget, directory, device
        self._spare: list[Tensor] = []

    def tensor(self, num_tokens: int, width: int, dtype: torch.dtype) -> ActivationTensor:
        """A tensor that lasts as long as the store."""
        return ActivationTensor(width, dtype, self._place(num_tokens * width * dtype.itemsize), self.device)

    @contextmanager
    def lent(self, num_tokens: int, width: int, dtype: torch.dtype) -> Iterator[ActivationTensor]:
        """A tensor that lasts as long as the context. Its memory is kept for the next: new pages take their time."""
        place = self._place(num_tokens * width * dtype.itemsize)
        tensor = ActivationTensor(width, dtype, place, self.device)
        try:
            yield tensor
        finally:
            tensor.close()
            if isinstance(place, Tensor):
                self._left += place.nbytes
                self._spare.append(place)

    def _place(self, size: int) -> Tensor | BinaryIO:
        if size > self._left:
            return tempfile.TemporaryFile(dir=self._directory, buffering=0)
        fitting = [number for number, spare in enumerate(self._spare) if size <= spare.nbytes <= self._left]
        if fitting:
            place = self._spare.pop(fitting[0])
        else:
            self._spare.clear()
            place = torch.empty(size, dtype=torch.uint8)
        self._left -= place.nbytes
        return place


@dataclass(frozen=True, eq=False)
class Activations:
    """The residual stream before a block, and what every block needs to read it.

    Attributes:
        hidden: float32 ``[B, T, D]`` of each batch; a block's pass overwrites it.
        batches: in the order they pass.
        ropes: angles of the positions, ``[1, T, R]``, by the batches' lengths.
        store: where a block's pass keeps its intermediate results.
        dtype: of the operands of matrix products.
    """

    hidden: ActivationTensor
    batches: tuple[Batch, ...]
    ropes: dict[int, Rotary]
    config: GlmConfig
    store: ActivationStore
    dtype: torch.dtype = torch.float32

    @property
    def num_tokens(self) -> int:
        return sum(batch.num_tokens for batch in self.batches)

    @property
    def leaves(self) -> tuple[tuple[Batch, ...], ...]:
        """Runs of batches that depend on the samples alone, whose sums are added exactly."""
        return _leaves(self.batches)

    def context(self, batch: Batch) -> Context:
        """What a forward pass of the batch knows. Padding stands on the right, where causal attention never looks."""
        return Context(self.config, self.ropes[batch.length])

    def lend(self, width: int) -> AbstractContextManager[ActivationTensor]:
        """``[B, T, width]`` of each batch, for the inputs of a linear layer."""
        return self.store.lent(self.num_tokens, width, self.dtype)


def _leaves(batches: Sequence[Batch]) -> tuple[tuple[Batch, ...], ...]:
    starts = range(0, len(batches), LEAF_BATCHES)
    return tuple(tuple(batches[start : start + LEAF_BATCHES]) for start in starts)


def _in_a_row(batches: Iterable[Batch]) -> list[Batch]:
    """The same batches, one behind the other in a stream of their own."""
    placed: list[Batch] = []
    for batch in batches:
        placed.append(replace(batch, start=placed[-1].start + placed[-1].num_tokens if placed else 0))
    return placed


def unfilled(
    batches: Sequence[Batch],
    config: GlmConfig,
    store: ActivationStore | None = None,
    dtype: torch.dtype = torch.float32,
) -> Activations:
    """Activations whose residual stream has yet to be written."""
    store = store or ActivationStore()
    lengths = sorted({batch.length for batch in batches})
    ropes = {length: rotary(config, torch.arange(length, device=store.device).unsqueeze(0)) for length in lengths}
    hidden = store.tensor(sum(batch.num_tokens for batch in batches), config.hidden_size, torch.float32)
    return Activations(hidden, tuple(batches), ropes, config, store, dtype)


def sample_batches(samples: int, length: int) -> list[Batch]:
    """Samples of equal length, in order, about ``TOKENS_AT_ONCE`` tokens a batch."""
    step = max(1, TOKENS_AT_ONCE // length)
    starts = range(0, samples, step)
    return [Batch(tuple(range(start, min(start + step, samples))), length, start * length) for start in starts]


def own_batches(samples: int, length: int, ranks: Ranks) -> list[Batch]:
    """Of :func:`sample_batches`, this rank's run of leaves."""
    leaves = ranks.run_of(_leaves(sample_batches(samples, length)))
    return _in_a_row(batch for leaf in leaves for batch in leaf)


def leaf_starts(samples: int, length: int) -> list[int]:
    """Of every rank's leaves, the number of the first sample."""
    return [leaf[0].members[0] for leaf in _leaves(sample_batches(samples, length))]


def embed(
    tokens_SL: Tensor,
    embedding_VD: Tensor,
    config: GlmConfig,
    store: ActivationStore | None = None,
    dtype: torch.dtype = torch.float32,
    ranks: Ranks = ALONE,
) -> Activations:
    """The first block's inputs, of samples of equal length; of several ranks, each has a run of all leaves.

    Raises:
        CalibrationError: a token id outside the vocabulary.
    """
    samples, length = tokens_SL.shape
    activations = unfilled(own_batches(samples, length, ranks), config, store, dtype)
    for batch in activations.batches:
        ids_BT = _within(tokens_SL[list(batch.members)], len(embedding_VD))
        activations.hidden.write(batch, embedding_VD[ids_BT].float())
    return activations


def embed_sequences(
    ids: Sequence[Ids],
    embedding_VD: Tensor,
    config: GlmConfig,
    store: ActivationStore | None = None,
    ranks: Ranks = ALONE,
) -> Activations:
    """The first block's inputs, float32, of sequences of any lengths: similar ones share a batch, padded on the right.

    Of several ranks, each has some of the batches, which are the same for any number of ranks.

    Raises:
        CalibrationError: a token id outside the vocabulary.
    """
    alike = ranks.dealt(length_batches([len(sequence) for sequence in ids], TOKENS_AT_ONCE))
    batches = _in_a_row(Batch(tuple(members), len(ids[members[0]]), 0) for members in alike)
    activations = unfilled(batches, config, store)
    for batch in batches:
        rows_BT, _ = padded([ids[member] for member in batch.members], 0, side="right")
        ids_BT = _within(torch.from_numpy(rows_BT), len(embedding_VD))
        activations.hidden.write(batch, embedding_VD[ids_BT].float())
    return activations


def _within(ids_BT: Tensor, vocabulary: int) -> Tensor:
    low, high = int(ids_BT.min()), int(ids_BT.max())
    if low < 0 or high >= vocabulary:
        raise CalibrationError(
            f"token ids span {low} to {high}",
            expected=f"0 to {vocabulary - 1}",
            hint="encode the text with this checkpoint's own tokenizer",
        )
    return ids_BT
