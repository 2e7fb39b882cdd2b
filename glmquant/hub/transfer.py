"""One file from the hub into a file that an interrupted download leaves, and the next one goes on with."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from glmquant.core.files import sync_file
from glmquant.core.units import size
from glmquant.errors import HubError
from glmquant.hub.http import BrokenOffError, UnreachableError, get, place, require_success
from glmquant.hub.listing import RemoteFile
from glmquant.hub.names import RepoId

ATTEMPTS: Final = 5
"""In a row that bring no byte."""

PAUSE: Final = 1.0
"""Seconds before the second attempt; twice as many before each next one."""

_CHUNK: Final = 1 << 20
_SHA256_DIGITS: Final = 64


def fetch(repo: RepoId, url: str, file: RemoteFile, partial: Path, told: Callable[[int], None]) -> None:
    """Downloads what ``partial`` lacks of a file, and checks the whole of it.

    Args:
        told: gets the bytes that are there.

    Raises:
        HubError: what comes is not the file, or the connection is lost for good. ``partial`` stays as far as it may be
            a beginning of the file.
        OSError: as the operating system says, a full disk included.
    """
    if partial.is_file() and partial.stat().st_size > file.size:
        partial.unlink()
    partial.touch()
    vain = 0
    while (before := partial.stat().st_size) < file.size:
        try:
            _append(repo, url, file, partial, told)
            _refuse_end(url, file, partial)
        except (BrokenOffError, UnreachableError) as error:
            vain = vain + 1 if partial.stat().st_size <= before else 1
            if vain >= ATTEMPTS:
                raise _given_up(error, file, partial) from error
            time.sleep(PAUSE * 2 ** (vain - 1))
    _verify(url, file, partial)


def content_hash(path: Path, like: str) -> str:
    """A file's hash, of the kind that ``like`` is: sha256, or what git calls the file by."""
    is_sha256 = len(like) == _SHA256_DIGITS
    digest = hashlib.sha256() if is_sha256 else hashlib.sha1(usedforsecurity=False)
    if not is_sha256:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _append(repo: RepoId, url: str, file: RemoteFile, partial: Path, told: Callable[[int], None]) -> None:
    start = partial.stat().st_size
    with get(url, start=start) as response:
        if response.status_code == 416:
            partial.unlink()
            raise _other_file(url, f"the hub has fewer bytes of {file.name} than it said")
        require_success(response, repo, file.name)
        anew = start > 0 and response.status_code != 206
        start = 0 if anew else start
        _require_length(response, file, file.size - start)
        with partial.open("r+b") as out:
            if anew:
                out.truncate()
            out.seek(start)
            _write(response, file, out, told)


def _write(response: Any, file: RemoteFile, out: BinaryIO, told: Callable[[int], None]) -> None:
    there = out.tell()
    for chunk in response.iter_raw():  # as it comes: what a buffer of a size holds is lost with the connection
        there += len(chunk)
        if there > file.size:
            out.truncate(0)
            raise _other_file(place(response), f"more bytes come of {file.name} than the hub said")
        out.write(chunk)
        told(there)


def _require_length(response: Any, file: RemoteFile, expected: int) -> None:
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html"):
        raise _other_file(place(response), f"a web page comes in place of {file.name}")
    length = response.headers.get("Content-Length", str(expected))
    if response.headers.get("Content-Encoding", "identity") != "identity" or length != str(expected):
        what = f"{file.name} comes in {length[:20]} bytes, where the hub said {expected}"
        raise _other_file(place(response), what)


def _refuse_end(url: str, file: RemoteFile, partial: Path) -> None:
    if partial.stat().st_size < file.size:
        raise BrokenOffError("the answer ended early", where=url)


def _verify(url: str, file: RemoteFile, partial: Path) -> None:
    sync_file(partial)
    if content_hash(partial, file.hash) != file.hash:
        partial.unlink()
        raise _other_file(url, f"what came of {file.name} does not have the hash that the hub gives")


def _other_file(where: str, what: str) -> HubError:
    return HubError(
        what,
        where=where,
        expected="the file that the hub lists",
        hint="run the same command again; if it ends the same way, a proxy or mirror changes files: "
        "use another network or HF_ENDPOINT",
    )


def _given_up(error: HubError, file: RemoteFile, partial: Path) -> HubError:
    there = partial.stat().st_size
    return HubError(
        f"{file.name}: {error.what}",
        where=error.where,
        expected=f"{size(file.size)}, of which {size(there)} are here",
        hint="run the same command again when the network is back; it goes on from there",
    )


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether a finished file of the cache, which was checked as it came, is there."""
    return os.path.isfile(path) and path.stat().st_size == file.size
