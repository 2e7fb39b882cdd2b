"""What people see. Progress goes to stderr: bars on a terminal, else a line now and then; nothing when quiet."""

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

from glmquant.core.machine import peak_memory, seconds_since_start
from glmquant.core.units import size
from glmquant.progress import Progress, silent
from glmquant.quantization.forecast import Forecast
from glmquant.quantization.summary import GroupSummary, ModelSummary

SECONDS_BETWEEN_LINES = 5.0
QUANTIZATIONS = {"gptq": "GPTQ-quantized", "rows": "quantized by its publisher, a scale a row"}


@contextmanager
def progress_on_stderr(quiet: bool, lines: bool = False) -> Iterator[Progress]:
    """A progress callback for the library, and its notes (``logging``) shown, while the context lasts."""
    if quiet:
        yield silent
        return
    console = Console(stderr=True)
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False, markup=False)
    logger = logging.getLogger("glmquant")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        if console.is_terminal and not lines:
            with _bars(console) as bars:
                yield bars
        else:
            yield Lines(console)
        console.print(_what_it_took(), highlight=False)
    finally:
        logger.removeHandler(handler)


def _what_it_took() -> str:
    """From the start of the process, imports included."""
    return f"{seconds_since_start():.0f} s, peak memory {peak_memory() / 1e9:.2f} GB"


def print_markdown(text: str) -> None:
    """Laid out on a terminal; as it is for a file or a pipe."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        print(text, end="")


def turns() -> Iterator[str]:
    """The lines a user types, blank ones passed over, until the input ends."""
    console = Console(stderr=True)
    while True:
        if sys.stdin.isatty():
            console.print("> ", end="")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


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

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._shown_at = self._began_at = 0.0
        self._began_with = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage or done == total or now - self._shown_at >= SECONDS_BETWEEN_LINES:
            if stage != self._stage:
                self._stage, self._began_at, self._began_with = stage, now, done
            self._shown_at = now
            self._console.print(f"{stage}: {done} of {total}{self._remaining(now, done, total)}", highlight=False)

    def _remaining(self, now: float, done: int, total: int) -> str:
        """At the pace since the stage began; a run taken up again begins in the middle."""
        here, seconds = done - self._began_with, now - self._began_at
        if here <= 0 or done >= total:
            return ""
        return f", about {_duration(seconds / here * (total - done))} left"


def describe(summary: ModelSummary) -> str:
    """A checkpoint at a glance, and what the recipe makes of each linear group."""
    config = summary.config
    weights = QUANTIZATIONS[summary.quantization] if summary.quantization else config.float_dtype
    lines = [
        summary.path,
        f"  {config.family}, {config.architecture} blocks, {summary.num_parameters / 1e6:,.1f} million parameters",
        f"  {config.num_hidden_layers} layers, hidden {config.hidden_size}, {config.num_attention_heads} heads of "
        f"{config.head_dim}, {config.num_key_value_heads} for keys and values, vocabulary {config.vocab_size}",
        f"  {weights}, {size(summary.num_bytes)}",
    ]
    if summary.readers:
        lines.append(f"  read by {', '.join(summary.readers)}")
    if summary.average_bits is not None:
        lines.append(f"  the recipe: {summary.average_bits:.2f} bits a weight in linears, as follows")
        lines += [f"    {group.name:32} {_spec(group)}  {size(group.num_bytes)}" for group in summary.groups]
    if summary.forecast is not None:
        lines += _forecast(summary.forecast)
    return "\n".join(lines)


def _forecast(forecast: Forecast) -> list[str]:
    lines = [f"  on this machine, about {_duration(forecast.seconds)} and {size(forecast.disk_bytes)} of disk:"]
    for stage in forecast.stages:
        rate = "" if stage.gigaflops is None else f", {stage.gigaflops:.0f} GFLOP/s"
        lines.append(f"    {stage.name:10} {_duration(stage.seconds)}, peak memory {size(stage.peak_bytes)}{rate}")
    return [*lines, *(f"    {sentence}" for sentence in forecast.how)]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _spec(group: GroupSummary) -> str:
    if group.spec is None:
        return "kept float"
    kind = "symmetric" if group.spec.symmetric else "asymmetric"
    return f"{group.spec.bits} bits, group {group.spec.group_size}, {kind}"
