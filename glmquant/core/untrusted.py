"""Files of a directory that nobody vouches for: nothing outside it is opened, nothing large is parsed.

The one place outside is the hub's cache that a directory is a snapshot of: its files are links to the ``blobs`` of
``models--ORG--NAME``, and from there, since huggingface_hub 2, to the ``blobs`` that a cache's repositories share.
"""

import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any, Final, NoReturn

from glmquant.core.budget import require_few_values
from glmquant.core.encodings import likely_encoding, unmarked
from glmquant.core.placeholders import HEAD, refuse_placeholder
from glmquant.errors import CheckpointError

MOST_SHOWN_BITS: Final = 256
MAX_CONFIG_BYTES: Final = 4 << 20
MAX_INDEX_BYTES: Final = 16 << 20
DOWNLOAD_AGAIN: Final = "download the checkpoint again, completely"
REPOSITORY: Final = re.compile(r"models--.+")
SHARED_BLOB: Final = re.compile(r"blobs/([0-9a-f]{2})/\1[0-9a-f]{62}")


def shown(name: object, limit: int = 120) -> str:
    """A name or number from a hostile file, fit to print: quoted, escaped, cut."""
    if isinstance(name, int) and name.bit_length() > MOST_SHOWN_BITS:
        return f"a number of {name.bit_length()} bits"  # Python itself refuses to print more than 4,300 digits
    text = repr(name)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def file_inside(directory: Path, name: str, *, where: object, hint: str = DOWNLOAD_AGAIN) -> Path:
    """The regular file ``name`` of ``directory``, its links followed inside the directory and inside its cache.

    Args:
        where: what names the file, for errors.
        hint: what to do where it is missing.

    Raises:
        CheckpointError: the name leads out of the directory, by ``..``, as an absolute path or through a link; or there
            is no regular file of that name.
    """
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{shown(name)} leads out of the checkpoint directory", where=where, expected="a file name inside it"
        )
    root = directory.resolve()
    try:
        path = (root / name).resolve(strict=True)
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (OSError, RuntimeError, ValueError) as error:
        is_link = os.path.islink(root / name)
        raise CheckpointError(
            f"the file {shown(name)} is missing or cannot be opened" + (": it is a link that leads nowhere" * is_link),
            where=where,
            expected=f"it in {directory}",
            hint=hint,
        ) from error
    if not path.is_relative_to(root) and not _is_in_its_cache(path, root):
        raise CheckpointError(
            f"{shown(name)} is a link out of the checkpoint directory",
            where=directory / name,
            expected="a file of the directory itself, or of the hub's cache that it is a snapshot of",
            hint=_other_way(path, directory),
        )
    if not is_file:
        raise CheckpointError(f"{shown(name)} is not a regular file", where=directory / name)
    return path


def cached_repository(path: Path) -> Path | None:
    """The ``models--ORG--NAME`` of the hub's cache that a resolved path lies in."""
    return next((parent for parent in (path, *path.parents) if REPOSITORY.fullmatch(parent.name)), None)


def _is_in_its_cache(path: Path, root: Path) -> bool:
    repository = cached_repository(root)
    if repository is None or not root.is_relative_to(repository / "snapshots"):
        return False
    cache = repository.parent
    shared = path.relative_to(cache).as_posix() if path.is_relative_to(cache) else ""
    return path.is_relative_to(repository) or SHARED_BLOB.fullmatch(shared) is not None


def _other_way(path: Path, directory: Path) -> str:
    """How to read what a link out of a directory leads to."""
    repository = cached_repository(path)
    if repository is not None and (repository / "snapshots").is_dir():
        return f"give {repository}, where the links lead"
    source, copy = quote(str(directory)), quote(f"{directory.resolve()}-copied")
    return f"copy the directory with `cp -rL {source} {copy}`, or download with `hf download ID --local-dir DIR`"


def require_regular(path: Path) -> None:
    """To be asked before ``path`` is opened: a pipe or a device might never answer, or never end.

    Raises:
        CheckpointError: no regular file, links followed, or none at all.
    """
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"cannot read: {getattr(error, 'strerror', None) or error}", where=path) from error
    if not is_file:
        raise CheckpointError("not a regular file", where=path)


def read_bytes(path: Path, limit: int) -> bytes:
    """What a regular file holds, at most ``limit`` bytes.

    Raises:
        CheckpointError: unreadable, too large, or a pipe, a device or a directory, which might never end.
    """
    require_regular(path)
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read: {error.strerror}", where=path) from error
    if len(raw) > limit:
        raise CheckpointError("the file is too large for what it is", where=path, expected=f"at most {limit} bytes")
    return raw


def parse_text(raw: bytes, where: object) -> str:
    """UTF-8 text. Raises CheckpointError for bytes that are none."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        what, hint = _not_utf8(raw, where)
        raise CheckpointError(f"the file is {what}", where=where, hint=hint) from error


def read_json(path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object of at most ``limit`` bytes, in UTF-8, or in UTF-16 or UTF-32 with its mark.

    Raises:
        CheckpointError: unreadable, too large, in another encoding, not JSON, not an object, a key given twice, NaN or
            Infinity; or what only stands for the file (:func:`glmquant.core.placeholders.refuse_placeholder`).
    """
    raw = read_bytes(path, limit)
    refuse_placeholder(raw[:HEAD], path)
    return parse_json(without_mark(raw, path), path)


def parse_json(raw: bytes, where: object) -> dict[str, Any]:
    """A JSON object; see :func:`read_json` for the errors."""
    require_few_values(raw, where)
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        what, hint = str(error)[:200], None
        if isinstance(error, UnicodeDecodeError) or 0 in raw[:2]:
            what, hint = _not_utf8(raw, where)
        raise CheckpointError(f"not valid JSON: {what}", where=where, hint=hint) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"the JSON is a {type(value).__name__}", where=where, expected="an object: {…}")
    return value


def without_mark(raw: bytes, where: object) -> bytes:
    """Text in UTF-8, of a file that may start with an encoding's mark.

    Raises:
        CheckpointError: the file is not in the encoding of its mark.
    """
    try:
        return unmarked(raw)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"the file is not in the encoding of its mark: {error.reason}", where=where) from error


def _not_utf8(raw: bytes, where: object) -> tuple[str, str | None]:
    """What text in another encoding is, and how to convert it."""
    found = likely_encoding(raw)
    if found is None or not isinstance(where, Path):
        return "not UTF-8" + (f", it looks like {found}" if found else ""), None
    script = f"import pathlib; p = pathlib.Path({str(where)!r}); p.write_text(p.read_text({found!r}), 'utf-8')"
    return f"not UTF-8, it looks like {found}", f'convert it: python -c "{script}"'


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"the key {shown(_first_repeated(key for key, _ in pairs))} is given twice")
    return values


def _first_repeated(keys: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
