"""Intel's MKL, by which torch multiplies float32 matrices on Intel's processors, told to round as one thread does.

By itself it splits a product's sums as the number of threads and of rows has it. In its strict mode of conditional
numerical reproducibility it does not (Intel oneMKL Developer Guide, "Obtaining Numerically Reproducible Results"), at
the same speed. It reads the environment when it multiplies first.
"""

import os
from pathlib import Path
from typing import Final

MODE: Final = "MKL_CBWR"
STRICT: Final = "AUTO,STRICT"
INTEL: Final = "GenuineIntel"
BYTES_READ: Final = 4096


def round_as_one_thread() -> None:
    """On an Intel processor; where the user chose a mode, it stays."""
    if INTEL in _vendor():
        os.environ.setdefault(MODE, STRICT)


def _vendor() -> str:
    """As Windows says it in the environment, or Linux in a file; elsewhere unknown."""
    told = os.environ.get("PROCESSOR_IDENTIFIER")
    if told is not None:
        return told
    try:
        with Path("/proc/cpuinfo").open("rb") as file:
            return file.read(BYTES_READ).decode("ascii", "replace")
    except OSError:
        return ""
