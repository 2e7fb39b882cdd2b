"""How long-running work tells how far it is. The command line draws it; the library is silent by default."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, runtime_checkable


class Progress(Protocol):
    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of ``stage`` (words a user can read) are finished."""


@runtime_checkable
class Stepwise(Protocol):
    """A progress that also shows which of a verb's steps the stages belong to, and what is expected of them."""

    def begin_step(self, place: str, seconds: float | None) -> None:
        """The stages from here on belong to the step at ``place`` (``2 of 4``), which takes about so long; None where
        nobody knows."""


def silent(stage: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Step:
    """One of a verb's steps: what it does, and about how many seconds it takes where that is known."""

    does: str
    seconds: float | None = None


class Steps:
    """A verb's steps, one begun after the other."""

    def __init__(self, steps: Sequence[Step], progress: Progress) -> None:
        self._steps, self._progress = steps, progress
        self._begun: list[tuple[str, float]] = []

    @property
    def seconds(self) -> dict[str, float]:
        """How long each step took that was still to do; the last one until now."""
        ends = [*(at for _, at in self._begun[1:]), perf_counter()]
        return {does: end - at for (does, at), end in zip(self._begun, ends, strict=False)}  # none may have begun

    def begin(self, does: str) -> None:
        """The step that does this begins, where it is still to do."""
        if any(step.does == does for step in self._steps):
            self._begun.append((does, perf_counter()))
        number = next((number for number, step in enumerate(self._steps) if step.does == does), None)
        if number is not None and isinstance(self._progress, Stepwise):
            self._progress.begin_step(f"{number + 1} of {len(self._steps)}", self._steps[number].seconds)
