"""The files of a finished directory with their sizes and hashes, and whether they are still those."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from glmquant.core.untrusted import file_inside, shown
from glmquant.errors import CheckpointError

CHUNK_BYTES: Final = 8 << 20
AGAIN: Final = "copy or download the directory again, completely, or make it anew"
READ: Final = (".bin", ".ckpt", ".data", ".jinja", ".json", ".model", ".onnx", ".pt", ".pth", ".py", ".safetensors")
READ_TEXTS: Final = (".tiktoken", "merges.txt", "vocab.txt")
"""Ends of names that glmquant, transformers, ONNX Runtime or onnxruntime-genai may read where they lie."""

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
Tell = Callable[[int], None]


@dataclass(frozen=True)
class FileRecord:
    """What a file was as it was written.

    Attributes:
        size: bytes.
        sha256: as ``sha256sum`` gives it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def inventory(directory: Path, written: Mapping[str, str] = NOTHING, *, but: Collection[str]) -> dict[str, FileRecord]:
    """Every file of a directory by its name.

    Args:
        written: sha256 of files that were hashed as they were written; the others, small ones, are read.
        but: names that are left out, that of the file among them which the inventory is going to stand in; hidden
            files are left out, too.
    """
    names = [name for name in files_of(directory) if name not in but]
    return {
        name: FileRecord((directory / name).stat().st_size, written.get(name) or sha256_of(directory / name))
        for name in names
    }


def files_of(directory: Path) -> list[str]:
    """Names of the files in a directory and below it, sorted, hidden ones and those in hidden directories left out."""
    return sorted(_files_of(directory, ""))


def _files_of(directory: Path, before: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files_of(directory / entry.name, f"{before}{entry.name}/")
            else:
                yield before + entry.name


def require_sizes(directory: Path, files: Mapping[str, FileRecord]) -> None:
    """That every file is there, as long as it was.

    Raises:
        CheckpointError: names the first that is not.
    """
    for name, record in files.items():
        size = _inside(directory, name).stat().st_size
        if size != record.size:
            cut = size < record.size
            raise CheckpointError(
                f"{shown(name)} {'is cut short' if cut else 'was changed'}: it has {size:,} bytes",
                where=directory / name,
                expected=f"the {record.size:,} bytes that were written",
                hint=AGAIN,
            )


def require_no_others(directory: Path, files: Mapping[str, FileRecord], manifest: str) -> None:
    """That no file lies there that would be read and is none of ``files``. Raises CheckpointError for the first."""
    for name in files_of(directory):
        if name not in files and name != manifest and name.endswith(READ + READ_TEXTS):
            raise CheckpointError(
                f"{shown(name)} is none of the files that were written, and would be read",
                where=directory / name,
                expected=f"only those that {manifest} names",
                hint="move it away",
            )


def require_hashes(directory: Path, files: Mapping[str, FileRecord], tell: Tell | None = None) -> None:
    """That every file holds what was written; ``tell`` is given how many bytes more are read.

    Raises:
        CheckpointError: names the first that does not.
    """
    for name, record in files.items():
        path = _inside(directory, name)
        if sha256_of(path, tell) != record.sha256:
            raise CheckpointError(
                f"{shown(name)} was changed: as long as it was, it holds other bytes",
                where=directory / name,
                expected=f"sha256 {record.sha256}",
                hint=AGAIN,
            )


def sha256_of(path: Path, tell: Tell | None = None) -> str:
    """As ``sha256sum`` gives it.

    Raises:
        CheckpointError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while part := file.read(CHUNK_BYTES):
                digest.update(part)
                if tell is not None:
                    tell(len(part))
    except OSError as error:
        raise CheckpointError(f"cannot read: {error.strerror}", where=path) from error
    return digest.hexdigest()


def _inside(directory: Path, name: str) -> Path:
    return file_inside(directory, name, where=directory, hint=AGAIN)
