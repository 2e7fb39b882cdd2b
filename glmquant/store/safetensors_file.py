"""safetensors files: an 8-byte length, a JSON header, then the bytes of the tensors
(https://github.com/huggingface/safetensors, "Format").

Read and written here rather than by the library (0.8): its reader maps the file (tensors of a 1 GiB file, read one by
one, took 1,040 MiB of memory against 29, in the same time from a cold disk), lets keys given twice pass and names no
tensor in its errors; its writer hides a full disk behind an exception of its own. Tests hold both directions to the
library.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch

from glmquant.core.direct_io import DirectWriter
from glmquant.core.placeholders import HEAD, refuse_placeholder
from glmquant.core.untrusted import parse_json, require_regular, shown
from glmquant.errors import CheckpointError
from glmquant.store.tensors import DeferredTensor, StoredTensor, Writable, byte_view, file_size, reject_dimensions

MAX_HEADER_BYTES: Final = 16 << 20
LENGTH: Final = struct.Struct("<Q")
METADATA: Final = "__metadata__"
ALIGNMENT: Final = 8

DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name; only its header is read.

    Raises:
        CheckpointError: a header that is not one, or lengths that lie, overlap or leave holes.
    """
    header, start = _read_header(path)
    _require_texts(header.pop(METADATA, None), path)
    tensors = {name: _entry(path, name, entry, start) for name, entry in header.items()}
    _require_gapless(path, tensors, start)
    return tensors


def read_metadata(path: Path) -> dict[str, Any]:
    """The free text in a file's header. Raises CheckpointError for a header that is not one."""
    metadata = _read_header(path)[0].get(METADATA, {})
    return metadata if isinstance(metadata, dict) else {}


def _require_texts(metadata: Any, path: Path) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(
            f"the header's {METADATA} are no texts", where=path, expected="an object from names to strings"
        )


def read_head(path: Path) -> bytes:
    """All of the file before its tensors. Raises CheckpointError for lengths that lie."""
    require_regular(path)
    try:
        with path.open("rb") as file:
            return _header_of(file, path)
    except OSError as error:
        raise CheckpointError(f"cannot read the file: {error.strerror}", where=path) from error


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the data begins."""
    head = read_head(path)
    return parse_json(head[LENGTH.size :], f"{path}, header"), len(head)


def _header_of(file: BinaryIO, path: Path) -> bytes:
    prefix = file.read(LENGTH.size)
    refuse_placeholder(prefix + file.read(HEAD), path)
    size = file_size(path)
    length = LENGTH.unpack(prefix)[0] if len(prefix) == LENGTH.size else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - LENGTH.size):
        raise CheckpointError(
            f"the header claims {length} bytes of a file of {size}",
            where=path,
            expected=f"a safetensors file, with a header of at most {MAX_HEADER_BYTES} bytes",
            hint="download the file again, completely",
        )
    file.seek(0)
    return file.read(LENGTH.size + length)


def _unknown_dtype(dtype: Any, where: str) -> CheckpointError:
    if isinstance(dtype, str) and dtype.startswith("F8_"):
        return CheckpointError(
            f"the tensor is FP8 ({shown(dtype)}): a copy that its publisher quantized",
            where=where,
            expected="float weights: BF16, F16 or F32",
            hint="give the BF16 model that it was made from; a repository's name is usually the same without -FP8",
        )
    return CheckpointError(f"the dtype {shown(dtype)} is not supported", where=where, expected=", ".join(DTYPES))


def _entry(path: Path, name: str, entry: Any, start: int) -> StoredTensor:
    where = f"{path}, header, {shown(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError("the header's entry is malformed", where=where, expected="dtype, shape, data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _unknown_dtype(dtype, where)
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise CheckpointError("shape or data_offsets are not sizes", where=where, expected="lists of whole numbers")
    reject_dimensions(shape, where)
    tensor = StoredTensor(path, name, start + offsets[0], DTYPES[dtype], tuple(shape))
    if offsets[1] - offsets[0] != tensor.nbytes:
        raise CheckpointError(
            f"the header gives {offsets[1] - offsets[0]} bytes to shape {shown(shape)} of {dtype}",
            where=where,
            expected=f"{tensor.nbytes}",
        )
    return tensor


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _require_gapless(path: Path, tensors: Mapping[str, StoredTensor], start: int) -> None:
    at = start
    for tensor in sorted(tensors.values(), key=lambda each: (each.offset, each.nbytes)):
        if tensor.offset != at:
            raise CheckpointError(
                f"the tensor {shown(tensor.name)} overlaps another or leaves a hole", where=path, expected="neither"
            )
        at += tensor.nbytes
    if at != file_size(path):
        raise CheckpointError(
            f"the file has {file_size(path)} bytes, its header describes {at}",
            where=path,
            hint="download the file again, completely",
        )


def write_safetensors(path: Path, tensors: Mapping[str, Writable], metadata: Mapping[str, str] | None = None) -> str:
    """Writes the tensors and waits until they are on the disk; the same tensors give the same bytes.

    Nothing is copied but tensors that are not contiguous, one at a time; deferred ones are made one at a time.

    Returns:
        sha256 of the file, of what was to be written rather than of what came to be on the disk.

    Raises:
        OSError: as the operating system says, a full disk included.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {METADATA: dict(sorted((metadata or {}).items()))} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    head = LENGTH.pack(len(encoded)) + encoded
    digest = hashlib.sha256(head)
    with DirectWriter(path) as file:
        file.write(head)
        for name in order:
            _append(tensors[name], file, digest)
    return digest.hexdigest()


def _append(tensor: Writable, file: DirectWriter, digest: "hashlib._Hash") -> None:
    content = byte_view((tensor.make() if isinstance(tensor, DeferredTensor) else tensor).contiguous())
    digest.update(content)
    file.write(content)
