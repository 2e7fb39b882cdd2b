"""Reading the next block while this one is worked on."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def blocks_ahead(load: Callable[[int], T], layers: Iterable[int]) -> Iterator[T]:
    """``load(layer)`` for each layer in turn; the one after it is being loaded meanwhile."""
    coming = iter(layers)
    with ThreadPoolExecutor(1) as reader:
        pending = [reader.submit(load, layer) for layer in islice(coming, 1)]
        while pending:
            block = pending.pop().result()
            pending += [reader.submit(load, layer) for layer in islice(coming, 1)]
            yield block
            del block
