import errno
import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.store import file_reader
from glmquant.store.direct_file import BLOCK_BYTES
from glmquant.store.file_reader import FileReader

BYTES = os.urandom(5 * BLOCK_BYTES + 123)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "file"
    path.write_bytes(BYTES)
    return path


def forget(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def read(path: Path, at: int, count: int) -> bytes:
    found, view = bytearray(count), memoryview(bytearray(count))
    done = 0
    with FileReader(path) as file:
        while done < count and (some := file.read_some(view[done:], at + done)):
            found[done : done + some] = view[done : done + some]
            done += some
    return bytes(found[:done])


@given(at=st.integers(0, len(BYTES) + 10), count=st.integers(1, len(BYTES)), cached=st.booleans())
def test_any_piece_is_read_as_it_is(path: Path, at: int, count: int, cached: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_reader, "LARGE_BYTES", 0)
        if not cached:
            forget(path)
        assert read(path, at, count) == BYTES[at : at + count]


@given(at=st.integers(0, len(BYTES)), count=st.integers(1, len(BYTES)))
def test_a_piece_longer_than_one_direct_read_comes_in_several(path: Path, at: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_reader, "LARGE_BYTES", 0)
        patch.setattr(file_reader, "AT_ONCE_BYTES", 2 * BLOCK_BYTES)
        patch.setattr(file_reader, "_here", type("Here", (), {})())
        patch.setattr(FileReader, "_has_in_cache", lambda self, at: False)
        assert read(path, at, count) == BYTES[at : at + count]


def test_what_is_read_past_the_cache_does_not_fill_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reader, "LARGE_BYTES", 0)
    whole = path.with_name("large")
    whole.write_bytes(bytes(64 * BLOCK_BYTES))
    forget(whole)
    with FileReader(whole) as file:
        if file._direct is None or file._has_in_cache(48 * BLOCK_BYTES):
            pytest.skip("this file system keeps to its cache")
        assert file.read_some(memoryview(bytearray(BLOCK_BYTES)), 0) == BLOCK_BYTES
        assert not file._has_in_cache(62 * BLOCK_BYTES)


def test_one_cached_piece_does_not_bring_the_next_into_the_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reader, "LARGE_BYTES", 0)
    piece, whole = 512 * BLOCK_BYTES, path.with_name("pieces")
    whole.write_bytes(bytes(40 * piece))
    forget(whole)
    with whole.open("rb", buffering=0) as header, FileReader(whole) as file:
        if file._direct is None:
            pytest.skip("this file system has no way past its cache")
        header.read(72)
        cached = []
        for number in range(40):
            file.read_some(memoryview(bytearray(piece)), number * piece)
            cached.append(file._has_in_cache(number * piece + piece // 2))
    assert sum(cached) < 5


def test_a_disk_with_other_blocks_is_read_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reader, "LARGE_BYTES", 0)
    opened = os.preadv

    def misaligned(descriptor: int, rooms: list[memoryview], at: int, *flags: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(descriptor, rooms, at, *flags)

    monkeypatch.setattr(file_reader.os, "preadv", misaligned)
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
        monkeypatch.setattr(file_reader, "LARGE_BYTES", 0)
        monkeypatch.setattr(file_reader.os, "open", refusing)
    forget(path)
    assert read(path, 7, 100) == BYTES[7:107]
