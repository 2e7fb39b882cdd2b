"""safetensors files against the library, and headers that lie."""

import json
import struct
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from glmquant.errors import CheckpointError
from glmquant.store.safetensors_file import read_metadata, read_safetensors, write_safetensors
from glmquant.store.tensors import DeferredTensor, Writable
from tests.support.checkpoints import GOLDEN

TENSORS = {
    "f64": torch.rand(3, dtype=torch.float64),
    "half": torch.rand(2, 5).half(),
    "brain": torch.rand(4).bfloat16(),
    "codes": torch.arange(7, dtype=torch.uint8),
    "words": torch.arange(6, dtype=torch.int32).view(3, 2),
    "flag": torch.tensor([True, False]),
    "scalar": torch.tensor(1.5),
    "empty": torch.empty(0, 3),
    "名字": torch.ones(2),
}


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, TENSORS, {"format": "pt"})
    theirs = load_file(path)
    assert theirs.keys() == TENSORS.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert read_metadata(path) == {"format": "pt"}


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    ours = read_safetensors(path)
    assert ours.keys() == TENSORS.keys()
    assert all(torch.equal(ours[name].read(), tensor) for name, tensor in TENSORS.items())
    assert read_metadata(path) == {}


def test_golden_expectations_read_as_the_library_reads_them() -> None:
    path = GOLDEN / "chatglm2-tiny" / "expected.safetensors"
    ours = {name: tensor.read() for name, tensor in read_safetensors(path).items()}
    assert all(torch.equal(ours[name], tensor) for name, tensor in load_file(path).items())


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    write_safetensors(one, TENSORS, {"a": "1", "b": "2"})
    write_safetensors(other, dict(reversed(TENSORS.items())), {"b": "2", "a": "1"})
    assert one.read_bytes() == other.read_bytes()


def test_deferred_tensors_are_made_one_at_a_time_and_are_not_kept(tmp_path: Path) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def make(value: int) -> torch.Tensor:
        assert all(earlier() is None for earlier in made)
        tensor = torch.full((2, 3), value)
        made.append(weakref.ref(tensor))
        return tensor

    later: dict[str, Writable] = {
        f"t{value}": DeferredTensor(torch.int64, (2, 3), partial(make, value)) for value in range(4)
    }
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    assert write_safetensors(one, later) == write_safetensors(other, {f"t{n}": torch.full((2, 3), n) for n in range(4)})
    assert one.read_bytes() == other.read_bytes()
    assert len(made) == 4


def test_a_transposed_tensor_is_written_row_by_row(tmp_path: Path) -> None:
    path, matrix = tmp_path / "a.safetensors", torch.arange(6.0).view(2, 3)
    write_safetensors(path, {"t": matrix.T, "one": matrix.view(-1)[::5][1:]})
    assert torch.equal(load_file(path)["t"], matrix.T)
    assert load_file(path)["one"].tolist() == [5.0]


def crafted(directory: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    path = directory / "a.safetensors"
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)
    return path


def entry(start: int, stop: int, shape: object = (2,), dtype: object = "F16") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6), "overlaps another"),
        ({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4), "overlaps another"),
        ({"a": entry(0, 4), "b": entry(6, 10)}, bytes(10), "leaves a hole"),
        ({"a": entry(4, 8)}, bytes(8), "leaves a hole"),
        ({"a": entry(0, 4)}, bytes(3), "its header describes"),
        ({"a": entry(0, 4)}, bytes(5), "its header describes"),
        ({"a": entry(0, 8)}, bytes(8), r"gives 8 bytes to shape \[2\] of F16"),
        ({"a": entry(4, 0)}, bytes(4), "gives -4 bytes"),
        ({"a": entry(0, 4, [2**20, 2**20])}, bytes(4), "gives 4 bytes"),
        ({"a": entry(0, 4, [2**40, 2**40])}, bytes(4), "at most 281,474,976,710,656 elements"),
        ({"a": entry(0, 4, [2**61] * 100_000)}, bytes(4), "100000 dimensions"),
        ({"a": entry(0, 4, [2**61] * 250)}, bytes(4), "250 dimensions"),
        ({"a": entry(0, 4, [-2])}, bytes(4), "are not sizes"),
        ({"a": entry(0, 4, "2")}, bytes(4), "are not sizes"),
        ({"a": entry(0, 4, [2.0])}, bytes(4), "are not sizes"),
        ({"a": entry(0, 4, [True, 2])}, bytes(4), "are not sizes"),
        ({"a": entry(0, 2, [2], "F8_E4M3")}, bytes(2), "F8_E4M3"),
        ({"a": entry(0, 2, [2], ["F16"])}, bytes(2), "is not supported"),
        ({"a": {"dtype": "F16"}}, b"", "malformed"),
        ({"a": 1}, b"", "malformed"),
        ([], b"", "expected: an object"),
        (b'{"a":1,"a":2}', b"", "given twice"),
        (b'{"a":NaN}', b"", "NaN is not a JSON number"),
        (b"{" * 20, b"", "not valid JSON"),
        (b'{"a":' + b"[" * 100_000, b"", "not valid JSON"),
        (b"\xff\xfe", b"", "not valid JSON"),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: object, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(crafted(tmp_path, header, data))


@pytest.mark.parametrize("length", [0, 1, 3, 2**63, 100_000_001])
def test_lengths_that_lie(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointError, match="claims"):
        read_safetensors(crafted(tmp_path, b"{}", length=length))


def test_a_header_larger_than_any_model_needs(tmp_path: Path) -> None:
    path = crafted(tmp_path, b"{" + b" " * (17 << 20) + b"}")
    with pytest.raises(CheckpointError, match="claims"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "claims 0 bytes"), (b"version https://git-lfs.x", "Git LFS pointer")]
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(path)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), min_size=1, max_size=3), st.integers(0, 900))
def test_damaged_files_read_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.safetensors"
    write_safetensors(path, TENSORS)
    damaged = bytearray(path.read_bytes())
    for at, mask in flips:
        damaged[at] ^= mask
    path.write_bytes(damaged[:cut] if cut < 500 else damaged)
    try:
        for tensor in read_safetensors(path).values():
            assert tensor.read().shape == tensor.shape
    except CheckpointError:
        pass
