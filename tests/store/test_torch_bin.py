"""``.bin`` files: as torch reads them where they are honest, refused where they are not."""

import io
import os
import pickle
import random
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glmquant.errors import CheckpointError
from glmquant.store.torch_bin import MAX_DIRECTORY_BYTES, read_torch_bin
from tests.support.checkpoints import GOLDEN


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*/pytorch_model-*.bin")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_golden_shards_read_as_torch_reads_them(path: Path) -> None:
    expected = torch.load(path, weights_only=True)
    stored = read_torch_bin(path)
    assert list(stored) == list(expected)
    for name, tensor in expected.items():
        assert stored[name].dtype == tensor.dtype
        assert torch.equal(stored[name].read(), tensor)


def test_a_bit_that_flipped_in_a_tensor_is_found_as_it_is_read(tmp_path: Path) -> None:
    """Whole, in rows, or as a part of a storage that several share; larger than is read at once, and smaller."""
    shared = torch.randint(-100, 100, (20, 64), dtype=torch.int16)
    large = torch.randint(-100, 100, (1200, 4096), dtype=torch.int16)
    path, chance = tmp_path / "x.bin", random.Random(21)
    torch.save({"small": shared.clone(), "first": shared[:10], "second": shared[10:], "large": large}, path)
    whole, stored = path.read_bytes(), read_torch_bin(path)
    assert torch.equal(stored["second"].read((2, 5)), shared[12:15])
    for name in ("small", "first", "second", "large"):
        for rows in (None, (0, 10), (3, 4)):
            damaged = tmp_path / f"{name}-{rows}.bin"
            at = stored[name].offset + chance.randrange(stored[name].nbytes)
            damaged.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
            with pytest.raises(CheckpointError, match=rf"bytes of the tensor '{name}' are not those whose checksum"):
                read_torch_bin(damaged)[name].read(rows)
            damaged.unlink()


def test_what_torch_can_save(tmp_path: Path) -> None:
    shared = torch.arange(20, dtype=torch.float32)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    tensors = {
        **{
            f"dtype.{i}": torch.ones(2, 3).to(dtype)
            for i, dtype in enumerate((torch.float64, torch.bfloat16, torch.half))
        },
        **{f"whole.{i}": torch.ones(3).to(dtype) for i, dtype in enumerate((torch.int64, torch.int32, torch.int16))},
        **{f"small.{i}": torch.ones(3).to(dtype) for i, dtype in enumerate((torch.int8, torch.uint8, torch.bool))},
        "first half": shared[:10],
        "second half": shared[10:].view(2, 5),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        **module.state_dict(),
    }
    path = tmp_path / "模型.bin"
    torch.save(OrderedDict(tensors), path)
    stored = read_torch_bin(path)
    assert list(stored) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(stored[name].read(), tensor.detach())
    state_dict = tmp_path / "state_dict.bin"
    torch.save(module.state_dict(), state_dict)
    assert list(read_torch_bin(state_dict)) == list(module.state_dict())


