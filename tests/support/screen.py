"""A shell in an emulated terminal of a given width, typed into, and what its screen then shows.

pyte emulates the terminal in Python: tests install it with pip like the rest, nothing has to run beside them, and each
screen can be looked at between two writes.
"""

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte

ROWS = 24
PROMPT = "$ "
SECONDS = 120
"""Before a screen that does not come is an error."""

PIECE = 256
"""Bytes shown at once: fewer than a redrawn bar's, so that no screen is passed over."""

CODE = (
    "import fcntl, os, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execvp('bash', ['bash', '--norc', '--noprofile', '-i'])"
)


class Shell:
    """bash, and the terminal in which it runs."""

    def __init__(self, descriptor: int, columns: int) -> None:
        self._descriptor = descriptor
        self._screen = pyte.HistoryScreen(columns, ROWS, history=1000)
        self._stream = pyte.ByteStream(self._screen)

    def text(self) -> str:
        """What the screen shows, and above it what has left it."""
        screen = self._screen
        rows = [*screen.history.top, *(screen.buffer[row] for row in range(screen.lines))]
        lines = ["".join(row[column].data for column in range(screen.columns)).rstrip() for row in rows]
        return "\n".join(lines).rstrip() + "\n"

    def until(self, holds: Callable[[], bool]) -> None:
        """Shows what comes until that holds."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < deadline, self.text()
            if select.select([self._descriptor], [], [], 1)[0]:
                self._stream.feed(os.read(self._descriptor, PIECE))

    def until_shown(self, pattern: str) -> None:
        """Shows what comes until the screen has this."""
        self.until(lambda: re.search(pattern, self.text()) is not None)

    def until_asked(self, prompt: str = PROMPT) -> None:
        """Shows what comes until the cursor stands behind this prompt, with nothing else in its line."""
        cursor = self._screen.cursor
        self.until(lambda: cursor.x == len(prompt) and self._screen.display[cursor.y].rstrip() == prompt.rstrip())

    def type(self, text: str) -> None:
        """Types lines, each once the one before is shown, and Enter after each."""
        for line in text.split("\n"):
            os.write(self._descriptor, line.encode())
            typed = "".join(line.split())
            self.until(lambda typed=typed: "".join(self.text().split()).endswith(typed))
            os.write(self._descriptor, b"\n")

    def type_end(self) -> None:
        """Ctrl-D."""
        os.write(self._descriptor, b"\x04")


@contextmanager
def shell(columns: int, desk: Path) -> Iterator[Shell]:
    """A shell in that directory, which finds ``glmquant`` of this interpreter."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (ROWS, columns))
    known = {
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
        "PS1": PROMPT,
        "PS2": "",
        "NO_COLOR": "1",  # Rich then leaves out what is left of a bar, which text alone would not tell from the rest
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    hidden = {"COLUMNS", "LINES", "FORCE_COLOR", "CI", "GITHUB_ACTIONS"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | known
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        cwd=desk,
        env=environment,
    )
    os.close(theirs)
    try:
        running = Shell(ours, columns)
        running.until_asked()
        yield running
    finally:
        process.kill()
        process.wait()
        os.close(ours)
