"""safetensors files that carry a hash of themselves: sha256 of the whole file, computed as it is written, with zeros
where it then stands in the header's metadata."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from glmquant.errors import CheckpointError
from glmquant.store.inventory import CHUNK_BYTES
from glmquant.store.safetensors_file import read_head, write_safetensors

KEY: Final = "sha256"
ZEROS: Final = b"0" * 64
_SEAL: Final = re.compile(rb'"sha256":"([0-9a-f]{64})"')
"""Within other metadata, JSON say, the quotes would be escaped."""


def write_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """As :func:`glmquant.store.safetensors_file.write_safetensors`, with the hash in the metadata.

    Raises:
        OSError: as the operating system says, a full disk included.
    """
    sha256 = write_safetensors(path, tensors, {**metadata, KEY: ZEROS.decode()})
    seal = _SEAL.search(read_head(path))
    assert seal is not None
    with path.open("r+b") as file:
        file.seek(seal.start(1))
        file.write(sha256.encode())


def require_seal(path: Path) -> None:
    """Reads the file through, a few MiB in memory at a time.

    Raises:
        CheckpointError: it holds other bytes than were written, or was written without a hash.
    """
    head = read_head(path)
    seal = _SEAL.search(head)
    if seal is None:
        raise CheckpointError("the file has no hash of itself", where=path)
    digest = hashlib.sha256(head[: seal.start(1)] + ZEROS + head[seal.end(1) :])
    with path.open("rb", buffering=0) as file:
        file.seek(len(head))
        while part := file.read(CHUNK_BYTES):
            digest.update(part)
    if digest.hexdigest() != seal[1].decode():
        raise CheckpointError("the file was changed since it was written", where=path)
