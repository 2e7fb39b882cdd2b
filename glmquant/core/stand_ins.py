"""What lies in place of a file that was never fetched: a Git LFS pointer, a web page, a server's refusal."""

import json
import re
from pathlib import Path
from typing import Final

from glmquant.errors import CheckpointError

SNIFFED_BYTES: Final = 512
LFS_POINTER: Final = b"version https://git-lfs"
HTML: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
XML_REFUSAL: Final = re.compile(rb"(?:<\?xml[^>]{0,100}\?>)?\s*<Error>")
HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_LARGEST_CONFIG: Final = 1 << 20
_CACHED: Final = re.compile(r"models--([\w.-]+?)--([\w.-]+)")


def refuse_stand_in(path: Path, start: bytes) -> None:
    """Refuses a file that only stands for another.

    Args:
        start: its first bytes, up to :data:`SNIFFED_BYTES` of them.

    Raises:
        CheckpointError: what lies there instead, and how to fetch the file itself.
    """
    if start.startswith(LFS_POINTER):
        raise CheckpointError(
            "the file is a Git LFS pointer, not the file itself",
            where=path,
            expected=f"{path.name} as its publisher made it",
            hint=_pull_hint(path),
        )
    if HTML.match(start) or XML_REFUSAL.match(start):
        what = "an HTML page" if HTML.match(start) else "a server's error message"
        raise CheckpointError(
            f"the file is {what}, not {path.name}",
            where=path,
            expected=f"{path.name} as its publisher made it",
            hint=f"{_fetch_hint(path)}: the address of a file has /resolve/ where that of its page has /blob/",
        )


def _pull_hint(path: Path) -> str:
    clone = next((parent for parent in path.parents if (parent / ".git").exists()), None)
    place = clone or "the clone it was copied from"
    return f"`git lfs install`, then `git lfs pull` in {place}; without git-lfs, {_fetch_hint(path)}"


def _fetch_hint(path: Path) -> str:
    name = published_as(path.parent) or "ORG/NAME"
    return (
        f"`hf download {name} {path.name} --local-dir {path.parent}` fetches it, "
        f"from https://huggingface.co/{name}/resolve/main/{path.name}"
    )


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
