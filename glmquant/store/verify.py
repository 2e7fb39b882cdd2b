"""Whether a finished directory still holds what was written into it: every file's size, then every file's hash."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glmquant.core.untrusted import MAX_INDEX_BYTES
from glmquant.errors import CheckpointError
from glmquant.progress import Progress, silent
from glmquant.store.inventory import (
    FileRecord,
    files_of,
    require_hashes,
    require_no_others,
    require_sizes,
)
from glmquant.store.manifest import MANIFEST, read_manifest
from glmquant.store.run_record import RUN, require_run_record
from glmquant.store.sealed_json import read_sealed

STAGE: Final = "verify (bytes)"


@dataclass(frozen=True)
class Verification:
    """What was found to be as it was written.

    Attributes:
        path: the directory.
        files: how many files hold the bytes whose sha256 their manifest has, manifests included.
        size: bytes of those.
        without_hashes: what no hash was ever kept of, by its place in the directory: an artifact of an earlier release
            by its manifest.
    """

    path: Path
    files: int
    size: int
    without_hashes: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether there was a hash for everything."""
        return not self.without_hashes

    def to_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "path": str(self.path),
            "verified": self.is_complete,
            "files": self.files,
            "bytes": self.size,
            "without_hashes": list(self.without_hashes),
        }


@dataclass(frozen=True)
class _Listed:
    """A directory and the files that lie in it, as ``manifest`` says."""

    directory: Path
    manifest: str
    files: Mapping[str, FileRecord]
    is_sealed: bool
    is_alone: bool


def verify(directory: Path, progress: Progress = silent) -> Verification:
    """Reads every file of a quantized checkpoint, of a bundle, or of all that a run wrote.

    Sizes and names come first, so that what is cut short is told at once; hashes next, a few MiB in memory at a time.

    Args:
        progress: is told how many bytes have been read.

    Raises:
        CheckpointError: a directory that glmquant did not write; else the first file that is missing, cut short, other
            bytes than were written, or none of those written where it would be read.
    """
    parts = list(_parts(directory))
    for part in parts:
        require_sizes(part.directory, part.files)
        if part.is_alone and part.files:
            require_no_others(part.directory, part.files, part.manifest)
    size = sum(record.size for part in parts for record in part.files.values())
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress(STAGE, done, size)

    for part in parts:
        require_hashes(part.directory, part.files, tell)
    unknown = [part for part in parts if not part.files or not part.is_sealed]
    manifests = {part.directory / part.manifest for part in parts} - {p.directory / p.manifest for p in unknown}
    listed = {part.directory / name: record.size for part in parts for name, record in part.files.items()}
    read = listed | {path: path.stat().st_size for path in manifests}
    without = tuple((part.directory / part.manifest).relative_to(directory).as_posix() for part in unknown)
    return Verification(directory, len(read), sum(read.values()), without)


def _parts(directory: Path) -> Iterator[_Listed]:
    """What has an inventory: a run's record, or the artifact that the directory is; and those below a run's."""
    if (directory / RUN).is_file():
        record, is_sealed = require_run_record(directory)
        yield _Listed(directory, RUN, record.written, is_sealed, is_alone=False)
        found = [name for name in files_of(directory) if name.endswith(f"/{MANIFEST}") and name.count("/") == 1]
        yield from (_artifact((directory / name).parent) for name in found)
    elif (directory / MANIFEST).is_file():
        yield _artifact(directory)
    else:
        raise CheckpointError(
            f"there is no {MANIFEST} in {directory}" if directory.is_dir() else f"there is no directory {directory}",
            where=directory,
            expected="what `quantize`, `export` or `run` wrote",
        )


def _artifact(directory: Path) -> _Listed:
    path = directory / MANIFEST
    _, is_sealed = read_sealed(path, MAX_INDEX_BYTES)
    return _Listed(directory, MANIFEST, read_manifest(path).files, is_sealed, is_alone=True)
