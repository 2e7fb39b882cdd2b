"""A tensor that still lies in a file, and how it is read: into a buffer of its own, never mapped, so that what a
process holds is what it asked for."""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO, Final

import torch
from torch import Tensor

from glmquant.core.budget import product
from glmquant.core.crc32 import combined, crc32
from glmquant.core.direct_io import DirectReader
from glmquant.core.finite import is_finite
from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError

CHUNK_BYTES: Final = 4 << 20
"""Read, then checked for NaN and Inf while it is still in the processor's cache."""

READ_THREADS: Final = 2
"""Most of the time goes into pages the system hands out for the first time, which two can do at once."""

SERIAL_ELEMENTS: Final = 1 << 15
"""torch starts its threads above this; on a busy machine they cost more than so quick a check."""

MOST_DIMENSIONS: Final = 8
MOST_ELEMENTS: Final = 1 << 48

WHOLE_FILE_BYTES: Final = 256 << 20
EDGE_BYTES: Final = 1 << 20
SAMPLE_BYTES: Final = 4 << 10


@dataclass(frozen=True)
class DeferredTensor:
    """A tensor that is made when it is written, and not before."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    def numel(self) -> int:
        return math.prod(self.shape)


Writable = Tensor | DeferredTensor


@dataclass(frozen=True)
class Checksum:
    """CRC-32 that a file has of ``size`` bytes of it from ``start`` on."""

    start: int
    size: int
    crc32: int


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's bytes lie: contiguous, little-endian, row-major, at ``offset`` of ``path``.

    Attributes:
        checksum: of bytes that the tensor's are among, where its file has one.
    """

    path: Path
    name: str
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    checksum: Checksum | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, rows: tuple[int, int] | None = None) -> Tensor:
        """The tensor, or its rows ``[start, stop)``, in its stored dtype.

        Raises:
            CheckpointError: the file ends too early, a value is NaN or Inf, or the checksum is of other bytes.
        """
        shape = self.shape if rows is None else (rows[1] - rows[0], *self.shape[1:])
        out = torch.empty(shape, dtype=self.dtype)
        self.read_into(out, rows)
        return out

    def read_into(self, out: Tensor, rows: tuple[int, int] | None = None) -> None:
        """As :meth:`read`, into a contiguous tensor of the shape and dtype to be read."""
        assert out.dtype == self.dtype
        assert out.is_contiguous()
        row_bytes = self.nbytes // self.shape[0] if rows is not None and self.shape[0] else 0
        start = self.offset + (rows[0] * row_bytes if rows is not None else 0)
        values = out.view(-1)
        step = CHUNK_BYTES // self.dtype.itemsize
        sums: dict[int, tuple[int, int]] | None = None
        if self.checksum is not None:
            if (start, out.nbytes) == (self.checksum.start, self.checksum.size):
                sums = {}
            else:
                _require_sum(self.path, self.name, self.checksum)
        with self._open() as file:

            def read_chunk(first: int) -> None:
                chunk = values[first : first + step]
                self._fill(file, chunk, start + first * self.dtype.itemsize)
                if sums is not None:
                    sums[first] = (crc32(byte_view(chunk)), chunk.nbytes)
                self._check_finite(chunk)

            firsts = range(0, values.numel(), step)
            if len(firsts) <= 1:
                list(map(read_chunk, firsts))
            else:
                _in_readers(read_chunk, firsts)
        if self.checksum is not None and sums is not None:
            _compare(combined(sums[first] for first in firsts), self.path, self.name, self.checksum)

    def _open(self) -> DirectReader:
        try:
            return DirectReader(self.path)
        except OSError as error:
            raise CheckpointError(f"cannot open the file: {error.strerror}", where=self.path) from error

    def _fill(self, file: DirectReader, chunk: Tensor, at: int) -> None:
        view = byte_view(chunk)
        while view:
            count = file.read_some(view, at)
            if not count:
                raise CheckpointError(
                    f"the file ends inside the tensor {shown(self.name)}",
                    where=self.path,
                    hint="download the file again, completely",
                )
            view, at = view[count:], at + count

    def _check_finite(self, chunk: Tensor) -> None:
        if chunk.dtype.is_floating_point and not all(map(is_finite, chunk.split(SERIAL_ELEMENTS))):
            raise CheckpointError(
                f"the tensor {shown(self.name)} holds NaN or Inf",
                where=self.path,
                expected="finite weights",
                hint="download the file again; if it is the same, the checkpoint itself is broken",
            )


