"""Reading the next block while this one is worked on."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from glmquant.core.parallel import lone_worker

T = TypeVar("T")


def blocks_ahead(load: Callable[[int], T], layers: Iterable[int]) -> Iterator[tuple[int, T]]:
    """Each layer with ``load(layer)``, in turn; the one after it is being loaded meanwhile.

    Two are in memory if the caller lets go of one before it asks for the next: ``del block`` at the end of the loop.
    """
    coming = iter(layers)
    with lone_worker("reader") as reader:
        pending = [(layer, reader.submit(load, layer)) for layer in islice(coming, 1)]
        while pending:
            layer, loading = pending.pop()
            held = [loading.result()]
            del loading
            pending += [(after, reader.submit(load, after)) for after in islice(coming, 1)]
            yield layer, held.pop()  # a variable would keep it while the caller works
