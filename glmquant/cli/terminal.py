"""Progress and notes on stderr: bars on a terminal, else plain lines, none when quiet."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.logging import RichHandler
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Drawn

from glmquant.cli.printing import show
from glmquant.core.machine import peak_memory
from glmquant.core.units import duration
from glmquant.inert import inert, inert_line
from glmquant.live import Lines, Live, Stage
from glmquant.progress import Progress, silent


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
    with _logged(_notes(console)):
        with Bars(console) if console.is_terminal and not lines else Lines(_say) as live:
            yield live
        if took:
            spent = f"{time.monotonic() - started:.0f} s, peak memory {peak_memory() / 1e9:.2f} GB"
            _say(spent)


@contextmanager
def notes_on_stderr(quiet: bool) -> Iterator[None]:
    """The library's notes (``logging``) shown, a line each, while the context lasts; none when quiet."""
    with _logged(logging.NullHandler() if quiet else _Plain()):
        yield


@contextmanager
def _logged(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("glmquant")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def print_markdown(text: str) -> None:
    """Laid out on a terminal; as it is for a file or a pipe."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(inert(text)))
    else:
        show(text, end="")


def _say(line: str) -> None:
    show(line, to=sys.stderr)


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


class Bars(Live):
    """A bar for each stage."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._bars = Drawn(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._waiting: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._wait_no_more()
        self._bars.stop()

    def show(self, stage: Stage, now: float, *, changed: bool) -> None:
        """The stage's bar, and about how much time is left."""
        self._wait_no_more()
        if stage.name not in self._tasks:
            self._tasks[stage.name] = self._bars.add_task(inert_line(stage.name), total=stage.total, left="")
        left = stage.left(now)
        words = "" if left is None else f"about {duration(left)} left"
        self._bars.update(self._tasks[stage.name], completed=stage.done, total=stage.total, left=words)

    def show_waiting(self, seconds: float) -> None:
        """A bar without a length, until the next stage begins."""
        if self._waiting is None:
            self._waiting = self._bars.add_task("working", total=None, left="")

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._bars.remove_task(self._waiting)
            self._waiting = None
