"""Large files past the system's cache where the platform allows that, and reads and writes at a position everywhere.

What is read or written once, and may be larger than memory, does best without the cache: no other file is pushed out of
it, copying takes no processor time from the work, and no new pages are needed, which on a virtual machine are slower to
get than the disk is to write.

Nothing here is required of a platform: without ``O_DIRECT`` or ``RWF_NOWAIT`` (macOS, Windows) the cache serves, and
without ``preadv`` and ``pwritev`` (Windows) a lock holds together seeking and what follows.
"""

import errno
import mmap
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

import numpy as np

BLOCK_BYTES: Final = 4096
"""Addresses, offsets and lengths of direct I/O are multiples of this (open(2), O_DIRECT)."""
DIRECT: Final = getattr(os, "O_DIRECT", 0)
BINARY: Final = getattr(os, "O_BINARY", 0)
"""Without it, Windows translates line ends."""
BUFFER_BYTES: Final = 8 << 20
LARGE_BYTES: Final = 256 << 20
AT_ONCE_BYTES: Final = (4 << 20) + 2 * BLOCK_BYTES
"""Of a direct read: four MiB, wherever they begin."""

_here = threading.local()
_seeking = threading.Lock()


def read_at(file: BinaryIO, view: memoryview, offset: int) -> None:
    """Fills a view of bytes from ``offset`` on; safe from several threads at once.

    Args:
        file: open without a buffer.

    Raises:
        OSError: as the operating system says, or the file ends too early.
    """
    while view:
        count = _read_some(file, view, offset)
        if not count:
            raise OSError(f"the file ends {len(view)} bytes too early")
        view, offset = view[count:], offset + count


def write_at(file: BinaryIO, view: memoryview, offset: int) -> None:
    """Writes a view of bytes from ``offset`` on; otherwise as :func:`read_at`."""
    while view:
        count = _write_some(file, view, offset)
        view, offset = view[count:], offset + count


def _read_some(file: BinaryIO, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [view], offset)
    with _seeking:
        file.seek(offset)
        return file.readinto(view)  # type: ignore[attr-defined,no-any-return]


def _write_some(file: BinaryIO, view: memoryview, offset: int) -> int:
    if hasattr(os, "pwritev"):
        return os.pwritev(file.fileno(), [view], offset)
    with _seeking:
        file.seek(offset)
        return file.write(view)


class DirectReader:
    """A file, open for reading pieces of it, from several threads at once too.

    It is read past the system's cache unless it is there already.

    Raises (from every method):
        OSError: as the operating system says.
    """

    def __init__(self, path: Path) -> None:
        self._cached = path.open("rb", buffering=0)
        descriptor = self._cached.fileno()
        self._direct = _open_direct(path) if os.fstat(descriptor).st_size >= LARGE_BYTES else None
        if self._direct is not None and hasattr(os, "posix_fadvise"):
            # What asks whether a piece is in the cache must not bring the next one there.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def __enter__(self) -> "DirectReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cached.close()
        if self._direct is not None:
            os.close(self._direct)

    def read_some(self, view: memoryview, at: int) -> int:
        """Fills ``view`` with the bytes from ``at`` on, or the beginning of it; gives how many, 0 at the file's end."""
        if self._direct is None or self._has_in_cache(at + len(view) - 1):
            return _read_some(self._cached, view, at)
        start = at // BLOCK_BYTES * BLOCK_BYTES
        wanted = min(at - start + len(view), AT_ONCE_BYTES)
        room = _room()[: -(-wanted // BLOCK_BYTES) * BLOCK_BYTES]
        try:
            count = os.preadv(self._direct, [room], start)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return _read_some(self._cached, view, at)  # blocks of another size: not directly, then
        found = np.frombuffer(room, np.uint8)[at - start : min(wanted, count)]
        np.frombuffer(view, np.uint8)[: len(found)] = found  # as a memoryview would, but other threads run meanwhile
        return len(found)

    def _has_in_cache(self, at: int) -> bool:
        """Whether one byte is there. A piece's last one tells more than its first, which reading ahead from the piece
        before may have brought."""
        try:
            os.preadv(self._cached.fileno(), [bytearray(1)], at, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
        return True  # or there is no asking


def _open_direct(path: Path) -> int | None:
    """None where there is no way past the cache, or no way to ask what it holds."""
    if not (DIRECT and hasattr(os, "preadv") and hasattr(os, "RWF_NOWAIT")):
        return None
    try:
        return os.open(path, os.O_RDONLY | DIRECT)
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


class DirectWriter:
    """A new file, written from its start to its end; on the disk once it is finished, as the end of a ``with`` does.

    Raises (from every method):
        OSError: as the operating system says, a full disk included.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor, self._is_direct = _create(path)
        self._pages = mmap.mmap(-1, BUFFER_BYTES)
        self._buffer = np.frombuffer(self._pages, np.uint8)
        self._filled = self._size = 0

    def __enter__(self) -> "DirectWriter":
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
            if error.errno != errno.EINVAL or not self._is_direct:
                raise
        self._go_on_through_the_cache()  # blocks of another size: not directly, then
        return os.write(self._descriptor, view)

    def _go_on_through_the_cache(self) -> None:
        written = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        direct, self._descriptor = self._descriptor, os.open(self._path, os.O_WRONLY)
        os.close(direct)
        os.lseek(self._descriptor, written, os.SEEK_SET)
        self._is_direct = False


def _create(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether it goes past the cache."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY
    try:
        return os.open(path, flags | DIRECT, 0o666), bool(DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL or not DIRECT:
            raise
        return os.open(path, flags, 0o666), False  # in memory, say, there is nothing to go past
