"""What lies in a file's place where a download went wrong: told by the first bytes, with the step that mends it."""

import json
import re
from pathlib import Path
from shlex import quote
from typing import Final

from glmquant.errors import CheckpointError

HEAD: Final = 4096
"""Bytes of a file's start that are enough to tell."""

HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_CACHED: Final = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
_LARGEST_CONFIG: Final = 1 << 20
_KINDS: Final = (
    (re.compile(rb"version https?://(?:git-lfs|hawser)\b"), "a Git LFS pointer, 130 bytes that stand for the file"),
    (
        re.compile(rb"(?is)(?:<\?xml[^>]{0,100}>)?\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head|body)\b"),
        "an HTML page",
    ),
    (re.compile(rb"(?is)(?:<\?xml[^>]{0,100}>)?\s*<Error>"), "a storage service's error message"),
    (
        re.compile(
            rb"(?i)\{\s*\"(?:error|detail|message)\"\s*:\s*\"|(?:404: )?(?:entry )?not found|invalid (?:cred|user)"
        ),
        "a server's error message",
    ),
    (re.compile(rb"(?i)access to (?:model|this)|invalid (?:credentials|username)"), "a server's error message"),
)
_PACKED: Final = (
    (b"\x1f\x8b", "gzip", "gzip -dc <"),
    (b"PK\x03\x04", "zip", "unzip -p"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc <"),
    (b"\xfd7zXZ", "xz", "xz -dc <"),
)


def refuse_placeholder(start: bytes, path: Path) -> None:
    """Refuses what is no file of a model at all, whatever the file should have been.

    Args:
        start: the first :data:`HEAD` bytes.

    Raises:
        CheckpointError: a Git LFS pointer, an HTML page or a server's error message.
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, kind in _KINDS:
        if pattern.match(text):
            raise CheckpointError(
                f"the file is {kind}, not {path.name} itself", where=path, hint=_how_to_fetch(path, kind)
            )


def refuse_placeholder_at(path: Path) -> None:
    """The same for a file that others will open; one that is missing is theirs to tell."""
    if path.is_file():
        with path.open("rb") as file:
            refuse_placeholder(file.read(HEAD), path)


def refuse_packed(start: bytes, path: Path) -> None:
    """Raises CheckpointError for a compressed file, in place of one that is read as it is."""
    for magic, name, unpack in _PACKED:
        if start.startswith(magic):
            packed, beside = quote(str(path)), quote(f"{path}.unpacked")
            command = f"{unpack} {packed} > {beside} && mv {beside} {packed}"
            raise CheckpointError(
                f"the file is compressed ({name})", where=path, hint=f"unpack it under the same name, with `{command}`"
            )


def fetch_again(path: Path) -> str:
    """The step that replaces one file of a checkpoint."""
    found = published_as(path.parent)
    name = found or "ID"
    place = f"--local-dir {quote(str(path.parent))} --force-download"
    command = f"fetch the file again: `hf download {name} {quote(path.name)} {place}`"
    if found is None:
        return f"{command}, ID as the hub names the model"
    return f"{command}, from https://huggingface.co/{name}/resolve/main/{path.name}"


def published_as(directory: Path) -> str | None:
    """The hub's id of what a directory holds, as far as its place or its ``config.json`` tells."""
    for parent in (directory, *directory.parents):
        if cached := _CACHED.fullmatch(parent.name):
            return f"{cached[1]}/{cached[2]}"
    config = directory / "config.json"
    try:
        if config.is_symlink() or not config.is_file() or config.stat().st_size > _LARGEST_CONFIG:
            return None
        values = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    name = values.get("_name_or_path") if isinstance(values, dict) else None
    return name if isinstance(name, str) and HUB_ID.fullmatch(name) else None


def _how_to_fetch(path: Path, kind: str) -> str:
    """Cloning again gives the same pointers where Git LFS is not set up, and so it is never advised."""
    if "LFS" not in kind:
        return f"{fetch_again(path)}; the address of a file has /resolve/ where that of its page has /blob/"
    clone = next((parent for parent in path.resolve().parents if (parent / ".git").exists()), None)
    if clone is not None:
        return f"`git lfs install`, then `git lfs pull` in {quote(str(clone))}; or without git, {fetch_again(path)}"
    return fetch_again(path)
