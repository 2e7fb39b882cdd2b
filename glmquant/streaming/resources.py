"""What a pass over a model may use: a device, and memory up to a limit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from glmquant.core.device import CPU, device_named, memory_of
from glmquant.core.machine import peak_memory, physical_memory
from glmquant.core.ranks import ALONE, Ranks, current
from glmquant.errors import OutputError, Parameter
from glmquant.streaming.activations import ActivationStore

SHARE_OF_MACHINE: Final = 0.75
"""Of the physical memory, where no limit is stated."""


@dataclass(frozen=True)
class Resources:
    """
    Attributes:
        device: what computes; activations stay in the processor's memory.
        memory_limit: bytes the process may hold; None for three quarters of the machine's, shared with the ranks on
            it. It changes no result.
        ranks: who shares the pass.
    """

    device: torch.device = CPU
    memory_limit: int | None = None
    ranks: Ranks = ALONE

    @staticmethod
    def named(device: str, memory_limit: int | None) -> "Resources":
        """Those of this process; of several ranks, ``cuda`` is each one's own.

        Raises:
            DeviceError: a device that is not there.
        """
        ranks = current()
        own = f"cuda:{ranks.local_rank}" if device == "cuda" and ranks.count > 1 else device
        return Resources(device_named(own), memory_limit, ranks)

    def store(self, needed: int, directory: Path | None = None, *, held: int | None = None) -> ActivationStore:
        """Room for the activations of a pass that itself needs ``needed`` bytes.

        Args:
            directory: where activations go that do not fit.
            held: bytes without the pass; None for what this process has held so far.

        Raises:
            OutputError: the pass cannot stay within the limit, wherever its activations lie.
        """
        held, limit = peak_memory() if held is None else held, self.memory_limit
        if limit is not None and held + needed > limit:
            raise OutputError(
                f"the memory limit is {limit / 1e9:.2f} GB; one block alone needs {(held + needed) / 1e9:.2f} GB",
                where=Parameter("memory_limit"),
                hint=f"give at least {(held + needed) / 1e9 + 0.05:.1f}GB",
            )
        whole = limit if limit is not None else SHARE_OF_MACHINE * physical_memory() / self.ranks.local_count
        return ActivationStore(max(0, whole - held - needed), directory, self.device)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Raises DeviceError where the device runs out of memory while the context lasts."""
        with memory_of(self.device):
            yield
