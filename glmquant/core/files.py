"""Files that appear whole or not at all, and text whose bytes are the same on every platform."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

UNFINISHED: Final = ".unfinished"
_NO_SYNC: Final = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)
"""What a file system answers that cannot wait for a directory."""


@contextmanager
def write_atomically(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yields the path of a sibling to write, which takes the place of ``path`` once it is whole and on the disk.

        with write_atomically(path) as unfinished, unfinished.open("wb") as file:
            file.write(content)

    An exception leaves ``path`` as it was and removes the sibling; a kill leaves ``PATH.unfinished``, which the next
    write of the same file replaces.

    Args:
        path: in an existing directory.
        shared: other processes may write the same file at this moment; the sibling is then named after the process.

    Raises:
        OSError: as the operating system says, a full disk included.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}" if shared else f"{path.name}{UNFINISHED}")
    try:
        yield unfinished
        sync_file(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def why_not_writable(directory: Path) -> str | None:
    """What stands in the way of writing into a directory, or of making it; None where nothing is known to."""
    place = next((path for path in (directory, *directory.absolute().parents) if os.path.lexists(path)), directory)
    if not place.is_dir():
        return f"{place} is a file"
    return None if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written"


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 with the line ends of ``text``, on Windows too. Raises OSError as the operating system says."""
    path.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, *, indent: int = 2) -> None:
    """Writes a value as indented JSON in UTF-8 with one line end behind it. Raises OSError as :func:`write_text`."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def sync_file(path: Path) -> None:
    """Waits until what a file holds is on the disk."""
    with path.open("r+b") as file:  # Windows flushes no file that is open for reading alone
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Waits until the names in a directory are on the disk, where the platform has a way to."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:  # Windows opens no directory
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)
