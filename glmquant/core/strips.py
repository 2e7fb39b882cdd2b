"""Work on a matrix strip by strip of its rows, a strip to a core.

A strip's work arrays stay in the processor's caches, and each thread computes alone: torch's own threads meet at a
barrier after every operation, which on arrays this small costs as much as the operation.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

STRIP_ELEMENTS = 1 << 20

T = TypeVar("T")
_here = threading.local()


def over_strips(work: Callable[[slice], T], rows: int, columns: int) -> list[T]:
    """``work`` of every strip of a matrix ``[rows, columns]``, in order.

    Strips do not depend on how many cores there are, so neither does what is summed over them. Within ``work``, strips
    of strips are taken one after the other.
    """
    step = max(1, STRIP_ELEMENTS // max(1, columns))
    parts = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if len(parts) == 1 or getattr(_here, "in_strip", False):
        return [work(part) for part in parts]
    inference = torch.is_inference_mode_enabled()  # which is a thread's own

    def in_thread(part: slice) -> T:
        with torch.inference_mode(inference):
            return work(part)

    return list(_pool().map(in_thread, parts))


@cache
def _pool() -> ThreadPoolExecutor:
    threads = torch.get_num_threads()
    started = threading.Barrier(threads + 1)

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
