"""Reading large files past the system's cache, unless it has them already.

A checkpoint is read once in a command, and may be larger than memory. Past the cache it pushes no other file out, and
copying takes no processor time from the work on what was read.
"""

import errno
import mmap
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

from glmquant.store.direct_file import BLOCK_BYTES, DIRECT

LARGE_BYTES: Final = 256 << 20
AT_ONCE_BYTES: Final = (4 << 20) + 2 * BLOCK_BYTES
"""Of a direct read: four MiB, wherever they begin."""

_here = threading.local()


class FileReader:
    """A file, open for reading pieces of it, from several threads at once too.

    Raises (from every method):
        OSError: as the operating system says.
    """

    def __init__(self, path: Path) -> None:
        self._cached = os.open(path, os.O_RDONLY)
        self._direct = _open_direct(path) if os.fstat(self._cached).st_size >= LARGE_BYTES else None
        if self._direct is not None:
            # What asks whether a piece is in the cache must not bring the next one there.
            os.posix_fadvise(self._cached, 0, 0, os.POSIX_FADV_RANDOM)

    def __enter__(self) -> "FileReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._cached)
        if self._direct is not None:
            os.close(self._direct)

    def read_some(self, view: memoryview, at: int) -> int:
        """Fills ``view`` with the bytes from ``at`` on, or the beginning of it; gives how many, 0 at the file's end."""
        if self._direct is None or self._has_in_cache(at + len(view) - 1):
            return os.preadv(self._cached, [view], at)
        start = at // BLOCK_BYTES * BLOCK_BYTES
        wanted = min(at - start + len(view), AT_ONCE_BYTES)
        room = _room()[: -(-wanted // BLOCK_BYTES) * BLOCK_BYTES]
        try:
            count = os.preadv(self._direct, [room], start)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.preadv(self._cached, [view], at)  # blocks of another size: not directly, then
        found = np.frombuffer(room, np.uint8)[at - start : min(wanted, count)]
        np.frombuffer(view, np.uint8)[: len(found)] = found  # as a memoryview would, but other threads run meanwhile
        return len(found)

    def _has_in_cache(self, at: int) -> bool:
        """Whether one byte is there. A piece's last one tells more than its first, which reading ahead from the piece
        before may have brought."""
        try:
            os.preadv(self._cached, [bytearray(1)], at, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
        return True  # or there is no asking


def _open_direct(path: Path) -> int | None:
    """None where the file system has no way past the cache."""
    try:
        return os.open(path, os.O_RDONLY | DIRECT) if DIRECT else None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def _room() -> memoryview:
    """Of whole pages, as direct reads need; a thread's own."""
    room: memoryview | None = getattr(_here, "room", None)
    if room is None:
        room = _here.room = memoryview(mmap.mmap(-1, AT_ONCE_BYTES))
    return room
