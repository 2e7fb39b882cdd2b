"""The bundle's external data: tensors are written as they come, and only small handles are kept.

A tensor is written once and let go, so a model of any size passes through in the memory of its largest pieces, and both
graph files of a bundle can refer to the same bytes. A thread of its own hashes and writes pieces while the next are
made.
"""

import hashlib
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import onnx_ir as ir
import torch
from torch import Tensor

from glmquant.core.direct_io import DirectWriter

ALIGNMENT = 64  # bytes; a cache line, and enough for every kernel that reads mapped weights in place
DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.uint8: ir.DataType.UINT8,
    torch.int8: ir.DataType.INT8,
    torch.int32: ir.DataType.INT32,
}


WAITING_BYTES = 16 << 20
"""Made and not written yet, at which a piece more has to wait: twice what goes to the disk at once."""


class WeightsFile:
    """Appends tensors to an external data file; ``add`` returns the handle a graph refers to them by.

    Tensors must stay as they are once they are given. What goes wrong with writing one (OSError) is raised by a later
    call, at the latest when the file is closed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = DirectWriter(path)
        self._digest = hashlib.sha256()
        self._size = 0
        self._writer = ThreadPoolExecutor(1, "weights-file")
        self._unwritten: deque[tuple[int, Future[None]]] = deque()

    def __enter__(self) -> "WeightsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown()
        try:
            if error is None:
                self._wait()
                self._file.finish()
        finally:
            self._file.close()

    @property
    def size(self) -> int:
        """Bytes given so far."""
        return self._size

    @property
    def sha256(self) -> str:
        """Of the bytes given so far."""
        self._wait()
        return self._digest.hexdigest()

    def add(self, name: str, tensor: Tensor) -> ir.ExternalTensor:
        """Writes a tensor of one of ``DTYPES`` and any shape."""
        return self.add_pieces(name, tensor.dtype, tuple(tensor.shape), [tensor])

    def add_packed(self, name: str, data: Tensor, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.ExternalTensor:
        """Writes bytes that hold a tensor of another ``dtype`` and ``shape``, narrower than a byte."""
        return self._add(name, dtype, shape, [data])

    def add_pieces(
        self, name: str, dtype: torch.dtype, shape: tuple[int, ...], pieces: Iterable[Tensor]
    ) -> ir.ExternalTensor:
        """Writes one tensor that comes in pieces along its first dimension, one after the other."""
        return self._add(name, DTYPES[dtype], shape, pieces)

    def _add(
        self, name: str, dtype: ir.DataType, shape: tuple[int, ...], pieces: Iterable[Tensor]
    ) -> ir.ExternalTensor:
        self._write(bytes(-self._size % ALIGNMENT))
        offset = self._size
        for piece in pieces:
            self._write(piece.contiguous().numpy().data.cast("B"))
        return ir.ExternalTensor(self._path.name, offset, self._size - offset, dtype, shape=ir.Shape(shape), name=name)

    def _write(self, data: bytes | memoryview) -> None:
        self._wait(WAITING_BYTES)
        self._unwritten.append((len(data), self._writer.submit(self._append, data)))
        self._size += len(data)

    def _append(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)

    def _wait(self, most: int = 0) -> None:
        """Until at most so many bytes are not written yet."""
        while self._unwritten and (self._unwritten[0][1].done() or sum(size for size, _ in self._unwritten) > most):
            self._unwritten.popleft()[1].result()
