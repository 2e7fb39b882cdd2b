"""Hashes of the files of an unfinished artifact, so that what a killed run left is known to be what it wrote."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from glmquant.core.files import write_atomically
from glmquant.errors import CheckpointError
from glmquant.store.inventory import sha256_of
from glmquant.store.sealed_json import read_sealed, sealed

HASHES: Final = ".glmquant-hashes.json"

log = logging.getLogger("glmquant.store")


class WrittenHashes:
    """sha256 by name of what was written into a directory; kept in a file of it until the artifact is finished."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._path = directory, directory / HASHES

    def take_over(self, sha256: Mapping[str, str]) -> None:
        """Notes what another file says, where nothing was noted or the notes are gone."""
        if sha256 and not self._path.exists():
            self._write(sha256)

    def note(self, name: str, sha256: str) -> None:
        """To be called before a file gets its name: killed between the two, there is a hash too many."""
        self._write({**self.noted(), name: sha256})

    def damaged(self, names: Iterable[str]) -> list[str]:
        """Those of the files there that are not what was written, or of which nothing was noted."""
        noted = self.noted()
        there = [name for name in names if (self._directory / name).exists()]
        return [name for name in there if sha256_of(self._directory / name) != noted.get(name)]

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def noted(self) -> dict[str, str]:
        """sha256 by name; none where what was noted is damaged itself."""
        if not self._path.exists():
            return {}
        try:
            noted, is_sealed = read_sealed(self._path)
        except CheckpointError as error:
            log.warning("nothing is known of the files that the unfinished run left: %s", error.what)
            return {}
        return noted if is_sealed else {}

    def _write(self, noted: Mapping[str, str]) -> None:
        with write_atomically(self._path) as unfinished:
            unfinished.write_bytes(sealed((json.dumps(noted, indent=1) + "\n").encode()))
