"""Progress shown while it lasts: as plain lines for a log, or as lines of a notebook's cell that change in place.

A thread shows life where nothing is told: long steps, and what happens between two stages.
"""

import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from glmquant.core.units import duration
from glmquant.inert import inert_line
from glmquant.progress import Progress, silent

SECONDS_OF_SILENCE: Final = 2.0
"""A longer wait shows life."""
SECONDS_BETWEEN_LINES: Final = 5.0
SHARE_BETWEEN_LINES: Final = 0.05
MOST_SECONDS_BETWEEN_LINES: Final = 60.0
"""Of a stage's time so far: a stage of an hour takes no thousand lines of a log."""
SECONDS_BETWEEN_LOOKS: Final = 0.5


class Stage:
    """How far a stage is, and how long it will take; it may begin in the middle, where an earlier run stopped.

    Attributes:
        began_at: in seconds of ``time.monotonic``, as every ``now`` here.
    """

    def __init__(self, name: str, done: int, total: int, now: float, expected: float | None = None) -> None:
        self.name, self.done, self.total = name, done, total
        self.began_at = self._moved_at = now
        self._began_with, self._expected = done, expected

    @property
    def is_over(self) -> bool:
        return self.done >= self.total

    def move(self, done: int, total: int, now: float) -> None:
        self.done, self.total, self._moved_at = done, total, now

    def left(self, now: float) -> float | None:
        """Seconds at the pace so far, at that of a step that ends just now where it takes longer; before the first
        step, what was expected. None where nobody knows."""
        here, spent, to_do = self.done - self._began_with, now - self.began_at, self.total - self.done
        if self.is_over:
            return None
        if here <= 0:
            return None if self._expected is None or spent >= self._expected else self._expected - spent
        pace = (self._moved_at - self.began_at) / here
        return max(pace * to_do - (now - self._moved_at), spent / (here + 1) * (to_do - 1))

    def words(self, now: float) -> str:
        """``quantizing: 3 of 28, about 2 min left``; how long it took so far where nobody knows how long it will."""
        left, spent = self.left(now), now - self.began_at
        rest = "" if self.is_over or spent < SECONDS_OF_SILENCE else f", {duration(spent)} so far"
        if left is not None:
            rest = f", about {duration(left)} left"
        return inert_line(f"{self.name}: {self.done} of {self.total}{rest}")


class Live(ABC):
    """A progress callback that is shown while its context lasts."""

    def __init__(self) -> None:
        self._stage: Stage | None = None
        self._quiet_since = time.monotonic()
        self._place = ""
        self._expected: float | None = None
        self._ended = threading.Event()
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._look, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            now = time.monotonic()
            before, stage = self._stage, self._place + stage
            begins = before is None or before.name != stage or (before.is_over and done < total)
            if before is None or begins:
                here = self._stage = Stage(stage, done, total, now, self._expected)
                self._expected = None
            else:
                here = before
                here.move(done, total, now)
            if here.is_over:
                self._quiet_since = now
            self.show(here, now, changed=begins or here.is_over)

    def begin_step(self, place: str, seconds: float | None) -> None:
        """The stages from here on show ``place``; the first of them is expected to take ``seconds``."""
        with self._lock:
            self._place, self._expected = f"{place} ", seconds

    @abstractmethod
    def show(self, stage: Stage, now: float, *, changed: bool) -> None:
        """A stage was told of, or goes on in silence; ``changed`` where it began or ended."""

    @abstractmethod
    def show_waiting(self, seconds: float) -> None:
        """Work goes on in no stage for so long already."""

    def _look(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            with self._lock:
                now = time.monotonic()
                if self._stage is not None and not self._stage.is_over:
                    self.show(self._stage, now, changed=False)
                elif now - self._quiet_since >= SECONDS_OF_SILENCE:
                    self.show_waiting(now - self._quiet_since)


class Lines(Live):
    """A line as a stage begins and ends, and every few seconds between, ever fewer.

    Args:
        write: takes a line without its end.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write, self._next_at = write, 0.0

    def show(self, stage: Stage, now: float, *, changed: bool) -> None:
        """A line where one is due."""
        if changed or now >= self._next_at:
            self._say(stage.words(now), now, now - stage.began_at)

    def show_waiting(self, seconds: float) -> None:
        """A line where one is due."""
        now = self._quiet_since + seconds
        if now >= self._next_at or seconds < SECONDS_OF_SILENCE + SECONDS_BETWEEN_LOOKS:
            self._say(f"working, {duration(seconds)} so far", now, seconds)

    def _say(self, line: str, now: float, spent: float) -> None:
        pause = min(max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * spent), MOST_SECONDS_BETWEEN_LINES)
        self._next_at = now + pause
        self._write(line)


class Cell(Live):
    """A line for each stage in the output of a notebook's cell; the last one changes.

    Args:
        update: takes all that the output is to show.
    """

    def __init__(self, update: Callable[[str], object]) -> None:
        super().__init__()
        self._update, self._over, self._told = update, list[str](), ""

    def note(self, line: str) -> None:
        """A line that stays."""
        with self._lock:
            self._over.append(inert_line(line))
            self._tell("")

    def show(self, stage: Stage, now: float, *, changed: bool) -> None:
        """The stage's line, in place of its last."""
        if stage.is_over:
            self._over.append(stage.words(now))
        self._tell("" if stage.is_over else stage.words(now))

    def show_waiting(self, seconds: float) -> None:
        """A line that the next stage's replaces."""
        self._tell(f"working, {duration(seconds)} so far")

    def _tell(self, last: str) -> None:
        text = "\n".join([*self._over, *([last] if last else [])])
        if text != self._told:
            self._told = text
            self._update(text)


@contextmanager
def shown(progress: Progress | bool) -> Iterator[Progress]:
    """What ``progress=`` of a verb means: a callback is itself, False nothing; True shows progress and notes, in a
    notebook in the cell's output, else as lines on stderr."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield silent
    else:
        with _display() as (live, note), _noted(note):
            yield live


@contextmanager
def _display() -> Iterator[tuple[Live, Callable[[str], object]]]:
    update = _notebook_output()
    if update is not None:
        with Cell(update) as cell:
            yield cell, cell.note
        return

    def write(line: str) -> None:
        sys.stderr.write(inert_line(line) + "\n")
        sys.stderr.flush()

    with Lines(write) as lines:
        yield lines, write


def _notebook_output() -> Callable[[str], object] | None:
    """Writes an output of the cell that runs, again and again; None outside a notebook."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from importlib import import_module

    handle = import_module("IPython.display").display({"text/plain": ""}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)


class _Notes(logging.Handler):
    def __init__(self, note: Callable[[str], object]) -> None:
        super().__init__(logging.INFO)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(inert_line(self.format(record)))


@contextmanager
def _noted(note: Callable[[str], object]) -> Iterator[None]:
    """The library's notes (``logging``) are told, while the context lasts."""
    logger, handler = logging.getLogger("glmquant"), _Notes(note)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