class RunsCommand:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def test_a_file_that_carries_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "pytorch_model.bin", tmp_path / "trace"
    torch.save({"weight": torch.ones(2), "payload": RunsCommand(f"touch {trace}")}, path)
    with pytest.raises(CheckpointError, match=r"carries code \((posix|nt)\.system\)"):
        read_torch_bin(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "torch load", "torch.serialization load", "torch _C", "collections abc.x"]
)
def test_no_other_name_is_known(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path, b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n.")
    with pytest.raises(CheckpointError, match="carries code"):
        read_torch_bin(path)


def archive(directory: Path, pickled: bytes, **members: bytes) -> Path:
    path = directory / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("pytorch_model/data.pkl", pickled)
        for name, content in members.items():
            file.writestr(f"pytorch_model/{name}", content)
    return path


def pickled_tensor(storage: object = ("storage", torch.FloatStorage, "0", "cpu", 4), *numbers: object) -> bytes:
    """A state dict with one tensor ``w``, its description as hostile as asked for."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return storage if value is reference else None

    class Tensor:
        def __reduce__(self) -> tuple[object, ...]:
            return torch._utils._rebuild_tensor_v2, (reference, *(numbers or (0, (4,), (1,))), False, OrderedDict())

    class Reference:
        pass

    reference = Reference()
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"w": Tensor()})
    return buffer.getvalue()


def test_the_crafted_archive_is_right_when_unharmed(tmp_path: Path) -> None:
    path = archive(tmp_path, pickled_tensor(), **{"data/0": struct.pack("<4f", 1, 2, 3, 4)})
    assert read_torch_bin(path)["w"].read().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1, (4,), (1,)), "beyond the end"),
        ((0, (5,), (1,)), "beyond the end"),
        ((0, (2**61, 2**61), (2**61, 1)), "elements"),
        ((0, (2**20, 2**20), (2**20, 1)), "beyond the end"),
        ((0, (2**61,) * 9, (1,) * 9), "9 dimensions"),
        ((-1, (4,), (1,)), "other than sizes"),
        ((0, (-4,), (1,)), "other than sizes"),
        ((0, (4.0,), (1,)), "other than sizes"),
        ((0, [4], (1,)), "other than sizes"),
        ((0, (True,), (1,)), "other than sizes"),
        ((0, (2, 2), (1, 2)), "not stored row by row"),
        ((0, (4,), (0,)), "not stored row by row"),
        ((0, (4,), ()), "not stored row by row"),
        ((0, (2**70,), (1,)), "other than sizes"),
        ((0, "4", (1,)), "other than sizes"),
    ],
)
def test_sizes_that_lie(tmp_path: Path, numbers: tuple[object, ...], message: str) -> None:
    storage = ("storage", torch.FloatStorage, "0", "cpu", 4)
    path = archive(tmp_path, pickled_tensor(storage, *numbers), **{"data/0": bytes(16)})
    with pytest.raises(CheckpointError, match=message):
        read_torch_bin(path)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        (("storage", torch.FloatStorage, "0", "cpu", 10**9), "beyond the end"),
        (("storage", torch.FloatStorage, "1", "cpu", 4), "no member 'pytorch_model/data/1'"),
        (("storage", torch.FloatStorage, "../0", "cpu", 4), "no member"),
        (("storage", "FloatStorage", "0", "cpu", 4), "a reference is no storage"),
        (("module", torch.FloatStorage, "0", "cpu", 4), "a reference is no storage"),
        (("storage", torch.FloatStorage, 0, "cpu", 4), "a reference is no storage"),
        (("storage",), "truncated or damaged"),
    ],
)
def test_storages_that_lie(tmp_path: Path, storage: object, message: str) -> None:
    path = archive(tmp_path, pickled_tensor(storage, 0, (5,), (1,)), **{"data/0": bytes(16)})
    with pytest.raises(CheckpointError, match=message):
        read_torch_bin(path)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"", "truncated or damaged"),
        (b"\x80\x02}.", "ok"),
        (b"\x80\x02K\x01.", "no dictionary of tensors"),
        (b"\x80\x02}X\x01\x00\x00\x00wK\x01s.", "'w' is no tensor"),
        (b"\x80\x02}K\x01K\x01s.", "the entry 1 is no tensor"),
        (b"\x80\x02})K\x01s.", "a key is no name"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "ok"),
        (b"\x80\x02K\x012\x86.", "torch.save writes no DUP"),
        (b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "truncated or damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", "truncated or damaged"),
        (b"\x80\x02" + b"(" * 100_000, "truncated or damaged"),
        (b"\x80\x02" + b"K\x01" + b"\x85" * 100_000 + b".", "no dictionary of tensors"),
        (b"\x80\x02Q.", "truncated or damaged"),
        (b"\x80\x02tR.", "truncated or damaged"),
        (b"\x80\x02K\x01K\x02.", "truncated or damaged"),
        (b"\x80\x02K\x01)R.", "truncated or damaged"),
    ],
)
def test_pickles_that_are_damaged_or_hostile(tmp_path: Path, pickled: bytes, message: str) -> None:
    path = archive(tmp_path, pickled)
    if message == "ok":
        assert read_torch_bin(path) == {}
        return
    with pytest.raises(CheckpointError, match=message):
        read_torch_bin(path)


def doubled_key(times: int) -> bytes:
    """A dictionary whose key is a pair of twice the same pair of twice the same pair …"""
    doubling = b"".join(b"q%c" % i + b"h%c" % i + b"\x86" for i in range(times))
    return b"\x80\x02}K\x01" + doubling + b"K\x01s."


@pytest.mark.parametrize("key", [doubled_key(60), b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"K\x01s."])
def test_a_key_that_would_take_for_ever_to_hash_costs_nothing(tmp_path: Path, key: bytes) -> None:
    path = archive(tmp_path, key)
    with pytest.raises(CheckpointError, match="a key is no name"):
        read_torch_bin(path)


def seconds_to_load(raw: bytes) -> float:
    started = time.process_time()
    assert len(NothingAllowed(io.BytesIO(raw)).load()) == 1
    return time.process_time() - started


class NothingAllowed(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(name)


def test_the_standard_library_takes_twice_as_long_for_each_doubling() -> None:
    """Why :mod:`glmquant.store.inert_pickle` is not a subclass of ``pickle.Unpickler``."""
    assert seconds_to_load(doubled_key(22)) > 30 * max(seconds_to_load(doubled_key(12)), 1e-4)


def test_a_pickle_that_is_too_large(tmp_path: Path) -> None:
    path = archive(tmp_path, bytes(3 << 20))
    with pytest.raises(CheckpointError, match=r"data\.pkl' has 3145728 bytes"):
        read_torch_bin(path)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "pytorch_model/../../evil", "C:evil", "a\\b"])
def test_members_that_lead_out_of_the_file(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path, pickled_tensor(), **{"data/0": bytes(16)})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"x")
    with pytest.raises(CheckpointError, match="leads out of the file"):
        read_torch_bin(path)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, pickled_tensor())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("pytorch_model/data/0", bytes(1 << 20))
    with pytest.raises(CheckpointError, match="compressed"):
        read_torch_bin(path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    """Its bytes are no weights, though as many as the weights would be."""
    path = archive(tmp_path, pickled_tensor(), **{"data/0": bytes(16)})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # of the last member, in the list
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        read_torch_bin(path)


def test_a_tensor_beyond_its_storage_is_refused_though_the_member_has_more_bytes(tmp_path: Path) -> None:
    """torch would refuse it, and what lies behind a storage is no weight."""
    storage = ("storage", torch.FloatStorage, "0", "cpu", 3)
    path = archive(tmp_path, pickled_tensor(storage, 0, (4,), (1,)), **{"data/0": bytes(16)})
    with pytest.raises(CheckpointError, match="beyond the end"):
        read_torch_bin(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = archive(tmp_path, pickled_tensor(), **{"data/0": bytes(16)})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("pytorch_model/data/0", bytes(16))
    with pytest.raises(CheckpointError, match="two members of one name"):
        read_torch_bin(path)


def test_a_list_of_members_that_claims_to_be_huge(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    size = 64 << 20
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size - 100, 50, 0))
    assert size > MAX_DIRECTORY_BYTES
    with pytest.raises(CheckpointError, match="list of members claims"):
        read_torch_bin(path)


def test_big_endian_numbers(tmp_path: Path) -> None:
    path = archive(tmp_path, pickled_tensor(), **{"data/0": bytes(16), "byteorder": b"big"})
    with pytest.raises(CheckpointError, match="big-endian"):
        read_torch_bin(path)


def test_the_old_format_says_how_to_convert(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"from before 1\.6[\s\S]*torch\.save\(torch\.load"):
        read_torch_bin(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<html>404</html>", "an HTML page"),
        (b"", "not a PyTorch checkpoint"),
        (b"PK\x03\x04", "truncated or damaged"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_torch_bin(path)


SHARD = (GOLDEN / "chatglm2-tiny" / "pytorch_model-00001-of-00002.bin").read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(SHARD) - 1))
def test_truncated_files(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "pytorch_model.bin"
    path.write_bytes(SHARD[:length])
    with pytest.raises(CheckpointError):
        read_torch_bin(path)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2000), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_read_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int, int]]
) -> None:
    """Flips in the pickle at the start and in the list of members at the end."""
    damaged = bytearray(SHARD)
    for end, at, mask in flips:
        damaged[-1 - at if end else at] ^= mask
    path = tmp_path_factory.mktemp("flipped") / "pytorch_model.bin"
    path.write_bytes(damaged)
    try:
        values = [tensor.read() for tensor in read_torch_bin(path).values()]
    except CheckpointError:
        return
    assert all(torch.isfinite(each).all() for each in values)
