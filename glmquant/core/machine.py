"""What this process and this machine have, on Linux, macOS and Windows; psutil is imported where it is asked."""

import re
import sys
from pathlib import Path


def peak_memory() -> int:
    """The most bytes this process has held so far, mapped files included.

    The present size where a platform keeps no record of the highest.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        import psutil

        info = psutil.Process().memory_info()
        return int(getattr(info, "peak_wset", info.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def own_peak_memory() -> int:
    """:func:`peak_memory` of the program that runs, without what the process held that started it: on Linux, a resource
    usage goes on from there through fork and exec."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return peak_memory()
    highest = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return peak_memory() if highest is None else int(highest[1]) * 1024


def physical_memory() -> int:
    """Bytes of the machine."""
    import psutil

    return int(psutil.virtual_memory().total)
