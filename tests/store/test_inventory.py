"""The files of a finished directory: every one is listed, and each is still what was written."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from glmquant.errors import CheckpointError
from glmquant.store import inventory as module
from glmquant.store.inventory import (
    FileRecord,
    files_of,
    inventory,
    require_hashes,
    require_no_others,
    require_sizes,
    sha256_of,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("b.bin", "a/c.json", "a/d/e.txt", ".hidden", "a/.hidden/f.bin", "manifest.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def files(directory: Path) -> dict[str, FileRecord]:
    return inventory(directory, but=["manifest.json"])


def test_all_are_listed_but_hidden_ones_and_those_left_out(directory: Path, files: dict[str, FileRecord]) -> None:
    assert files_of(directory) == ["a/c.json", "a/d/e.txt", "b.bin", "manifest.json"]
    assert list(files) == ["a/c.json", "a/d/e.txt", "b.bin"]
    assert files["b.bin"] == FileRecord(5, hashlib.sha256(b"b.bin").hexdigest())


def test_what_was_hashed_as_it_was_written_is_not_read_again(directory: Path) -> None:
    assert inventory(directory, {"b.bin": "1" * 64}, but=())["b.bin"] == FileRecord(5, "1" * 64)


def test_what_was_written_is_accepted(directory: Path, files: dict[str, FileRecord]) -> None:
    told: list[int] = []
    require_sizes(directory, files)
    require_no_others(directory, files, "manifest.json")
    require_hashes(directory, files, told.append)
    assert sum(told) == sum(record.size for record in files.values())


@pytest.mark.parametrize(("size", "message"), [(4, "'b.bin' is cut short: it has 4 bytes"), (6, "'b.bin' was changed")])
def test_a_file_of_another_length_is_told(
    directory: Path, files: dict[str, FileRecord], size: int, message: str
) -> None:
    (directory / "b.bin").write_bytes(bytes(size))
    with pytest.raises(CheckpointError, match=message):
        require_sizes(directory, files)


def test_a_missing_file_is_told(directory: Path, files: dict[str, FileRecord]) -> None:
    (directory / "b.bin").unlink()
    for require in (require_sizes, require_hashes):
        with pytest.raises(CheckpointError, match=r"b\.bin"):
            require(directory, files)


def test_other_bytes_of_the_same_length_are_told_in_every_chunk(
    directory: Path, files: dict[str, FileRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 2)
    for at in range(5):
        changed = bytearray(b"b.bin")
        changed[at] ^= 1
        (directory / "b.bin").write_bytes(changed)
        require_sizes(directory, files)
        with pytest.raises(CheckpointError, match=r"'b\.bin' was changed"):
            require_hashes(directory, files)


@pytest.mark.parametrize("name", ["x.onnx", "a/x.safetensors", "merges.txt", "x.py"])
def test_a_file_that_would_be_read_and_is_none_of_them_is_told(
    directory: Path, files: dict[str, FileRecord], name: str
) -> None:
    (directory / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="none of the files that were written"):
        require_no_others(directory, files, "manifest.json")


def test_a_note_beside_them_is_nobodys_business(directory: Path, files: dict[str, FileRecord]) -> None:
    (directory / "notes.txt").write_bytes(b"x")
    require_no_others(directory, files, "manifest.json")


def test_a_name_that_leads_out_is_refused(directory: Path, files: dict[str, FileRecord]) -> None:
    record = replace(files["b.bin"])
    for require in (require_sizes, require_hashes):
        with pytest.raises(CheckpointError):
            require(directory / "a", {"../b.bin": record})


def test_a_file_that_cannot_be_read_is_our_error(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        sha256_of(directory / "a")
