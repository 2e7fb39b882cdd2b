"""What lies in a file's place where a download went wrong: told by the first bytes, with the step that mends it."""

import re
from pathlib import Path
from typing import Final

from glmquant.errors import CheckpointError

HEAD: Final = 4096
"""Bytes of a file's start that are enough to tell."""

_KINDS: Final = (
    (re.compile(rb"version https?://(?:git-lfs|hawser)\b"), "a Git LFS pointer, 130 bytes that stand for the file"),
    (re.compile(rb"(?is)(?:<\?xml[^>]*>)?\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head)\b"), "an HTML page"),
    (re.compile(rb"(?is)(?:<\?xml[^>]*>)?\s*<Error>"), "a storage service's error message"),
    (
        re.compile(
            rb"(?i)\{\s*\"(?:error|detail|message)\"\s*:\s*\"|(?:404: )?(?:entry )?not found|invalid (?:cred|user)"
        ),
        "a server's error message",
    ),
    (re.compile(rb"(?i)access to (?:model|this)|invalid (?:credentials|username)"), "a server's error message"),
)
_PACKED: Final = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"PK\x03\x04", "zip", "unzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"\xfd7zXZ", "xz", "unxz"),
)


def refuse_placeholder(start: bytes, path: Path) -> None:
    """Refuses what is no file of a model at all, whatever the file should have been.

    Args:
        start: the first :data:`HEAD` bytes.

    Raises:
        CheckpointError: a Git LFS pointer, an HTML page, a server's error message, or a compressed file.
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, kind in _KINDS:
        if pattern.match(text):
            raise CheckpointError(
                f"the file is {kind}, not the file itself", where=path, hint=_how_to_fetch(path, kind)
            )
    for magic, name, command in _PACKED:
        if start.startswith(magic):
            raise CheckpointError(
                f"the file is compressed ({name})", where=path, hint=f"unpack it under the same name, with `{command}`"
            )


def refuse_placeholder_at(path: Path) -> None:
    """The same for a file that others will open; one that is missing is theirs to tell."""
    if path.is_file():
        with path.open("rb") as file:
            refuse_placeholder(file.read(HEAD), path)


def fetch_again(path: Path) -> str:
    """The step that replaces one file of a checkpoint."""
    return (
        f"fetch the file again: `hf download ID {path.name} --local-dir {path.parent}`, ID as the hub names the model"
    )


def _how_to_fetch(path: Path, kind: str) -> str:
    """Cloning again gives the same pointers where Git LFS is not set up, and so it is never advised."""
    if "LFS" not in kind:
        return f"{fetch_again(path)}; in a browser, open the file's own page and choose download"
    if any((parent / ".git").exists() for parent in path.resolve().parents):
        return f"`git lfs install`, then `git lfs pull` in {path.parent}; or without git, {fetch_again(path)}"
    return fetch_again(path)
