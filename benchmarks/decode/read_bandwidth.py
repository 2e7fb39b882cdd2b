"""How fast this machine reads memory: threads that each go through a part of a large array."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def read_bandwidth(threads: int, size: int = 1 << 30, repetitions: int = 5) -> float:
    """Bytes per second, the best of the repetitions, over ways of reading."""
    array = np.ones(size // 4, np.float32)
    parts = np.array_split(array, threads)
    best = 0.0
    for read in (np.max, np.sum, lambda part: np.dot(part, part)):
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(repetitions):
                start = time.perf_counter()
                list(pool.map(read, parts))
                best = max(best, size / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    print(f"{read_bandwidth(int(sys.argv[1]) if len(sys.argv) > 1 else 2) / 1e9:.1f} GB/s")
