"""How a command ends that did not come to its end: an exit code, and one message."""

import errno
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from glmquant.cli.annotations import annotate
from glmquant.cli.printing import show
from glmquant.cli.spelling import as_told
from glmquant.cli.streams import ReaderGoneError, lead_nowhere
from glmquant.errors import DeviceError, GlmQuantError, OutputError

BAD_INPUT: Final = 2
FAULT: Final = 70
INTERRUPTED: Final = 130
TERMINATED: Final = 143

ISSUES: Final = "https://github.com/glmquant/glmquant/issues"
DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
NO_MEMORY: Final = re.compile(r"(?:can't|cannot|failed to) allocate|not enough memory|bad_alloc", re.IGNORECASE)
DEVICE_ERRORS: Final = ("OutOfMemoryError", "AcceleratorError")
NETWORK: Final = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub")


class Terminated(KeyboardInterrupt):
    """SIGTERM came. Work stops as at Ctrl-C: what is finished is kept."""


@contextmanager
def stopping_at_sigterm() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` while the context lasts, unless someone ignores or handles it already."""
    in_charge = threading.current_thread() is threading.main_thread()
    if not in_charge or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def tell(error: BaseException, *, debug: bool = False) -> int:
    """Says on stderr how ``error`` ends the command, with a traceback for ``debug``; gives the exit code."""
    if isinstance(error, ReaderGoneError):
        return 0
    code, message = ending_of(error)
    with suppress(OSError):  # a stderr that takes nothing changes no code
        if debug and isinstance(error, Exception):
            show("".join(traceback.format_exception(error)), end="", to=sys.stderr)
        show(message, to=sys.stderr)
        if isinstance(error, Exception):
            annotate("error", "glmquant", message.removeprefix("glmquant: "))
    return code


def tell_all(errors: Iterable[GlmQuantError]) -> None:
    """Says on stderr each of several things that are wrong."""
    for error in errors:
        tell(error)


def settle(code: int) -> int:
    """Writes out what stdout still holds; gives the exit code, which a disk that is full for it changes."""
    try:
        sys.stdout.flush()
    except ReaderGoneError:
        return code
    except OSError as error:
        lead_nowhere(sys.stdout)
        return tell(error)
    return code


def ending_of(error: BaseException) -> tuple[int, str]:
    """Exit code and message of a command that ``error`` ends."""
    if isinstance(error, Terminated):
        return TERMINATED, "terminated"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    known = error if isinstance(error, GlmQuantError) else _from_outside(error)
    if known is not None:
        return BAD_INPUT, f"glmquant: {as_told(known)}"
    what = f"{type(error).__name__}: {_in_a_line(error)}".removesuffix(": ")
    return FAULT, f"glmquant: a fault of glmquant itself ({what}); please report it at {ISSUES} with what --debug shows"


def _from_outside(error: BaseException) -> GlmQuantError | None:
    """What disk, memory, device or network did to the command, which no code of ours can help; None for all else."""
    said = _in_a_line(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | OSError) and NO_MEMORY.search(said)):
        return GlmQuantError("memory ran out", hint="free memory, or lower `memory_limit` where the command takes it")
    if type(error).__name__ in DEVICE_ERRORS or (isinstance(error, RuntimeError) and "CUDA error" in said):
        return DeviceError(f"the device failed: {said}", hint="see that it works and has memory, or use the device cpu")
    if (isinstance(error, OSError) and error.errno in DISK_FULL) or f"os error {errno.ENOSPC}" in said:
        place = error.filename if isinstance(error, OSError) else None
        return OutputError("the disk is full", where=place, hint="free some space, and run the same command again")
    if isinstance(error, OSError):
        return GlmQuantError(error.strerror or said or type(error).__name__, where=error.filename)
    if type(error).__module__.partition(".")[0] in NETWORK:
        return GlmQuantError(f"the network failed: {said}", hint="look at the connection, and try again")
    return None


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
