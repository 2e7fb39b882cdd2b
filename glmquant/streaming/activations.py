"""What all calibration samples are on their way through the model, in memory or on the disk.

Shape suffixes: S samples, L tokens of a sample, D hidden size, W any width, V vocabulary.
"""

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.errors import CalibrationError
from glmquant.glm.block import Rotary, rotary
from glmquant.glm.config import GlmConfig
from glmquant.store.tensors import byte_view

TOKENS_AT_ONCE = 2048


class SampleTensor:
    """``[S, L, W]``, read and written some samples at a time.

    Where it lies in a file, that is read and written, never mapped: what a process holds is what it asked for.

    Args:
        place: bytes to lie in, at least as many as the values take; or a file.
        device: where what is read is wanted; the values lie in the processor's memory or on the disk.
    """

    def __init__(
        self, shape: tuple[int, int, int], dtype: torch.dtype, place: Tensor | BinaryIO, device: torch.device = CPU
    ) -> None:
        self.shape, self.dtype, self._device = shape, dtype, device
        self._in_use: Future[None] | None = None
        self._values: Tensor | None = None
        self._file: BinaryIO | None = None
        if isinstance(place, Tensor):
            self._values = place[: self.nbytes].view(dtype).view(shape)
        else:
            self._file = place

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def all(self) -> slice:
        return slice(0, self.shape[0])

    @property
    def on_disk(self) -> bool:
        return self._file is not None

    def read(self, samples: slice) -> Tensor:
        """``[samples, L, W]`` on the device; where that is the processor, as :meth:`stored`."""
        return self.stored(samples).to(self._device)

    def stored(self, samples: slice) -> Tensor:
        """``[samples, L, W]``: the tensor's own memory, or a copy of what the file holds."""
        if self._values is not None:
            return self._values[samples]
        out = torch.empty(samples.stop - samples.start, *self.shape[1:], dtype=self.dtype)
        self._transfer(os.preadv, out, samples)
        return out

    def keep_until(self, done: Future[None]) -> None:
        """The values stay as they are until then: a write waits."""
        self._in_use = done

    def write(self, samples: slice, values: Tensor) -> None:
        if self._in_use is not None:
            self._in_use.result()
            self._in_use = None
        if self._values is not None:
            self._values[samples] = values
        else:
            self._transfer(os.pwritev, values.to(CPU, self.dtype).contiguous(), samples)

    def _transfer(self, move: Callable[[int, list[memoryview], int], int], values: Tensor, samples: slice) -> None:
        assert self._file is not None
        view, at = byte_view(values), samples.start * math.prod(self.shape[1:]) * self.dtype.itemsize
        while view:
            count = move(self._file.fileno(), [view], at)
            if not count:
                raise OSError("a file of activations ends too early")
            view, at = view[count:], at + count

    def close(self) -> None:
        self._values = None
        if self._file is not None:
            self._file.close()


class Room:
    """Where activations may lie: in memory up to ``budget`` bytes, in files of ``directory`` beyond.

    The files have no name: nothing is left of them when the process ends, however it ends.

    Attributes:
        device: what computes with them.
    """

    def __init__(self, budget: float = math.inf, directory: Path | None = None, device: torch.device = CPU) -> None:
        self._left, self._directory, self.device = budget, directory, device
        self._spare: list[Tensor] = []

    def tensor(self, shape: tuple[int, int, int], dtype: torch.dtype) -> SampleTensor:
        """A tensor that lasts as long as the run."""
        return SampleTensor(shape, dtype, self._place(math.prod(shape) * dtype.itemsize), self.device)

    @contextmanager
    def lent(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Iterator[SampleTensor]:
        """A tensor that lasts as long as the context. Its memory is kept for the next: new pages take their time."""
        place = self._place(math.prod(shape) * dtype.itemsize)
        tensor = SampleTensor(shape, dtype, place, self.device)
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
    """Hidden states before a block, and what every block needs to read them.

    Attributes:
        hidden: float32 ``[S, L, D]``; a block's pass overwrites it.
        rope: angles of the sample's positions, the same for every sample, ``[1, L, R]``.
        room: where a block's pass keeps its intermediate results.
        dtype: of the operands of matrix products.
    """

    hidden: SampleTensor
    rope: Rotary
    room: Room
    dtype: torch.dtype = torch.float32

    def batches(self) -> Iterator[slice]:
        """Slices of samples that hold about ``TOKENS_AT_ONCE`` tokens each."""
        samples, length, _ = self.hidden.shape
        step = max(1, TOKENS_AT_ONCE // length)
        for start in range(0, samples, step):
            yield slice(start, min(start + step, samples))

    def lend(self, width: int) -> AbstractContextManager[SampleTensor]:
        """``[S, L, width]`` for the inputs of a linear."""
        samples, length, _ = self.hidden.shape
        return self.room.lent((samples, length, width), self.dtype)


def unfilled(
    samples: int, length: int, config: GlmConfig, room: Room | None = None, dtype: torch.dtype = torch.float32
) -> Activations:
    """Activations whose hidden states have yet to be written."""
    room = room or Room()
    positions_1L = torch.arange(length, device=room.device).unsqueeze(0)
    hidden = room.tensor((samples, length, config.hidden_size), torch.float32)
    return Activations(hidden, rotary(config, positions_1L), room, dtype)


def embed(
    tokens_SL: Tensor,
    embedding_VD: Tensor,
    config: GlmConfig,
    room: Room | None = None,
    dtype: torch.dtype = torch.float32,
) -> Activations:
    """The first block's inputs.

    Raises:
        CalibrationError: a token id outside the vocabulary.
    """
    if int(tokens_SL.min()) < 0 or int(tokens_SL.max()) >= config.vocab_size:
        raise CalibrationError(
            f"token ids span {int(tokens_SL.min())} to {int(tokens_SL.max())}",
            expected=f"0 to {config.vocab_size - 1}",
            hint="calibrate again with this checkpoint's own tokenizer",
        )
    samples, length = tokens_SL.shape
    activations = unfilled(samples, length, config, room, dtype)
    for batch in activations.batches():
        activations.hidden.write(batch, embedding_VD[tokens_SL[batch]].float())
    return activations
