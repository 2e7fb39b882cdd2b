"""Hashes of the files of an unfinished artifact, so that what a killed run left is known to be what it wrote."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from glmquant.core.files import write_atomically, write_json
from glmquant.core.untrusted import read_json
from glmquant.store.inventory import sha256_of

HASHES: Final = ".glmquant-hashes.json"


class WrittenHashes:
    """sha256 by name of what was written into a directory; kept in a file of it until the artifact is finished."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._path = directory, directory / HASHES

    def take_over(self, sha256: Mapping[str, str]) -> None:
        """Notes what another file says, where nothing was noted or the notes are gone."""
        if not self._path.exists():
            write_json(self._path, dict(sha256))

    def note(self, name: str, sha256: str) -> None:
        """To be called before a file gets its name: killed between the two, there is a hash too many."""
        with write_atomically(self._path) as unfinished:
            write_json(unfinished, {**self.noted(), name: sha256})

    def damaged(self, names: Iterable[str]) -> list[str]:
        """Those of the files there that are not what was written, or of which nothing was noted.

        Raises:
            CheckpointError: what was noted is damaged itself.
        """
        noted = self.noted()
        there = [name for name in names if (self._directory / name).exists()]
        return [name for name in there if sha256_of(self._directory / name) != noted.get(name)]

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def noted(self) -> dict[str, str]:
        """sha256 by name. Raises CheckpointError where what was noted is damaged itself."""
        return read_json(self._path) if self._path.exists() else {}
