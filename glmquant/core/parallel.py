"""Work on a matrix strip by strip of its rows, a strip to a core.

A strip's work arrays stay in the processor's caches, and each thread computes alone: torch's own threads meet at a
barrier after every operation, which on arrays this small costs as much as the operation.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

from glmquant.core.device import CPU

STRIP_ELEMENTS = 1 << 19
"""2 MB of float32. Smaller ones spend their time between operations, larger ones leave the caches."""
SMALLEST_SHARE = 512
"""Operations on fewer rows take less time than starting them, which threads do one at a time."""
SHARE_STEP = 64
"""Vector instructions then work on the same elements as without shares, and single ones on the same rest."""
START_SECONDS = 60

T = TypeVar("T")
_here = threading.local()
_starting = threading.Lock()


def strip_rows(columns: int) -> int:
    """Rows of a strip of a matrix with so many columns."""
    return max(1, STRIP_ELEMENTS // max(1, columns))


def over_strips(work: Callable[[slice], T], rows: int, columns: int, device: torch.device = CPU) -> list[T]:
    """``work`` of every strip of a matrix ``[rows, columns]``, in order; a single strip is the caller's own work.

    Where strips begin does not depend on how many cores there are, and each is computed by one thread: so what comes
    of them does not depend on it either. Within ``work``, strips of strips are taken one after the other, and so are
    all of a matrix on a GPU, which spreads each operation over its own cores.
    """
    return _over(work, rows, strip_rows(columns), device)


def over_shares(work: Callable[[slice], None], rows: int, device: torch.device = CPU) -> None:
    """``work`` of as many shares of rows as there are cores, of at least ``SMALLEST_SHARE`` rows but
    for the last one; otherwise as :func:`over_strips`.

    For many small operations that take each row by itself: where shares begin does depend on the number of cores.
    """
    step = max(SMALLEST_SHARE, -(-rows // torch.get_num_threads()))
    _over(work, rows, -(-step // SHARE_STEP) * SHARE_STEP, device)


def over_runs(work: Callable[[slice], None], items: int, length: int) -> None:
    """``work`` of every run of so many ``items``, each by one thread of the processor, as :func:`over_strips`."""
    _over(work, items, length, CPU)


def _over(work: Callable[[slice], T], rows: int, step: int, device: torch.device) -> list[T]:
    parts = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if device.type != "cpu" or getattr(_here, "in_strip", False):
        return [work(part) for part in parts]
    if len(parts) == 1:
        with one_thread():
            return [work(parts[0])]
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()  # which are a thread's own

    def in_thread(part: slice) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return work(part)

    return list(_strip_pool().map(in_thread, parts))


@contextmanager
def one_thread() -> Iterator[None]:
    """torch's operations of the calling thread by that thread alone, while the context lasts."""
    threads = torch.get_num_threads()
    if threads == 1:  # a lone worker must not set what threads to come will take
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def lone_workers(name: str, count: int = 1) -> ThreadPoolExecutor:
    """Threads for work beside the caller's, each of which computes alone, too.

    Threads of OpenMP that such work would start never end, and where there are more of them than cores, none waits at a
    barrier but sleeps there: the caller's small operations then take twice as long.
    """
    _strip_pool()  # it takes its size from the thread that asks first, which must not be the new one
    with _starting:
        return _started(count, name, lambda: None)


def _strip_pool() -> ThreadPoolExecutor:
    with _starting:
        return _pool()


@cache
def _pool() -> ThreadPoolExecutor:
    def in_strip() -> None:
        _here.in_strip = True

    return _started(torch.get_num_threads(), "strip", in_strip)


def _started(count: int, name: str, initialize: Callable[[], None]) -> ThreadPoolExecutor:
    threads = torch.get_num_threads()
    started = threading.Barrier(count + 1, timeout=START_SECONDS)

    def alone() -> None:
        torch.get_num_threads()  # a thread takes the number of the process when it first asks, and would do so later
        torch.set_num_threads(1)
        initialize()

    pool = ThreadPoolExecutor(count, name, initializer=alone)
    for _ in range(count):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # a thread's number is its own, but threads to come take the last one set
    return pool


if hasattr(os, "register_at_fork"):  # not on Windows, which never forks
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not forked
