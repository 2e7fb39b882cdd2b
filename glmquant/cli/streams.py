"""stdin, stdout and stderr as they come: of any encoding, closed from the start, or left by their reader on the way."""

import codecs
import io
import os
import stat
import sys
from typing import TYPE_CHECKING, Final, TextIO, cast

from glmquant.errors import DataError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ESCAPED: Final = "glmquant.escaped"
STRICT: Final = ("strict", "surrogateescape")
"""What streams do by default with a character that their encoding lacks: raise. Another choice is the user's own."""


class ReaderGoneError(Exception):
    """Whoever read stdout wants no more of it; raised once, later writes are dropped."""


class Pipe(io.FileIO):
    """A pipe that outlives its reader.

    Args:
        descriptor: of the pipe; stays open.
        tells: the first write that nobody reads raises :class:`ReaderGoneError`; else it is dropped, as later ones.
    """

    def __init__(self, descriptor: int, *, tells: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._tells, self._is_read = tells, True

    def write(self, data: "ReadableBuffer", /) -> int:
        if self._is_read:
            try:
                return super().write(data)
            except OSError as error:
                if not _means_closed(error):
                    raise
                self._is_read = False
            if self._tells:
                raise ReaderGoneError
        return memoryview(data).nbytes


def open_streams() -> None:
    """Makes the three streams of this process take any text.

    What an encoding lacks is escaped as in JSON (``\\u2705``), so that JSON stays JSON. A pipe that nobody reads any
    more ends the writing of results by :class:`ReaderGoneError`, and that of notes by silence: no work is lost for its
    progress.
    """
    codecs.register_error(ESCAPED, _escaped)
    sys.stdin, sys.stdout, sys.stderr = (
        _opened(sys.stdin, "r"),
        _opened(sys.stdout, "w", tells=True),
        _opened(sys.stderr, "w"),
    )
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def lead_nowhere(stream: TextIO) -> None:
    """What ``stream`` still holds and gets is dropped, after its disk is full, say."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def as_typed(text: str, encoding: str | None = None) -> str:
    """``text`` from the terminal, as Unicode: bytes that its encoding has no character for are tried as UTF-8.

    Args:
        text: such bytes are lone surrogates in it, as Python keeps them.
        encoding: it was read in; by default that of the command line.

    Raises:
        DataError: it is neither.
    """
    encoding = encoding or sys.getfilesystemencoding()
    try:
        if text.isascii() or text.encode():
            return text
    except UnicodeEncodeError:
        pass
    try:
        return text.encode(encoding, "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        raise DataError(
            f"the text is neither {encoding}, the terminal's encoding here, nor UTF-8",
            where=ascii(text[:80]),
            expected="text in one of the two",
            hint="set PYTHONUTF8=1 and give the text in UTF-8, or put it into a file",
        ) from error


def _opened(stream: TextIO | None, mode: str, *, tells: bool = False) -> TextIO:
    if stream is None:
        return io.TextIOWrapper(io.FileIO(os.devnull, mode), "utf-8")
    if mode == "r" or not isinstance(stream, io.TextIOWrapper):
        return stream
    if stream.errors in STRICT:
        stream.reconfigure(errors=ESCAPED)
    return _outliving(stream, tells) if _is_pipe(stream) else stream


def _is_pipe(stream: TextIO) -> bool:
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # a stream that a test or a notebook put there
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _outliving(stream: io.TextIOWrapper, tells: bool) -> TextIO:
    stream.flush()
    pipe = Pipe(stream.fileno(), tells=tells)
    unbuffered = stream.write_through
    buffer = cast(io.BufferedWriter, pipe) if unbuffered else io.BufferedWriter(pipe)
    return io.TextIOWrapper(
        buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering, write_through=unbuffered
    )


def _means_closed(error: OSError) -> bool:
    """Windows says of a closed pipe that the argument is invalid."""
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and isinstance(error, OSError) and error.errno == 22)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end
