"""What a checkpoint lacks, from the hub into huggingface_hub's cache."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from glmquant.core.files import sync_directory
from glmquant.core.units import size
from glmquant.errors import HubError
from glmquant.hub.cache import publish, repository, write_ref
from glmquant.hub.http import endpoint
from glmquant.hub.listing import Listing, RemoteFile, fetch_listing
from glmquant.hub.names import RepoId
from glmquant.hub.transfer import fetch, is_whole
from glmquant.progress import Progress

SPARE: Final = 64 << 20
"""Bytes that stay free on the disk."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)

log = logging.getLogger("glmquant.hub")


def download(repo: RepoId, revision: str, progress: Progress) -> Path:
    """The snapshot of a revision with every file of its checkpoint; only what is missing comes from the hub.

    A file appears under its name once it is whole and has the hash that the hub gives. The name of the revision is
    noted last, so that an unfinished download is not taken for the checkpoint.

    Args:
        revision: as the hub is to be asked: a commit, where the cache has begun with one.
        progress: is told the bytes.

    Raises:
        HubError: it cannot be had. What has come of it stays, for the next time.
    """
    listing = fetch_listing(repo, revision)
    root = repository(repo.name)
    snapshot = root / "snapshots" / listing.commit
    with _told_as_hub_errors(root):
        missing = [file for file in listing.files if not is_whole(snapshot / file.name, file)]
        blobs = {file.hash: file for file in missing if not is_whole(root / "blobs" / file.hash, file)}
        _fetch_all(repo, listing, list(blobs.values()), root, progress)
        snapshot.mkdir(parents=True, exist_ok=True)
        for file in missing:
            publish(root / "blobs" / file.hash, snapshot, file.name)
        if repo.asked_for != listing.commit:
            write_ref(root, repo.asked_for, listing.commit)
    return snapshot


def _fetch_all(repo: RepoId, listing: Listing, files: list[RemoteFile], root: Path, progress: Progress) -> None:
    if not files:
        return
    begun = [_begun(root, file) for file in files]
    total, done = sum(file.size for file in files), sum(begun)
    _require_room(root, total - done, repo)
    log.info("downloading %s of %s, commit %s, to %s", size(total - done), repo.name, listing.commit, root)
    log.info("`hf cache rm model/%s` removes it again", repo.name)
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    for file, there in zip(files, begun, strict=True):
        others = done - there
        _fetch_blob(repo, listing.commit, file, root, partial(_tell, progress, repo, others, total))
        done = others + file.size


def _tell(progress: Progress, repo: RepoId, others: int, total: int, there: int) -> None:
    progress(f"download {repo.name} (bytes)", others + there, total)


def _fetch_blob(repo: RepoId, commit: str, file: RemoteFile, root: Path, told: Callable[[int], None]) -> None:
    blob, begun = root / "blobs" / file.hash, _partial(root, file)
    with _alone(root, file):
        if not is_whole(blob, file):
            fetch(repo, f"{endpoint()}/{repo.name}/resolve/{commit}/{quote(file.name)}", file, begun, told)
            os.replace(begun, blob)
            sync_directory(blob.parent)
    told(file.size)


@contextmanager
def _alone(root: Path, file: RemoteFile) -> Iterator[None]:
    """Under the lock that huggingface_hub takes for the same file."""
    from filelock import FileLock, Timeout

    path = root.parent / ".locks" / root.name / f"{file.hash}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process, which is downloading %s", file.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _partial(root: Path, file: RemoteFile) -> Path:
    """Beside the blob, under the name by which the cache's own tools know it as unfinished."""
    return root / "blobs" / f"{file.hash}.incomplete"


def _begun(root: Path, file: RemoteFile) -> int:
    path = _partial(root, file)
    return min(path.stat().st_size, file.size) if path.is_file() else 0


def _require_room(root: Path, num_bytes: int, repo: RepoId) -> None:
    there = next(path for path in root.parents if path.is_dir())
    free = shutil.disk_usage(there).free
    if num_bytes + SPARE > free:
        raise HubError(
            f"{size(num_bytes)} of {repo.name} are to be downloaded, and the disk has {size(free)} left",
            where=there,
            expected=f"{size(num_bytes + SPARE)} of free space",
            hint=_elsewhere(),
        )


@contextmanager
def _told_as_hub_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise _not_writable(root, "its file system has no locks") from error
    except OSError as error:
        if error.errno in _FULL:
            raise HubError(
                "the disk is full", where=root, hint=f"{_elsewhere()}; the same command goes on from what is there"
            ) from error
        raise _not_writable(root, error.strerror) from error


def _not_writable(root: Path, reason: str | None) -> HubError:
    return HubError(
        f"the cache cannot be written: {reason}", where=root, hint="set HF_HOME to a directory that you may write"
    )


def _elsewhere() -> str:
    return "free some space, or set HF_HOME to a directory on another disk"
