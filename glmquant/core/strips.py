"""Work on a matrix strip by strip of its rows, a strip to a core.

A strip's work arrays stay in the processor's caches, and each thread computes alone: torch's own threads meet at a
barrier after every operation, which on arrays this small costs as much as the operation.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

from glmquant.core.device import CPU

STRIP_ELEMENTS = 1 << 19
"""2 MB of float32. Smaller ones spend their time between operations, larger ones leave the caches."""
START_SECONDS = 60

T = TypeVar("T")
_here = threading.local()
_starting = threading.Lock()


def strip_rows(columns: int) -> int:
    """Rows of a strip of a matrix with so many columns."""
    return max(1, STRIP_ELEMENTS // max(1, columns))


def over_strips(work: Callable[[slice], T], rows: int, columns: int, device: torch.device = CPU) -> list[T]:
    """``work`` of every strip of a matrix ``[rows, columns]``, in order; a single strip is the caller's own work.

    Where strips begin does not depend on how many cores there are. Within ``work``, strips of strips are taken one
    after the other, and so are all of a matrix on a GPU, which spreads each operation over its own cores.
    """
    step = strip_rows(columns)
    parts = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if len(parts) == 1 or device.type != "cpu" or getattr(_here, "in_strip", False):
        return [work(part) for part in parts]
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()  # which are a thread's own

    def in_thread(part: slice) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return work(part)

    with _starting:
        pool = _pool()
    return list(pool.map(in_thread, parts))


@cache
def _pool() -> ThreadPoolExecutor:
    threads = torch.get_num_threads()
    started = threading.Barrier(threads + 1, timeout=START_SECONDS)

    def alone() -> None:
        torch.get_num_threads()  # a thread takes the number of the process when it first asks, and would do so later
        torch.set_num_threads(1)
        _here.in_strip = True

    pool = ThreadPoolExecutor(threads, "strip", initializer=alone)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # a thread's number is its own, but threads to come take the last one set
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not forked
