"""Writing large files past the system's cache, where the file system allows that.

What is written once, and is more than memory should hold, does best without it: no other file is pushed out of the
cache, and no new pages are needed, which on a virtual machine are slower to get than the disk is to write.
"""

import errno
import fcntl
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

BUFFER_BYTES: Final = 8 << 20
BLOCK_BYTES: Final = 4096
"""Addresses, offsets and lengths of direct writes are multiples of this (open(2), O_DIRECT)."""
DIRECT: Final = getattr(os, "O_DIRECT", 0)


class DirectFile:
    """A new file, written from its start to its end; on the disk once it is finished, as the end of a ``with`` does.

    Raises (from every method):
        OSError: as the operating system says, a full disk included.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = _open(path)
        self._pages = mmap.mmap(-1, BUFFER_BYTES)
        self._buffer = np.frombuffer(self._pages, np.uint8)
        self._filled = self._size = 0

    def __enter__(self) -> "DirectFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.close()

    def write(self, data: bytes | memoryview) -> None:
        """Bytes that come next. They are copied, so they may change afterwards."""
        left = np.frombuffer(data, np.uint8)
        self._size += len(left)
        while len(left):
            count = min(len(left), BUFFER_BYTES - self._filled)
            self._buffer[self._filled : self._filled + count] = left[:count]
            self._filled, left = self._filled + count, left[count:]
            if self._filled == BUFFER_BYTES:
                self._flush()

    def finish(self) -> None:
        """Writes what is left and waits until all is on the disk."""
        self._flush()
        os.ftruncate(self._descriptor, self._size)
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Lets go of the file, finished or not."""
        os.close(self._descriptor)

    def _flush(self) -> None:
        """Writes the buffer as far as it is filled, rounded up to whole blocks."""
        view = memoryview(self._pages)[: -(-self._filled // BLOCK_BYTES) * BLOCK_BYTES]
        while view:
            view = view[self._write(view) :]
        self._filled = 0

    def _write(self, view: memoryview) -> int:
        try:
            return os.write(self._descriptor, view)
        except OSError as error:
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            if error.errno != errno.EINVAL or not flags & DIRECT:
                raise
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~DIRECT)  # blocks of another size: not directly, then
            return os.write(self._descriptor, view)


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        return os.open(path, flags | DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o666)  # in memory, say, there is nothing to go past
