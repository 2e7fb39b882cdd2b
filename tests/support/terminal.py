"""A command in a terminal of its own, typed into and read from."""

import os
import pty
import select
import subprocess
import sys
import time
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS, TIMES = 40, 4
PIECE = 512
"""Bytes typed at once; the terminal holds few that nobody has read, of what is echoed too."""

CODE = (
    "import fcntl, signal, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom glmquant.cli import main\nmain()"
)
"""The terminal controls the process, so that Ctrl-C reaches it; a job in the background would not heed that."""


class Terminal:
    """What the command shows, stdout and stderr together, and what is typed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._shown, self._read = descriptor, "", 0
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")

    def type(self, text: str) -> None:
        typed = text.encode()
        for start in range(0, len(typed), PIECE):
            os.write(self._descriptor, typed[start : start + PIECE])
            self._look(0)

    def _look(self, seconds: float) -> None:
        while select.select([self._descriptor], [], [], seconds)[0]:
            self._shown += self._decoder.decode(os.read(self._descriptor, 1 << 16))
            seconds = 0

    def expect(self, text: str) -> str:
        """What is shown, up to ``text``, since the last time."""
        found = self._wait_for(text, SECONDS)
        assert found >= 0, f"{text!r} is not shown: {self._shown[self._read :]!r}"
        start, self._read = self._read, found + len(text)
        return self._shown[start : self._read]

    def interrupt(self, text: str) -> None:
        """Ctrl-C until ``text`` is shown: CPython heeds one that comes between a key and its ``select`` at the next."""
        for _ in range(TIMES):
            self.type("\x03")
            if self._wait_for(text, SECONDS / TIMES) >= 0:
                break
        self.expect(text)

    def _wait_for(self, text: str, seconds: float) -> int:
        """Where it is shown, or -1."""
        deadline = time.monotonic() + seconds
        while (found := self._shown.find(text, self._read)) < 0 and time.monotonic() < deadline:
            self._look(1)
        return found


@contextmanager
def in_terminal(*arguments: object, **environment: str) -> Iterator[tuple[Terminal, "subprocess.Popen[bytes]"]]:
    """``glmquant`` with these arguments, in UTF-8."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    known = {"TERM": "xterm", "LC_ALL": "C.UTF-8", "COLUMNS": "80", **environment}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=os.environ | known
    )
    os.close(theirs)
    try:
        yield Terminal(ours), process
    finally:
        process.kill()
        process.wait()
        os.close(ours)
