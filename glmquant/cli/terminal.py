"""Progress and notes on stderr: bars on a terminal, else plain lines, none when quiet. And the lines a user types."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from glmquant.cli.printing import show
from glmquant.cli.streams import as_typed
from glmquant.core.machine import peak_memory
from glmquant.core.units import duration
from glmquant.inert import inert, inert_line
from glmquant.progress import Progress, silent

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress_on_stderr(quiet: bool, lines: bool = False, took: bool = True) -> Iterator[Progress]:
    """A progress callback for the library, and its notes (``logging``) shown, while the context lasts.

    Args:
        lines: draw no bars.
        took: tell time and memory at the end.
    """
    if quiet:
        yield silent
        return
    started = time.monotonic()
    console = Console(stderr=True)
    handler = _notes(console)
    logger = logging.getLogger("glmquant")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        if console.is_terminal and not lines:
            with _bars(console) as bars:
                yield bars
        else:
            yield Lines()
        if took:
            spent = f"{time.monotonic() - started:.0f} s, peak memory {peak_memory() / 1e9:.2f} GB"
            show(spent, to=sys.stderr)
    finally:
        logger.removeHandler(handler)


def print_markdown(text: str) -> None:
    """Laid out on a terminal; as it is for a file or a pipe."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(inert(text)))
    else:
        show(text, end="")


def turns() -> Iterator[str]:
    """The lines a user types, blank ones passed over, until the input ends."""
    while True:
        if sys.stdin.isatty():
            show("> ", end="", to=sys.stderr)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield as_typed(line.strip(), sys.stdin.encoding)


class _Inert(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return inert_line(super().format(record))


class _Plain(logging.Handler):
    """A note a line, however long: where Rich breaks it, a file's words could begin a line."""

    def emit(self, record: logging.LogRecord) -> None:
        show(inert_line(self.format(record)), to=sys.stderr)


def _notes(console: Console) -> logging.Handler:
    if not console.is_terminal:
        return _Plain()
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False, markup=False)
    handler.setFormatter(_Inert())
    return handler


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


class Lines:
    """One line as a stage starts and ends, and every few seconds between."""

    def __init__(self) -> None:
        self._stage = ""
        self._shown_at = self._began_at = 0.0
        self._began_with = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage or done == total or now - self._shown_at >= SECONDS_BETWEEN_LINES:
            if stage != self._stage:
                self._stage, self._began_at, self._began_with = stage, now, done
            self._shown_at = now
            show(f"{stage}: {done} of {total}{self._remaining(now, done, total)}", to=sys.stderr)

    def _remaining(self, now: float, done: int, total: int) -> str:
        """At the pace since the stage began; a resumed run begins in the middle."""
        here, seconds = done - self._began_with, now - self._began_at
        if here <= 0 or done >= total:
            return ""
        return f", about {duration(seconds / here * (total - done))} left"
