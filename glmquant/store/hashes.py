"""Hashes of the files of an unfinished artifact, so that what a killed run left is known to be what it wrote."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from glmquant.core.files import write_atomically, write_json
from glmquant.core.untrusted import read_json
from glmquant.store.tensors import CHUNK_BYTES

HASHES: Final = ".glmquant-hashes.json"


class WrittenHashes:
    """sha256 by name of what was written into a directory; kept in a file of it until the artifact is finished."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._path = directory, directory / HASHES

    def note(self, name: str, sha256: str) -> None:
        """To be called before a file gets its name: killed between the two, there is a hash too many."""
        with write_atomically(self._path) as unfinished:
            write_json(unfinished, {**self._noted(), name: sha256})

    def damaged(self, names: Iterable[str]) -> list[str]:
        """Those of the files there that are not what was written, or of which nothing was noted.

        Raises:
            CheckpointError: what was noted is damaged itself.
        """
        noted = self._noted()
        there = [name for name in names if (self._directory / name).exists()]
        return [name for name in there if sha256_of(self._directory / name) != noted.get(name)]

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def _noted(self) -> dict[str, str]:
        return read_json(self._path) if self._path.exists() else {}


def sha256_of(path: Path) -> str:
    """As ``sha256sum`` gives it."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while part := file.read(CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest()
