"""Memory for matrices that come and go, all of a few sizes: what one lets go of is the next one's.

The C library gives large arrays back to the system when they end; a new page costs more than what is read into it.
"""

import ctypes
import math
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

SMALLEST_BYTES: Final = 1 << 20
"""Smaller arrays stay with the C library."""
LARGEST_BYTES: Final = 32 << 20
KEPT_BYTES: Final = 32 << 20
"""Of arrays that nothing uses, the ones let go of last."""

_trim: Callable[[int], int] = getattr(ctypes.CDLL(None), "malloc_trim", int) if sys.platform == "linux" else int
"""glibc's; other C libraries give back by themselves."""


class _Pool:
    def __init__(self) -> None:
        self._lock = threading.RLock()  # an array may end, and come back, while its own thread is in here
        self._free: deque[Tensor] = deque()
        self._bytes = 0

    def take(self, size: int) -> Tensor:
        with self._lock:
            for number, pages in enumerate(self._free):
                if len(pages) == size:
                    del self._free[number]
                    self._bytes -= size
                    return pages
        return torch.empty(size, dtype=torch.uint8)

    def give_back(self, pages: Tensor) -> None:
        with self._lock:
            self._free.append(pages)
            self._bytes += len(pages)
            while self._bytes > KEPT_BYTES:
                self._bytes -= len(self._free.popleft())


_pool = _Pool()


def trim() -> None:
    """Gives back to the system what arrays that ended have left with the C library.

    glibc keeps that for the next ones, between arrays that stay: where each is of another size, it grows.
    """
    _trim(0)


def unfilled(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """As ``torch.empty`` on the CPU, in memory that an array of as many bytes used before, if there is some."""
    size = math.prod(shape) * dtype.itemsize
    if not SMALLEST_BYTES <= size <= LARGEST_BYTES:
        return torch.empty(shape, dtype=dtype)
    pages = _pool.take(size)
    lent = pages.numpy()[:]
    weakref.finalize(lent, _pool.give_back, pages).atexit = False
    return torch.from_numpy(lent).view(dtype).view(shape)
