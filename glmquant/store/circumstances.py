"""When, where and how fast something was made: what differs each time, and so stands in no artifact and no report."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ConfigDict

from glmquant.core.machine import peak_memory, physical_memory
from glmquant.core.several import Named
from glmquant.core.units import size

CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class BundleSpeed:
    """What a bundle does in a process of its own, a single sequence, on this machine's processor.

    Attributes:
        prompt_tokens: read at once, and ``prompt_seconds`` that took.
        new_tokens: generated one after the other, greedily, and ``new_seconds`` that took; 0 of a classifier.
        peak_bytes: the most that the process held, its libraries included.
        threads: that computed.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    prompt_tokens: int
    prompt_seconds: float
    new_tokens: int
    new_seconds: float
    peak_bytes: int
    threads: int


@dataclass(frozen=True)
class Circumstances:
    """
    Attributes:
        date: of the end, in UTC, as ISO 8601 has it.
        machine: what computed, in words, by what it is.
        command: that the process was started with.
        seconds: of each step that this process did.
        peak_bytes: the most that this process held.
        speed: of the bundle; None where it was not measured.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    date: str
    machine: Named[str]
    command: str
    seconds: Named[float] = field(default_factory=dict)
    peak_bytes: int = 0
    speed: BundleSpeed | None = None


def circumstances(seconds: Mapping[str, float], speed: BundleSpeed | None) -> Circumstances:
    """Of this process, now."""
    return Circumstances(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine={
            "processor": _processor(),
            "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
            "memory": size(physical_memory()),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
        command=_command(),
        seconds={step: round(each, 2) for step, each in seconds.items()},
        peak_bytes=peak_memory(),
        speed=speed,
    )


def _processor() -> str:
    """Its name where the system tells it, else its kind."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _command() -> str:
    program, *arguments = sys.argv or [""]
    name = Path(program).name
    return shlex.join(["glmquant" if name == "__main__.py" else name, *arguments])
