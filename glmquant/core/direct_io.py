"""Reading and writing at an offset."""

import os
from typing import BinaryIO


def read_at(file: BinaryIO, view: memoryview, offset: int) -> None:
    """Fills ``view`` with the bytes from ``offset`` on. Raises OSError where the file ends too early."""
    while view:
        count = os.preadv(file.fileno(), [view], offset)
        if not count:
            raise OSError("the file ends too early")
        view, offset = view[count:], offset + count


def write_at(file: BinaryIO, view: memoryview, offset: int) -> None:
    """Writes all of ``view`` from ``offset`` on."""
    while view:
        count = os.pwritev(file.fileno(), [view], offset)
        view, offset = view[count:], offset + count
