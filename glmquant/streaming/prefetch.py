"""Reading what comes next while this is worked on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from glmquant.core.parallel import lone_workers

K = TypeVar("K")
T = TypeVar("T")

READERS = 2
"""While one checks and lays out what it has read, the other one reads."""


def blocks_ahead(load: Callable[[K], T], layers: Iterable[K], ahead: int = 1) -> Iterator[tuple[K, T]]:
    """Each layer with ``load(layer)``, in turn; those after it are being loaded meanwhile.

    One more than ``ahead`` are in memory if the caller lets go of one before it asks for the next: ``del block`` at the
    end of the loop.

    Args:
        ahead: how many are being loaded or wait.
    """
    coming = iter(layers)
    with lone_workers("reader", min(ahead, READERS)) as readers:
        pending = deque((layer, readers.submit(load, layer)) for layer in islice(coming, ahead))
        while pending:
            layer, loading = pending.popleft()
            held = [loading.result()]
            del loading
            pending.extend((after, readers.submit(load, after)) for after in islice(coming, 1))
            yield layer, held.pop()  # a variable would keep it while the caller works
