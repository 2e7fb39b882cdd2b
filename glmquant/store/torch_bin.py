"""Files of ``torch.save`` read without torch.load: where each tensor lies, and no code run to find out.

``torch.save`` writes a zip file of uncompressed members: ``NAME/data.pkl``, a small pickle that describes the tensors,
and ``NAME/data/KEY``, the bytes of one storage each (torch/serialization.py, ``_save``).
"""

import io
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Final

from glmquant.core.placeholders import HEAD, refuse_placeholder
from glmquant.core.untrusted import require_regular, shown
from glmquant.errors import CheckpointError
from glmquant.store.inert_pickle import MAX_PICKLE_BYTES, DamagedPickleError, PickledTensor, Storage, unpickle
from glmquant.store.state_dict import find_state_dict
from glmquant.store.tensors import Checksum, StoredTensor, file_size, reject_beyond_file, reject_dimensions

MAX_DIRECTORY_BYTES: Final = 4 << 20
"""zipfile reads a file's list of members at once; 4 MiB is room for about 50,000 of them."""

LEGACY_MAGIC: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
ENCRYPTED: Final = 0x1
UTF8_NAME: Final = 0x800


def read_torch_bin(path: Path, most_bytes: int = MAX_PICKLE_BYTES) -> dict[str, StoredTensor]:
    """The tensors of a file of ``torch.save`` by name; nothing but its directory and its pickle is read.

    A state dict may lie inside what a training framework saves (:func:`glmquant.store.state_dict.find_state_dict`).

    Args:
        most_bytes: of its pickle.

    Raises:
        CheckpointError: not a zip file of torch.save, truncated, compressed, hostile, or carrying code.
    """
    _refuse_other_formats(path)
    try:
        with path.open("rb") as file, zipfile.ZipFile(_SmallReads(file, path)) as archive:
            members = _Members(path, archive)
            return _describe(members, most_bytes)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OSError, EOFError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the file is truncated or damaged ({why})", where=path, hint="download the file again, completely"
    )


def _refuse_other_formats(path: Path) -> None:
    require_regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(HEAD)
    except OSError as error:
        raise CheckpointError(f"cannot open the file: {error.strerror}", where=path) from error
    refuse_placeholder(start, path)
    if start.startswith(LEGACY_MAGIC):
        raise CheckpointError(
            "the file is in PyTorch's old format, from before 1.6, which cannot be read tensor by tensor",
            where=path,
            expected="a zip file, as torch.save writes since PyTorch 1.6",
            hint="convert a checkpoint you trust: torch.save(torch.load(path, weights_only=True), path)",
        )
    if not start.startswith(b"PK"):
        raise CheckpointError(
            "the file is not a PyTorch checkpoint" + (": it is empty" * (not start)),
            where=path,
            expected="a zip file of torch.save",
            hint="download the file again, completely" if not start else None,
        )


class _SmallReads(io.RawIOBase):
    """The file as ``zipfile`` sees it: a read larger than any honest directory needs is an error, not an allocation."""

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        self._file, self._path = file, path

    def read(self, size: int | None = -1) -> bytes:
        wanted = MAX_DIRECTORY_BYTES + 1 if size is None or size < 0 else size
        if wanted > MAX_DIRECTORY_BYTES + 1:
            raise CheckpointError(f"the zip file's list of members claims {wanted} bytes", where=self._path)
        return self._file.read(wanted)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


class _Members:
    """The checked members of one archive."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        self.size = file_size(path)
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            self._infos[self._checked(info)] = info

    def _checked(self, info: zipfile.ZipInfo) -> str:
        name = info.filename
        parts = PurePosixPath(name).parts
        where = f"{self.path}, member {shown(name)}"
        if name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
            raise CheckpointError("a zip member's name leads out of the file", where=where)
        if name in self._infos:
            raise CheckpointError("the zip file holds two members of one name", where=where)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointError("a zip member is compressed", where=where, expected="as torch.save writes: stored")
        if info.flag_bits & ENCRYPTED:
            raise CheckpointError("a zip member is encrypted", where=where)
        return name

    def root(self) -> str:
        """The folder all members share; torch names it after the file."""
        roots = [name.removesuffix("data.pkl") for name in self._infos if PurePosixPath(name).name == "data.pkl"]
        if len(roots) != 1:
            raise CheckpointError(f"the zip file has {len(roots)} members data.pkl", where=self.path, expected="one")
        return roots[0]

    def content(self, name: str, limit: int) -> bytes:
        size = self._info(name).file_size
        if size > limit:
            raise CheckpointError(
                f"{shown(name)} has {size} bytes", where=self.path, expected=f"at most {limit}: it describes tensors"
            )
        return self._archive.read(self._info(name))

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def checksum(self, name: str) -> Checksum:
        """Where a member's bytes begin, how many they are, and their CRC-32."""
        info = self._info(name)
        reader = self._archive.fp
        assert reader is not None
        reader.seek(info.header_offset)
        signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack(reader.read(LOCAL_HEADER.size))
        stored_name = reader.read(name_bytes)
        start = info.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
        encoding = "utf-8" if info.flag_bits & UTF8_NAME else "cp437"
        if signature != b"PK\x03\x04" or stored_name != info.orig_filename.encode(encoding):
            raise _damaged(self.path, f"no member {shown(name)} where the list says")
        if start + info.file_size > self.size:
            raise _damaged(self.path, f"{shown(name)} lies beyond the end of the file")
        return Checksum(start, info.file_size, info.CRC)

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._infos:
            raise _damaged(self.path, f"no member {shown(name)}")
        return self._infos[name]


def _describe(members: _Members, most_bytes: int) -> dict[str, StoredTensor]:
    root = members.root()
    byte_order = f"{root}byteorder"
    if byte_order in members and members.content(byte_order, 16) != b"little":
        raise CheckpointError("the file's numbers are big-endian", where=members.path, expected="little-endian")
    state = _state_dict(members.content(f"{root}data.pkl", most_bytes), members.path)
    return {name: _locate(members, root, name, tensor) for name, tensor in state.items()}


def _state_dict(raw: bytes, path: Path) -> dict[str, PickledTensor]:
    try:
        value = unpickle(raw, path)
    except DamagedPickleError as error:
        raise _damaged(path, f"its list of tensors: {error}") from error
    return find_state_dict(value, path)


def _locate(members: _Members, root: str, name: str, pickled: PickledTensor) -> StoredTensor:
    storage = pickled.storage
    numbers = (pickled.offset, getattr(storage, "count", None), *_sizes(pickled.shape), *_sizes(pickled.stride))
    if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise _damaged(members.path, f"the tensor {shown(name)} is described by something other than sizes")
    reject_dimensions(pickled.shape, f"{members.path}, {shown(name)}")
    if not _is_contiguous(pickled.shape, pickled.stride):
        raise CheckpointError(
            f"the tensor {shown(name)} is not stored row by row",
            where=members.path,
            expected="contiguous tensors",
            hint="save the checkpoint again with every tensor made .contiguous()",
        )
    checksum = members.checksum(f"{root}data/{storage.key}")
    offset = checksum.start + pickled.offset * storage.dtype.itemsize
    tensor = StoredTensor(members.path, name, offset, storage.dtype, tuple(pickled.shape), checksum)
    reject_beyond_file(tensor, checksum.start + min(checksum.size, storage.count * storage.dtype.itemsize))
    return tensor


def _sizes(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (None,)


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    if len(shape) != len(stride):
        return False
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size > 1 and step != expected:
            return False
        expected *= size
    return True
