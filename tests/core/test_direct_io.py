"""Files past the cache, and at a position: the same bytes on every platform and file system."""

import ctypes
import errno
import fcntl
import mmap
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.core import direct_io
from glmquant.core.direct_io import BLOCK_BYTES, DirectReader, DirectWriter, read_at, write_at

PORTABLE = ("preadv", "pwritev", "posix_fadvise", "RWF_NOWAIT")
"""What some platforms have not."""

BYTES = os.urandom(5 * BLOCK_BYTES + 123)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "file"
    path.write_bytes(BYTES)
    return path


def forget(path: Path) -> None:
    """Out of the system's cache, which on a busy machine lets go of a file only when asked again."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        for _ in range(100):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if not any(pages_in_cache(path)):
                return
            time.sleep(0.02)
    pytest.skip("the system does not let go of its cache")


def pages_in_cache(path: Path) -> list[bool]:
    """By mincore(2), which brings nothing there."""
    size = path.stat().st_size
    found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), found)
        del start
    assert not failed
    return [bool(page & 1) for page in found]


def read(path: Path, at: int, count: int) -> bytes:
    found, view = bytearray(count), memoryview(bytearray(count))
    done = 0
    with DirectReader(path) as file:
        while done < count and (some := file.read_some(view[done:], at + done)):
            found[done : done + some] = view[done : done + some]
            done += some
    return bytes(found[:done])


@given(at=st.integers(0, len(BYTES) + 10), count=st.integers(1, len(BYTES)), cached=st.booleans())
def test_any_piece_is_read_as_it_is(path: Path, at: int, count: int, cached: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct_io, "LARGE_BYTES", 0)
        if not cached:
            forget(path)
        assert read(path, at, count) == BYTES[at : at + count]


@given(at=st.integers(0, len(BYTES)), count=st.integers(1, len(BYTES)))
def test_a_piece_longer_than_one_direct_read_comes_in_several(path: Path, at: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct_io, "LARGE_BYTES", 0)
        patch.setattr(direct_io, "AT_ONCE_BYTES", 2 * BLOCK_BYTES)
        patch.setattr(direct_io, "_here", type("Here", (), {})())
        patch.setattr(DirectReader, "_has_in_cache", lambda self, at: False)
        assert read(path, at, count) == BYTES[at : at + count]


def test_what_is_read_past_the_cache_does_not_fill_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "LARGE_BYTES", 0)
    whole, other = path.with_name("large"), path.with_name("other")
    for each in (whole, other):
        each.write_bytes(bytes(64 * BLOCK_BYTES))
        forget(each)
    with DirectReader(other) as file:  # for to ask already makes some kernels read ahead
        if file._direct is None or file._has_in_cache(48 * BLOCK_BYTES):
            pytest.skip("this file system keeps to its cache")
    with DirectReader(whole) as file:
        assert file.read_some(memoryview(bytearray(BLOCK_BYTES)), 0) == BLOCK_BYTES
        assert not pages_in_cache(whole)[62]


def test_one_cached_piece_does_not_bring_the_next_into_the_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "LARGE_BYTES", 0)
    piece, whole = 512 * BLOCK_BYTES, path.with_name("pieces")
    whole.write_bytes(bytes(40 * piece))
    forget(whole)
    with whole.open("rb", buffering=0) as header, DirectReader(whole) as file:
        if file._direct is None:
            pytest.skip("this file system has no way past its cache")
        header.read(72)
        cached = []
        for number in range(40):
            file.read_some(memoryview(bytearray(piece)), number * piece)
            cached.append(file._has_in_cache(number * piece + piece // 2))
    assert sum(cached) < 10  # the header brings what the system reads ahead of it


def test_a_disk_with_other_blocks_is_read_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "LARGE_BYTES", 0)
    opened = os.preadv

    def misaligned(descriptor: int, rooms: list[memoryview], at: int, *flags: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(descriptor, rooms, at, *flags)

    monkeypatch.setattr(direct_io.os, "preadv", misaligned)
    forget(path)
    assert read(path, 7, 100) == BYTES[7:107]


@pytest.mark.parametrize("how", ["small", "refused"])
def test_without_a_direct_way_the_cache_serves(path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refusing(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, *mode)

    if how == "refused":
        monkeypatch.setattr(direct_io, "LARGE_BYTES", 0)
        monkeypatch.setattr(direct_io.os, "open", refusing)
    forget(path)
    assert read(path, 7, 100) == BYTES[7:107]


@given(sizes=st.lists(st.integers(0, 5 * BLOCK_BYTES), max_size=8), blocks=st.integers(1, 3))
def test_pieces_of_any_size_become_one_file(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], blocks: int
) -> None:
    path = tmp_path_factory.mktemp("direct") / "file"
    pieces = [os.urandom(size) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct_io, "BUFFER_BYTES", blocks * BLOCK_BYTES)
        with DirectWriter(path) as file:
            for piece in pieces:
                file.write(memoryview(piece))
    assert path.read_bytes() == b"".join(pieces)


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * BLOCK_BYTES)
    with DirectWriter(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_file_system_without_direct_writes_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: Path, flags: int, mode: int, opened=os.open) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, mode)

    monkeypatch.setattr(direct_io.os, "open", refusing)
    with DirectWriter(tmp_path / "file") as file:
        file.write(b"abc")
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_a_disk_with_other_blocks_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "BUFFER_BYTES", BLOCK_BYTES)
    written = os.write

    def misaligned(descriptor: int, view: memoryview) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return written(descriptor, view[:100])

    monkeypatch.setattr(direct_io.os, "write", misaligned)
    data = os.urandom(3 * BLOCK_BYTES + 5)
    with DirectWriter(tmp_path / "file") as file:
        file.write(data)
    assert (tmp_path / "file").read_bytes() == data


def test_a_full_disk_is_said() -> None:
    with pytest.raises(OSError, match="No space left"), DirectWriter(Path("/dev/full")) as file:
        file.write(b"abc")


def test_an_error_within_is_not_hidden_by_closing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="bytes-like"), DirectWriter(tmp_path / "file") as file:
        file.write(1.5)  # type: ignore[arg-type]


@pytest.fixture(params=["as it is", "portable"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """This platform, and one without what is not portable."""
    if request.param == "portable":
        for name in PORTABLE:
            monkeypatch.delattr(os, name, raising=False)
        monkeypatch.setattr(direct_io, "DIRECT", 0)
    return request.param


@pytest.mark.usefixtures("platform")
def test_what_is_written_at_a_position_is_read_there(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        write_at(file, memoryview(b"behind"), 10)
        write_at(file, memoryview(b"before"), 2)
        view = memoryview(bytearray(14))
        read_at(file, view, 2)
        assert bytes(view) == b"before\0\0behind"
        read_at(file, memoryview(bytearray()), 99)
        with pytest.raises(OSError, match="ends 3 bytes too early"):
            read_at(file, memoryview(bytearray(5)), 14)


@pytest.mark.usefixtures("platform")
def test_threads_read_and_write_one_file_at_positions_of_their_own(tmp_path: Path) -> None:
    size, rounds = 4096, 50
    with (tmp_path / "file").open("w+b", buffering=0) as file:

        def work(number: int) -> None:
            for _ in range(rounds):
                write_at(file, memoryview(bytes([number]) * size), number * size)
                view = memoryview(bytearray(size))
                read_at(file, view, number * size)
                if bytes(view) != bytes([number]) * size:
                    wrong.append(number)

        wrong: list[int] = []
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([number]) * size for number in range(8))


@pytest.mark.usefixtures("platform")
def test_a_large_file_is_read_on_every_platform(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "LARGE_BYTES", 0)
    forget_quietly(path)
    assert read(path, 7, 3 * BLOCK_BYTES) == BYTES[7 : 7 + 3 * BLOCK_BYTES]
    with DirectWriter(path.with_name("copy")) as file:
        file.write(BYTES)
    assert path.with_name("copy").read_bytes() == BYTES


def forget_quietly(path: Path) -> None:
    if hasattr(os, "posix_fadvise"):
        forget(path)
