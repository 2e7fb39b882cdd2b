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

from glmquant.store.direct_file import BLOCK_BYTES

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
        if self._direct is None or self._has_in_cache(at):
            return os.preadv(self._cached, [view], at)
        start = at // BLOCK_BYTES * BLOCK_BYTES
        wanted = min(at - start + len(view), AT_ONCE_BYTES)
        room = _room()[: -(-wanted // BLOCK_BYTES) * BLOCK_BYTES]
        found = room[at - start : min(wanted, os.preadv(self._direct, [room], start))]
        view[: len(found)] = found
        return len(found)

    def _has_in_cache(self, at: int) -> bool:
        """As far as its first byte tells."""
        try:
            os.preadv(self._cached, [bytearray(1)], at, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
            return error.errno == errno.EOPNOTSUPP
        return True


def _open_direct(path: Path) -> int | None:
    """None where the file system has no way past the cache."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT) if hasattr(os, "O_DIRECT") else None
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
