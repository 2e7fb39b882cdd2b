import errno
import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.store import direct_file
from glmquant.store.direct_file import BLOCK_BYTES, DirectFile


@given(sizes=st.lists(st.integers(0, 5 * BLOCK_BYTES), max_size=8), blocks=st.integers(1, 3))
def test_pieces_of_any_size_become_one_file(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], blocks: int
) -> None:
    path = tmp_path_factory.mktemp("direct") / "file"
    pieces = [os.urandom(size) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct_file, "BUFFER_BYTES", blocks * BLOCK_BYTES)
        with DirectFile(path) as file:
            for piece in pieces:
                file.write(memoryview(piece))
    assert path.read_bytes() == b"".join(pieces)


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * BLOCK_BYTES)
    with DirectFile(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_file_system_without_direct_writes_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: Path, flags: int, mode: int, opened=os.open) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, mode)

    monkeypatch.setattr(direct_file.os, "open", refusing)
    with DirectFile(tmp_path / "file") as file:
        file.write(b"abc")
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_a_disk_with_other_blocks_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_file, "BUFFER_BYTES", BLOCK_BYTES)
    written = os.write

    def misaligned(descriptor: int, view: memoryview) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return written(descriptor, view[:100])

    monkeypatch.setattr(direct_file.os, "write", misaligned)
    data = os.urandom(3 * BLOCK_BYTES + 5)
    with DirectFile(tmp_path / "file") as file:
        file.write(data)
    assert (tmp_path / "file").read_bytes() == data


def test_a_full_disk_is_said() -> None:
    with pytest.raises(OSError, match="No space left"), DirectFile(Path("/dev/full")) as file:
        file.write(b"abc")


def test_an_error_within_is_not_hidden_by_closing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="bytes-like"), DirectFile(tmp_path / "file") as file:
        file.write(1.5)  # type: ignore[arg-type]
