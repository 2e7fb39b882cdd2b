"""Tensors that lie in files."""

import hashlib
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glmquant.errors import CheckpointError
from glmquant.store import tensors as module
from glmquant.store.safetensors_file import read_safetensors, write_safetensors
from glmquant.store.tensors import StoredTensor, update_digest


def stored(directory: Path, tensor: torch.Tensor) -> StoredTensor:
    path = directory / "a.safetensors"
    write_safetensors(path, {"w": tensor})
    return read_safetensors(path)["w"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int32, torch.uint8])
def test_rows_are_read_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    matrix = torch.arange(60).view(12, 5).to(dtype)
    tensor = stored(tmp_path, matrix)
    assert torch.equal(tensor.read(), matrix)
    assert torch.equal(tensor.read((3, 8)), matrix[3:8])
    assert tensor.read((4, 4)).shape == (0, 5)
    out = torch.zeros(14, 5, dtype=dtype)
    tensor.read_into(out[1:4], (9, 12))
    assert torch.equal(out[1:4], matrix[9:12])
    assert not out[0].any()
    assert not out[4:].any()


def test_a_tensor_larger_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 64)
    matrix = torch.arange(1000.0).view(100, 10)
    tensor = stored(tmp_path, matrix)
    assert torch.equal(tensor.read(), matrix)
    assert torch.equal(tensor.read((7, 93)), matrix[7:93])


def test_chunks_are_read_by_threads_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 64)
    tensor = stored(tmp_path, torch.arange(1000.0).view(100, 10))

    def readers() -> set[int | None]:
        return {thread.ident for thread in threading.enumerate() if thread.name.startswith("chunks")}

    tensor.read()
    first = readers()
    for _ in range(5):
        tensor.read()
    assert 0 < len(first) <= module.READ_THREADS
    assert first <= readers()
    assert len(readers()) <= module.READ_THREADS


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 57, 99])
def test_nan_and_inf_name_file_and_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, value: float, at: int
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 64)
    matrix = torch.zeros(100, dtype=dtype)
    matrix[at] = value
    tensor = stored(tmp_path, matrix)
    with pytest.raises(CheckpointError, match=r"'w' holds NaN or Inf[\s\S]*a\.safetensors"):
        tensor.read()
    assert tensor.read((0, at)).shape == (at,)


@pytest.mark.parametrize("at", [module.SERIAL_ELEMENTS - 1, module.SERIAL_ELEMENTS, 3 * module.SERIAL_ELEMENTS])
def test_nan_is_found_in_every_stretch_of_a_chunk(tmp_path: Path, at: int) -> None:
    """A chunk is looked at in stretches; one NaN in any of them makes a whole model answer NaN."""
    matrix = torch.zeros(3 * module.SERIAL_ELEMENTS + 1, dtype=torch.float16)
    matrix[at] = float("nan")
    with pytest.raises(CheckpointError, match="holds NaN or Inf"):
        stored(tmp_path, matrix).read()


def test_a_file_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    tensor = stored(tmp_path, torch.ones(100))
    with tensor.path.open("r+b") as file:
        file.truncate(tensor.offset + 100)
    with pytest.raises(CheckpointError, match="ends inside the tensor 'w'"):
        tensor.read()
    tensor.path.unlink()
    with pytest.raises(CheckpointError, match="cannot open"):
        tensor.read()


def digest_of(tensor: StoredTensor) -> str:
    digest = hashlib.sha256()
    update_digest(digest, tensor.path, [tensor], tensor.path.name)
    return digest.hexdigest()


def test_every_byte_of_a_small_file_counts(tmp_path: Path) -> None:
    tensor = stored(tmp_path, torch.zeros(5000, dtype=torch.uint8))
    before = digest_of(tensor)
    assert digest_of(tensor) == before
    change_byte(tensor.path, tensor.offset + 3000)
    assert digest_of(tensor) != before


@pytest.mark.parametrize(("at", "seen"), [(0, True), (50_000, True), (99_999, True), (30_000, False)])
def test_of_a_large_file_each_tensor_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, seen: bool
) -> None:
    monkeypatch.setattr(module, "WHOLE_FILE_BYTES", 1000)
    monkeypatch.setattr(module, "EDGE_BYTES", 100)
    tensor = stored(tmp_path, torch.zeros(100_000, dtype=torch.uint8))
    before = digest_of(tensor)
    change_byte(tensor.path, tensor.offset + at)
    assert (digest_of(tensor) != before) == seen


def test_a_fingerprint_tells_names_and_sizes_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A baseline is kept under it: shards that changed places, or a file that grew where nobody samples, are others."""
    tensor = stored(tmp_path, torch.zeros(100_000, dtype=torch.uint8))
    renamed = replace(tensor, path=shutil.copy(tensor.path, tmp_path / "b.safetensors"))
    assert digest_of(renamed) != digest_of(tensor)
    monkeypatch.setattr(module, "WHOLE_FILE_BYTES", 1000)
    monkeypatch.setattr(module, "EDGE_BYTES", 100)
    before = digest_of(tensor)
    with tensor.path.open("ab") as file:
        file.write(bytes(1))
    assert digest_of(tensor) != before


def change_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_whose_sum_overflows_are_finite_still(tmp_path: Path, dtype: torch.dtype) -> None:
    largest = torch.full((1 << 16,), torch.finfo(dtype).max, dtype=dtype)
    write_safetensors(tmp_path / "w.safetensors", {"w": largest})
    assert torch.equal(read_safetensors(tmp_path / "w.safetensors")["w"].read(), largest)