@lru_cache(maxsize=4096)
def _require_sum(path: Path, name: str, checksum: Checksum) -> None:
    """Reads all that the checksum is of, once: for a tensor of which a part is read, or that is a part itself."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(checksum.start)
            left, found = checksum.size, 0
            while left and (part := file.read(min(left, CHUNK_BYTES))):
                left, found = left - len(part), crc32(part, found)
    except OSError as error:
        raise CheckpointError(f"cannot read the file: {error.strerror}", where=path) from error
    _compare(found, path, name, checksum)


def _compare(found: int, path: Path, name: str, checksum: Checksum) -> None:
    if found != checksum.crc32:
        raise CheckpointError(
            f"the bytes of the tensor {shown(name)} are not those whose checksum the file has",
            where=path,
            expected=f"CRC-32 {checksum.crc32:08x}, and they have {found:08x}",
            hint="download the file again, completely",
        )


def _in_readers(read: Callable[[int], None], firsts: Iterable[int]) -> None:
    """Reads all chunks; after an error, no more of them, and it is raised once none is being read."""
    chunks = [_readers().submit(read, first) for first in firsts]
    _, left = wait(chunks, return_when=FIRST_EXCEPTION)
    wait([chunk for chunk in left if not chunk.cancel()])
    for chunk in chunks:
        if not chunk.cancelled():
            chunk.result()


@cache
def _readers() -> ThreadPoolExecutor:
    """Kept, since each of them has pages of its own to read into, which new ones would have to ask for again."""
    return ThreadPoolExecutor(READ_THREADS, "chunks")


if hasattr(os, "register_at_fork"):  # not on Windows, which never forks
    os.register_at_fork(after_in_child=_readers.cache_clear)  # threads are not forked


def byte_view(tensor: Tensor) -> memoryview:
    """A contiguous tensor's own memory."""
    # A single element counts as contiguous with strides that a change of dtype refuses.
    flat = tensor.as_strided((tensor.numel(),), (1,))
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def update_digest(digest: "hashlib._Hash", path: Path, tensors: list[StoredTensor], name: str) -> None:
    """Adds what a weight file holds, and its ``name``, to a hash.

    A file of up to 256 MiB is hashed whole. Of a larger one: its size, its first and last MiB (which hold the headers
    of safetensors, and the checksum of every tensor of a ``.bin``) and three samples of 4 KiB from each tensor. So a
    large safetensors file that was edited in a few bytes only may keep its hash; one trained further does not.
    """
    size = path.stat().st_size
    digest.update(f"{name}\0{size}\0".encode())
    with path.open("rb", buffering=0) as file:
        if size <= WHOLE_FILE_BYTES:
            _hash_range(digest, file, 0, size)
            return
        _hash_range(digest, file, 0, EDGE_BYTES)
        _hash_range(digest, file, size - EDGE_BYTES, EDGE_BYTES)
        for tensor in sorted(tensors, key=lambda each: each.offset):
            last = max(tensor.nbytes - SAMPLE_BYTES, 0)
            for at in (0, last // 2, last):
                _hash_range(digest, file, tensor.offset + at, min(SAMPLE_BYTES, tensor.nbytes))


def _hash_range(digest: "hashlib._Hash", file: BinaryIO, start: int, count: int) -> None:
    file.seek(start)
    while count:
        part = file.read(min(count, CHUNK_BYTES))
        if not part:
            return
        digest.update(part)
        count -= len(part)


def reject_beyond_file(tensor: StoredTensor, end: int) -> None:
    """``end``: how far the bytes may reach."""
    if tensor.offset < 0 or tensor.offset + tensor.nbytes > end:
        raise CheckpointError(
            f"the tensor {shown(tensor.name)} lies beyond the end of its data",
            where=tensor.path,
            expected=f"{tensor.nbytes} bytes for shape {shown(tensor.shape)}",
            hint="download the file again, completely",
        )


def reject_dimensions(shape: Sequence[int], where: object) -> None:
    """Refuses more dimensions or elements than any tensor has, whose product alone could take minutes."""
    if len(shape) <= MOST_DIMENSIONS and product(shape, MOST_ELEMENTS) is None:
        raise CheckpointError(
            f"the shape is {shown(list(shape))}", where=where, expected=f"at most {MOST_ELEMENTS:,} elements"
        )
    if len(shape) > MOST_DIMENSIONS:
        raise CheckpointError(
            f"the shape has {len(shape)} dimensions", where=where, expected=f"at most {MOST_DIMENSIONS}"
        )


def file_size(path: Path) -> int:
    return os.stat(path).st_size
