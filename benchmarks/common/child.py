"""Commands run as processes of their own, with what they cost."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cost:
    """Wall time from the start of the process, its processor time, and ``ru_maxrss``: mapped files included."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str

    def __add__(self, other: "Cost") -> "Cost":
        """One after the other."""
        return Cost(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_bytes, other.peak_bytes),
            self.output + other.output,
        )


def run(arguments: Sequence[object], directory: Path = ROOT, codes: Sequence[int] = (0,), **environment: str) -> Cost:
    """Runs a command to its end; what it prints is kept, and shown if it exits with none of ``codes``.

    This process must stay small: until a child starts its own program, its peak counts as the child's.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in arguments],
            stdout=output,
            stderr=output,
            cwd=directory,
            env={**os.environ, **environment},
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        output.seek(0)
        text = output.read()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        sys.exit(f"{' '.join(map(str, arguments))}\n{text}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, text)


def glmquant(*arguments: object) -> Cost:
    return run([sys.executable, "-m", "glmquant", *arguments])


def forget(directory: Path) -> None:
    """Drops what the system caches of a directory's files, so that the next reader reads from the disk."""
    os.sync()
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def weights_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for pattern in ("*.bin", "*.safetensors") for path in directory.glob(pattern))
