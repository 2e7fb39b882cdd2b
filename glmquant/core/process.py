"""Memory of this process and its machine, on Linux, macOS and Windows alike."""

import sys

import psutil


def peak_bytes() -> int:
    """The most memory this process has held so far, mapped files included."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def physical_bytes() -> int:
    """The machine's memory."""
    return int(psutil.virtual_memory().total)
