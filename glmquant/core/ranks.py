"""The processes of one command that was started several times, as torchrun starts it: ranks, which share the work.

What they exchange is exact in any order: largest values, and sums of whole numbers in float64. All of them call the
same methods in the same order. ``torch.distributed`` carries it, by gloo, and by NCCL what lies on a GPU; alone,
nothing is imported and nothing is sent.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from glmquant.errors import GlmQuantError

if TYPE_CHECKING:
    from torch import Tensor
    from torch._C._distributed_c10d import Store

T = TypeVar("T")
STARTED_BY: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MEETING: Final = timedelta(minutes=10)
"""From the first rank's start to the last one's: each imports torch, from whatever disk."""
WORKING: Final = timedelta(days=30)
"""How long a rank may compute while others wait for it. One that dies closes its connections, and is known at once."""
SECONDS_FOR_LAST_WORDS: Final = 4.0
SECONDS_BETWEEN_LOOKS: Final = 0.02


class RankLostError(RuntimeError):
    """Another rank is gone, or cannot be reached: what was to be exchanged with it was not."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its command; by default the only one.

    Attributes:
        rank: from 0 to ``count - 1``. The first one speaks and writes.
        local_rank, local_count: among those on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def run_of(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's run of ``items``: of about equal length for each, in the ranks' order."""
        start, stop = (-(-rank * len(items) // self.count) for rank in (self.rank, self.rank + 1))
        return items[start:stop]

    def dealt(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's ``items``, dealt like cards: where they lie in order of their size, all get about the same."""
        return items[self.rank :: self.count]

    def max_(self, tensor: "Tensor") -> None:
        """Each element becomes the largest of all ranks."""
        self._reduce(tensor, "MAX")

    def sum_(self, tensor: "Tensor") -> None:
        """Each element becomes the sum of all ranks: of whole numbers, float64, whose sums stay below 2^53."""
        self._reduce(tensor, "SUM")

    def gather(self, value: T) -> list[T]:
        """Every rank's ``value``, in the ranks' order, on each of them; a tensor that is a view is sent with all it
        is a view of."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        with _together():
            dist.all_gather_object(found, value)
        return found

    def exchange(self, values: Sequence[T]) -> list[T]:
        """Sends ``values[r]`` to rank ``r``; what each rank sent to this one, in their order."""
        if self.count == 1:
            return list(values)
        import torch.distributed as dist

        received: list[T] = []
        with _together():
            for target in range(self.count):
                found: list[Any] | None = [None] * self.count if target == self.rank else None
                dist.gather_object(values[target], found, dst=target)
                if found is not None:
                    received = found
        return received

    def broadcast(self, value: T) -> T:
        """The first rank's ``value``, on each of them."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        held: list[Any] = [value]
        with _together():
            dist.broadcast_object_list(held, src=0)
        found: T = held[0]
        return found

    def from_first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on the first rank, which alone does it."""
        return self.broadcast(cast(T, work() if self.is_first else None))

    @contextmanager
    def first(self) -> Iterator[None]:
        """What is within is done by the first rank, and then by the others, who find it done."""
        if not self.is_first:
            self.barrier()
        yield
        if self.is_first:
            self.barrier()

    def barrier(self) -> None:
        """Waits until every rank is here."""
        self.gather(None)

    @contextmanager
    def first_here(self) -> Iterator[None]:
        """What is within is done by the first rank of each machine, and then by the others, who find it done."""
        if self.local_rank:
            self.barrier()
        yield
        if not self.local_rank:
            self.barrier()

    def require_same(self, facts: Callable[[], Mapping[str, str]]) -> None:
        """Raises GlmQuantError where ranks differ in one of ``facts``, which nobody asks for alone: what it is called,
        and what it is here."""
        if self.count == 1:
            return
        found = self.gather(dict(facts()))
        for name in found[0]:
            values = [each.get(name) for each in found]
            if len(set(values)) > 1:
                told = "; ".join(f"rank {rank}: {value}" for rank, value in enumerate(values))
                raise GlmQuantError(
                    f"the ranks differ in {name}",
                    where=told,
                    expected="the same on every rank, for the same bytes as on one",
                )

    def _reduce(self, tensor: "Tensor", operation: str) -> None:
        if self.count == 1:
            return
        import torch.distributed as dist

        with _together():
            dist.all_reduce(tensor, getattr(dist.ReduceOp, operation))


ALONE: Final = Ranks()
_current = ALONE
_store: "Store | None" = None


def current() -> Ranks:
    """Those that :func:`joined` joined; :data:`ALONE` outside of it."""
    return _current


def are_several() -> bool:
    """Whether this process was started as one of several ranks."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def joined() -> Iterator[Ranks]:
    """Joins the ranks that this process was started with, as long as the context lasts.

    Raises:
        GlmQuantError: the environment does not say which ranks.
        RankLostError: they do not meet.
    """
    global _current, _store  # noqa: PLW0603
    ranks = _from_environment()
    if ranks.count == 1:
        yield ranks
        return
    import torch
    import torch.distributed as dist

    with _together():
        _store = _open_store(ranks)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=_store, rank=ranks.rank, world_size=ranks.count, timeout=WORKING)
    _current = ranks
    try:
        yield ranks
    finally:
        _current, _store = ALONE, None
        leave()


def leave() -> None:
    """Closes this rank's connections: those who wait for it wait no more."""
    import torch.distributed as dist

    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def last_words(words: bytes, tell: Callable[[dict[int, bytes]], None]) -> dict[int, bytes]:
    """Leaves saying how this rank ends, and gives what each rank said; those that say nothing in time are not there.

    Args:
        tell: is called on one rank only, with the same; the others return when it is done.
    """
    ranks, store = _current, _store
    assert store is not None
    heard = {ranks.rank: words}
    with suppress(RuntimeError):  # the store may be gone with the one who held it
        store.set(f"words/{ranks.rank}", words)  # type: ignore[arg-type]
        leave()
        keys = {rank: f"words/{rank}" for rank in range(ranks.count)}
        _wait(lambda: store.check(list(keys.values())))
        heard |= {rank: store.get(key) for rank, key in keys.items() if store.check([key])}
        if ranks.rank != min(heard):
            _wait(lambda: store.check(["told"]))
            return heard
        if store.add("tells", 1) > 1:
            return heard
    tell(heard)
    with suppress(RuntimeError):
        store.set("told", "")
    return heard


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS_FOR_LAST_WORDS
    while not until() and time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _from_environment() -> Ranks:
    if not are_several():
        return ALONE
    try:
        values = [int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")]
        rank, count, _ = values
        local = [int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))]
        if not os.environ["MASTER_ADDR"] or not 0 <= rank < count:
            raise ValueError
    except (KeyError, ValueError):
        told = ", ".join(f"{name}={os.environ.get(name, '')}" for name in STARTED_BY)
        raise GlmQuantError(
            "the environment speaks of several ranks, and does not say which",
            where=told,
            expected="what torchrun sets",
            hint="start the command with torchrun, or unset WORLD_SIZE",
        ) from None
    return Ranks(rank, count, *local)


def _open_store(ranks: Ranks) -> "Store":
    """torchrun's own, or one that the first rank holds; with names of this attempt alone: the addresses that an
    earlier one left there lead to ranks that died."""
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    held_here = ranks.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, ranks.count, held_here, MEETING, wait_for_workers=False)
    return PrefixStore(f"glmquant/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextmanager
def _together() -> Iterator[None]:
    """What torch.distributed raises within is that a rank was lost."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(" ".join(str(error).split())[:200]) from error
